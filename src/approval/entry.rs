//! One approval: who asks for what, who said what to it, and how far it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::rand;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::field::Field;
use crate::agent::{AgentId, Name, User};
use crate::policy::Digest;

/// How far an approval is. `Approved`, `Denied`, `Expired` and `Used` never become `Pending` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Asked, and not decided.
    Pending,
    /// Enough people said yes; it can be used once.
    Approved,
    /// Somebody said no.
    Denied,
    /// Its time is past, or whoever asked went away.
    Expired,
    /// The yes was used.
    Used,
}

/// What is asked for, as an approver reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subject {
    /// A request's method.
    pub method: Option<String>,
    /// A request's URL, its query included.
    pub url: Option<String>,
    /// The scopes of the credential, or of the sub-agent's session, parted by spaces; `None`: no bound but the routes.
    pub scopes: Option<String>,
    /// A request's fields, as far as they are part of what is approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Field>,
    /// The SHA-256 of a request's body, in hex.
    pub body_sha256: Option<String>,
    /// The sub-agent to whom a session would be handed on.
    pub sub_agent: Option<String>,
    /// How long that session would live at most, in seconds.
    pub life: Option<u64>,
}

/// What one person said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The name under which the person is an approver.
    pub approver: Arc<str>,
    /// Yes or no.
    pub approve: bool,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub made: Timestamp,
}

/// An approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 128 random bits in hex: the ticket of whoever asked, and the id towards approvers. It opens nothing by itself,
    /// since the digest names session and request.
    pub id: Arc<str>,
    /// The `[approval.NAME]` that was asked.
    pub name: Name,
    /// How far it is.
    pub status: Status,
    /// The session that asks.
    pub session: Arc<str>,
    /// Its acting agent.
    pub agent: AgentId,
    /// Its person.
    pub user: Option<User>,
    /// From its first agent to the acting one.
    pub chain: Vec<AgentId>,
    /// What is asked for.
    pub subject: Subject,
    /// Of what is asked for.
    pub digest: Digest,
    /// A short text that agent and approver both see, to be compared. It is no secret, and opens nothing.
    pub code: Arc<str>,
    /// When it was asked first.
    pub requested: Timestamp,
    /// When nobody can decide or use it any more.
    pub expires: Timestamp,
    /// How many have to say yes.
    pub needed: u32,
    /// How often it was asked.
    pub asks: u32,
    /// What was said so far, the first first.
    pub decisions: Vec<Decision>,
}

/// What is asked, and in whose name.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The `[approval.NAME]` to ask.
    pub name: &'a Name,
    /// The session.
    pub session: &'a Arc<str>,
    /// From its first agent to the acting one; never empty.
    pub chain: &'a [AgentId],
    /// Its person.
    pub user: Option<&'a User>,
    /// What is asked for.
    pub subject: &'a Subject,
    /// Of what is asked for.
    pub digest: Digest,
    /// Whether somebody waits for the answer, and withdraws the question by going away.
    pub held: bool,
}

/// What an agent gets that has to come again: an id and a code, as text without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    id: [u8; ID],
    code: [u8; CODE],
}

const ID: usize = 32;
const CODE: usize = 7;
/// RFC 8628 §6.1: no vowels, so that no word comes of it, and nothing that is misread.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Approved,
        Self::Denied,
        Self::Expired,
        Self::Used,
    ];

    /// The word of API, store and metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Used => "used",
        }
    }
}

/// A word that is none of [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a status is pending, approved, denied, expired or used")]
pub struct BadStatus;

impl FromStr for Status {
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, BadStatus> {
        let mut all = Self::ALL.into_iter();
        all.find(|status| status.word() == text).ok_or(BadStatus)
    }
}

impl Entry {
    /// The id and the code, for whoever asked.
    pub fn ticket(&self) -> Ticket {
        let mut ticket = Ticket::default();
        let take = |to: &mut [u8], from: &str| {
            for (to, from) in to.iter_mut().zip(from.bytes()) {
                *to = from;
            }
        };
        take(&mut ticket.id, &self.id);
        take(&mut ticket.code, &self.code);
        ticket
    }

    /// The object of the API and of webhooks.
    pub fn shown(&self) -> Value {
        let subject = &self.subject;
        let chain: Vec<&str> = self.chain.iter().map(Name::as_str).collect();
        let scopes = subject.scopes.as_ref();
        let headers: Vec<Value> = subject.headers.iter().map(Field::shown).collect();
        let decisions = self.decisions.iter().map(|decision| {
            json!({
                "approver": *decision.approver,
                "decision": if decision.approve { "approve" } else { "deny" },
                "reason": decision.reason,
                "time": decision.made.to_string(),
            })
        });
        json!({
            "approval": *self.id,
            "name": self.name.as_str(),
            "status": self.status.word(),
            "session": *self.session,
            "agent": self.agent.as_str(),
            "user": self.user.as_ref().map(|user| &*user.name),
            "chain": chain,
            "method": subject.method,
            "url": subject.url,
            "scopes": scopes.map(|scopes| scopes.split(' ').collect::<Vec<_>>()),
            "headers": headers,
            "body-sha256": subject.body_sha256,
            "sub-agent": subject.sub_agent,
            "life": subject.life,
            "digest": self.digest.to_string(),
            "code": *self.code,
            "requested": self.requested.to_string(),
            "expires": self.expires.to_string(),
            "needed": self.needed,
            "decisions": decisions.collect::<Vec<_>>(),
            "asks": self.asks,
        })
    }
}

impl Ticket {
    /// The approval's id.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// Whether a text could be an id.
    pub fn is_id(text: &str) -> bool {
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        text.len() == ID && text.bytes().all(digit)
    }
}

/// No approval's: for whoever lists what could be.
impl Default for Ticket {
    fn default() -> Self {
        Self::NONE
    }
}

impl Ticket {
    /// No approval's: for whoever lists what could be.
    pub const NONE: Self = Self {
        id: [b'0'; ID],
        code: [b'-'; CODE],
    };
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// An id and a code. A failing generator ends the process: it would give ids that can be guessed.
pub(super) fn random() -> (Arc<str>, Arc<str>) {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).expect("the system's random generator answers");
    let id = format!("{:032x}", u128::from_be_bytes(bytes));
    let mut code = String::with_capacity(CODE);
    let mut left = 6;
    while left > 0 {
        let mut one = [0_u8; 1];
        rand::fill(&mut one).expect("the system's random generator answers");
        // Bytes past the last whole round would make the first letters likelier.
        let Some(letter) = LETTERS
            .get(usize::from(one[0]) % LETTERS.len())
            .filter(|_| one[0] < 240)
        else {
            continue;
        };
        if left == 3 {
            code.push('-');
        }
        code.push(char::from(*letter));
        left -= 1;
    }
    (id.into(), code.into())
}
