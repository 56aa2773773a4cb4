//! `/sessions`: who acts now, and an end to it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};

use super::{Ask, Caller, Fault, Part, Reply};
use crate::agent::Name;
use crate::credential::{Broker, LeaseId};
use crate::proxy::Proxy;
use crate::session::Session;

/// The sessions of every replica.
#[derive(Debug)]
pub struct Sessions {
    proxy: Proxy,
    broker: Arc<Broker>,
}

/// The leases by session.
type Held = HashMap<Arc<str>, Vec<LeaseId>>;

impl Sessions {
    /// Those of this proxy and its store; what they hold is the broker's.
    pub fn new(proxy: Proxy, broker: Arc<Broker>) -> Self {
        Self { proxy, broker }
    }

    async fn list(&self, by: &Caller) -> Reply {
        match self.proxy.all_sessions().await {
            Ok(all) => {
                let held = self.held();
                let theirs = all.iter().filter(|session| is_of(session, by));
                Reply::list(theirs.map(|session| self.shown(session, &held)).collect())
            }
            Err(_) => silent(),
        }
    }

    async fn show(&self, id: &str, by: &Caller) -> Reply {
        match self.proxy.all_sessions().await {
            Ok(all) => {
                let mut theirs = all.iter().filter(|session| is_of(session, by));
                match theirs.find(|session| **session.id() == *id) {
                    Some(session) => Reply::ok(self.shown(session, &self.held())),
                    None => none(),
                }
            }
            Err(_) => silent(),
        }
    }

    async fn end(&self, id: &str, by: &Caller) -> Reply {
        if matches!(by, Caller::Person(_)) {
            // Another's session is to them as none: which ids there are is not told.
            match self.proxy.all_sessions().await {
                Ok(all) if all.iter().any(|one| **one.id() == *id && is_of(one, by)) => {}
                Ok(_) => return none(),
                Err(_) => return silent(),
            }
        }
        match self.proxy.end_session(id, "order", Some(by.name())).await {
            Ok(true) => Reply::done(),
            Ok(false) => none(),
            Err(_) => silent(),
        }
    }

    /// The leases of each session.
    fn held(&self) -> Held {
        let mut held = Held::new();
        for info in self.broker.snapshot() {
            if let Some(session) = info.scope.holder.session() {
                held.entry(Arc::clone(session)).or_default().push(info.id);
            }
        }
        held
    }

    fn shown(&self, session: &Session, held: &Held) -> Value {
        let leases = held.get(session.id()).into_iter().flatten();
        let leases: Vec<&str> = leases.map(LeaseId::as_str).collect();
        let chain: Vec<&str> = session.chain().iter().map(Name::as_str).collect();
        let bounds = session.bounds();
        json!({
            "session": **session.id(),
            "agent": session.agent().as_str(),
            "user": session.user(),
            "chain": chain,
            "trust": **session.trust(),
            "depth": bounds.depth,
            "parent": session.parent().map(|parent| &**parent),
            "scope": self.proxy.scope_of(session),
            "created": session.created().to_string(),
            "expires": bounds.expires.map(|end| end.to_string()),
            "last-used": session.last_used().to_string(),
            "bound": session.bound(),
            "leases": leases,
        })
    }
}

/// Whether a session is for this caller to see: an operator sees all, a person those that act for them.
fn is_of(session: &Session, by: &Caller) -> bool {
    match by {
        Caller::Operator(_) => true,
        Caller::Person(user) => session.person().is_some_and(|person| person.user == *user),
    }
}

fn none() -> Reply {
    Reply::refused(Fault::NotFound, "There is no live session of this id.")
}

fn silent() -> Reply {
    Reply::refused(
        Fault::Unavailable,
        "The store does not answer. Here it is done; try again for the others.",
    )
}

#[async_trait]
impl Part for Sessions {
    fn lets_persons_in(&self) -> bool {
        true
    }

    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        Some(match (&ask.method, &*ask.segments()) {
            (&Method::GET, ["sessions"]) => self.list(&ask.by).await,
            (&Method::GET, ["sessions", id]) => self.show(id, &ask.by).await,
            (&Method::DELETE, ["sessions", id]) => self.end(id, &ask.by).await,
            (_, ["sessions"]) => Reply::refused(Fault::Method, "Use GET."),
            (_, ["sessions", _]) => Reply::refused(Fault::Method, "Use GET or DELETE."),
            _ => return None,
        })
    }
}
