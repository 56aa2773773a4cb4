//! What a person has to approve before it is sent: a request that waits, or that comes again with a ticket.
//!
//! The body is read whole, so that the digest covers it, and what was read is what is sent. After the wait policy judges
//! anew: a session, an hour or a configuration that ended meanwhile counts.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Shared;
use super::exchange::read_whole;
use super::record::Entry;
use super::refusal::Refusal;
use super::tunnel::Tunnel;
use super::upload::Upload;
use crate::approval::{self, Ask, Field, Mode, NotAsked, NotGranted, Status, Subject};
use crate::head::Head;
use crate::policy::{Digest, Grant, Pending, Permit};

/// The header by which an agent comes back to a question. It is never forwarded.
const TICKET: HeaderName = HeaderName::from_static("keyward-ticket");

/// The largest body, in bytes, that can be approved: more is refused, never judged in part.
const MAX_APPROVED_BODY: usize = 1024 * 1024;

/// What a request brings along towards an approval, and how far it has come with it.
#[derive(Debug)]
pub(super) struct Asking {
    ticket: Option<HeaderValue>,
    body: Upload,
    /// Of the body, once it was read.
    sum: Option<Digest>,
    /// What a person said yes to while this waited.
    approved: Option<Box<(approval::Entry, Waiting)>>,
    /// The yes, used up for this request.
    grant: Option<Grant>,
}

/// What comes of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// It may be sent.
    Yes(Permit),
    /// Somebody said yes while it waited: it is to be judged anew.
    Again(Head),
}

impl Asking {
    /// For a request with these fields and this body.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for two tickets.
    pub(super) fn new(headers: &HeaderMap, body: Upload) -> Result<Self, Refusal> {
        let mut tickets = headers
            .iter()
            .filter_map(|(name, value)| (*name == TICKET).then_some(value));
        let ticket = tickets.next().cloned();
        if tickets.next().is_some() {
            return Err(Refusal::Malformed(
                "keyward-ticket stands twice. Send one ticket.",
            ));
        }
        Ok(Self {
            ticket,
            body,
            sum: None,
            approved: None,
            grant: None,
        })
    }

    /// The body, to be sent.
    pub(super) fn into_body(self) -> Upload {
        self.body
    }

    /// Asks, comes back, or redeems.
    ///
    /// # Errors
    /// The refusal; nothing was used up then, unless it is [`Refusal::ApprovalMismatch`].
    pub(super) async fn settle(
        &mut self,
        tunnel: &Tunnel,
        pending: Pending,
        record: &mut Entry,
    ) -> Result<Answer, Refusal> {
        if self.grant.is_none() {
            record.has_to_ask();
        }
        let body = self.read(record).await?;
        if let Some(grant) = &self.grant {
            // Used up for this request before a reload came in between.
            let permit = pending.redeem(grant, &body);
            return Ok(Answer::Yes(permit.map_err(|_| Refusal::ApprovalMismatch)?));
        }
        let approvals = &tunnel.shared.approvals;
        let digest = pending.digest(&body);
        let approved = self.approved.take().map(|approved| *approved);
        let (entry, waiting) = match (approved, &self.ticket) {
            (Some((entry, _)), _) if entry.digest != digest => {
                return Err(Refusal::ApprovalMismatch);
            }
            (Some((entry, waiting)), _) => (entry, Some(waiting)),
            (None, Some(ticket)) => {
                let ticket = ticket.to_str().map_err(|_| Refusal::ApprovalExpired)?;
                (approvals.look(ticket, &digest).await?, None)
            }
            (None, None) => self.ask(tunnel, &pending, (&body, digest)).await?,
        };
        record.asks(&entry.id);
        if entry.status == Status::Approved {
            let grant = approvals.take(&entry).await?;
            if let Some(waiting) = waiting {
                waiting.end();
            }
            let permit = pending.redeem(&grant, &body);
            let permit = permit.map_err(|_| Refusal::ApprovalMismatch)?;
            record.granted();
            self.grant = Some(grant);
            return Ok(Answer::Yes(permit));
        }
        let Some(waiting) = waiting else {
            return Err(Refusal::ApprovalRequired(entry.ticket()));
        };
        let answer = tokio::select! {
            answer = approvals.wait(&entry) => answer?,
            () = tunnel.cut.cancelled() => return Err(lost(tunnel)),
            () = tunnel.shared.drain.cancelled() => return Err(Refusal::Draining),
        };
        self.approved = Some(Box::new((answer, waiting)));
        Ok(Answer::Again(pending.into_head()))
    }

