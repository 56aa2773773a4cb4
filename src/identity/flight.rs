//! One piece of work for all who ask for the same at the same time: what a thousand connections show is verified once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// What is under way. Nothing is kept beyond those who wait for it.
pub(super) struct Flights<K, T>(Mutex<HashMap<K, Weak<OnceCell<T>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, T: Clone> Flights<K, T> {
    /// Does the work, or waits for who does it. Where that one goes away, the next who waits does it anew.
    pub(super) async fn join(&self, key: K, work: impl Future<Output = T>) -> T {
        let cell = {
            let mut flights = self.0.lock();
            if flights.len() >= MANY {
                flights.retain(|_, cell| cell.strong_count() > 0);
            }
            match flights.get(&key).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    let cell = Arc::new(OnceCell::new());
                    flights.insert(key, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_init(|| work).await.clone()
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.0.lock().len())
    }
}

/// With so many names those of nobody are forgotten.
const MANY: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_begins_may_go_and_the_next_does_the_work() {
        let (flights, calls) = (Flights::<u8, usize>::default(), AtomicUsize::new(0));
        let work = || async {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            call
        };
        let impatient = tokio::time::timeout(Duration::from_millis(5), flights.join(1, work()));
        let (gone, one, two, other) = tokio::join!(
            impatient,
            flights.join(1, work()),
            flights.join(1, work()),
            flights.join(2, work()),
        );
        assert!(gone.is_err());
        assert_eq!(one, two, "one call for both");
        assert_ne!(one, other);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        assert_ne!(flights.join(1, work()).await, one, "nothing is kept");
        for key in 0..=255 {
            flights.join(key, async { 0 }).await;
        }
        flights.join(0, async { 0 }).await;
        assert!(flights.0.lock().len() < MANY);
    }
}
