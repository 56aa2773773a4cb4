//! Sessions that outlast the process, and those of other replicas: kept before their token leaves, found by whoever is
//! shown it, ended for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tracing::warn;

use super::refusal::Refusal;
use super::{Proxy, Shared};
use crate::clock::Now;
use crate::session::{Ended, Kept, Key, Reason, Session, SessionStore, Unknown};

/// For how long what was last heard of other replicas is believed. Then a session may have been ended without our
/// knowledge, and is refused.
const BELIEVED_FOR: i64 = 10_000;
/// How often an end that the store did not take is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The store, and what was last heard of it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) store: Arc<dyn SessionStore>,
    /// Where the next look begins.
    mark: AtomicI64,
    /// When it last answered, in Unix milliseconds of our own clock.
    heard: AtomicI64,
    /// Until when uses were noted.
    noted: AtomicI64,
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn SessionStore>, now: &Now) -> Self {
        Self {
            store,
            mark: AtomicI64::new(0),
            heard: AtomicI64::new(now.unix_ms()),
            noted: AtomicI64::new(now.unix_ms()),
        }
    }

    fn lasts(&self) -> bool {
        self.store.lasts()
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
            shared.sessions.block(evidence, until);
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
        keeper.heard.store(began.unix_ms(), Ordering::Relaxed);
        Ok(())
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
    pub(super) async fn is_orphan(&self, session: &Session) -> bool {
        let Some(parent) = session.parent() else {
            return false;
        };
        let Some(parent) = self.sessions.by_id(parent) else {
            return true;
        };
        let mut above = Some(parent);
        while let Some(one) = above {
            // What ends with this process is in no store: nobody else can end it, and its tree ends here.
            if !self.keeper.lasts() || !one.idles() || one.is_implicit() {
                return false;
            }
            above = one.parent().and_then(|id| self.sessions.by_id(id));
        }
        !matches!(self.keeper.store.find(session.id()).await, Ok(Some(_)))
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

    /// Whether it can be known that a session lives still.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`] where the store was silent for too long.
    pub(super) fn believe(&self, now: &Now) -> Result<(), Refusal> {
        let heard = self.keeper.heard.load(Ordering::Relaxed);
        if self.keeper.lasts() && now.unix_ms() - heard > BELIEVED_FOR {
            return Err(Refusal::StoreUnavailable);
        }
        Ok(())
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
        if let Some((evidence, until)) = evidence {
            self.sessions.block(evidence, until.as_millisecond());
        }
        let ended = self.sessions.end(id, reason);
        self.note_ends(&ended, by);
        if !self.keeper.lasts() {
            return Ok(!ended.is_empty());
        }
        let store = &self.keeper.store;
        let kept = async {
            if let Some((evidence, until)) = evidence {
                store.block(&evidence, until).await?;
            }
            store.end(id, reason).await
        };
        match kept.await {
            Ok(lived) => {
                // Whoever was shown its token meanwhile found it in the store, and took it up again.
                let again = self.sessions.end(id, reason);
                self.note_ends(&again, by);
                Ok(lived || !ended.is_empty())
            }
            Err(unknown) => {
                self.keep_trying(id.to_owned(), reason);
                Err(unknown)
            }
        }
    }

    /// Tells the store of ends that were decided here.
    pub(super) fn spread(self: &Arc<Self>, ended: &[Ended]) {
        if !self.keeper.lasts() {
            return;
        }
        for (session, reason) in ended {
            // Its time stands in the store, and a parent's end takes its children along.
            if !matches!(*reason, "expired" | "parent") {
                self.keep_trying(session.id().to_string(), reason);
            }
        }
    }

    fn keep_trying(self: &Arc<Self>, id: String, reason: Reason) {
        let shared = Arc::clone(self);
        self.tracker.spawn(async move {
            while shared.keeper.store.end(&id, reason).await.is_err() {
                warn!(session = %id, "the end of a session is not kept yet");
                tokio::select! {
                    () = shared.drain.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }
}
