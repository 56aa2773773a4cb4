//! What operators said of agents beside the file: entries of the store, and suspensions. Where file and store differ, the
//! stricter counts.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{AgentEntry, Status};
use crate::agent::AgentId;
use crate::delegation::Scope;

/// What was said of one agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Said {
    /// Its entry, where it has one in the store.
    pub entry: Option<AgentEntry>,
    /// Why an operator suspended it, where one did.
    pub suspended: Option<String>,
}

/// What was said of every agent. It outlives each configuration.
#[derive(Debug, Default)]
pub struct Overlay {
    said: ArcSwap<HashMap<AgentId, Arc<Said>>>,
    /// When sessions that are over were used last, in Unix milliseconds.
    used: Mutex<HashMap<AgentId, i64>>,
}

/// The store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store of agents does not answer")]
pub struct Silent;

/// Where it is kept.
#[async_trait]
pub trait AgentStore: Debug + Send + Sync {
    /// Another number for another content.
    async fn version(&self) -> Result<(i64, i64), Silent>;
    /// All that was said.
    async fn load(&self) -> Result<Vec<(AgentId, Said)>, Silent>;
    /// Keeps what was said of an agent.
    async fn keep(&self, agent: &AgentId, said: &Said) -> Result<(), Silent>;
    /// Forgets it.
    async fn forget(&self, agent: &AgentId) -> Result<(), Silent>;
}

impl Overlay {
    /// What was said of this agent.
    pub fn of(&self, agent: &AgentId) -> Option<Arc<Said>> {
        self.said.load().get(agent).cloned()
    }

    /// All that was said.
    pub fn all(&self) -> Arc<HashMap<AgentId, Arc<Said>>> {
        self.said.load_full()
    }

    /// Puts all of it in place.
    pub fn replace(&self, said: impl IntoIterator<Item = (AgentId, Said)>) {
        let said = said
            .into_iter()
            .map(|(agent, said)| (agent, Arc::new(said)));
        self.said.store(Arc::new(said.collect()));
    }

    /// Puts what was said of one agent in place; `None` forgets it.
    pub fn say(&self, agent: &AgentId, said: Option<&Said>) {
        self.said.rcu(|all| {
            let mut all = HashMap::clone(all);
            match said {
                Some(said) => all.insert(agent.clone(), Arc::new(said.clone())),
                None => all.remove(agent),
            };
            all
        });
    }

    /// Notes a use, in Unix milliseconds.
    pub fn used(&self, agent: &AgentId, at: i64) {
        let mut used = self.used.lock();
        let last = used.entry(agent.clone()).or_insert(at);
        *last = at.max(*last);
    }

    /// The last use by a session that is over, in Unix milliseconds.
    pub fn last_used(&self, agent: &AgentId) -> Option<i64> {
        self.used.lock().get(agent).copied()
    }
}

impl AgentEntry {
    /// `permissions` as a scope.
    pub fn scope(&self) -> Scope {
        let words = self.permissions.as_ref();
        words.map_or(Scope::ALL, |words| {
            Scope::of(words.iter().map(String::as_str))
        })
    }
}

impl Status {
    /// The word of the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deprecated => "deprecated",
        }
    }
}

/// An entry as JSON: the keys of the file, without `token`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Written {
    purpose: Option<String>,
    owner: Option<String>,
    permissions: Option<Vec<String>>,
    tools: Vec<String>,
    data_class: Option<String>,
    environment: Option<String>,
    created: Option<String>,
    last_audit: Option<String>,
    status: Option<String>,
}

/// JSON that is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry does not hold")]
pub struct BadEntry;

impl Written {
    /// The entry of this agent.
    ///
    /// # Errors
    /// [`BadEntry`] where a word, a date or a text is none.
    pub fn entry(self, id: &AgentId) -> Result<AgentEntry, BadEntry> {
        let date = |text: Option<String>| {
            let parsed = text.map(|text| {
                text.parse()
                    .map_err(|_| BadEntry)
                    .map(|date| (text.len(), date))
            });
            match parsed.transpose()? {
                None => Ok(None),
                Some((10, date)) => Ok(Some(date)),
                Some(_) => Err(BadEntry),
            }
        };
        let graphic =
            |word: &String| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
        let texts = [
            &self.purpose,
            &self.owner,
            &self.data_class,
            &self.environment,
        ];
        let plain = |text: &&String| {
            text.is_empty() || text.len() > 1024 || text.contains(char::is_control)
        };
        if !self
            .permissions
            .iter()
            .flatten()
            .chain(&self.tools)
            .all(graphic)
            || texts.into_iter().flatten().any(|text| plain(&text))
        {
            return Err(BadEntry);
        }
        Ok(AgentEntry {
            id: id.clone(),
            created: date(self.created)?,
            last_audit: date(self.last_audit)?,
            status: match self.status.as_deref() {
                None | Some("active") => Status::Active,
                Some("suspended") => Status::Suspended,
                Some("deprecated") => Status::Deprecated,
                Some(_) => return Err(BadEntry),
            },
            purpose: self.purpose,
            owner: self.owner,
            permissions: self.permissions,
            tools: self.tools,
            data_class: self.data_class,
            environment: self.environment,
        })
    }
}

impl From<&AgentEntry> for Written {
    fn from(entry: &AgentEntry) -> Self {
        Self {
            purpose: entry.purpose.clone(),
            owner: entry.owner.clone(),
            permissions: entry.permissions.clone(),
            tools: entry.tools.clone(),
            data_class: entry.data_class.clone(),
            environment: entry.environment.clone(),
            created: entry.created.map(|date| date.to_string()),
            last_audit: entry.last_audit.map(|date| date.to_string()),
            status: Some(entry.status.word().to_owned()),
        }
    }
}
