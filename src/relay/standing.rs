//! As who the relay stands before the gateway: a certificate, and a session token where the evidence is one.
//!
//! The token is renewed ahead of its end and whenever the certificate changes, by one exchange for all who wait. Until
//! the new one is there the old one serves, so that nothing that rotates costs a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};
use tracing::{info, warn};

use super::Settings;
use super::fault::Fault;
use super::person::Proved;
use super::token::Evidence;
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
}

/// The standing of now, and how the next comes about.
#[derive(Debug)]
pub(super) struct Standings {
    evidence: Evidence,
    clock: Arc<dyn Clock>,
    /// By the newest certificate; none before the first.
    connector: watch::Sender<Option<(Arc<Connector>, Timestamp)>>,
    current: ArcSwapOption<Standing>,
    turn: Mutex<Turn>,
    /// The certificate is another.
    changed: Notify,
}

/// What the last renewal came to. Whoever holds it renews for all.
#[derive(Debug, Default)]
struct Turn {
    failed: Option<(Instant, Fault)>,
    /// Of people who are signed in no more: the gateway is to end them.
    spent: Vec<Arc<Standing>>,
}

/// For how long a failure is told to whoever asks, before it is tried again.
const REST: Duration = Duration::from_millis(500);
/// How often it is looked whether the person is still signed in, where nobody asks.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the first certificate is waited for.
const FIRST: Duration = Duration::from_secs(3);

impl Standings {
    pub(super) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        let gateway = settings.gateway.clone();
        Arc::new(Self {
            evidence: Evidence {
                token: settings.token.clone(),
                person: settings.person.clone(),
                connect_to: settings
                    .connect_to
                    .clone()
                    .unwrap_or_else(|| gateway.clone()),
                gateway,
                clock: Arc::clone(&clock),
            },
            clock,
            connector: watch::Sender::new(None),
            current: ArcSwapOption::empty(),
            turn: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// There is no certificate any more: nothing is proved until there is another.
    pub(super) fn withdraw(&self) {
        self.connector.send_replace(None);
        self.current.store(None);
    }

    /// Takes another certificate, which ends then, or other roots.
    pub(super) fn use_connector(&self, connector: Connector, until: Timestamp) {
        let connector = Arc::new(connector);
        self.connector
            .send_replace(Some((Arc::clone(&connector), until)));
        if !self.evidence.is_exchanged() {
            self.current.store(Some(Arc::new(Standing {
                connector,
                until,
                authorization: None,
                times: None,
                person: None,
            })));
        }
        // The token is bound to the certificate that it was got with: the two change together.
        self.changed.notify_one();
    }

    /// The standing to use now.
    pub(super) async fn current(&self) -> Result<Arc<Standing>, Fault> {
        let is_good = |standing: &Standing| standing.is_good(self.clock.now());
        let seen = self.current.load_full();
        if let Some(current) = &seen
            && is_good(current)
            && self.is_kept(current).await
        {
            return Ok(Arc::clone(current));
        }
        let is_other =
            |current: &Arc<Standing>| seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, current));
        self.renew(|current| is_other(current) && is_good(current))
            .await
    }

