//! Logs to stderr, metrics as text. Neither holds a secret, whatever level is asked for.

use std::io::IsTerminal as _;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the log on stderr. `directives` is the value of `RUST_LOG`; `fallback` holds where it is not set.
///
/// The libraries below (hyper, h2, rustls) print headers and buffers at `debug` and `trace`, an agent's token among
/// them, so theirs end at `info` whatever is asked for.
pub fn log(directives: Option<&str>, fallback: &str) {
    let filter = EnvFilter::try_new(directives.unwrap_or(fallback))
        .unwrap_or_else(|_| EnvFilter::new(fallback));
    let ours =
        filter_fn(|event| event.target().starts_with("keyward") || *event.level() <= Level::INFO);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second start (two commands in one process, as tests do) keeps the first.
    tracing_subscriber::registry()
        .with(layer.with_filter(ours))
        .with(filter)
        .try_init()
        .ok();
}

/// The metrics of all rooms, in the text format of OpenMetrics 1.0.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Asks each room for its metrics.
    pub fn gather(register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        register(&mut registry);
        Self(registry)
    }

    /// What `/metrics` shows.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        text::encode(&mut out, &self.0).ok();
        out
    }
}

/// The media type of [`Metrics::render`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
