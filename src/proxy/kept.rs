//! Sessions that outlast the process, and those of other replicas: kept before their token leaves, found by whoever is
//! shown it, ended for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::warn;

use super::refusal::Refusal;
use super::{Proxy, Shared};
use crate::clock::Now;
use crate::identity::Attested;
use crate::session::{
    Digest, Ended, Kept, Key, Reason, Session, SessionStore, Unknown, blocked_until,
};

/// For how long what was last heard of other replicas is believed, in milliseconds. Then a session may have been ended,
/// evidence revoked or an agent suspended without our knowledge, and every request is refused.
const BELIEVED_FOR: u64 = 10_000;
/// How often an end that the store did not take is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The store, and what was last heard of it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) store: Arc<dyn SessionStore>,
    lasts: bool,
    /// Where the next look begins.
    mark: AtomicI64,
    /// From when the two below count, by the clock that nobody sets.
    since: Instant,
    /// When the news of sessions were last heard, in milliseconds.
    heard: AtomicU64,
    /// When it was last heard which agents may act, in milliseconds.
    heard_of_agents: AtomicU64,
    /// Until when uses were noted.
    noted: AtomicI64,
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn SessionStore>, now: &Now) -> Self {
        Self {
            lasts: store.lasts(),
            store,
            mark: AtomicI64::new(0),
            since: now.mono,
            heard: AtomicU64::new(0),
            heard_of_agents: AtomicU64::new(0),
            noted: AtomicI64::new(now.unix_ms()),
        }
    }

    fn lasts(&self) -> bool {
        self.lasts
    }

    fn at(&self, now: &Now) -> u64 {
        let since = now.mono.saturating_duration_since(self.since);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What every replica has to hear of.
#[derive(Debug)]
struct End {
    id: Option<String>,
    /// The evidence that opened the session, and until when it is blocked.
    evidence: Option<(Digest, Timestamp)>,
    reason: Reason,
}

impl End {
    async fn keep(&self, store: &dyn SessionStore) -> Result<bool, Unknown> {
        if let Some((evidence, until)) = &self.evidence {
            store.block(evidence, *until).await?;
        }
        match &self.id {
            Some(id) => store.end(id, self.reason).await,
            None => Ok(false),
        }
    }
}

impl Proxy {
    /// Takes over what other replicas did; to be called some times a second, and once before the first agent.
    ///
    /// # Errors
    /// [`Unknown`] where the store does not answer.
    pub async fn hear(&self) -> Result<(), Unknown> {
        let shared = &self.0;
        let keeper = &shared.keeper;
        if !keeper.lasts() {
            return Ok(());
        }
        let began = shared.clock.now();
        let news = keeper
            .store
            .news(keeper.mark.load(Ordering::Relaxed))
            .await?;
        for (id, reason) in news.ended {
            let ended = shared.sessions.end(&id, reason);
            shared.note_ends(&ended, None);
        }
        for (id, at) in news.used {
            if let Some(session) = shared.sessions.by_id(&id) {
                session.was_used(at);
            }
        }
        for (evidence, until) in news.blocked {
            // What it opened here is over as well.
            let ended = shared.sessions.revoke(evidence, until, "revoked");
            shared.note_ends(&ended, None);
        }
        let known = shared.keys.all();
        if news
            .keys
            .iter()
            .any(|id| known.iter().all(|key| key.id() != id))
        {
            self.load_keys().await?;
        }
        keeper.mark.store(news.mark, Ordering::Relaxed);
        keeper.heard.store(keeper.at(&began), Ordering::Relaxed);
        Ok(())
    }

    /// Notes that it was known at this time which agents may act.
    pub fn heard_of_agents(&self, at: &Now) {
        let keeper = &self.0.keeper;
        let at = keeper.at(at);
        keeper.heard_of_agents.fetch_max(at, Ordering::Relaxed);
    }

    /// Takes the signing keys up from the store; where they are too old, or there are none, a new one is made and kept.
    ///
    /// # Errors
    /// [`Unknown`] where the store does not answer.
    pub async fn load_keys(&self) -> Result<(), Unknown> {
        let shared = &self.0;
        let now = shared.clock.now();
        let store = &shared.keeper.store;
        if !store.lasts() {
            if shared.keys.is_due(&now) {
                let key = Key::generate(&now).map_err(|_| Unknown)?;
                shared.keys.add(Arc::new(key), &now);
            }
            return Ok(());
        }
        let kept = store.keys().await?.into_iter().map(Arc::new).collect();
        shared.keys.replace(kept, &now);
        if shared.keys.is_due(&now) {
            let key = Arc::new(Key::generate(&now).map_err(|_| Unknown)?);
            store.add_key(&key).await?;
            shared.keys.add(key, &now);
        }
        Ok(())
    }

    /// Tells the other replicas which sessions were used here, so that none of them takes one for idle.
    pub async fn note_uses(&self) {
        let shared = &self.0;
        let keeper = &shared.keeper;
        if !keeper.lasts() {
            return;
        }
        let now = shared.clock.now().unix_ms();
        let since = keeper.noted.swap(now, Ordering::Relaxed);
        let used = shared.sessions.used_since(since);
        if !used.is_empty() && keeper.store.used(&used).await.is_err() {
            keeper.noted.store(since, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Keeps a session that can be used elsewhere or later.
    pub(super) async fn keep(&self, session: &Session) -> Result<(), Unknown> {
        if self.keeper.lasts() {
            self.keeper.store.begin(session).await?;
        }
        Ok(())
    }

    /// A live session by its id: of this process, or out of the store.
    pub(super) async fn find_session(&self, id: &str) -> Result<Option<Arc<Session>>, Unknown> {
        if let Some(session) = self.sessions.by_id(id) {
            return Ok(Some(session));
        }
        if !self.keeper.lasts() {
            return Ok(None);
        }
        let found = self.keeper.store.find(id).await?;
        Ok(found.and_then(|kept| self.restore(kept)))
    }

    /// Whether a session that was just begun and kept has lost one of those that it was handed on from: here, or by what
    /// the store knows of other replicas' orders and this process has not heard yet.
    ///
    /// # Errors
    /// [`Unknown`] where the store does not say.
    pub(super) async fn is_orphan(&self, session: &Session) -> Result<bool, Unknown> {
        let Some(parent) = session.parent() else {
            return Ok(false);
        };
        let Some(parent) = self.sessions.by_id(parent) else {
            return Ok(true);
        };
        let mut above = Some(parent);
        while let Some(one) = above {
            // What ends with this process is in no store: nobody else can end it, and its tree ends here.
            if !self.keeper.lasts() || !one.idles() || one.is_implicit() {
                return Ok(false);
            }
            above = one.parent().and_then(|id| self.sessions.by_id(id));
        }
        Ok(self.keeper.store.find(session.id()).await?.is_none())
    }

    /// Takes a session up that began elsewhere; `None` where its time is past.
    pub(super) fn restore(&self, kept: Kept) -> Option<Arc<Session>> {
        let now = self.clock.now();
        if kept
            .opening
            .bounds
            .expires
            .is_some_and(|end| end <= now.wall)
        {
            return None;
        }
        let Kept {
            id,
            created,
            opening,
        } = kept;
        let (session, new) = self.sessions.restore((id, created), opening, &now);
        if new {
            self.metrics.sessions.inc();
            self.broker
                .begin_session(session.id(), session.agent(), session.person());
        }
        Some(session)
    }

    /// Whether it can be known that a session lives still, that its evidence was not revoked and its agents may act.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`] where the store was silent for too long.
    pub(super) fn believe(&self, now: &Now) -> Result<(), Refusal> {
        let keeper = &self.keeper;
        if !keeper.lasts {
            return Ok(());
        }
        let heard = keeper.heard.load(Ordering::Relaxed);
        let heard = heard.min(keeper.heard_of_agents.load(Ordering::Relaxed));
        if keeper.at(now).saturating_sub(heard) > BELIEVED_FOR {
            return Err(Refusal::StoreUnavailable);
        }
        Ok(())
    }

    /// Whether a session may be used for one more request.
    ///
    /// # Errors
    /// The refusal, where it is over or nobody knows.
    pub(super) fn lives(&self, session: &Session, now: &Now) -> Result<(), Refusal> {
        if session.is_over(now) {
            return Err(Refusal::SessionEnded);
        }
        self.believe(now)
    }

    /// Ends a session for every replica; how many ended here. It is kept before this returns.
    ///
    /// # Errors
    /// [`Unknown`] where the store did not take it: here it has ended all the same, and it is tried again.
    pub(super) async fn end_session(
        self: &Arc<Self>,
        id: &str,
        reason: Reason,
        by: Option<&str>,
    ) -> Result<bool, Unknown> {
        let evidence = self.sessions.evidence_of(id);
        let mut ended = match evidence {
            Some((evidence, until)) => {
                let until = until.as_millisecond();
                self.sessions.revoke(evidence, until, reason)
            }
            None => Vec::new(),
        };
        ended.extend(self.sessions.end(id, reason));
        self.note_ends(&ended, by);
        let end = End {
            id: Some(id.to_owned()),
            evidence,
            reason,
        };
        let lived = self.keep_end(end).await?;
        if self.keeper.lasts() {
            // Whoever was shown its token meanwhile found it in the store, and took it up again.
            let again = self.sessions.end(id, reason);
            self.note_ends(&again, by);
        }
        Ok(lived || !ended.is_empty())
    }

    /// Revokes what proved an agent, for every replica: what it opened ends, and it opens nothing any more. Evidence that
    /// does not end by itself, such as a static token, cannot be revoked so. It is kept before this returns.
    ///
    /// # Errors
    /// [`Unknown`] where the store did not take it: here it is revoked all the same, and it is tried again.
    pub(super) async fn revoke_evidence(
        self: &Arc<Self>,
        attested: &Attested,
        reason: Reason,
    ) -> Result<(), Unknown> {
        let (Some(evidence), Some(_)) = (attested.evidence, attested.expires) else {
            return Ok(());
        };
        let until = blocked_until(attested.expires);
        let ended = (self.sessions).revoke(evidence, until.as_millisecond(), reason);
        self.note_ends(&ended, None);
        let end = End {
            id: None,
            evidence: Some((evidence, until)),
            reason,
        };
        self.keep_end(end).await.map(drop)
    }

    /// Keeps an end for every replica; whether the store knew the session as one that lived.
    async fn keep_end(self: &Arc<Self>, end: End) -> Result<bool, Unknown> {
        if !self.keeper.lasts() {
            return Ok(false);
        }
        let kept = end.keep(&*self.keeper.store).await;
        if kept.is_err() {
            self.keep_trying(end);
        }
        kept
    }

    /// Tells the store of ends that were decided here.
    pub(super) fn spread(self: &Arc<Self>, ended: &[Ended]) {
        if !self.keeper.lasts() {
            return;
        }
        for (session, reason) in ended {
            // Its time stands in the store, and a parent's end takes its children along.
            if !matches!(*reason, "expired" | "parent") {
                self.keep_trying(End {
                    id: Some(session.id().to_string()),
                    evidence: None,
                    reason,
                });
            }
        }
    }

    fn keep_trying(self: &Arc<Self>, end: End) {
        let shared = Arc::clone(self);
        self.tracker.spawn(async move {
            while end.keep(&*shared.keeper.store).await.is_err() {
                warn!(session = end.id, "the end of a session is not kept yet");
                tokio::select! {
                    () = shared.drain.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }
}
