//! One record: every member an `Option`, written in one fixed order, so that two records never differ in shape alone.
//!
//! What has no member here cannot be recorded: there is none for a secret, a query, a header value or a body.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::AgentId;

use super::json::{Value, escape};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A CONNECT was decided, or its tunnel ended.
    Connect,
    /// A request with a credential is about to go upstream.
    Intent,
    /// A request ended.
    Request,
    /// An issuer was called.
    Issue,
    /// A lease's revocation was tried.
    Revoke,
    /// A session began.
    SessionStart,
    /// A session ended.
    SessionEnd,
    /// A step of an approval.
    Approval,
    /// The registry of agents changed.
    Agent,
    /// A person signed in, or failed to.
    Login,
    /// A connected account changed.
    Account,
    /// A watched behaviour was seen.
    Watch,
    /// The configuration was loaded or rejected.
    Config,
    /// A writer began, or went on after trouble.
    Start,
    /// A writer ended in order.
    Stop,
}

impl Event {
    /// All events, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Intent,
        Self::Request,
        Self::Issue,
        Self::Revoke,
        Self::SessionStart,
        Self::SessionEnd,
        Self::Approval,
        Self::Agent,
        Self::Login,
        Self::Account,
        Self::Watch,
        Self::Config,
        Self::Start,
        Self::Stop,
    ];

    /// The word that stands in the record and in the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Intent => "intent",
            Self::Request => "request",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
            Self::SessionStart => "session-start",
            Self::SessionEnd => "session-end",
            Self::Approval => "approval",
            Self::Agent => "agent",
            Self::Login => "login",
            Self::Account => "account",
            Self::Watch => "watch",
            Self::Config => "config",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// On whose behalf: the members that every event has where they are known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// The request's id, shared by its `intent` and its `request`.
    pub request_id: Option<&'a str>,
    /// The session's id.
    pub session: Option<&'a str>,
    /// The acting agent.
    pub agent: Option<&'a str>,
    /// The person behind the session.
    pub user: Option<&'a str>,
    /// From the first agent to the acting one.
    pub chain: Option<&'a [AgentId]>,
}

/// Declares [`Record`] and its writer together: a member cannot be declared and forgotten in the writing.
macro_rules! members {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $key:literal,)+) => {
        /// What is recorded of one event; `time` and the chain's members are added in the writing.
        #[derive(Debug, Clone)]
        pub struct Record<'a> {
            /// What happened.
            pub event: Event,
            $($(#[$doc])* pub $field: Option<$kind>,)+
        }

        impl<'a> Record<'a> {
            /// An event, and on whose behalf; everything else is left out.
            pub fn new(event: Event, who: Who<'a>) -> Self {
                let blank = Self { event, $($field: None,)+ };
                Self {
                    request_id: who.request_id,
                    session: who.session,
                    agent: who.agent,
                    user: who.user,
                    chain: who.chain,
                    ..blank
                }
            }

            fn write_members(&self, line: &mut Vec<u8>) {
                $(if let Some(value) = &self.$field {
                    line.extend_from_slice(concat!(",\"", $key, "\":").as_bytes());
                    value.write(line);
                })+
            }
        }
    };
}

