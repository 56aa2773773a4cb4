//! The audit guard: begun at the first byte of a request, closed with its outcome, and never forgotten.
//!
//! Whatever path a request takes (refused, failed, abandoned by its agent) dropping the guard writes its `request`
//! record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use http::uri::PathAndQuery;

use super::Shared;
use super::metrics::Allowed;
use super::refusal::Refusal;
use crate::audit::{AuditError, Record, Who};
use crate::clock::Now;
use crate::credential::LeaseId;
use crate::host::Target;
use crate::route::Route;
use crate::session::Session;

/// Ids of requests: this process's random prefix and a counter, both in hex.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: Box<str>,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new(prefix: u64) -> Self {
        Self {
            prefix: format!("{:010x}-", prefix & 0xff_ffff_ffff).into(),
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn next(&self) -> Box<str> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        let mut id = String::with_capacity(self.prefix.len() + digits as usize);
        id.push_str(&self.prefix);
        for place in (0..digits).rev() {
            let digit = (number >> (place * 4)) & 0xf;
            id.push(char::from_digit(digit as u32, 16).unwrap_or('0'));
        }
        id.into()
    }
}

/// Bytes that went up, counted by the request body and read by the guard; and whether more of them are on their way.
#[derive(Debug, Clone, Default)]
pub(super) struct ByteCount(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    open: AtomicBool,
    closed: AtomicBool,
}

impl ByteCount {
    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Says whether there is more of the body.
    pub(super) fn set_open(&self, open: bool) {
        self.0.open.store(open, Ordering::Relaxed);
    }

    /// Whether the record is closed: what is counted from now on is told nowhere.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Whether the body has not ended yet.
    pub(super) fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed)
    }
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Entry {
    shared: Arc<Shared>,
    session: Arc<Session>,
    target: Arc<Target>,
    began: Now,
    id: Box<str>,
    method: Method,
    path: Option<PathAndQuery>,
    route: Option<Arc<Route>>,
    lease: Option<LeaseId>,
    credential: bool,
    approval: Option<Arc<str>>,
    /// Whether a person has still to say yes.
    asks: bool,
    refusal: Option<Refusal>,
    status: Option<u16>,
    allowed: Option<Allowed>,
    pub(super) up: ByteCount,
    pub(super) down: u64,
}

impl Entry {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        session: &Arc<Session>,
        target: &Arc<Target>,
        began: Now,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            session: Arc::clone(session),
            target: Arc::clone(target),
            began,
            id: shared.ids.next(),
            method: Method::GET,
            path: None,
            route: None,
            lease: None,
            credential: false,
            approval: None,
            asks: false,
            refusal: None,
            status: None,
            allowed: None,
            up: ByteCount::default(),
            down: 0,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// When the request began.
    pub(super) fn began(&self) -> Now {
        self.began
    }

    /// What was asked; the path as it arrived, until a clean one is known.
    pub(super) fn asked(&mut self, method: &Method, path: Option<&PathAndQuery>) {
        self.method = method.clone();
        self.path = path.cloned();
    }

    pub(super) fn matched(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
    }

    pub(super) fn leased(&mut self, lease: &LeaseId) {
        self.lease = Some(lease.clone());
        self.credential = true;
    }

    pub(super) fn carries_credential(&self) -> bool {
        self.credential
    }

    /// A person has to be asked: whoever goes away before there is an answer was not allowed anything.
    pub(super) fn has_to_ask(&mut self) {
        self.asks = true;
    }

    /// A person is asked, by this approval.
    pub(super) fn asks(&mut self, approval: &Arc<str>) {
        self.approval = Some(Arc::clone(approval));
    }

    /// The person said yes, and the yes was used.
    pub(super) fn granted(&mut self) {
        self.asks = false;
    }

    pub(super) fn allowed(&mut self, counters: Allowed) {
        self.allowed = Some(counters);
    }

    pub(super) fn answered(&mut self, status: http::StatusCode) {
        self.status = Some(status.as_u16());
    }

    /// Closes with a refusal of our own.
    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
        self.status = Some(refusal.status().0.as_u16());
    }

    /// Closes with a fault after the answer's head was on its way: the status stays what the agent saw.
    pub(super) fn broke_off(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
    }

    /// Writes the intent: it is durable before the first byte of the request goes upstream.
    pub(super) async fn intent(&self) -> Result<(), AuditError> {
        let shared = Arc::clone(&self.shared);
        let host = shared.host_text(&self.target);
        let mut record = Record::intent(
            self.who(),
            (&host, self.target.port),
            self.method.as_str(),
            self.path(),
        );
        self.describe(&mut record);
        record.decision = Some("allow");
        shared.audit.intent(&record).await
    }

    fn who(&self) -> Who<'_> {
        Who {
            request_id: Some(&self.id),
            session: Some(self.session.id()),
            agent: Some(self.session.agent().as_str()),
            user: self.session.user(),
            chain: Some(self.session.chain()),
        }
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    fn describe<'a>(&'a self, record: &mut Record<'a>) {
        if let Some(route) = &self.route {
            record.route = Some(&route.name);
            if self.credential {
                record.credential = route.credential.as_ref().map(AsRef::as_ref);
            }
        }
        record.lease = self.lease.as_ref().map(LeaseId::as_str);
        record.approval = self.approval.as_deref();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.up.0.closed.store(true, Ordering::Release);
        let now = self.shared.clock.mono();
        let took = now.saturating_duration_since(self.began.mono);
        let decision = match self.refusal {
            Some(Refusal::ApprovalRequired(_)) => "ask",
            Some(refusal) if refusal.is_denial() => "deny",
            // Whoever asked went away before there was an answer.
            _ if self.asks => "ask",
            _ => "allow",
        };
        let host = self.shared.host_text(&self.target);
        let mut record = Record::request(
            self.who(),
            (&host, self.target.port),
            self.method.as_str(),
            self.path(),
        );
        self.describe(&mut record);
        record.decision = Some(decision);
        record.word = self.refusal.map(Refusal::word);
        record.status = self.status;
        record.bytes_up = Some(self.up.get());
        record.bytes_down = Some(self.down);
        record.duration = Some(took);
        self.shared.audit.append(&record);
        match (&self.refusal, &self.allowed) {
            (None, Some(counters)) => counters.count(took),
            (refusal, _) => {
                let route = self.route.as_ref().map_or("", |route| &*route.name);
                let word = refusal.map_or("", Refusal::word);
                self.shared
                    .metrics
                    .refused(route, self.session.agent().as_str(), decision, word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_prefix_and_the_number_in_hex() {
        let ids = RequestIds::new(0xffff_ff00_0000_00ab);
        assert_eq!(&*ids.next(), "00000000ab-1");
        for number in [9, 10, 15, 16, 0xffff, 0x1_0000, u64::MAX] {
            ids.next.store(number, Ordering::Relaxed);
            assert_eq!(&*ids.next(), format!("00000000ab-{number:x}"));
        }
    }
}
