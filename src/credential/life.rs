//! How long a lease is good: wall and monotonic time, and the earlier of the two wins.
//!
//! The monotonic clock ends a lease whose wall clock was set back; the wall clock ends one that slept through a
//! suspend, or that an issuer ends at a date.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::clock::Now;

/// How long something is good, in the issuer's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until somebody replaces it.
    Endless,
    /// This long, counted from before the call.
    For(Duration),
    /// Until this moment.
    Until(Timestamp),
}

/// The end of something, on both clocks; or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(Option<End>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    wall: Timestamp,
    mono: Instant,
}

/// A life that is over before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer gave a life that is not above zero")]
pub struct NotPositive;

impl Life {
    /// What an issuer that says nothing is taken to mean.
    pub const UNSTATED: Self = Self::For(Duration::from_mins(5));

    /// The end of a life that began at `from`, which was read before the issuer was called.
    ///
    /// # Errors
    /// [`NotPositive`] for a life of zero, or an end that is past.
    pub fn from(self, from: Now) -> Result<Expiry, NotPositive> {
        let life = match self {
            Self::Endless => return Ok(Expiry::NEVER),
            Self::For(life) => life,
            Self::Until(end) => {
                Duration::try_from(end.duration_since(from.wall)).map_err(|_| NotPositive)?
            }
        };
        if life.is_zero() {
            return Err(NotPositive);
        }
        Ok(Expiry::after(from, life))
    }
}

impl Expiry {
    /// It has no end of its own.
    pub const NEVER: Self = Self(None);

    /// `life` after `from`.
    pub fn after(from: Now, life: Duration) -> Self {
        let life = life.min(LONGEST);
        // Neither sum can overflow within ten years of any date that the machine can have; where it does, the end is now.
        Self(Some(End {
            wall: from.wall.checked_add(life).unwrap_or(from.wall),
            mono: from.mono.checked_add(life).unwrap_or(from.mono),
        }))
    }

    /// Whether it has come. The very moment of the end is past.
    pub fn is_past(&self, now: Now) -> bool {
        self.0
            .is_some_and(|end| end.wall <= now.wall || end.mono <= now.mono)
    }

    /// Whether it has come by both clocks: a wall clock that jumps ahead ends nothing at an issuer.
    pub(super) fn is_past_for_sure(&self, now: Now) -> bool {
        self.0
            .is_some_and(|end| end.wall <= now.wall && end.mono <= now.mono)
    }

    /// Whether it never comes.
    pub fn is_never(&self) -> bool {
        self.0.is_none()
    }

    /// How long it is until then, by whichever clock comes first; `None` where it never comes.
    pub fn left(&self, now: Now) -> Option<Duration> {
        let end = self.0?;
        let wall = Duration::try_from(end.wall.duration_since(now.wall)).unwrap_or_default();
        Some(wall.min(end.mono.saturating_duration_since(now.mono)))
    }

    /// The end as a date.
    pub fn wall(&self) -> Option<Timestamp> {
        self.0.map(|end| end.wall)
    }

    /// Whichever ends first, on each clock.
    #[must_use]
    pub fn or_earlier(self, other: Self) -> Self {
        let (Some(one), Some(two)) = (self.0, other.0) else {
            return if self.0.is_some() { self } else { other };
        };
        Self(Some(End {
            wall: one.wall.min(two.wall),
            mono: one.mono.min(two.mono),
        }))
    }

    /// Whichever ends last, on each clock.
    #[must_use]
    pub(super) fn or_later(self, other: Self) -> Self {
        let (Some(one), Some(two)) = (self.0, other.0) else {
            return Self::NEVER;
        };
        Self(Some(End {
            wall: one.wall.max(two.wall),
            mono: one.mono.max(two.mono),
        }))
    }

    /// When to ask for the next: at 80 % of the life, at least 30 s before its end; at half of a life under a minute.
    /// `jitter` takes up to a twentieth off, so that leases of one moment are not refreshed in one moment.
    #[must_use]
    pub(super) fn refresh(self, from: Now, jitter: u8) -> Self {
        let Some(end) = self.0 else {
            return Self::NEVER;
        };
        let life = end.mono.saturating_duration_since(from.mono);
        let wait = if life < SHORT {
            life / 2
        } else {
            (life * 4 / 5).min(life.saturating_sub(MARGIN))
        };
        Self::after(
            from,
            wait.saturating_sub(wait / 20 * u32::from(jitter) / 255),
        )
    }
}

/// No lease is believed to live longer: ten years.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);
/// Lives under this are refreshed at half.
const SHORT: Duration = Duration::from_mins(1);
/// The least time between refresh and end of longer lives.
const MARGIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    fn now() -> Now {
        ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()).now()
    }

    fn later(now: Now, seconds: f64) -> Now {
        Now {
            wall: now.wall + Duration::from_secs_f64(seconds),
            mono: now.mono + Duration::from_secs_f64(seconds),
        }
    }

    #[test]
    fn the_moment_of_the_end_is_past() {
        let from = now();
        let end = Life::For(Duration::from_secs(10)).from(from).unwrap();
        assert!(!end.is_past(later(from, 9.999)));
        assert!(end.is_past(later(from, 10.0)));
    }

    #[test]
    fn either_clock_ends_it() {
        let from = now();
        let end = Expiry::after(from, Duration::from_mins(10));
        let wall_only = Now {
            wall: from.wall + Duration::from_mins(10),
            mono: from.mono,
        };
        let mono_only = Now {
            wall: from.wall - Duration::from_hours(1),
            mono: from.mono + Duration::from_mins(10),
        };
        assert!(end.is_past(wall_only), "the wall clock jumped forward");
        assert!(end.is_past(mono_only), "the wall clock was set back");
    }

    #[test]
    fn a_life_that_is_over_is_no_life() {
        let from = now();
        assert_eq!(Life::For(Duration::ZERO).from(from), Err(NotPositive));
        assert_eq!(Life::Until(from.wall).from(from), Err(NotPositive));
        assert_eq!(
            Life::Until(from.wall - Duration::from_secs(1)).from(from),
            Err(NotPositive)
        );
    }

    #[test]
    fn an_absurd_life_is_cut_and_does_not_overflow() {
        let from = now();
        let end = Life::For(Duration::MAX).from(from).unwrap();
        assert!(!end.is_past(later(from, 3600.0)));
        assert!(!end.is_never());
    }

    #[test]
    fn refresh_stands_at_four_fifths_or_half_a_minute_before_the_end_or_half() {
        let from = now();
        for (life, due) in [(600, 480.0), (100, 70.0), (60, 30.0), (59, 29.5), (2, 1.0)] {
            let refresh = Expiry::after(from, Duration::from_secs(life)).refresh(from, 0);
            assert!(!refresh.is_past(later(from, due - 0.01)), "{life}");
            assert!(refresh.is_past(later(from, due)), "{life}");
        }
    }

    #[test]
    fn jitter_only_makes_it_earlier() {
        let from = now();
        let end = Expiry::after(from, Duration::from_mins(10));
        for jitter in [1, 128, 255] {
            let refresh = end.refresh(from, jitter);
            assert!(refresh.is_past(later(from, 480.0)));
            assert!(!refresh.is_past(later(from, 455.9)));
        }
    }
}
