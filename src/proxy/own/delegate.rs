//! What an agent hands on at `POST /token`: a subset of its own session, and beyond a certain depth only what a person
//! approved.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::answer::TokenError;
use super::form::Form;
use super::grant::{NOTHING, asked};
use crate::agent::AgentId;
use crate::approval::{Ask, NotAsked, NotGranted, Status, Subject};
use crate::delegation::{self, Asked, Bounds, Scope, Shrink};
use crate::policy::{Digest, InNameOf};
use crate::proxy::Snapshot;
use crate::proxy::connect::Front;
use crate::route::Route;
use crate::session::{Opening, Session, Settings};

/// A session for a sub-agent: a subset of its parent's, and of what the sub-agent may have.
pub(super) async fn of_sub_agent(
    front: &Front,
    snapshot: &Snapshot,
    parent: &Session,
    form: &Form,
) -> Result<Opening, TokenError> {
    let agent = form.need("agent")?;
    let agent: AgentId = (agent.parse())
        .map_err(|_| TokenError::Request("The parameter agent is no agent's id."))?;
    let mut chain = parent.chain().to_vec();
    chain.push(agent.clone());
    let permissions = snapshot.registry.admit_all(&chain)?;
    let settings = front.shared.sessions.settings();
    let asked = asked(snapshot, form)?;
    let now = front.shared.clock.now();
    let rules = settings.rules();
    // Computed anew each time: whoever comes back with a ticket gets no more than there is now.
    let bounds = delegation::delegate(parent.bounds(), &permissions, &asked, &rules, now.wall)?;
    if rules.shrink == Shrink::Strict {
        let open = routes_open(snapshot, parent.chain(), &parent.bounds().scope);
        // Words that open nothing are no right to give up.
        if open > 0 && routes_open(snapshot, &chain, &bounds.scope) == open {
            return Err(delegation::Refused::NotSmaller.into());
        }
    }
    parent.touch(&now);
    let bounds = if bounds.depth > settings.approve_beyond {
        let wanted = Wanted {
            agent: &agent,
            asked: &asked,
            bounds,
            now: now.wall,
        };
        approved(front, &settings, parent, wanted, form.get("ticket")).await?
    } else {
        bounds
    };
    Ok(Opening {
        chain,
        trust: Arc::clone(parent.trust()),
        person: parent.person().cloned(),
        bounds,
        parent: Some(Arc::clone(parent.id())),
        bound: front.shared.bound_by_link(front),
        idles: true,
    })
}

/// How many routes are open now to a session of this chain and scope.
fn routes_open(snapshot: &Snapshot, chain: &[AgentId], scope: &Scope) -> usize {
    let Ok(permissions) = snapshot.registry.admit_all(chain) else {
        return 0;
    };
    let is_open = |route: &&Arc<Route>| {
        let asks = route.narrow.scopes.as_deref();
        chain.iter().all(|agent| route.admits(agent))
            && [scope, &permissions]
                .iter()
                .all(|scope| scope.covers(&route.name, asks))
    };
    snapshot.table.routes().iter().filter(is_open).count()
}

/// What somebody has to approve.
struct Wanted<'a> {
    agent: &'a AgentId,
    asked: &'a Asked,
    bounds: Bounds,
    /// When the bounds were computed.
    now: Timestamp,
}

/// The bounds, once a person has approved them; never wider or longer than what that person saw.
async fn approved(
    front: &Front,
    settings: &Settings,
    parent: &Session,
    wanted: Wanted<'_>,
    ticket: Option<&str>,
) -> Result<Bounds, TokenError> {
    let name = settings.approval.as_ref().ok_or(TokenError::Request(
        "A person must approve so long a chain of delegations, and nobody is named who could.",
    ))?;
    let Wanted {
        agent,
        asked,
        mut bounds,
        now,
    } = wanted;
    let approvals = &front.shared.approvals;
    let user = parent.person().map(|person| &person.user);
    let who = InNameOf {
        approval: name,
        session: parent.id(),
        user,
        chain: parent.chain(),
    };
    let digest = Digest::of_delegation(&who, agent, asked.scope.as_ref(), asked.life);
    let entry = if let Some(ticket) = ticket {
        approvals.look(ticket, &digest).await?
    } else {
        let life = bounds.expires.map(|end| end.duration_since(now).as_secs());
        let subject = Subject {
            scopes: (!bounds.scope.is_all()).then(|| bounds.scope.to_string()),
            sub_agent: Some(agent.to_string()),
            life: life.and_then(|life| life.try_into().ok()),
            ..Subject::default()
        };
        let ask = Ask {
            name,
            session: parent.id(),
            chain: parent.chain(),
            user,
            subject: &subject,
            digest,
            held: false,
        };
        approvals.ask(&ask).await?
    };
    if entry.status != Status::Approved {
        return Err(TokenError::Pending(entry.ticket()));
    }
    if let Some(seen) = &entry.subject.scopes {
        bounds.scope = bounds.scope.meet(&Scope::of(seen.split(' ')));
        if bounds.scope.is_nothing() {
            return Err(NOTHING);
        }
    }
    let seen = entry.subject.life.map(Duration::from_secs);
    if let Some(end) = seen.and_then(|life| now.checked_add(life).ok()) {
        bounds.expires = Some(bounds.expires.map_or(end, |own| own.min(end)));
    }
    // Last: it can be used once, and all else has been seen to hold.
    approvals.take(&entry).await?;
    Ok(bounds)
}

impl From<NotAsked> for TokenError {
    fn from(why: NotAsked) -> Self {
        match why {
            NotAsked::Throttled => Self::SlowDown,
            NotAsked::Nobody => Self::Request(
                "A person must approve so long a chain of delegations, and nobody can be asked here: this keyward has no admin side.",
            ),
            _ => Self::Unavailable("Nobody can be asked for approval now. Try again later."),
        }
    }
}

impl From<NotGranted> for TokenError {
    fn from(why: NotGranted) -> Self {
        match why {
            NotGranted::Denied => Self::AccessDenied,
            NotGranted::Over => Self::Expired,
            NotGranted::Mismatch => Self::Request(
                "The ticket is for another request than this one. Send the same parameters as before, or ask without it.",
            ),
            NotGranted::Unavailable => {
                Self::Unavailable("It cannot be known now what was decided. Try again later.")
            }
        }
    }
}
