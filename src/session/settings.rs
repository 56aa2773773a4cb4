//! `[session]`, resolved.

use std::time::Duration;

use crate::agent::Name;
use crate::delegation::{Rules, Shrink};

/// How sessions begin, end and are handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `ttl`: how long a session token lives.
    pub ttl: Duration,
    /// `idle`: a session that nothing uses for so long ends.
    pub idle: Duration,
    /// `max-depth`: how often a session may be handed on.
    pub max_depth: u32,
    /// `approve-beyond`: from the next depth on a person is asked.
    pub approve_beyond: u32,
    /// `approval`: who is asked then; `None` refuses.
    pub approval: Option<Name>,
    /// `bind`.
    pub bind: Bind,
    /// `shrink`.
    pub shrink: Shrink,
}

/// What a session token is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bind {
    /// The peer, as well as the connection that asked for the token shows it.
    #[default]
    Auto,
    /// Nothing: who has the token has the session.
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(15),
            idle: Duration::from_mins(10),
            max_depth: 3,
            approve_beyond: 2,
            approval: None,
            bind: Bind::Auto,
            shrink: Shrink::Subset,
        }
    }
}

impl Settings {
    /// The part that `delegation` computes with.
    pub fn rules(&self) -> Rules {
        Rules {
            max_depth: self.max_depth,
            ttl: self.ttl,
            shrink: self.shrink,
        }
    }
}
