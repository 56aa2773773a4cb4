//! `/leases`, and `/credentials/NAME/revoke`.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};

use super::{Ask, Caller, Fault, Part, Reply};
use crate::agent::Name;
use crate::credential::{Broker, LeaseId, LeaseInfo, LeaseState, Order, Reason};

/// The broker's leases.
#[derive(Debug)]
pub struct Leases(Arc<Broker>);

impl Leases {
    /// Those of this broker.
    pub fn new(broker: Arc<Broker>) -> Self {
        Self(broker)
    }

    fn revoke(&self, id: &str, by: &Caller) -> Reply {
        let lease = LeaseId::from(id);
        let broker = &self.0;
        let theirs = |info: &LeaseInfo| info.id == lease && is_of(info, by);
        if is_person(by) && !broker.snapshot().iter().any(theirs) {
            return Reply::refused(Fault::NotFound, "There is no live lease of this id.");
        }
        let by = by.name();
        let count = broker.revoke(Order::Lease(&lease), Reason::Order, Some(by));
        // One that is being revoked is on its way already.
        if count > 0 || broker.snapshot().iter().any(|info| info.id == lease) {
            Reply::done()
        } else {
            Reply::refused(Fault::NotFound, "There is no live lease of this id.")
        }
    }

    fn revoke_all(&self, name: &str, by: &str) -> Reply {
        let Some(name) = name.parse::<Name>().ok().filter(|name| self.0.serves(name)) else {
            return Reply::refused(Fault::NotFound, "There is no credential of this name.");
        };
        let order = Order::Credential(&name);
        let count = self.0.revoke(order, Reason::Order, Some(by));
        Reply::ok(json!({ "credential": name.as_str(), "leases": count }))
    }
}

#[async_trait]
impl Part for Leases {
    fn lets_persons_in(&self) -> bool {
        true
    }

    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        Some(match (&ask.method, &*ask.segments()) {
            (&Method::GET, ["leases"]) => {
                let mut leases = self.0.snapshot();
                leases.retain(|info| is_of(info, &ask.by));
                leases.sort_by(|one, other| (one.issued, &one.id).cmp(&(other.issued, &other.id)));
                Reply::list(leases.iter().map(shown).collect())
            }
            (&Method::DELETE, ["leases", id]) => self.revoke(id, &ask.by),
            // A credential's leases are everybody's.
            (&Method::POST, ["credentials", _, "revoke"]) if is_person(&ask.by) => {
                Reply::refused(Fault::Forbidden, "This is for operators: [admin] tokens.")
            }
            (&Method::POST, ["credentials", name, "revoke"]) => {
                self.revoke_all(name, ask.by.name())
            }
            (_, ["leases"]) => Reply::refused(Fault::Method, "Use GET."),
            (_, ["leases", _]) => Reply::refused(Fault::Method, "Use DELETE."),
            (_, ["credentials", _, "revoke"]) => Reply::refused(Fault::Method, "Use POST."),
            _ => return None,
        })
    }
}

fn is_person(by: &Caller) -> bool {
    matches!(by, Caller::Person(_))
}

/// Whether a lease is for this caller to see: an operator sees all, a person those that were issued for them.
fn is_of(info: &LeaseInfo, by: &Caller) -> bool {
    match by {
        Caller::Operator(_) => true,
        Caller::Person(user) => (info.scope.person.as_ref()).is_some_and(|one| one.user == *user),
    }
}

fn shown(info: &LeaseInfo) -> Value {
    let scope = &info.scope;
    json!({
        "lease": info.id.as_str(),
        "credential": scope.credential.as_str(),
        "provider": info.provider,
        "agent": scope.holder.agent().map(Name::as_str),
        "user": scope.person.as_ref().map(|person| &*person.user.name),
        "session": scope.holder.session().map(|session| &**session),
        "scopes": scope.narrow.scopes.as_ref().map(|scopes| {
            scopes.iter().map(|scope| &**scope).collect::<Vec<_>>()
        }),
        "issued": info.issued.to_string(),
        "expires": info.expires.map(|expires| expires.to_string()),
        "state": match info.state {
            LeaseState::Live => "live",
            LeaseState::Revoking => "revoking",
        },
    })
}
