//! The registry: which agents there are, and whether they may act.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;

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

/// All agents of one configuration, each with its permissions as a scope.
#[derive(Debug, Default)]
pub struct Registry(HashMap<AgentId, (Arc<AgentEntry>, Scope)>);

impl Registry {
    /// Indexes the entries.
    pub fn new(entries: impl IntoIterator<Item = AgentEntry>) -> Self {
        Self(
            entries
                .into_iter()
                .map(|entry| {
                    let words = entry.permissions.as_ref();
                    let scope = words.map_or(Scope::ALL, |words| {
                        Scope::of(words.iter().map(String::as_str))
                    });
                    (entry.id.clone(), (Arc::new(entry), scope))
                })
                .collect(),
        )
    }

    /// The entry of an agent that may act.
    ///
    /// # Errors
    /// [`Unregistered`] for one that may not.
    pub fn admit(&self, agent: &AgentId) -> Result<&Arc<AgentEntry>, Unregistered> {
        let (entry, _) = self.0.get(agent).ok_or(Unregistered::Unknown)?;
        match entry.status {
            Status::Active | Status::Deprecated => Ok(entry),
            Status::Suspended => Err(Unregistered::Suspended),
        }
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
        let entry = self.0.get(agent);
        entry.map_or_else(|| Scope::of([]), |(_, scope)| scope.clone())
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.0.values().map(|(entry, _)| entry)
    }
}