members! {
    /// The request's id.
    request_id: &'a str = "request-id",
    /// The session's id.
    session: &'a str = "session",
    /// The acting agent.
    agent: &'a str = "agent",
    /// The person behind the session.
    user: &'a str = "user",
    /// From the first agent to the acting one.
    chain: &'a [AgentId] = "chain",
    /// The other end of the agent's connection.
    peer: &'a str = "peer",
    /// The trust provider that attested the session.
    trust: &'a str = "trust",
    /// What the session is bound to.
    bound: &'a str = "bound",
    /// What the session may do, space-separated.
    scope: &'a str = "scope",
    /// The session that delegated this one.
    parent: &'a str = "parent",
    /// How many delegations lie above.
    depth: u32 = "depth",
    /// The target's host.
    host: &'a str = "host",
    /// The target's port.
    port: u16 = "port",
    /// The request's method.
    method: &'a str = "method",
    /// The request's path, without its query.
    path: &'a str = "path",
    /// The operation that the path and method stand for.
    operation: &'a str = "operation",
    /// The route that matched.
    route: &'a str = "route",
    /// The rule that decided.
    rule: &'a str = "rule",
    /// `allow`, `deny` or `ask`.
    decision: &'a str = "decision",
    /// The refusal's word.
    word: &'a str = "word",
    /// The word that a dry run did not refuse with.
    would_be: &'a str = "would-be",
    /// The approval's id.
    approval: &'a str = "approval",
    /// Who approved or denied.
    approver: &'a str = "approver",
    /// The approval's name in the configuration.
    name: &'a str = "name",
    /// A SHA-256 in hex: of what was approved, of the configuration, of torn bytes.
    digest: &'a str = "digest",
    /// The code that a person compares.
    code: &'a str = "code",
    /// The credential's name.
    credential: &'a str = "credential",
    /// The lease's id.
    lease: &'a str = "lease",
    /// The kind of the credential, or the login provider.
    provider: &'a str = "provider",
    /// The scopes of a lease.
    scopes: &'a [String] = "scopes",
    /// When the lease or session ends.
    expires: Timestamp = "expires",
    /// Why an issuer was called: `first` or `refresh`.
    cause: &'a str = "cause",
    /// How it went.
    outcome: &'a str = "outcome",
    /// Why it was done.
    reason: &'a str = "reason",
    /// Which try it was, from 1.
    attempt: u32 = "attempt",
    /// The operator who ordered it.
    by: &'a str = "by",
    /// The watched behaviour.
    behaviour: &'a str = "behaviour",
    /// What was seen of it.
    value: f64 = "value",
    /// What this agent usually shows.
    usual: f64 = "usual",
    /// What was done about it.
    then: &'a str = "then",
    /// The answer's status.
    status: u16 = "status",
    /// Bytes from the agent.
    bytes_up: u64 = "bytes-up",
    /// Bytes to the agent.
    bytes_down: u64 = "bytes-down",
    /// How long it took.
    duration: Duration = "duration-ms",
    /// The model that a request named.
    model: &'a str = "model",
    /// Tokens read by the model.
    tokens_in: u64 = "tokens-in",
    /// Tokens written by the model.
    tokens_out: u64 = "tokens-out",
    /// What it cost, in the price file's currency.
    cost: f64 = "cost",
    /// How many torn bytes stand before a `start`, or were cut from the file.
    torn_bytes: u64 = "torn-bytes",
    /// How many records did not fit in memory while the sink failed.
    lost: u64 = "lost",
    /// The public key of the checkpoints, in hex.
    key: &'a str = "key",
}

impl<'a> Record<'a> {
    /// A CONNECT to `host`:`port`.
    pub fn connect(who: Who<'a>, host: &'a str, port: u16) -> Self {
        let blank = Self::new(Event::Connect, who);
        Self {
            host: Some(host),
            port: Some(port),
            ..blank
        }
    }

    /// A request that is about to carry a credential; `path` is without its query.
    pub fn intent(who: Who<'a>, target: (&'a str, u16), method: &'a str, path: &'a str) -> Self {
        Self {
            host: Some(target.0),
            port: Some(target.1),
            method: Some(method),
            path: Some(without_query(path)),
            ..Self::new(Event::Intent, who)
        }
    }

    /// A request that ended; `path` is without its query.
    pub fn request(who: Who<'a>, target: (&'a str, u16), method: &'a str, path: &'a str) -> Self {
        Self {
            event: Event::Request,
            ..Self::intent(who, target, method, path)
        }
    }

    /// A call to an issuer.
    pub fn issue(who: Who<'a>, credential: &'a str, provider: &'a str, outcome: &'a str) -> Self {
        Self {
            credential: Some(credential),
            provider: Some(provider),
            outcome: Some(outcome),
            ..Self::new(Event::Issue, who)
        }
    }

    /// A try at revoking a lease.
    pub fn revoke(who: Who<'a>, credential: &'a str, lease: &'a str, outcome: &'a str) -> Self {
        Self {
            credential: Some(credential),
            lease: Some(lease),
            outcome: Some(outcome),
            ..Self::new(Event::Revoke, who)
        }
    }

    /// A session that `trust` attested.
    pub fn session_start(who: Who<'a>, trust: &'a str) -> Self {
        Self {
            trust: Some(trust),
            ..Self::new(Event::SessionStart, who)
        }
    }

    /// A session's end, and why.
    pub fn session_end(who: Who<'a>, reason: &'a str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::new(Event::SessionEnd, who)
        }
    }

    /// A step of the approval `id` of the configuration's `name`.
    pub fn approval(who: Who<'a>, id: &'a str, name: &'a str, outcome: &'a str) -> Self {
        Self {
            approval: Some(id),
            name: Some(name),
            outcome: Some(outcome),
            ..Self::new(Event::Approval, who)
        }
    }

    /// A configuration that was `loaded` or `rejected`.
    pub fn config(outcome: &'a str) -> Self {
        Self {
            outcome: Some(outcome),
            ..Self::new(Event::Config, Who::default())
        }
    }

    /// Writes the line up to the chain's own members, without the closing brace.
    pub(super) fn write(&self, time: Timestamp, writer: &str, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"time\":");
        time.write(line);
        line.extend_from_slice(b",\"event\":\"");
        line.extend_from_slice(self.event.as_str().as_bytes());
        line.push(b'"');
        self.write_members(line);
        line.extend_from_slice(b",\"writer\":");
        escape(writer, line);
    }
}

/// A query may carry a secret (`?key=…`), so it is cut here whatever the caller thinks.
fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}
