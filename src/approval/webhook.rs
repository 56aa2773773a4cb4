//! Tells somebody's endpoint that there is a question, signed as Standard Webhooks are. No request waits for it, and no
//! agent can make it loud: one message in 10 s for each agent.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::Entry;
use crate::agent::{AgentId, Name};
use crate::clock::Now;
use crate::issuer::{Client, Endpoint};
use crate::secret::Secret;

/// The key of a webhook, as its source gives it now: `whsec_` and base64, or base64 alone.
pub trait Key: Debug + Send + Sync {
    /// The key; `None` while the source gives nothing.
    fn current(&self) -> Option<Arc<Secret>>;
}

/// One endpoint and its key.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Where messages go.
    pub endpoint: Endpoint,
    /// What they are signed with.
    pub key: Arc<dyn Key>,
    /// How it is called.
    pub client: Client,
}

/// The endpoints by approval, and when each agent was last told of.
#[derive(Debug)]
pub(super) struct Webhooks {
    hooks: Mutex<Arc<HashMap<Name, Hook>>>,
    told: Mutex<HashMap<AgentId, Instant>>,
    tracker: TaskTracker,
}

/// How often one agent is told of.
const EVERY: Duration = Duration::from_secs(10);
/// How long the endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What lies between the tries.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

impl Webhooks {
    pub(super) fn new(tracker: TaskTracker) -> Self {
        Self {
            hooks: Mutex::default(),
            told: Mutex::default(),
            tracker,
        }
    }

    pub(super) fn replace(&self, hooks: HashMap<Name, Hook>) {
        *self.hooks.lock() = Arc::new(hooks);
    }

    /// Sends the message in the background, unless this agent was told of a moment ago.
    pub(super) fn tell(&self, entry: &Entry, now: &Now) {
        let hooks = Arc::clone(&self.hooks.lock());
        let Some(hook) = hooks.get(&entry.name) else {
            return;
        };
        {
            let mut told = self.told.lock();
            told.retain(|_, at| now.mono.saturating_duration_since(*at) < EVERY);
            if told.contains_key(&entry.agent) {
                return;
            }
            told.insert(entry.agent.clone(), now.mono);
        }
        let body = json!({
            "type": "approval.asked",
            "timestamp": now.wall.to_string(),
            "data": entry.shown(),
        });
        let (hook, name) = (hook.clone(), entry.name.clone());
        let (id, body) = (format!("msg_{}", entry.id), Bytes::from(body.to_string()));
        let time = now.wall;
        self.tracker.spawn(async move {
            let mut waits = AGAIN.iter();
            loop {
                let Some(request) = message(&hook, (&id, time), &body) else {
                    warn!(approval = %name, "the webhook's secret is not base64: nobody is told of questions");
                    return;
                };
                let sent = tokio::time::timeout(PATIENCE, hook.client.send(request)).await;
                let taken = matches!(&sent, Ok(Ok(answer)) if answer.status.is_success());
                if taken {
                    return;
                }
                let Some(wait) = waits.next() else {
                    warn!(approval = %name, "the webhook does not take messages");
                    return;
                };
                tokio::time::sleep(*wait).await;
            }
        });
    }
}

/// The signed message (Standard Webhooks 1.0, "Symmetric signatures"); `None` where the key is none.
fn message(hook: &Hook, (id, time): (&str, Timestamp), body: &Bytes) -> Option<Request<Bytes>> {
    let key = hook.key.current()?;
    let time = time.as_second().to_string();
    let signature = sign(&key, (id, &time), body)?;
    let mut request = Request::new(body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hook.endpoint.uri().clone();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", HeaderValue::from_str(id).ok()?);
    headers.insert("webhook-timestamp", HeaderValue::from_str(&time).ok()?);
    headers.insert("webhook-signature", HeaderValue::from_str(&signature).ok()?);
    Some(request)
}

/// `v1,` and the HMAC-SHA256 of `ID.TIME.BODY` in base64.
fn sign(key: &Secret, (id, time): (&str, &str), body: &[u8]) -> Option<String> {
    let text = key.expose().trim_ascii();
    let text = text.strip_prefix(b"whsec_").unwrap_or(text);
    let key = zeroize::Zeroizing::new(STANDARD.decode(text).ok()?);
    if key.is_empty() {
        return None;
    }
    let mut sum = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
        sum.update(part);
    }
    Some(format!("v1,{}", STANDARD.encode(sum.sign())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn a_message_is_signed_as_standard_webhooks_are() {
        let key = Secret::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let signed = sign(
            &key,
            ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"),
            b"{\"test\": 2432232314}",
        );
        assert_eq!(
            signed.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
        let bare = Secret::from("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".to_owned());
        assert!(sign(&bare, ("a", "1"), b"").is_some());
        for bad in ["not base64!", "whsec_", ""] {
            assert_eq!(
                sign(&Secret::from(bad.to_owned()), ("a", "1"), b""),
                None,
                "{bad}"
            );
        }
    }
}
