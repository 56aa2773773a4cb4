//! `POST /reload`: the file is read again, and taken up whole or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{Ask, Fault, Part, Reply};

/// An operator's wish for a reload; whoever knows the file does it, and says what came of it.
#[derive(Debug)]
pub struct Asked {
    /// Who asks.
    pub by: Arc<str>,
    /// What came of it: the parts that wait for a restart, or the faults where it was not taken.
    pub done: oneshot::Sender<Result<Vec<&'static str>, Value>>,
}

/// Passes wishes on.
#[derive(Debug)]
pub struct Reload(mpsc::Sender<Asked>);

impl Reload {
    /// The part, and where its wishes come out.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (wishes, taken) = mpsc::channel(1);
        (Self(wishes), taken)
    }

    async fn pass_on(&self, by: &Arc<str>) -> Reply {
        let (done, outcome) = oneshot::channel();
        let by = Arc::clone(by);
        let no_file = || {
            Reply::refused(
                Fault::Conflict,
                "This keyward does not run from a file that it could read again.",
            )
        };
        if self.0.send(Asked { by, done }).await.is_err() {
            return no_file();
        }
        match outcome.await {
            Ok(Ok(later)) => Reply::ok(json!({ "outcome": "loaded", "needs-restart": later })),
            Ok(Err(faults)) => Reply::refused(
                Fault::Conflict,
                "The configuration was not taken; the old one stays.",
            )
            .with("faults", faults),
            Err(_) => no_file(),
        }
    }
}

#[async_trait]
impl Part for Reload {
    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        match (&ask.method, &*ask.segments()) {
            (&Method::POST, ["reload"]) => Some(self.pass_on(ask.by.name()).await),
            (_, ["reload"]) => Some(Reply::refused(Fault::Method, "Use POST.")),
            _ => None,
        }
    }
}
