//! Operators: the tokens of `[admin] tokens`, followed as their sources change.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

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

    /// What ties a pass to the token that it was given for: to that of the operator of this name, or without a name to
    /// those of all. `None`: there is no such operator, or their token has no value now. It tells nothing of the token to
    /// whoever does not have the pass.
    pub(super) fn tie(&self, name: Option<&str>, pass: &[u8]) -> Option<String> {
        let tokens = self.tokens.load();
        let mut named: Vec<&(Name, Watched)> = tokens
            .iter()
            .filter(|(known, _)| name.is_none_or(|name| known.as_str() == name))
            .collect();
        if name.is_some() && named.is_empty() {
            return None;
        }
        named.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        let mut sum = Context::new(&SHA256);
        sum.update(pass);
        for (known, watched) in named {
            let token = match watched.current() {
                Ok(token) => Some(token),
                // Among all, one without a value is a sign like another.
                Err(_) if name.is_none() => None,
                Err(_) => return None,
            };
            let token = token.as_ref().map(|token| token.expose());
            for part in [known.as_str().as_bytes(), token.unwrap_or_default()] {
                sum.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                sum.update(part);
            }
        }
        Some(BASE64URL.encode(sum.finish()))
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
