//! Which configuration holds, as a number that a request can compare before and after it was judged.
//!
//! A reload changes the broker and the snapshot one after the other. In between the number is odd: a request waits for
//! the end of the change, which takes no longer than swapping two pointers, and one that was judged across it is
//! judged again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of the configuration, doubled; odd while it changes.
#[derive(Debug, Default)]
pub(super) struct Epoch(AtomicU64);

/// How long a request rests before it looks again.
const REST: Duration = Duration::from_millis(1);

impl Epoch {
    /// The number of a configuration that holds.
    pub(super) async fn current(&self) -> u64 {
        loop {
            let number = self.0.load(Ordering::SeqCst);
            if number & 1 == 0 {
                return number;
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Whether it still holds.
    pub(super) fn is(&self, number: u64) -> bool {
        self.0.load(Ordering::SeqCst) == number
    }

    /// Makes a change that no request is judged across. Changes do not overlap: the caller sees to that.
    pub(super) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::SeqCst);
        let changed = change();
        self.0.fetch_add(1, Ordering::SeqCst);
        changed
    }
}