    /// Whether the person for whom it is is still signed in, by the same ID token. It is looked at each time: from the
    /// moment at which somebody signs out nothing is done in their name.
    async fn is_kept(&self, standing: &Standing) -> bool {
        match (&self.evidence.person, &standing.person) {
            (Some(sign_in), Some(person)) => sign_in.keeps(&person.id_token).await,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Another than `spent`, which the gateway no longer takes. `None`: there can be none.
    pub(super) async fn after(
        &self,
        spent: &Arc<Standing>,
    ) -> Result<Option<Arc<Standing>>, Fault> {
        if !self.evidence.is_exchanged() {
            let newer = self.current.load_full();
            return Ok(newer.filter(|newer| !Arc::ptr_eq(newer, spent)));
        }
        let renewed = self.renew(|current| !Arc::ptr_eq(current, spent)).await;
        renewed.map(Some)
    }

    /// Renews, unless by one's turn somebody else has, or has just failed to.
    async fn renew(
        &self,
        will_do: impl Fn(&Arc<Standing>) -> bool,
    ) -> Result<Arc<Standing>, Fault> {
        let mut turn = self.turn.lock().await;
        if let Some(current) = self.current.load_full().filter(|current| will_do(current)) {
            return Ok(current);
        }
        let now = self.clock.now().mono;
        if let Some((at, fault)) = &turn.failed
            && now.saturating_duration_since(*at) < REST
        {
            return Err(fault.clone());
        }
        match self.exchange().await {
            Ok(standing) => {
                if turn.failed.take().is_some() {
                    info!("the gateway takes the evidence again");
                }
                let standing = Arc::new(standing);
                let old = self.current.swap(Some(Arc::clone(&standing)));
                let is_anothers = |old: &Arc<Standing>| old.user() != standing.user();
                if let Some(old) = old.filter(is_anothers) {
                    self.spend(&mut turn, old);
                }
                Ok(standing)
            }
            Err(fault) => {
                // Said when it begins and when it is another, not at each try.
                if turn.failed.as_ref().is_none_or(|(_, last)| *last != fault) {
                    warn!(%fault, hint = fault.hint(), "no standing before the gateway");
                }
                turn.failed = Some((self.clock.now().mono, fault.clone()));
                if matches!(fault, Fault::SignedOut(_))
                    && let Some(old) = self.current.swap(None)
                {
                    self.spend(&mut turn, old);
                }
                Err(fault)
            }
        }
    }

    /// Has the gateway end what was for somebody who is signed in no more, tunnels and all.
    fn spend(&self, turn: &mut Turn, old: Arc<Standing>) {
        turn.spent.push(old);
        self.changed.notify_one();
    }

    async fn exchange(&self) -> Result<Standing, Fault> {
        let (connector, until) = self.certified().await?;
        if until <= self.clock.now().wall {
            let why = format!("the certificate ended at {until}, and no other has come");
            return Err(Fault::NoEvidence(why));
        }
        if !self.evidence.is_exchanged() {
            return Ok(Standing {
                connector,
                until,
                authorization: None,
                times: None,
                person: None,
            });
        }
        let from = self.clock.now().mono;
        let granted = self.evidence.exchange(&connector).await?;
        Ok(Standing {
            connector,
            until,
            authorization: Some(granted.authorization),
            times: Some((from + granted.life, from + ahead(granted.life))),
            person: granted.person,
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
    pub(super) async fn keep_fresh(&self) {
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
                () = self.left(current.as_deref()) => {}
            }
            let spent = std::mem::take(&mut self.turn.lock().await.spent);
            for old in spent {
                if let Some(token) = &old.authorization {
                    self.evidence.revoke(&old.connector, token).await;
                }
            }
            let seen = current;
            let newest = self.connector.borrow().clone();
            let is_other = |current: &Arc<Standing>| {
                let newest = newest.as_ref();
                seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, current))
                    && newest.is_some_and(|(newest, _)| Arc::ptr_eq(newest, &current.connector))
            };
            match self.renew(is_other).await {
                Ok(_) => failures = 0,
                Err(_) => failures += 1,
            }
        }
    }
}

impl Standings {
    /// Returns when the person of this standing is no longer signed in as they were.
    async fn left(&self, current: Option<&Standing>) {
        let Some(standing) = current.filter(|standing| standing.person.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.is_kept(standing).await {
                return;
            }
        }
    }
}

impl Standing {
    fn user(&self) -> Option<&crate::agent::User> {
        self.person.as_ref().map(|person| &person.user)
    }

    fn is_good(&self, now: Now) -> bool {
        now.wall < self.until && self.times.is_none_or(|(end, _)| now.mono < end)
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
