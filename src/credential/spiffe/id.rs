//! `spiffe-id`: which SVID, in which `{agent}` stands for the agent that calls.

use std::str::FromStr;

use crate::agent::AgentId;
use crate::spiffe::SpiffeId;

/// The SPIFFE ID that a lease must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidId(Box<str>);

/// What was written is no such ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no SPIFFE ID with a path, such as \"spiffe://prod.example/sa/calendar\" or \"spiffe://prod.example/sa/{{agent}}\""
)]
pub struct BadSvidId;

impl SvidId {
    /// The ID for this agent; `None` where the agent is part of it and there is none.
    pub(super) fn of(&self, agent: Option<&AgentId>) -> Option<String> {
        if !self.names_agent() {
            return Some(self.0.to_string());
        }
        Some(self.0.replace(AGENT, agent?.as_str()))
    }

    /// Whether each agent has another.
    pub fn names_agent(&self) -> bool {
        self.0.contains(AGENT)
    }

    /// The trust domain, which is never left open.
    pub fn domain(&self) -> &str {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }
}

impl FromStr for SvidId {
    type Err = BadSvidId;

    fn from_str(text: &str) -> Result<Self, BadSvidId> {
        let example = text.replace(AGENT, "agent");
        let is_workload = SpiffeId::read(&example).is_some_and(|id| id.has_path);
        let this = Self(text.into());
        let good = is_workload && !this.domain().contains(AGENT);
        good.then_some(this).ok_or(BadSvidId)
    }
}

/// Stands for the id of the agent.
const AGENT: &str = "{agent}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_part_of_the_path_only() {
        let id: SvidId = "spiffe://prod.example/sa/{agent}".parse().unwrap();
        let agent: AgentId = "calendar".parse().unwrap();
        assert_eq!(
            id.of(Some(&agent)).as_deref(),
            Some("spiffe://prod.example/sa/calendar")
        );
        assert_eq!(id.of(None), None);
        assert!(id.names_agent());
        let fixed: SvidId = "spiffe://prod.example/x".parse().unwrap();
        assert_eq!(fixed.of(None).as_deref(), Some("spiffe://prod.example/x"));
        for bad in [
            "spiffe://{agent}/x",
            "spiffe://{agent}.example/x",
            "spiffe://prod.example",
            "spiffe://prod.example/{user}",
            "prod.example/x",
        ] {
            assert_eq!(bad.parse::<SvidId>(), Err(BadSvidId), "{bad}");
        }
    }
}
