//! Time, asked of a [`Clock`] and never of the system, so that a test can move it.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// One reading of both clocks, taken together.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock: what a person and a certificate mean by time. It may jump.
    pub wall: Timestamp,
    /// The monotonic clock: for lengths of time on this machine.
    pub mono: Instant,
}

impl Now {
    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> i64 {
        self.wall.as_millisecond()
    }
}

/// Where time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Reads wall and monotonic time together.
    fn now(&self) -> Now;

    /// Reads the wall clock alone, where nothing else is asked.
    fn wall(&self) -> Timestamp {
        self.now().wall
    }

    /// Reads the monotonic clock alone.
    fn mono(&self) -> Instant {
        self.now().mono
    }
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            mono: Instant::now(),
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn mono(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that a test moves by hand: it stands still until [`ManualClock::advance`].
#[derive(Debug)]
pub struct ManualClock(parking_lot::Mutex<Now>);

impl ManualClock {
    /// Starts at `wall`.
    pub fn new(wall: Timestamp) -> Self {
        Self(parking_lot::Mutex::new(Now {
            wall,
            mono: Instant::now(),
        }))
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        now.wall += by;
        now.mono += by;
    }

    /// Moves the wall clock alone, as a bad NTP server would.
    pub fn set_wall(&self, wall: Timestamp) {
        self.0.lock().wall = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock()
    }
}
