//! `GET /audit`: the records of the trail's files that match, oldest first, a page at a time.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Ask, Fault, Part, Reply};
use crate::audit::{self, Filter};

/// How many records a page holds where the caller does not say, and how many at most.
const PAGE: (u64, u64) = (1_000, 10_000);

/// Reads the trail's files. One search at a time: a long trail is read whole, and not twice at once.
#[derive(Debug)]
pub struct Trail {
    file: Option<PathBuf>,
    turn: Arc<Semaphore>,
}

impl Trail {
    /// The trail in this file; `None` where records go elsewhere.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    async fn search(&self, ask: &Ask) -> Result<Reply, Reply> {
        let bad = |detail: &str| Reply::refused(Fault::BadRequest, detail);
        let Some(file) = self.file.clone() else {
            return Err(Reply::refused(
                Fault::Conflict,
                "Records go to the standard output here. Name a file in [audit] to ask for them.",
            ));
        };
        let time = |name: &str| match ask.query(name) {
            None => Ok(None),
            Some(text) => audit::moment(&text).map(Some).map_err(|why| bad(&why)),
        };
        let number = |name: &str| match ask.query(name).map(|text| text.parse::<u64>()) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => Err(bad("`after` and `limit` are numbers.")),
        };
        let most = number("limit")?.unwrap_or(PAGE.0);
        if !(1..=PAGE.1).contains(&most) {
            return Err(bad("`limit` is 1 to 10000."));
        }
        let filter = Filter {
            agent: ask.query("agent"),
            user: ask.query("user"),
            host: ask.query("host"),
            word: ask.query("word"),
            since: time("since")?,
            until: time("until")?,
            after: number("after")?,
            // One more tells whether there is another page.
            most: Some(most + 1),
        };
        let silent = || Reply::refused(Fault::Unavailable, "The trail cannot be read now.");
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|_| silent())?;
        let found = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            let read = audit::query(&audit::files(&file), &filter, &mut lines);
            drop(turn);
            read.map(|_| lines)
        });
        let lines = match found.await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the trail cannot be read");
                return Err(silent());
            }
            Err(_) => return Err(silent()),
        };
        let lines = lines.split(|byte| *byte == b'\n');
        let mut items: Vec<Value> = lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let more = u64::try_from(items.len()).is_ok_and(|found| found > most);
        if more {
            items.pop();
        }
        let next = items
            .last()
            .filter(|_| more)
            .map(|last| last["seq"].clone());
        Ok(Reply::ok(json!({ "items": items, "next": next })))
    }
}

#[async_trait]
impl Part for Trail {
    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        match (&ask.method, &*ask.segments()) {
            (&Method::GET, ["audit"]) => Some(self.search(ask).await.unwrap_or_else(|reply| reply)),
            (_, ["audit"]) => Some(Reply::refused(Fault::Method, "Use GET.")),
            _ => None,
        }
    }
}
