//! `keyward serve`: the daemon, from its first line of log to the end of its drain.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{BUG, CONFIG, FileArg, UNAVAILABLE, complain, load};
use crate::app::{App, Environment, StartError, StartHint, Surroundings};
use crate::audit::{self, Sink};
use crate::config::{Config, Loaded};
use crate::syscall::{self, Role};
use crate::telemetry;

/// The arguments of `keyward serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    file: FileArg,
    /// Write no URL that opens the console: whoever reads the log first would be its operator
    #[arg(long)]
    no_console_url: bool,
}

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs the daemon until SIGTERM or SIGINT; the exit code.
pub fn run(args: &ServeArgs, environment: Environment) -> u8 {
    let hardening = syscall::harden(Role::Daemon);
    let files = syscall::raise_nofile();
    telemetry::log(
        environment.get("RUST_LOG").and_then(|value| value.to_str()),
        "info",
    );
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    info!(%hardening, files = files.now, "process hardened");
    let handed = match syscall::handed_over() {
        Ok(handed) => handed,
        Err(error) => {
            complain(&format_args!(
                "the sockets that systemd handed over cannot be used: {error}"
            ));
            return UNAVAILABLE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return BUG;
        }
    };
    runtime.block_on(serve(
        args,
        config,
        Surroundings {
            environment,
            audit: audit::Settings::new(Sink::Stdout),
            handed,
        },
    ))
}

async fn serve(args: &ServeArgs, config: Config, surroundings: Surroundings) -> u8 {
    let path = &*args.file.config;
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        complain(&"signals cannot be caught");
        return BUG;
    };
    let drain = config.drain;
    let started = config.clone();
    let app = match App::start(config, surroundings).await {
        Ok(app) => app,
        Err(error) => {
            complain(&format_args!("{error}\n  = {}", StartHint(&error)));
            return exit_code(&error);
        }
    };
    for (name, shown, _) in app.listeners() {
        info!(listener = %name, addresses = shown.join(" "), "listening");
    }
    if let Some(address) = app.admin() {
        info!(%address, "admin listening");
    }
    if !args.no_console_url
        && let Some(url) = app.console_url()
    {
        // Beside the log, in a line of its own: it is for whoever started this, and good once.
        writeln!(std::io::stderr(), "console {url}").ok();
    }
    let mut last = Look::at(path).await;
    let mut wishes = app.wishes();
    ready();
    loop {
        tokio::select! {
            () = received(&mut terminate) => break,
            () = received(&mut interrupt) => break,
            () = received(&mut hangup) => {
                if let Err(error) = app.audit().reopen() {
                    error!(%error, "the audit file cannot be reopened");
                }
                reload(&app, path, &started, Why::Signal).await.ok();
            }
            Some(wish) = async { wishes.as_mut()?.recv().await }, if wishes.is_some() => {
                let done = reload(&app, path, &started, Why::Operator(&wish.by)).await;
                wish.done.send(done).ok();
            }
            () = changed(path, &mut last) => {
                reload(&app, path, &started, Why::Changed).await.ok();
            }
        }
    }
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    info!(grace = ?drain, "draining");
    app.shut_down(drain, "order").await;
    info!("stopped");
    0
}

async fn received(signal: &mut Signal) {
    // `None`: the signal can no longer come.
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Why the file is read again.
#[derive(Debug, Clone, Copy)]
enum Why<'a> {
    /// It is another than it was.
    Changed,
    /// SIGHUP.
    Signal,
    /// This operator asked for it.
    Operator(&'a str),
}

/// Takes a valid file up whole; a bad one is shown, and the old configuration stays. The parts that wait for a restart.
async fn reload(
    app: &App,
    path: &Path,
    started: &Config,
    why: Why<'_>,
) -> Result<Vec<&'static str>, serde_json::Value> {
    let by = match why {
        Why::Operator(by) => Some(by),
        Why::Changed | Why::Signal => None,
    };
    let config = match super::read(path) {
        Ok(Loaded { config, warnings }) => {
            if !warnings.is_empty() {
                write!(std::io::stderr(), "{warnings}").ok();
            }
            config
        }
        Err(report) => {
            write!(std::io::stderr(), "{report}").ok();
            app.rejected(by);
            error!("configuration rejected; the old one stays");
            return Err(serde_json::from_str(&report.to_json()).unwrap_or_default());
        }
    };
    if matches!(why, Why::Changed) && app.is_running(&config) {
        return Ok(Vec::new());
    }
    if let Err(error) = app.reload_by(&config, by).await {
        app.rejected(by);
        error!(%error, hint = %StartHint(&error), "configuration rejected; the old one stays");
        return Err(serde_json::json!([{ "message": error.to_string() }]));
    }
    let later = started.needs_restart(&config);
    if !later.is_empty() {
        warn!(
            parts = later.join(", "),
            "the rest is taken up; these parts change with a restart only"
        );
    }
    Ok(later)
}

pub(super) fn exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Ca(_) | StartError::Trust(_) | StartError::Door(..) | StartError::Secret(_) => {
            CONFIG
        }
        StartError::Store(error) if error.is_of_configuration() => CONFIG,
        StartError::Store(_)
        | StartError::Keys(_)
        | StartError::Audit(_)
        | StartError::Bind(..)
        | StartError::Socket(..)
        | StartError::Admin(..) => UNAVAILABLE,
    }
}

/// What tells one state of the file from another, through links: Kubernetes swaps a link, editors rename over it.
#[derive(Debug, PartialEq, Eq)]
struct Look(u64, u64, i64, i64);

impl Look {
    async fn at(path: &Path) -> Option<Self> {
        let found = tokio::fs::metadata(path).await.ok()?;
        Some(Self(
            found.ino(),
            found.size(),
            found.mtime_nsec() + found.mtime() * 1_000_000_000,
            found.ctime_nsec(),
        ))
    }
}

/// Waits until the file is another than `last`, and has been the same for two looks: a half-written one is not read.
/// The folder is not watched by inotify: whatever else is written beside the file would wake us each time.
async fn changed(path: &Path, last: &mut Option<Look>) {
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Look::at(path).await;
        if now.is_some() && now != *last && now == before {
            *last = now;
            return;
        }
        before = now;
    }
}

fn ready() {
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
}
