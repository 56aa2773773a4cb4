//! A value that others publish and change: fetched once for all who wait, used while fresh, and a bounded time beyond.
//!
//! Readers take an `Arc` without waiting. For [`BEHIND`] past its freshness the value is still given while one task fetches
//! another; later it is waited for, so that what was withdrawn long ago is not taken once more by whoever comes first. A
//! value whose origin is out of reach is given until [`STALE`] is over. However many ask, there is one call at a time.
//! Whoever misses something in a fresh value has it fetched at once, but none sooner than [`AGAIN`] after the last who did:
//! an unknown key in every token must not become a flood at the issuer (CVE-2025-64527). Until then nobody knows whether it
//! is there, and that is said.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::clock::Clock;

/// Where a value comes from.
#[async_trait]
pub trait Origin: Debug + Send + Sync + 'static {
    /// What it is.
    type Value: Debug + Send + Sync + 'static;

    /// Fetches it, and how long it is fresh. The value before is there to keep what did not change. The error is for
    /// the operator's log.
    async fn fetch(
        &self,
        old: Option<&Self::Value>,
    ) -> Result<(Self::Value, Duration), &'static str>;

    /// As the log names it.
    fn name(&self) -> &str;

    /// The least time between two calls, and between two of those that miss something.
    fn again(&self) -> Duration {
        AGAIN
    }
}

/// There is no value, or none that is newer, and none could be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// A value of this origin. Cheap to clone; the clones are the same value.
#[derive(Debug)]
pub struct Refreshed<O: Origin>(Arc<Inner<O>>);

impl<O: Origin> Clone for Refreshed<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<O: Origin> {
    origin: O,
    clock: Arc<dyn Clock>,
    state: ArcSwapOption<State<O::Value>>,
    /// Held while a call is under way.
    flight: Mutex<Flights>,
    /// When a call gave nothing, if none gave a value since.
    failing: parking_lot::Mutex<Option<Instant>>,
    /// A background task is fetching.
    renewing: AtomicBool,
    tracker: TaskTracker,
}

/// The calls so far.
#[derive(Debug, Default)]
struct Flights {
    /// When the last one ended, and whether it gave a value.
    last: Option<(Instant, bool)>,
    /// When the last one ended that was for something missed.
    missed: Option<Instant>,
}

/// Why another value is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// There is none, or its time is over.
    Age,
    /// Something is not in it.
    Missed,
}

#[derive(Debug)]
struct State<V> {
    value: Arc<V>,
    fetched: Instant,
    fresh: Duration,
}

impl<O: Origin> Refreshed<O> {
    /// Nothing is fetched before somebody asks.
    pub fn new(origin: O, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            origin,
            clock,
            state: ArcSwapOption::empty(),
            flight: Mutex::default(),
            failing: parking_lot::Mutex::new(None),
            renewing: AtomicBool::new(false),
            tracker: TaskTracker::new(),
        }))
    }

    /// The value, fresh or not much older. Waits only where there is none.
    pub async fn current(&self) -> Result<Arc<O::Value>, Gone> {
        let now = self.0.clock.now().mono;
        let state = self.0.state.load_full();
        match &state {
            Some(state) if state.age(now) < state.fresh => Ok(Arc::clone(&state.value)),
            Some(state) if state.age(now) < state.fresh + self.0.patience(now) => {
                self.renew_behind(state);
                Ok(Arc::clone(&state.value))
            }
            seen => {
                let seen = seen.as_ref().map(|state| Arc::clone(&state.value));
                self.fly(seen, Cause::Age).await
            }
        }
    }

    /// A value that was fetched after the one that was seen.
    ///
    /// # Errors
    /// [`Gone`] where there is none: the origin is down, or may not be asked again yet. It might have another.
    pub async fn renewed(&self, seen: Arc<O::Value>) -> Result<Arc<O::Value>, Gone> {
        let value = self.fly(Some(Arc::clone(&seen)), Cause::Missed).await?;
        // Each fetch makes a value of its own, also where nothing in it has changed.
        if Arc::ptr_eq(&value, &seen) {
            return Err(Gone);
        }
        Ok(value)
    }

    fn renew_behind(&self, state: &Arc<State<O::Value>>) {
        if !self.0.renewing.swap(true, Ordering::Relaxed) {
            let (inner, seen) = (Arc::clone(&self.0), Arc::clone(&state.value));
            self.0.tracker.spawn(async move {
                inner.fetch(Some(seen), Cause::Age).await.ok();
                inner.renewing.store(false, Ordering::Relaxed);
            });
        }
    }

    /// The call goes on though the one who asked goes away: others wait for it.
    async fn fly(&self, seen: Option<Arc<O::Value>>, cause: Cause) -> Result<Arc<O::Value>, Gone> {
        let inner = Arc::clone(&self.0);
        let call = (self.0.tracker).spawn(async move { inner.fetch(seen, cause).await });
        call.await.unwrap_or(Err(Gone))
    }
}

