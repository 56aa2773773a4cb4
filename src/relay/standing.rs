//! As who the relay stands before the gateway: a certificate, and a session token where the evidence is one.
//!
//! The token is renewed ahead of its end and whenever the certificate changes, by one exchange for all who wait, and which
//! goes on though they go away. Until the new one is there the old one serves, so that nothing that rotates costs a request.
//! Of a person it is looked first whether they are signed in: where they are not, what there is ends before anything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header::HeaderValue;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::Settings;
use super::fault::Fault;
use super::person::{Absent, Kept, Proved};
use super::sessions::Sessions;
use super::token::Evidence;
use crate::agent::User;
use crate::clock::{Clock, Now};
use crate::tls::Connector;

/// What one request to the gateway is made with.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) connector: Arc<Connector>,
    /// When its certificate ends: nothing is proved with one that is over.
    until: Timestamp,
    /// `Proxy-Authorization`; without one the certificate says it all.
    pub(super) authorization: Option<HeaderValue>,
    /// When the token ends, and when the next is asked for.
    times: Option<(Instant, Instant)>,
    /// For whom the token is.
    person: Option<Proved>,
    /// The gateway no longer takes it, or the person has another proof.
    is_stale: AtomicBool,
}

/// The standing of now, and how the next comes about.
#[derive(Debug)]
pub(super) struct Standings {
    evidence: Arc<Evidence>,
    clock: Arc<dyn Clock>,
    /// By the newest certificate; none before the first. It and `current` are put under its lock.
    connector: watch::Sender<Option<(Arc<Connector>, Timestamp)>>,
    current: ArcSwapOption<Standing>,
    /// Whoever holds it renews for all.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What the last renewal came to, where it failed.
    failed: Mutex<Option<(Instant, Fault)>>,
    /// The certificate or the person's proof is another.
    changed: Notify,
    sessions: Sessions,
    /// Renewals, until `stop`.
    flights: TaskTracker,
    stop: CancellationToken,
    /// Renewals of the person's sign-in, which nothing breaks off.
    sign_ins: TaskTracker,
}

/// For how long a failure is told to whoever asks, before it is tried again.
const REST: Duration = Duration::from_millis(500);
/// How often it is looked whether the person is still signed in, where nobody asks.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the first certificate is waited for.
const FIRST: Duration = Duration::from_secs(3);
/// How often it is begun anew where certificate or person are others by the end.
const TRIES: u32 = 3;