    /// The question; with it a guard, where the request waits for its answer.
    async fn ask(
        &self,
        tunnel: &Tunnel,
        pending: &Pending,
        (body, digest): (&Digest, Digest),
    ) -> Result<(approval::Entry, Option<Waiting>), Refusal> {
        let (session, shared) = (tunnel.session(), &tunnel.shared);
        let name = pending.approval();
        let settings = shared.approvals.settings(name);
        let settings = settings.ok_or(Refusal::ApprovalUnavailable)?;
        let (head, target) = (pending.head(), pending.target());
        let scopes = pending.route().narrow.scopes.as_deref();
        let subject = Subject {
            method: Some(head.method().to_string()),
            url: Some(format!(
                "{}://{}{}",
                target.scheme.as_str(),
                target.authority(),
                head.path_and_query()
            )),
            scopes: scopes.map(|scopes| scopes.join(" ")),
            headers: (pending.fields().into_iter())
                .map(|(name, value)| Field::of(name, value))
                .collect(),
            body_sha256: Some(body.to_string()),
            ..Subject::default()
        };
        let held = settings.mode == Mode::Hold;
        // In a task of its own: an agent that hangs up while this is written down leaves no question without a guard.
        let (session, shared, name) = (Arc::clone(session), Arc::clone(shared), name.clone());
        let asking = async move {
            let ask = Ask {
                name: &name,
                session: session.id(),
                chain: session.chain(),
                user: session.person().map(|person| &person.user),
                subject: &subject,
                digest,
                held,
            };
            let entry = shared.approvals.ask(&ask).await?;
            let waiting = held.then(|| Waiting::on(&shared, &entry));
            Ok::<_, NotAsked>((entry, waiting))
        };
        let asked = tunnel.shared.tracker.spawn(asking).await;
        Ok(asked.map_err(|_| Refusal::ApprovalUnavailable)??)
    }

    /// Reads the body whole, once; its digest.
    async fn read(&mut self, record: &Entry) -> Result<Digest, Refusal> {
        if let Some(sum) = self.sum {
            return Ok(sum);
        }
        let body = std::mem::replace(&mut self.body, Upload::none());
        let whole = read_whole(body, MAX_APPROVED_BODY, record).await?;
        let sum = Digest::of(&whole);
        self.body = Upload::Read(whole);
        self.sum = Some(sum);
        Ok(sum)
    }
}

/// Why a connection was cut while its request waited: its session ended, or a new configuration takes away what it was
/// granted.
fn lost(tunnel: &Tunnel) -> Refusal {
    if tunnel.session().is_over(&tunnel.shared.clock.now()) {
        return Refusal::SessionEnded;
    }
    tunnel.grant().err().unwrap_or(Refusal::NoRoute)
}

/// A request that waits. Whatever ends it, the question goes with it, unless its answer was used.
#[derive(Debug)]
pub(super) struct Waiting(Option<(Arc<Shared>, approval::Entry)>);

impl Waiting {
    fn on(shared: &Arc<Shared>, entry: &approval::Entry) -> Self {
        Self(Some((Arc::clone(shared), entry.clone())))
    }

    /// It waits no more: the answer was used.
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((shared, entry)) = self.0.take() {
            let tracker = shared.tracker.clone();
            tracker.spawn(async move { shared.approvals.withdraw(&entry).await });
        }
    }
}

impl Refusal {
    /// Puts the ticket and the code beside the other members of an answer.
    pub(super) fn add_ticket(self, problem: &mut serde_json::Value) {
        if let (Self::ApprovalRequired(ticket), Some(members)) = (self, problem.as_object_mut()) {
            members.insert("ticket".into(), ticket.id().into());
            members.insert("code".into(), ticket.code().into());
        }
    }

    /// What the words of approvals say to an agent.
    pub(super) fn of_approval(self) -> &'static str {
        match self {
            Self::ApprovalRequired(_) => {
                "A person has to approve this request, and has been asked. Send exactly the same request again after Retry-After, with the header keyward-ticket: the member `ticket`."
            }
            Self::ApprovalDenied => {
                "A person was asked and said no. Do not retry; tell whoever gave you the task."
            }
            Self::ApprovalExpired => {
                "Nobody approved this in time, or the ticket is used or unknown. Send the request without keyward-ticket to ask again, if the task still needs it."
            }
            Self::ApprovalMismatch => {
                "The ticket is for another request: method, URL, headers and body must be what was approved. Send that request, or this one without keyward-ticket to ask for it."
            }
            Self::ApprovalUnavailable => {
                "A person has to approve this request, and nobody can be asked now. Try again later, or tell the operator."
            }
            Self::Throttled => {
                "Too many requests, of this agent or of all, wait for a person. Try again when some are decided."
            }
            _ => "",
        }
    }
}

impl From<NotAsked> for Refusal {
    fn from(why: NotAsked) -> Self {
        match why {
            NotAsked::Throttled => Self::Throttled,
            NotAsked::Nobody | NotAsked::Unavailable => Self::ApprovalUnavailable,
        }
    }
}

impl From<NotGranted> for Refusal {
    fn from(why: NotGranted) -> Self {
        match why {
            NotGranted::Denied => Self::ApprovalDenied,
            NotGranted::Over => Self::ApprovalExpired,
            NotGranted::Mismatch => Self::ApprovalMismatch,
            NotGranted::Unavailable => Self::ApprovalUnavailable,
        }
    }
}
