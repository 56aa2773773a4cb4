//! Operators: the tokens of `[admin] tokens`, followed as their sources change.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::agent::{Name, User};
use crate::credential::Watched;
use crate::identity::StaticTokens;
use crate::secret::Secret;

/// Who asks the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An operator, or the uid that keyward runs as: everything is open to it.
    Operator(Arc<str>),
    /// A person who signed in: what is theirs is open to them.
    Person(User),
}

impl Caller {
    /// What the audit calls it.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Operator(name) => name,
            Self::Person(user) => &user.name,
        }
    }
}

/// Whose a bearer token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// One who may ask.
    Caller(Caller),
    /// An agent's: it opens nothing.
    Agent,
    /// Nobody's.
    Nobody,
}

/// Who knows whose a token is.
#[async_trait]
pub trait Gate: fmt::Debug + Send + Sync {
    /// Whose the token is.
    async fn know(&self, token: &Secret) -> Bearer;
}

/// The operators of the file, and the agents, who are none.
#[derive(Debug)]
pub struct Operators {
    tokens: ArcSwap<Vec<(Name, Watched)>>,
    agents: Arc<StaticTokens>,
}

impl Operators {
    /// No operator yet.
    pub fn new(agents: Arc<StaticTokens>) -> Self {
        Self {
            tokens: ArcSwap::default(),
            agents,
        }
    }

    /// Whether the file has an operator of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tokens
            .load()
            .iter()
            .any(|(known, _)| known.as_str() == name)
    }

    /// Puts others in place.
    pub fn replace(&self, tokens: Vec<(Name, Watched)>) {
        self.tokens.store(Arc::new(tokens));
    }
}

#[async_trait]
impl Gate for Operators {
    async fn know(&self, token: &Secret) -> Bearer {
        if self.agents.whose(token).is_some() || looks_like_jwt(token) {
            return Bearer::Agent;
        }
        let mut found = Bearer::Nobody;
        // All are compared, each in constant time: how long it takes tells nothing.
        for (name, watched) in self.tokens.load().iter() {
            let same = watched
                .current()
                .is_ok_and(|known| !known.is_empty() && *known == *token);
            if same {
                found = Bearer::Caller(Caller::Operator(name.shared()));
            }
        }
        found
    }
}

/// Session tokens of agents are JWTs (RFC 9068); operators' tokens never look like one.
fn looks_like_jwt(token: &Secret) -> bool {
    let text = token.expose();
    text.starts_with(b"eyJ") && memchr::memchr_iter(b'.', text).count() == 2
}
