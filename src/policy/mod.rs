//! The decision. Only this room makes a [`Permit`]; the broker leases against one, and the exchange sends nothing else.
//!
//! [`Policy::evaluate`] is pure: no clock, no I/O, no async. It takes the clean head by value and gives it back inside
//! the permit, so nothing can change between judgement and sending.

mod condition;
mod digest;
mod person;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

pub use condition::{Conditions, Hours, Unmet, Weekdays};
pub use digest::{BadDigest, Digest, Grant, InNameOf, Mismatch};
pub use person::{Person, UserToken, UserTokenType};

use crate::agent::{AgentId, Name};
use crate::clock::Now;
use crate::delegation::Scope;
use crate::head::Head;
use crate::host::Target;
use crate::route::{Candidates, Route};

/// Everything that judges, made at load time.
#[derive(Debug, Default)]
pub struct Policy {
    /// The guards of each route, by its index.
    conditions: Vec<Conditions>,
}

/// Who asks, from where, and when.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The acting agent.
    pub agent: &'a AgentId,
    /// The session it acts in.
    pub session: &'a Arc<str>,
    /// From the session's first agent to the acting one.
    pub chain: &'a [AgentId],
    /// The person whom the session is bound to, if any.
    pub person: Option<&'a Arc<Person>>,
    /// What the session may do.
    pub scope: &'a Scope,
    /// What the registry says now that its agents may do.
    pub permissions: &'a Scope,
    /// The one target of the connection.
    pub target: &'a Arc<Target>,
    /// The peer's address; `None` on a unix socket.
    pub source: Option<IpAddr>,
    /// The time of the request.
    pub now: Now,
    /// The routes that name the target for this agent.
    pub candidates: &'a Candidates,
}

/// What the policy says.
#[must_use]
#[derive(Debug)]
pub enum Verdict {
    /// Send it.
    Allow(Permit),
    /// A person has to say yes first.
    Ask(Pending),
    /// Refuse it; the head comes back for the record.
    Deny(Denial, Box<Head>),
}

/// Proof that exactly this request may be sent. It owns the head, and nothing but `policy` can make one.
#[derive(Debug)]
pub struct Permit {
    head: Head,
    route: Arc<Route>,
    agent: AgentId,
    session: Arc<str>,
    person: Option<Arc<Person>>,
    target: Arc<Target>,
    inject: bool,
}

/// A request that may be sent once a person has approved exactly it. Nothing of it can be had before but to ask for.
#[derive(Debug)]
pub struct Pending {
    permit: Permit,
    approval: Name,
    chain: Box<[AgentId]>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// No route of this host covers the method and path.
    #[error("no route covers this method and path")]
    NoRoute,
    /// The session, or its agents by the registry, may do less.
    #[error("the session's scope does not cover route {route}")]
    Scope {
        /// The route that matched.
        route: Arc<str>,
    },
    /// A guard of the matched route is not met.
    #[error("a condition of route {route} is not met: {unmet}")]
    Condition {
        /// The route that matched.
        route: Arc<str>,
        /// The guard.
        unmet: Unmet,
    },
    /// `%2F` stands in the path, and the route does not allow it.
    #[error("route {route} does not allow an encoded slash in the path")]
    EncodedSlash {
        /// The route that matched.
        route: Arc<str>,
    },
    /// `%2F` stands in the path, and another route would refuse it or ask more where it is read as a slash.
    #[error("route {route} does not decide this path where %2F in it is read as a slash")]
    DecodedSlash {
        /// The route that matched.
        route: Arc<str>,
    },
    /// `//` stands in the path, and the route does not sign for S3, or another would match without it.
    #[error("route {route} does not allow an empty segment in the path")]
    EmptySegment {
        /// The route that matched.
        route: Arc<str>,
    },
    /// The answer would be a new credential, and the route does not grant that.
    #[error("route {route} does not allow requests that mint credentials")]
    Minting {
        /// The route that matched.
        route: Arc<str>,
    },
    /// The request asks for a WebSocket, and the route does not allow it.
    #[error("route {route} does not allow WebSockets")]
    WebSocket {
        /// The route that matched.
        route: Arc<str>,
    },
}

impl Denial {
    /// The route that had matched, if one did.
    pub fn route(&self) -> Option<&Arc<str>> {
        match self {
            Self::NoRoute => None,
            Self::Condition { route, .. }
            | Self::Scope { route }
            | Self::EncodedSlash { route }
            | Self::DecodedSlash { route }
            | Self::EmptySegment { route }
            | Self::Minting { route }
            | Self::WebSocket { route } => Some(route),
        }
    }
}

impl Policy {
    /// `conditions` stand in the order of the routes; the route of unmatched hosts comes last, and has none.
    pub fn new(mut conditions: Vec<Conditions>) -> Self {
        conditions.push(Conditions::default());
        Self { conditions }
    }

    /// The guards of a route, for `explain`.
    pub fn conditions(&self, route: &Route) -> Option<&Conditions> {
        self.conditions
            .get(route.index)
            .filter(|conditions| !conditions.is_empty())
    }

