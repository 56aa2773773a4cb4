//! Guards without code: hours, days, and the network that the agent calls from.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

use crate::agent::Name;
use crate::preset::Preset;

/// The guards of one route. All must hold; one that cannot be evaluated does not hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// `when`: the hours and days.
    pub when: Option<Hours>,
    /// `source`: the networks the agent may call from; empty asks nothing.
    pub source: Vec<IpNet>,
    /// The preset whose credential-minting requests are refused on this route.
    pub minting: Option<Arc<Preset>>,
    /// `approval`: the `[approval.NAME]` whose people have to say yes to each request.
    pub approval: Option<Name>,
}

/// `when = { hours = "08:00-18:00", days = ["mon", "fri"], zone = "Europe/Berlin" }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    /// From (inclusive) and to (exclusive); a range past midnight wraps. `None`: the whole day.
    pub span: Option<(Time, Time)>,
    /// The days; a span that wraps belongs to the day it began on.
    pub days: Weekdays,
    /// The zone in which both are meant.
    pub zone: TimeZone,
}

/// A set of days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weekdays(u8);

/// The guard that is not met. The text says what would be right, never what the request held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unmet {
    /// Outside the hours or days.
    When,
    /// Not from one of the networks.
    Source,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::When => "when",
            Self::Source => "source",
        })
    }
}

impl Weekdays {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// The empty set, to insert into.
    pub const NONE: Self = Self(0);

    /// With this day too.
    #[must_use]
    pub fn with(self, day: Weekday) -> Self {
        Self(self.0 | 1 << day.to_monday_zero_offset())
    }

    /// Whether the day is in the set.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl Hours {
    /// Whether this moment is inside.
    pub fn contains(&self, now: Timestamp) -> bool {
        let local = now.to_zoned(self.zone.clone());
        let (time, day) = (local.time(), local.weekday());
        match self.span {
            None => self.days.contains(day),
            Some((from, to)) if from < to => self.days.contains(day) && from <= time && time < to,
            Some((from, _)) if time >= from => self.days.contains(day),
            Some((_, to)) => time < to && self.days.contains(day.previous()),
        }
    }
}

impl Conditions {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.when.is_none()
            && self.source.is_empty()
            && self.minting.is_none()
            && self.approval.is_none()
    }

    /// Whether the answer to this request would be a new credential, which the route does not grant.
    pub fn forbids_minting(&self, method: &http::Method, path: &str) -> bool {
        self.minting
            .as_ref()
            .is_some_and(|preset| preset.mints(method, path))
    }

    /// Whether there is a guard here that `other` does not have, or has otherwise.
    pub(super) fn asks_beyond(&self, other: &Self) -> bool {
        (self.when.is_some() && self.when != other.when)
            || (!self.source.is_empty() && self.source != other.source)
            || (self.approval.is_some() && self.approval != other.approval)
    }

    /// Checks every guard.
    ///
    /// # Errors
    /// The first one that is not met.
    pub fn check(&self, source: Option<IpAddr>, now: Timestamp) -> Result<(), Unmet> {
        if !self.source.is_empty() {
            let from = source.map(|ip| ip.to_canonical());
            if !from.is_some_and(|ip| self.source.iter().any(|net| net.contains(&ip))) {
                return Err(Unmet::Source);
            }
        }
        match &self.when {
            Some(hours) if !hours.contains(now) => Err(Unmet::When),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn hours(from: &str, to: &str, days: Weekdays) -> Hours {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        Hours {
            span: Some((from.parse().unwrap(), to.parse().unwrap())),
            days,
            zone,
        }
    }

    #[test]
    fn office_hours_are_those_of_the_zone() {
        let office = hours("08:00", "18:00", Weekdays::NONE.with(Weekday::Monday));
        assert!(
            office.contains(at("2026-11-23T07:00:00Z")),
            "08:00 in Berlin"
        );
        assert!(!office.contains(at("2026-11-23T06:59:59Z")));
        assert!(
            !office.contains(at("2026-11-23T17:00:00Z")),
            "18:00 is no longer inside"
        );
        assert!(!office.contains(at("2026-11-24T09:00:00Z")), "a Tuesday");
    }

    #[test]
    fn a_night_shift_belongs_to_the_day_it_began() {
        let night = hours("22:00", "06:00", Weekdays::NONE.with(Weekday::Friday));
        assert!(night.contains(at("2026-11-27T22:00:00+01:00")));
        assert!(
            night.contains(at("2026-11-28T05:59:00+01:00")),
            "Saturday morning"
        );
        assert!(
            !night.contains(at("2026-11-27T05:00:00+01:00")),
            "Friday morning belongs to Thursday"
        );
    }

    #[test]
    fn no_address_is_no_network() {
        let guards = Conditions {
            source: vec!["10.0.0.0/8".parse().unwrap()],
            ..Conditions::default()
        };
        assert_eq!(
            guards.check(
                Some("10.1.2.3".parse().unwrap()),
                at("2026-01-01T00:00:00Z")
            ),
            Ok(())
        );
        assert_eq!(
            guards.check(
                Some("::ffff:10.1.2.3".parse().unwrap()),
                at("2026-01-01T00:00:00Z")
            ),
            Ok(())
        );
        assert_eq!(
            guards.check(
                Some("11.1.2.3".parse().unwrap()),
                at("2026-01-01T00:00:00Z")
            ),
            Err(Unmet::Source)
        );
        assert_eq!(
            guards.check(None, at("2026-01-01T00:00:00Z")),
            Err(Unmet::Source)
        );
    }
}
