//! `[approval.NAME]`, resolved: whom to ask, how many of them, and for how long.

use std::sync::Arc;
use std::time::Duration;

use super::Entry;
use crate::agent::{Name, User};
use crate::issuer::Endpoint;

/// One `[approval.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// NAME.
    pub name: Name,
    /// `mode`.
    pub mode: Mode,
    /// `expires`: how long a question, and a yes to it, are good.
    pub expires: Duration,
    /// `max-pending`: the most questions of one agent that nobody has decided yet.
    pub max_pending: u32,
    /// `console`.
    pub console: Console,
}

/// What a request does that somebody has to approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It waits for the answer.
    #[default]
    Hold,
    /// It is refused with a ticket, and comes again with it.
    Ticket,
}

/// People who decide at the admin side.
#[derive(Debug, Clone, PartialEq)]
pub struct Console {
    /// `approvers`; each name is one person.
    pub approvers: Vec<Approver>,
    /// `quorum`: how many of them must say yes. One no is a no.
    pub quorum: u32,
    /// `webhook`: whom to tell of a question.
    pub webhook: Option<Endpoint>,
}

/// One of `approvers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// As it is written.
    pub name: Arc<str>,
    /// `LOGIN:NAME`: a person of that login alone.
    pub login: Option<(Name, Arc<str>)>,
}

/// Who decides.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The holder of an operator's token.
    Operator(&'a str),
    /// Somebody who signed in.
    Person(&'a User),
}

impl Console {
    /// The name under which somebody is an approver here.
    pub fn approver(&self, by: By<'_>) -> Option<&Arc<str>> {
        let is = |approver: &&Approver| match (&approver.login, by) {
            (None, By::Operator(name)) => *approver.name == *name,
            (None, By::Person(_)) | (Some(_), By::Operator(_)) => false,
            (Some((login, name)), By::Person(user)) => {
                *login == user.provider && *name == user.name
            }
        };
        self.approvers
            .iter()
            .find(is)
            .map(|approver| &approver.name)
    }
}

/// Whether somebody is the person for whom the question is asked. An operator of the same name counts as that person.
pub(super) fn asks_for_itself(entry: &Entry, by: By<'_>) -> bool {
    match (&entry.user, by) {
        (None, _) => false,
        (Some(user), By::Operator(name)) => *user.name == *name,
        (Some(user), By::Person(person)) => user == person,
    }
}