impl<O: Origin> Inner<O> {
    /// How long past its freshness a value is given without waiting: an origin that did not answer just now is not waited
    /// for by everybody.
    fn patience(&self, now: Instant) -> Duration {
        let failed = *self.failing.lock();
        match failed.map(|at| now.saturating_duration_since(at)) {
            Some(ago) if ago < BEHIND => STALE,
            _ => BEHIND,
        }
    }

    async fn fetch(
        &self,
        seen: Option<Arc<O::Value>>,
        cause: Cause,
    ) -> Result<Arc<O::Value>, Gone> {
        let mut flight = self.flight.lock().await;
        let state = self.state.load_full();
        let now = self.clock.now().mono;
        let usable = |state: &Option<Arc<State<O::Value>>>, now| {
            let kept = state.as_ref().filter(|s| s.age(now) < s.fresh + STALE);
            kept.map(|state| Arc::clone(&state.value)).ok_or(Gone)
        };
        let newer = match (&state, &seen) {
            (Some(state), Some(seen)) => !Arc::ptr_eq(&state.value, seen),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let since = |ended| now.saturating_duration_since(ended);
        let waits = match (cause, flight.last) {
            (_, None) => false,
            (_, Some((ended, false))) => since(ended) < AGAIN_AFTER_FAILURE,
            (Cause::Age, Some((ended, true))) => since(ended) < self.origin.again(),
            // What is missed may have been published after the last call, however short ago that was.
            (Cause::Missed, Some(_)) => {
                let missed = flight.missed;
                missed.is_some_and(|ended| since(ended) < self.origin.again())
            }
        };
        if newer || waits {
            return usable(&state, now);
        }
        let old = state.as_ref().map(|state| &*state.value);
        let fetched = tokio::time::timeout(DEADLINE, self.origin.fetch(old)).await;
        let ended = self.clock.now().mono;
        if cause == Cause::Missed {
            flight.missed = Some(ended);
        }
        match fetched.unwrap_or(Err("no answer came in time")) {
            Ok((value, fresh)) => {
                flight.last = Some((ended, true));
                *self.failing.lock() = None;
                let value = Arc::new(value);
                self.state.store(Some(Arc::new(State {
                    value: Arc::clone(&value),
                    fetched: now,
                    fresh,
                })));
                Ok(value)
            }
            Err(why) => {
                flight.last = Some((ended, false));
                *self.failing.lock() = Some(ended);
                warn!(
                    of = self.origin.name(),
                    why, "what is published for all cannot be fetched"
                );
                usable(&state, ended)
            }
        }
    }
}

impl<V> State<V> {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.fetched)
    }
}