    /// Matches, then judges: the first route that covers the request decides, and a guard that is not met refuses.
    pub fn evaluate(&self, query: &Query<'_>, head: Head) -> Verdict {
        match self.judge(query, &head) {
            Ok(route) => {
                let inject = route.injects(head.method());
                let conditions = self.conditions.get(route.index);
                let approval = conditions.and_then(|conditions| conditions.approval.clone());
                let permit = Permit {
                    head,
                    route,
                    agent: query.agent.clone(),
                    session: Arc::clone(query.session),
                    person: query.person.cloned(),
                    target: Arc::clone(query.target),
                    inject,
                };
                match approval {
                    None => Verdict::Allow(permit),
                    Some(approval) => Verdict::Ask(Pending {
                        permit,
                        approval,
                        chain: query.chain.into(),
                    }),
                }
            }
            Err(denial) => Verdict::Deny(denial, Box::new(head)),
        }
    }

    fn judge(&self, query: &Query<'_>, head: &Head) -> Result<Arc<Route>, Denial> {
        let route = query
            .candidates
            .find(head.method(), head.path())
            .ok_or(Denial::NoRoute)?;
        let named = || Arc::clone(&route.name);
        let asks = route.narrow.scopes.as_deref();
        if ![query.scope, query.permissions]
            .iter()
            .all(|scope| scope.covers(&route.name, asks))
        {
            return Err(Denial::Scope { route: named() });
        }
        if head.has_encoded_slash() && !route.encoded_slash {
            return Err(Denial::EncodedSlash { route: named() });
        }
        // Servers differ on whether `//` is one slash and `;x` a part of a name: both readings have to be one route's.
        let folded = head.folded_path();
        if let Some(path) = &folded {
            let other = query.candidates.find(head.method(), path);
            let lets = route.empty_segments || !head.has_empty_segment();
            if !lets || other.is_none_or(|other| other.index != route.index) {
                return Err(Denial::EmptySegment { route: named() });
            }
        }
        if head.is_websocket() && !route.websocket {
            return Err(Denial::WebSocket { route: named() });
        }
        // A route without an entry would be a fault of assembly: refuse rather than skip its guards.
        let conditions = self.conditions.get(route.index).ok_or(Denial::NoRoute)?;
        // What goes through a WebSocket afterwards is nothing that anybody could look at beforehand.
        if head.is_websocket() && conditions.approval.is_some() {
            return Err(Denial::WebSocket { route: named() });
        }
        let decoded = head.decoded_paths();
        let mut readings = [Some(head.path()), folded.as_deref()]
            .into_iter()
            .flatten()
            .chain(decoded.iter().map(String::as_str));
        if readings.any(|path| conditions.forbids_minting(head.method(), path)) {
            return Err(Denial::Minting { route: named() });
        }
        // A name with a slash in it may well be no route's when it is decoded, but never one of a stricter route.
        for path in &decoded {
            let other = query.candidates.find(head.method(), path);
            let other = other.filter(|other| !Arc::ptr_eq(other, route));
            if other.is_some_and(|other| self.is_stricter(query, (other, route), (head, path))) {
                return Err(Denial::DecodedSlash { route: named() });
            }
        }
        conditions
            .check(query.source, query.now.wall)
            .map_err(|unmet| Denial::Condition {
                route: named(),
                unmet,
            })?;
        Ok(Arc::clone(route))
    }

    /// Whether the first of two routes, which would decide this reading of the path, comes earlier, refuses it, or asks
    /// what the second does not.
    fn is_stricter(
        &self,
        query: &Query<'_>,
        (other, route): (&Arc<Route>, &Arc<Route>),
        (head, path): (&Head, &str),
    ) -> bool {
        let mut earlier = query.candidates.before(route);
        let guards = |route: &Route| self.conditions.get(route.index);
        let (Some(theirs), Some(ours)) = (guards(other), guards(route)) else {
            return true;
        };
        earlier.any(|one| Arc::ptr_eq(one, other))
            || theirs.asks_beyond(ours)
            || theirs.forbids_minting(head.method(), path)
    }
}

impl Pending {
    /// The `[approval.NAME]` to ask.
    pub fn approval(&self) -> &Name {
        &self.approval
    }

    /// The route that decided.
    pub fn route(&self) -> &Arc<Route> {
        &self.permit.route
    }

    /// The judged head, to be shown.
    pub fn head(&self) -> &Head {
        &self.permit.head
    }

    /// The credential that it would carry.
    pub fn credential(&self) -> Option<&Name> {
        self.permit.credential()
    }

    /// Where it would go.
    pub fn target(&self) -> &Arc<Target> {
        &self.permit.target
    }

    /// Gives up, for the head: to be judged anew.
    pub fn into_head(self) -> Head {
        self.permit.head
    }
}

impl Permit {
    /// The route that decided.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The credential to lease: `None` forwards the request without one.
    pub fn credential(&self) -> Option<&Name> {
        self.route.credential.as_ref().filter(|_| self.inject)
    }

    /// The acting agent.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The session.
    pub fn session(&self) -> &Arc<str> {
        &self.session
    }

    /// The person whom the session is bound to, if any.
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.person.as_ref()
    }

    /// Where it goes.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The judged head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Gives up the proof for the head, to be sent now.
    pub fn into_head(self) -> Head {
        self.head
    }
}
