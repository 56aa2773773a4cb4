//! `/agents`: the registry, what operators add to it, and who may not act.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Ask, Fault, Part, Reply};
use crate::agent::AgentId;
use crate::audit::{Audit, Event, Record, Who};
use crate::clock::Clock;
use crate::identity::{AgentEntry, AgentStore, Listed, Overlay, Said, Silent, Status, Written};
use crate::proxy::Proxy;

/// An agent that nobody used and nobody looked at for so long is stale.
const STALE_AFTER: Duration = Duration::from_hours(90 * 24);

/// The registry, as operators see and change it.
#[derive(Debug)]
pub struct Agents {
    proxy: Proxy,
    overlay: Arc<Overlay>,
    store: Arc<dyn AgentStore>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    /// When this process began to see uses.
    since: Timestamp,
    version: Mutex<Option<(i64, i64)>>,
    /// One change at a time.
    change: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Why {
    reason: Option<String>,
}

impl Agents {
    /// The agents of this proxy's registry, with what is said of them beside the file.
    pub fn new(
        proxy: Proxy,
        overlay: Arc<Overlay>,
        store: Arc<dyn AgentStore>,
        (audit, clock): (Arc<Audit>, Arc<dyn Clock>),
    ) -> Self {
        Self {
            proxy,
            overlay,
            store,
            audit,
            since: clock.now().wall,
            clock,
            version: Mutex::default(),
            change: tokio::sync::Mutex::default(),
        }
    }

    /// Takes over what other replicas said; to be called some times a second.
    ///
    /// # Errors
    /// [`Silent`] where the store does not answer.
    pub async fn hear(&self) -> Result<(), Silent> {
        // Not between a word here and its row there.
        let _turn = self.change.lock().await;
        let began = self.clock.now();
        let version = self.store.version().await?;
        if *self.version.lock() != Some(version) {
            self.overlay.replace(self.store.load().await?);
            self.proxy.end_unregistered();
            *self.version.lock() = Some(version);
        }
        self.proxy.heard_of_agents(&began);
        Ok(())
    }

    fn find(&self, id: &str) -> Option<Listed> {
        let id: AgentId = id.parse().ok()?;
        self.proxy
            .agents()
            .into_iter()
            .find(|listed| listed.entry.id == id)
    }

    fn shown(&self, listed: &Listed) -> Value {
        let entry = &listed.entry;
        let last_used = self.proxy.last_used(&entry.id);
        let mut shown = json!({ "agent": entry.id.as_str() });
        let written = serde_json::to_value(Written::from(entry)).unwrap_or_default();
        if let (Some(shown), Value::Object(written)) = (shown.as_object_mut(), written) {
            shown.extend(written);
            let last = last_used.map(|at| Value::from(at.to_string()));
            shown.insert("last-used".into(), last.unwrap_or_default());
            shown.insert("stale".into(), self.is_stale(entry, last_used).into());
            shown.insert("source".into(), listed.source.into());
            if let Some(reason) = &listed.reason {
                shown.insert("reason".into(), (**reason).into());
            }
        }
        shown
    }

    /// No use and no review for long. Before this process began to see uses there may have been some.
    fn is_stale(&self, entry: &AgentEntry, last_used: Option<Timestamp>) -> bool {
        let day =
            |date: jiff::civil::Date| date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp());
        let reviewed = [entry.last_audit, entry.created].map(|date| date.and_then(day));
        let newest = reviewed.into_iter().flatten().chain(last_used).max();
        let newest = newest.unwrap_or(self.since);
        newest
            .checked_add(STALE_AFTER)
            .is_ok_and(|end| end < self.clock.now().wall)
    }

    fn record(&self, agent: &AgentId, outcome: &str, (reason, by): (Option<&str>, &str)) {
        let who = Who {
            agent: Some(agent.as_str()),
            ..Who::default()
        };
        let mut record = Record::new(Event::Agent, who);
        record.outcome = Some(outcome);
        record.reason = reason;
        record.by = Some(by);
        self.audit.append(&record);
    }

    /// Says something else of an agent: here at once, then in the store. Whoever may not act any more is out.
    async fn say(&self, agent: &AgentId, said: Option<Said>) -> Result<(), Silent> {
        self.overlay.say(agent, said.as_ref());
        self.proxy.end_unregistered();
        match &said {
            Some(said) => self.store.keep(agent, said).await,
            None => self.store.forget(agent).await,
        }
    }

