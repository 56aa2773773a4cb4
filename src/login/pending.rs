//! Questions that wait for their answer: each is found by a secret, once, and for a bounded time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pass::digest_of;
use crate::clock::Now;

/// What waits. Only the SHA-256 of the secret is kept, so that a look-up tells nothing by its time.
#[derive(Debug)]
pub struct Pending<T> {
    patience: Duration,
    waiting: Mutex<HashMap<[u8; 32], (Instant, T)>>,
}

impl<T> Pending<T> {
    /// Nothing waits; what will, waits for this long at most.
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            waiting: Mutex::default(),
        }
    }

    /// Puts one in. Where there are too many, the oldest goes: whoever floods this ends sign-ins, and begins none.
    pub fn put(&self, secret: &str, what: T, now: &Now) {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (end, _)| now.mono < *end);
        if waiting.len() >= MOST {
            let oldest = waiting.iter().min_by_key(|(_, (end, _))| *end);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                waiting.remove(&oldest);
            }
        }
        waiting.insert(
            digest_of(secret.as_bytes()),
            (now.mono + self.patience, what),
        );
    }

    /// Takes out what this secret is of. It is good once, whatever becomes of it.
    pub fn take(&self, secret: &str, now: &Now) -> Option<T> {
        let (end, what) = self.waiting.lock().remove(&digest_of(secret.as_bytes()))?;
        (now.mono < end).then_some(what)
    }
}

/// The most that wait at a time.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    #[test]
    fn each_is_taken_once_and_in_time() {
        let clock = ManualClock::new("2026-11-22T12:00:00Z".parse().unwrap());
        let pending = Pending::new(Duration::from_mins(10));
        pending.put("a", 1, &clock.now());
        assert_eq!(pending.take("b", &clock.now()), None);
        assert_eq!(pending.take("a", &clock.now()), Some(1));
        assert_eq!(pending.take("a", &clock.now()), None);
        pending.put("late", 2, &clock.now());
        clock.advance(Duration::from_mins(10));
        assert_eq!(pending.take("late", &clock.now()), None);
    }

    #[test]
    fn a_flood_is_bounded_and_takes_the_oldest() {
        let clock = ManualClock::new("2026-11-22T12:00:00Z".parse().unwrap());
        let pending = Pending::new(Duration::from_mins(10));
        for number in 0..=MOST {
            pending.put(&number.to_string(), number, &clock.now());
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(pending.waiting.lock().len(), MOST);
        assert_eq!(pending.take("0", &clock.now()), None);
        assert_eq!(pending.take("1", &clock.now()), Some(1));
    }
}
