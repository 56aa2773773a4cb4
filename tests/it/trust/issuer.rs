//! An OpenID issuer on loopback: metadata and keys, which it counts, rotates, and can stop giving.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::upstream::{Upstream, full};

/// The issuer.
pub struct Issuer {
    pub url: String,
    upstream: Upstream,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    keys: Mutex<Vec<Value>>,
    metadata: Mutex<Value>,
    /// Another status than 200 for everything.
    status: AtomicU16,
    delay: Mutex<Duration>,
    cache_control: Mutex<Option<String>>,
    fetches: AtomicUsize,
    other: AtomicUsize,
}

impl Issuer {
    pub async fn start(keys: Vec<Value>) -> Self {
        let state = Arc::new(State::default());
        let of = Arc::clone(&state);
        let upstream = Upstream::plain(move |seen| {
            let state = Arc::clone(&of);
            Box::pin(async move {
                let body = match seen.uri.as_str() {
                    "/.well-known/openid-configuration" => Some(state.metadata.lock().to_string()),
                    "/jwks" => {
                        state.fetches.fetch_add(1, Ordering::SeqCst);
                        Some(json!({"keys": *state.keys.lock()}).to_string())
                    }
                    _ => {
                        state.other.fetch_add(1, Ordering::SeqCst);
                        None
                    }
                };
                let delay = *state.delay.lock();
                tokio::time::sleep(delay).await;
                let status = match (state.status.load(Ordering::SeqCst), &body) {
                    (0, Some(_)) => 200,
                    (0, None) => 404,
                    (status, _) => status,
                };
                let mut response = Response::builder().status(status);
                if let Some(value) = &*state.cache_control.lock() {
                    response = response.header("cache-control", value);
                }
                response.body(full(body.unwrap_or_default())).unwrap()
            })
        })
        .await;
        let url = format!("http://{}", upstream.address);
        *state.metadata.lock() = json!({"issuer": url, "jwks_uri": format!("{url}/jwks")});
        *state.keys.lock() = keys;
        Self {
            url,
            upstream,
            state,
        }
    }

    pub fn publish(&self, keys: Vec<Value>) {
        *self.state.keys.lock() = keys;
    }

    pub fn metadata(&self, metadata: Value) {
        *self.state.metadata.lock() = metadata;
    }

    /// Answers everything with this status; 0 is as usual.
    pub fn fail(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }

    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock() = delay;
    }

    pub fn cache_control(&self, value: &str) {
        *self.state.cache_control.lock() = Some(value.to_owned());
    }

    /// How often the keys were fetched.
    pub fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// How often something else than metadata and keys was asked for.
    pub fn other(&self) -> usize {
        self.state.other.load(Ordering::SeqCst)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.upstream.connections.load(Ordering::SeqCst)
    }
}