    async fn suspend(&self, id: &str, ask: &Ask, suspend: bool) -> Reply {
        let why: Why = match ask.json() {
            Ok(why) => why,
            Err(reply) => return reply,
        };
        let _turn = self.change.lock().await;
        let Some(listed) = self.find(id) else {
            return none();
        };
        let agent = listed.entry.id;
        let said = self.overlay.of(&agent).map(|said| Said::clone(&said));
        let mut said = said.unwrap_or_default();
        let reason = why.reason.filter(|reason| !reason.is_empty());
        said.suspended = suspend.then(|| reason.clone().unwrap_or_default());
        let outcome = if suspend { "suspended" } else { "resumed" };
        let said = (said != Said::default()).then_some(said);
        let kept = self.say(&agent, said).await;
        self.record(&agent, outcome, (reason.as_deref(), ask.by.name()));
        if suspend
            && self
                .proxy
                .end_sessions_of(&agent, "suspend", Some(ask.by.name()))
                .await
                .is_err()
            || kept.is_err()
        {
            return silent();
        }
        match self.find(id) {
            Some(listed) if !suspend && listed.entry.status == Status::Suspended => Reply::refused(
                Fault::Conflict,
                "The agent's own entry says that it is suspended: the stricter counts. Change its status there.",
            ),
            Some(listed) => Reply::ok(self.shown(&listed)),
            None => none(),
        }
    }

    async fn put(&self, id: &str, ask: &Ask) -> Reply {
        let bad = || Reply::refused(Fault::BadRequest, "This is no agent's entry.");
        let Ok(agent) = id.parse::<AgentId>() else {
            return bad();
        };
        // An object: of a list the members would be guessed by their place.
        let object: serde_json::Map<String, Value> = match ask.json() {
            Ok(object) => object,
            Err(reply) => return reply,
        };
        let Ok(written) = serde_json::from_value::<Written>(Value::Object(object)) else {
            return bad();
        };
        let Ok(entry) = written.entry(&agent) else {
            return bad();
        };
        let _turn = self.change.lock().await;
        let suspended = self
            .overlay
            .of(&agent)
            .and_then(|said| said.suspended.clone());
        let said = Said {
            entry: Some(entry),
            suspended,
        };
        let kept = self.say(&agent, Some(said)).await;
        self.record(&agent, "stored", (None, ask.by.name()));
        match (kept, self.find(id)) {
            (Ok(()), Some(listed)) => Reply::ok(self.shown(&listed)),
            _ => silent(),
        }
    }

    async fn delete(&self, id: &str, ask: &Ask) -> Reply {
        let _turn = self.change.lock().await;
        let stored = id.parse::<AgentId>().ok().filter(|agent| {
            self.overlay
                .of(agent)
                .is_some_and(|said| said.entry.is_some())
        });
        let Some(agent) = stored else {
            return match self.find(id) {
                Some(_) => Reply::refused(
                    Fault::Conflict,
                    "This agent stands in the file, not in the store.",
                ),
                None => none(),
            };
        };
        let suspended = self
            .overlay
            .of(&agent)
            .and_then(|said| said.suspended.clone());
        // Who was suspended stays so, should the file name it.
        let said = suspended.map(|reason| Said {
            entry: None,
            suspended: Some(reason),
        });
        let kept = self.say(&agent, said).await;
        self.record(&agent, "removed", (None, ask.by.name()));
        if kept.is_ok() {
            Reply::done()
        } else {
            silent()
        }
    }
}

fn none() -> Reply {
    Reply::refused(Fault::NotFound, "There is no agent of this id.")
}

fn silent() -> Reply {
    Reply::refused(
        Fault::Unavailable,
        "The store does not answer. Here it is done; try again for the others.",
    )
}

#[async_trait]
impl Part for Agents {
    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        Some(match (&ask.method, &*ask.segments()) {
            (&Method::GET, ["agents"]) => {
                let all = self.proxy.agents();
                Reply::list(all.iter().map(|listed| self.shown(listed)).collect())
            }
            (&Method::GET, ["agents", id]) => match self.find(id) {
                Some(listed) => Reply::ok(self.shown(&listed)),
                None => none(),
            },
            (&Method::PUT, ["agents", id]) => self.put(id, ask).await,
            (&Method::DELETE, ["agents", id]) => self.delete(id, ask).await,
            (&Method::POST, ["agents", id, "suspend"]) => self.suspend(id, ask, true).await,
            (&Method::POST, ["agents", id, "resume"]) => self.suspend(id, ask, false).await,
            (_, ["agents"]) => Reply::refused(Fault::Method, "Use GET."),
            (_, ["agents", _]) => Reply::refused(Fault::Method, "Use GET, PUT or DELETE."),
            (_, ["agents", _, "suspend" | "resume"]) => Reply::refused(Fault::Method, "Use POST."),
            _ => return None,
        })
    }
}