impl Standings {
    /// Nothing is renewed any more once `stop` fires.
    pub(super) fn new(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let gateway = settings.gateway.clone();
        Arc::new(Self {
            evidence: Arc::new(Evidence {
                token: settings.token.clone(),
                person: settings.person.clone(),
                connect_to: settings
                    .connect_to
                    .clone()
                    .unwrap_or_else(|| gateway.clone()),
                gateway,
                clock: Arc::clone(&clock),
            }),
            clock,
            connector: watch::Sender::new(None),
            current: ArcSwapOption::empty(),
            turn: Arc::default(),
            failed: Mutex::default(),
            changed: Notify::new(),
            sessions: Sessions::default(),
            flights: TaskTracker::new(),
            stop,
            sign_ins: TaskTracker::new(),
        })
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// There is no certificate any more: nothing is proved until there is another.
    pub(super) fn withdraw(&self) {
        self.connector.send_modify(|newest| {
            *newest = None;
            self.current.store(None);
        });
        self.sessions.end(|_| true);
    }

    /// Takes another certificate, which ends then, or other roots.
    pub(super) fn use_connector(&self, connector: Connector, until: Timestamp) {
        let connector = Arc::new(connector);
        let is_exchanged = self.evidence.is_exchanged();
        self.connector.send_modify(|newest| {
            if !is_exchanged {
                let bare = Standing::bare(Arc::clone(&connector), until);
                self.current.store(Some(Arc::new(bare)));
            }
            *newest = Some((connector, until));
        });
        // The token is bound to the certificate that it was got with: the two change together.
        self.changed.notify_one();
    }

    /// The standing to use now.
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<Standing>, Fault> {
        for _ in 0..TRIES {
            let standing = match self.good() {
                Some(current) => current,
                None => self.renew(false).await?,
            };
            if self.is_kept(&standing).await {
                return Ok(standing);
            }
        }
        Err(Fault::NoEvidence(
            "the sign-in is another again and again".to_owned(),
        ))
    }

    /// The standing that there is, if it serves.
    fn good(&self) -> Option<Arc<Standing>> {
        let now = self.clock.now();
        let current = self.current.load_full();
        current.filter(|current| current.is_good(now))
    }

    /// What is known without asking anybody: whether there is a standing, else why not.
    pub(super) fn state(&self) -> Result<(), Fault> {
        if self.good().is_some() {
            return Ok(());
        }
        let failed = self.failed.lock().clone();
        let unknown = || Fault::NoEvidence("there is no session yet".to_owned());
        Err(failed.map_or_else(unknown, |(_, fault)| fault))
    }

    /// Whether the person for whom it is is still signed in, by the same ID token. It is looked at each time: from the
    /// moment at which somebody signs out nothing is done in their name, and what was begun in it ends.
    async fn is_kept(&self, standing: &Standing) -> bool {
        let (sign_in, person) = match (&self.evidence.person, &standing.person) {
            (Some(sign_in), Some(person)) => (sign_in, person),
            (Some(_), None) => return false,
            (None, _) => return true,
        };
        match sign_in.look(person).await {
            Kept::Same => true,
            Kept::Renewed => {
                standing.is_stale.store(true, Ordering::Relaxed);
                false
            }
            Kept::Gone => {
                self.end_of(|user| *user == person.user);
                false
            }
        }
    }

    /// Ends all that is for these people.
    fn end_of(&self, which: impl Fn(&User) -> bool) {
        let is_theirs = |standing: &Standing| standing.user().is_some_and(&which);
        let current = self.current.load_full();
        if current.as_deref().is_some_and(is_theirs) {
            self.current.compare_and_swap(&current, None);
        }
        self.sessions.end(is_theirs);
    }

    /// Another than `spent`, which the gateway no longer takes. `None`: there can be none.
    pub(super) async fn after(
        self: &Arc<Self>,
        spent: &Arc<Standing>,
    ) -> Result<Option<Arc<Standing>>, Fault> {
        if !self.evidence.is_exchanged() {
            let newer = self.current.load_full();
            return Ok(newer.filter(|newer| !Arc::ptr_eq(newer, spent)));
        }
        spent.is_stale.store(true, Ordering::Relaxed);
        self.current().await.map(Some)
    }

    /// Renews, unless by one's turn somebody else has, or has just failed to. `ahead`: one that is about to end will not
    /// do, nor one by an older certificate.
    async fn renew(self: &Arc<Self>, ahead: bool) -> Result<Arc<Standing>, Fault> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(current) = self.good().filter(|good| !(ahead && self.is_due(good))) {
            return Ok(current);
        }
        let now = self.clock.mono();
        if let Some((at, fault)) = &*self.failed.lock()
            && now.saturating_duration_since(*at) < REST
        {
            return Err(fault.clone());
        }
        let all = Arc::clone(self);
        // A session that has begun is not forgotten because nobody waits for it any more.
        let flight = self.flights.spawn(async move {
            let done = tokio::select! {
                () = all.stop.cancelled() => Err(Fault::Broke),
                done = all.fly() => done,
            };
            drop(turn);
            done
        });
        flight.await.unwrap_or(Err(Fault::Broke))
    }

    fn is_due(&self, standing: &Standing) -> bool {
        let newest = self.connector.borrow();
        let is_newest =
            (newest.as_ref()).is_some_and(|(newest, _)| Arc::ptr_eq(newest, &standing.connector));
        let now = self.clock.mono();
        !is_newest || standing.times.is_some_and(|(_, due)| due <= now)
    }