/// How long past its freshness a value is given while another is fetched.
const BEHIND: Duration = Duration::from_mins(1);
/// How long a value is used past its freshness while its origin is out of reach.
const STALE: Duration = Duration::from_hours(1);
/// The least time between two calls, where the origin does not say otherwise.
pub const AGAIN: Duration = Duration::from_secs(10);
/// The least time after a call that gave nothing.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The time for one call.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::clock::ManualClock;

    #[derive(Debug, Default)]
    struct Counter {
        calls: AtomicUsize,
        down: AtomicBool,
    }

    #[async_trait]
    impl Origin for Arc<Counter> {
        type Value = usize;

        async fn fetch(&self, _: Option<&usize>) -> Result<(usize, Duration), &'static str> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.down.load(Ordering::SeqCst) {
                return Err("down");
            }
            Ok((call, Duration::from_mins(5)))
        }

        fn name(&self) -> &'static str {
            "test"
        }
    }

    fn setting() -> (Arc<Counter>, Arc<ManualClock>, Refreshed<Arc<Counter>>) {
        let counter = Arc::new(Counter::default());
        let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
        let refreshed = Refreshed::new(Arc::clone(&counter), Arc::clone(&clock) as Arc<dyn Clock>);
        (counter, clock, refreshed)
    }

    #[tokio::test]
    async fn however_many_wait_there_is_one_call() {
        let (counter, clock, refreshed) = setting();
        let many: Vec<_> = (0..200)
            .map(|_| {
                let refreshed = refreshed.clone();
                refreshed
                    .0
                    .tracker
                    .clone()
                    .spawn(async move { refreshed.current().await })
            })
            .collect();
        for one in many {
            assert_eq!(one.await.unwrap().map(|value| *value), Ok(0));
        }
        assert_eq!(counter.calls.load(Ordering::SeqCst), 1);

        // What the first one misses is asked for at once; then none sooner than ten seconds, and again one for all.
        let seen = refreshed.current().await.unwrap();
        let seen = refreshed.renewed(seen).await.unwrap();
        assert_eq!((*seen, counter.calls.load(Ordering::SeqCst)), (1, 2));
        for _ in 0..50 {
            let again = refreshed.renewed(Arc::clone(&seen)).await;
            assert_eq!(again, Err(Gone), "nobody looked");
        }
        assert_eq!(counter.calls.load(Ordering::SeqCst), 2);
        clock.advance(AGAIN);
        let many: Vec<_> = (0..200)
            .map(|_| {
                let (refreshed, seen) = (refreshed.clone(), Arc::clone(&seen));
                refreshed
                    .0
                    .tracker
                    .clone()
                    .spawn(async move { refreshed.renewed(seen).await })
            })
            .collect();
        for one in many {
            assert_eq!(one.await.unwrap().map(|value| *value), Ok(2));
        }
        assert_eq!(counter.calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_is_long_past_its_time_is_not_given_to_whoever_comes_first() {
        let (counter, clock, refreshed) = setting();
        assert_eq!(*refreshed.current().await.unwrap(), 0);
        clock.advance(Duration::from_mins(5));
        assert_eq!(
            *refreshed.current().await.unwrap(),
            0,
            "another is fetched behind"
        );
        refreshed.0.tracker.close();
        refreshed.0.tracker.wait().await;
        assert_eq!(*refreshed.current().await.unwrap(), 1);
        clock.advance(Duration::from_mins(5) + BEHIND);
        assert_eq!(*refreshed.current().await.unwrap(), 2);
        // Nor where the origin was down some time ago.
        counter.down.store(true, Ordering::SeqCst);
        clock.advance(Duration::from_mins(5) + BEHIND);
        assert_eq!(*refreshed.current().await.unwrap(), 2, "it is down");
        counter.down.store(false, Ordering::SeqCst);
        clock.advance(BEHIND);
        assert_eq!(*refreshed.current().await.unwrap(), 4);
    }

    #[tokio::test]
    async fn an_origin_that_is_down_is_outlived_for_a_bounded_time() {
        let (counter, clock, refreshed) = setting();
        assert_eq!(*refreshed.current().await.unwrap(), 0);
        counter.down.store(true, Ordering::SeqCst);
        clock.advance(Duration::from_mins(6));
        for _ in 0..50 {
            assert_eq!(
                *refreshed.current().await.unwrap(),
                0,
                "stale, and without waiting"
            );
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(
            counter.calls.load(Ordering::SeqCst),
            2,
            "one renewal behind"
        );
        clock.advance(STALE);
        assert_eq!(refreshed.current().await, Err(Gone));
        assert_eq!(refreshed.current().await, Err(Gone));
        assert_eq!(counter.calls.load(Ordering::SeqCst), 3, "no flood of calls");
        counter.down.store(false, Ordering::SeqCst);
        clock.advance(AGAIN_AFTER_FAILURE);
        assert_eq!(*refreshed.current().await.unwrap(), 3);
    }

    #[tokio::test]
    async fn nothing_at_all_is_gone() {
        let (counter, _, refreshed) = setting();
        counter.down.store(true, Ordering::SeqCst);
        assert_eq!(refreshed.current().await, Err(Gone));
    }
}
