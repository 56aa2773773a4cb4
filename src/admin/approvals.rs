//! `/approvals`: what agents ask, and the answers.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use serde::Deserialize;

use super::{Ask, Caller, Fault, Part, Reply};
use crate::approval::{self, By, NotCounted, Status};

/// The questions of every replica.
#[derive(Debug)]
pub struct Approvals(Arc<approval::Approvals>);

/// The body of a decision.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

/// The longest reason, in bytes.
const LONGEST: usize = 1000;

impl Approvals {
    /// Those that are kept here.
    pub fn new(approvals: Arc<approval::Approvals>) -> Self {
        Self(approvals)
    }

    async fn list(&self, ask: &Ask) -> Reply {
        let status = ask.query("status").filter(|word| !word.is_empty());
        let status = match status.map(|word| word.parse::<Status>()).transpose() {
            Ok(status) => status,
            Err(error) => return Reply::refused(Fault::BadRequest, &format!("{error}.")),
        };
        match self.0.list(status, by(&ask.by)).await {
            Ok(all) => Reply::list(all.iter().map(approval::Entry::shown).collect()),
            Err(error) => refused(error),
        }
    }

    async fn show(&self, id: &str, ask: &Ask) -> Reply {
        match self.0.show(id, by(&ask.by)).await {
            Ok(Some(entry)) => Reply::ok(entry.shown()),
            Ok(None) => refused(NotCounted::Unknown),
            Err(error) => refused(error),
        }
    }

    async fn decide(&self, id: &str, approve: bool, ask: &Ask) -> Reply {
        let why = match ask.json::<Why>() {
            Ok(why) => why,
            Err(reply) => return reply,
        };
        let reason = why.reason.as_deref();
        if reason.is_some_and(|reason| reason.len() > LONGEST) {
            return Reply::refused(Fault::BadRequest, "The reason is longer than 1000 bytes.");
        }
        // To whom an approval is not shown, none is there.
        match self.0.show(id, by(&ask.by)).await {
            Ok(Some(_)) => {}
            Ok(None) => return refused(NotCounted::Unknown),
            Err(error) => return refused(error),
        }
        match self.0.decide(id, (by(&ask.by), approve), reason).await {
            Ok(entry) => Reply::ok(entry.shown()),
            Err(error) => refused(error),
        }
    }
}

fn by(caller: &Caller) -> By<'_> {
    match caller {
        Caller::Operator(name) => By::Operator(name),
        Caller::Person(user) => By::Person(user),
    }
}

fn refused(why: NotCounted) -> Reply {
    let (fault, detail) = match why {
        NotCounted::NotAnApprover => (
            Fault::Forbidden,
            "You are none of its approvers. Send the token of one of them (KEYWARD_ADMIN_TOKEN), on the socket too.",
        ),
        NotCounted::Own => (Fault::Forbidden, "Nobody approves their own request."),
        NotCounted::Decided => (
            Fault::Conflict,
            "It is decided, past its time, or you have decided already.",
        ),
        NotCounted::Unavailable => (
            Fault::Unavailable,
            "The store does not answer. Nothing was decided; try again later.",
        ),
        _ => (Fault::NotFound, "There is no approval of this id."),
    };
    Reply::refused(fault, detail)
}

#[async_trait]
impl Part for Approvals {
    fn lets_persons_in(&self) -> bool {
        true
    }

    async fn answer(&self, ask: &Ask) -> Option<Reply> {
        Some(match (&ask.method, &*ask.segments()) {
            (&Method::GET, ["approvals"]) => self.list(ask).await,
            (&Method::GET, ["approvals", id]) => self.show(id, ask).await,
            (&Method::POST, ["approvals", id, "approve"]) => self.decide(id, true, ask).await,
            (&Method::POST, ["approvals", id, "deny"]) => self.decide(id, false, ask).await,
            (_, ["approvals"] | ["approvals", _]) => Reply::refused(Fault::Method, "Use GET."),
            (_, ["approvals", _, "approve" | "deny"]) => Reply::refused(Fault::Method, "Use POST."),
            _ => return None,
        })
    }
}