    async fn fly(&self) -> Result<Arc<Standing>, Fault> {
        let done = self.begin().await;
        let mut failed = self.failed.lock();
        match &done {
            Ok(_) => {
                if failed.take().is_some() {
                    info!("the gateway takes the evidence again");
                }
            }
            Err(fault) => {
                // Said when it begins and when it is another, not at each try.
                if failed.as_ref().is_none_or(|(_, last)| last != fault) {
                    warn!(%fault, hint = fault.hint(), "no standing before the gateway");
                }
                *failed = Some((self.clock.mono(), fault.clone()));
            }
        }
        done
    }

    /// Begins another, and puts it in place.
    async fn begin(&self) -> Result<Arc<Standing>, Fault> {
        for _ in 0..TRIES {
            // What ends with the person ends now, whatever comes of the rest.
            let person = self.person().await?;
            let standing = Arc::new(self.exchange(person).await?);
            self.sessions.begun(&standing, self.clock.mono());
            if self.put(&standing) {
                return Ok(standing);
            }
            self.sessions
                .end(|one| std::ptr::eq(one, &raw const *standing));
        }
        Err(Fault::NoEvidence(
            "the certificate is another again and again".to_owned(),
        ))
    }

    /// Puts it in place, unless its certificate is no longer the one of now.
    fn put(&self, standing: &Arc<Standing>) -> bool {
        let mut is_put = false;
        self.connector.send_if_modified(|newest| {
            let newest = newest.as_ref();
            is_put = newest.is_some_and(|(newest, _)| Arc::ptr_eq(newest, &standing.connector));
            if is_put {
                self.current.store(Some(Arc::clone(standing)));
            }
            false
        });
        is_put
    }

    /// Who is signed in; all that is for others ends.
    async fn person(&self) -> Result<Option<Proved>, Fault> {
        let Some(sign_in) = self.evidence.person.clone() else {
            return Ok(None);
        };
        let asked = (self.sign_ins).spawn(async move { sign_in.current().await });
        match asked.await.unwrap_or(Err(Absent::Unknown)) {
            Ok(proved) => {
                self.end_of(|user| *user != proved.user);
                Ok(Some(proved))
            }
            Err(absent) => {
                if matches!(absent, Absent::SignedOut(_)) {
                    self.end_of(|_| true);
                }
                Err(absent.into())
            }
        }
    }

    async fn exchange(&self, person: Option<Proved>) -> Result<Standing, Fault> {
        let (connector, until) = self.certified().await?;
        if until <= self.clock.now().wall {
            let why = format!("the certificate ended at {until}, and no other has come");
            return Err(Fault::NoEvidence(why));
        }
        if !self.evidence.is_exchanged() {
            return Ok(Standing::bare(connector, until));
        }
        let from = self.clock.now().mono;
        let granted = self.evidence.exchange(&connector, person.as_ref()).await?;
        Ok(Standing {
            authorization: Some(granted.authorization),
            times: Some((from + granted.life, from + ahead(granted.life))),
            person,
            ..Standing::bare(connector, until)
        })
    }

    /// A process may ask before the Workload API has said anything: it is waited for, and not for long.
    async fn certified(&self) -> Result<(Arc<Connector>, Timestamp), Fault> {
        let mut seen = self.connector.subscribe();
        let coming = async {
            let found = seen.wait_for(Option::is_some).await.ok()?;
            found.clone()
        };
        let found = tokio::time::timeout(FIRST, coming).await.ok().flatten();
        found.ok_or_else(|| Fault::NoEvidence("no certificate has come yet".to_owned()))
    }

