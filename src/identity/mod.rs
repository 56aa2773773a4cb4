//! Who is on the other end: the registry of agents and the evidence they bring. (placeholder)

use crate::agent::AgentId;

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
    pub created: Option<jiff::civil::Date>,
    /// `last-audit`, a date.
    pub last_audit: Option<jiff::civil::Date>,
    /// `status`.
    pub status: Status,
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
