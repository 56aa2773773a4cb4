//! The registry: which agents there are, and whether they may act.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;

use super::Overlay;
use crate::agent::AgentId;
use crate::delegation::Scope;

/// `[agent.ID]`, resolved, without its token (which is a credential source, and so in the configuration beside it).
#[derive(Debug, Clone, PartialEq)]
pub struct AgentEntry {
    /// ID.
    pub id: AgentId,
    /// `purpose`.
    pub purpose: Option<String>,
    /// `owner`.
    pub owner: Option<String>,
    /// `permissions`: `None` is no bound but the routes.
    pub permissions: Option<Vec<String>>,
    /// `tools`.
    pub tools: Vec<String>,
    /// `data-class`.
    pub data_class: Option<String>,
    /// `environment`.
    pub environment: Option<String>,
    /// `created`, a date.
    pub created: Option<Date>,
    /// `last-audit`, a date.
    pub last_audit: Option<Date>,
    /// `status`.
    pub status: Status,
}

impl AgentEntry {
    /// An active agent about whom nothing more is said.
    pub fn bare(id: AgentId) -> Self {
        Self {
            id,
            purpose: None,
            owner: None,
            permissions: None,
            tools: Vec::new(),
            data_class: None,
            environment: None,
            created: None,
            last_audit: None,
            status: Status::Active,
        }
    }
}

/// Whether an agent may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// It may.
    #[default]
    Active,
    /// It may not: refused from the next request on.
    Suspended,
    /// It may, and is reported.
    Deprecated,
}

/// Why an attested agent may not act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unregistered {
    /// No entry has this id.
    #[error("the agent is not in the registry")]
    Unknown,
    /// Its status is `suspended`.
    #[error("the agent is suspended")]
    Suspended,
}

/// An agent as operators see it: file and store together.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its entry; of file and store the stricter counts.
    pub entry: AgentEntry,
    /// `file`, `store` or `both`.
    pub source: &'static str,
    /// Why an operator suspended it.
    pub reason: Option<String>,
}

/// All agents: those of one configuration, each with its permissions as a scope, and what operators said beside it.
#[derive(Debug, Default)]
pub struct Registry {
    file: HashMap<AgentId, (Arc<AgentEntry>, Scope)>,
    overlay: Arc<Overlay>,
}

impl Registry {
    /// Indexes the entries of the file.
    pub fn new(entries: impl IntoIterator<Item = AgentEntry>) -> Self {
        let entries = entries.into_iter().map(|entry| {
            let scope = entry.scope();
            (entry.id.clone(), (Arc::new(entry), scope))
        });
        Self {
            file: entries.collect(),
            overlay: Arc::default(),
        }
    }

    /// The same, with what operators say beside the file.
    #[must_use]
    pub fn beside(self, overlay: Arc<Overlay>) -> Self {
        Self { overlay, ..self }
    }

    /// Whether an agent may act.
    ///
    /// # Errors
    /// [`Unregistered`] for one that may not.
    pub fn admit(&self, agent: &AgentId) -> Result<(), Unregistered> {
        let said = self.overlay.of(agent);
        let stored = said.as_ref().and_then(|said| said.entry.as_ref());
        let file = self.file.get(agent).map(|(entry, _)| &**entry);
        if file.is_none() && stored.is_none() {
            return Err(Unregistered::Unknown);
        }
        let by_order = said.as_ref().is_some_and(|said| said.suspended.is_some());
        let mut entries = file.into_iter().chain(stored);
        if by_order || entries.any(|entry| entry.status == Status::Suspended) {
            return Err(Unregistered::Suspended);
        }
        Ok(())
    }

    /// What all agents of a chain may do together; each of them must be one that may act.
    ///
    /// # Errors
    /// [`Unregistered`] for the first one that may not.
    pub fn admit_all(&self, chain: &[AgentId]) -> Result<Scope, Unregistered> {
        let mut widest = Scope::ALL;
        for agent in chain {
            self.admit(agent)?;
            widest = widest.meet(&self.permissions(agent));
        }
        Ok(widest)
    }

    /// `permissions`: the widest scope of the agent's sessions; one that is not there has none.
    pub fn permissions(&self, agent: &AgentId) -> Scope {
        let file = self.file.get(agent).map(|(_, scope)| scope.clone());
        let said = self.overlay.of(agent);
        let stored = said.and_then(|said| said.entry.as_ref().map(AgentEntry::scope));
        match (file, stored) {
            (Some(file), Some(stored)) => file.meet(&stored),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Scope::of([]),
        }
    }

    /// Every entry of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.file.values().map(|(entry, _)| entry)
    }

    /// Every agent of file and store, by its id.
    pub fn listed(&self) -> Vec<Listed> {
        let said = self.overlay.all();
        let stored = |id: &AgentId| said.get(id).and_then(|said| said.entry.clone());
        let only = (said.keys()).filter(|id| !self.file.contains_key(*id));
        let ids = self.file.keys().chain(only);
        let mut all: Vec<Listed> = ids
            .filter_map(|id| {
                let file = self.file.get(id).map(|(entry, _)| AgentEntry::clone(entry));
                let source = match (&file, stored(id)) {
                    (Some(_), Some(_)) => "both",
                    (Some(_), None) => "file",
                    (None, _) => "store",
                };
                let mut entry = file.or_else(|| stored(id))?;
                let bounds = self.permissions(id);
                entry.permissions =
                    (bounds.words()).map(|words| words.iter().map(ToString::to_string).collect());
                if self.admit(id) == Err(Unregistered::Suspended) {
                    entry.status = Status::Suspended;
                }
                let reason = said.get(id).and_then(|said| said.suspended.clone());
                Some(Listed {
                    entry,
                    source,
                    reason: reason.filter(|reason| !reason.is_empty()),
                })
            })
            .collect();
        all.sort_by(|one, other| one.entry.id.cmp(&other.entry.id));
        all
    }
}