    /// Renews ahead of each end, after each change of the certificate, and once somebody signed out or in.
    pub(super) async fn keep_fresh(self: &Arc<Self>) {
        if !self.evidence.is_exchanged() {
            return std::future::pending().await;
        }
        let mut failures = 0;
        loop {
            let now = self.clock.now().mono;
            let current = self.current.load_full();
            let due = current.as_ref().and_then(|current| current.times);
            let wait = match due {
                _ if failures > 0 => backoff(failures),
                Some((_, due)) => due.saturating_duration_since(now),
                None => Duration::ZERO,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
            match self.renew(true).await {
                Ok(_) => failures = 0,
                Err(_) => failures += 1,
            }
        }
    }

    /// Looks whether the person is signed in as they were, where nobody asks for anything. A change is told once: where
    /// it cannot be followed, it is tried again with the pauses of every failure.
    pub(super) async fn keep_looking(&self) {
        if self.evidence.person.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(current) = self.current.load_full() else {
                continue;
            };
            let was_stale = current.is_stale.load(Ordering::Relaxed);
            if !self.is_kept(&current).await && !was_stale {
                self.changed.notify_one();
            }
        }
    }

    /// Has the gateway end what is to be ended.
    pub(super) async fn keep_ending(&self) {
        let newest = || {
            let newest = self.connector.borrow();
            newest.as_ref().map(|(newest, _)| Arc::clone(newest))
        };
        let ending = self
            .sessions
            .keep_ending(&self.evidence, &*self.clock, newest);
        ending.await;
    }

    /// Waits for what is under way, after the stop.
    pub(super) async fn settle(&self) {
        self.flights.close();
        self.flights.wait().await;
        self.sign_ins.close();
        self.sign_ins.wait().await;
    }
}

impl Standing {
    /// By a certificate alone.
    fn bare(connector: Arc<Connector>, until: Timestamp) -> Self {
        Self {
            connector,
            until,
            authorization: None,
            times: None,
            person: None,
            is_stale: AtomicBool::new(false),
        }
    }

    /// For whom it is.
    pub(super) fn user(&self) -> Option<&User> {
        self.person.as_ref().map(|person| &person.user)
    }

    /// Whether the gateway has ended it by its time.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.times.is_some_and(|(end, _)| end <= now)
    }

    fn is_good(&self, now: Now) -> bool {
        now.wall < self.until && !self.is_over(now.mono) && !self.is_stale.load(Ordering::Relaxed)
    }
}

/// How long after its beginning a token of this life is renewed: at four fifths or half a minute before the end,
/// whichever comes first; a short one at half. A tenth earlier at most, so that many relays do not come at once.
fn ahead(life: Duration) -> Duration {
    let due = if life < Duration::from_mins(1) {
        life / 2
    } else {
        (life * 4 / 5).min(life.saturating_sub(Duration::from_secs(30)))
    };
    due.mul_f64(1.0 - 0.1 * chance())
}

/// From a quarter of a second to half a minute, by how often it failed; up to a half less.
pub(super) fn backoff(failures: u32) -> Duration {
    let most = Duration::from_secs(30);
    let longest = Duration::from_millis(250).saturating_mul(1 << failures.min(8));
    longest.min(most).mul_f64(1.0 - 0.5 * chance())
}

/// At least 0, and below 1.
fn chance() -> f64 {
    let mut byte = [0_u8];
    // Without it all come at once, and nothing else is worse.
    aws_lc_rs::rand::fill(&mut byte).ok();
    f64::from(byte[0]) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_its_end() {
        for (life, earliest, latest) in [(10, 4.5, 5.0), (100, 63.0, 70.0), (900, 648.0, 720.0)] {
            for _ in 0..50 {
                let due = ahead(Duration::from_secs(life)).as_secs_f64();
                assert!((earliest..=latest).contains(&due), "{life}: {due}");
            }
        }
    }

    #[test]
    fn the_wait_grows_and_ends_growing() {
        for failures in 1..100 {
            let wait = backoff(failures);
            assert!(wait <= Duration::from_secs(30));
            assert!(wait >= Duration::from_millis(250), "{failures}: {wait:?}");
        }
        assert!(backoff(20) >= Duration::from_secs(15));
    }
}
