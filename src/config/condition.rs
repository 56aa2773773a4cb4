//! The guards of a route: `when` and `source`.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use super::text::quoted;
use super::upstream::networks;
use crate::policy::{Conditions, Hours, Weekdays};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

pub(super) static WHEN: Section = Section {
    title: "when",
    keys: &[
        key(
            "hours",
            Kind::Text("\"HH:MM-HH:MM\""),
            Need::Optional,
            "From (inclusive) to (exclusive), `HH:MM-HH:MM`; a range past midnight belongs to the day on which it began. Left out: the whole day.",
        ),
        key(
            "days",
            Kind::List(&Kind::Choice(&DAYS)),
            Need::Optional,
            "Days of the week. Left out: every day.",
        ),
        key(
            "zone",
            Kind::Text("a time zone, such as \"Europe/Berlin\""),
            Need::Default("\"UTC\""),
            "The IANA time zone in which both are meant.",
        ),
    ],
};

pub(super) fn read(route: &Reader<'_, '_>) -> Conditions {
    Conditions {
        when: route.table("when").and_then(|reader| hours(&reader)),
        source: networks(route, "source"),
        minting: None,
        approval: None,
    }
}

fn hours(reader: &Reader<'_, '_>) -> Option<Hours> {
    if !reader.has("hours") && !reader.has("days") {
        let message = "\"when\" names neither hours nor days";
        let help = "such as when = { hours = \"08:00-18:00\", days = [\"mon\", \"fri\"], zone = \"Europe/Berlin\" }";
        reader.desk.missing(&reader.span, message, help);
        return None;
    }
    let (span, days, zone) = (span(reader), days(reader), zone(reader)); // all are looked at
    Some(Hours {
        span: span.ok()?,
        days,
        zone: zone?,
    })
}

/// A fault was laid down.
struct Told;

/// From and to; `None` is the whole day.
fn span(reader: &Reader<'_, '_>) -> Result<Option<(Time, Time)>, Told> {
    let Some((text, at)) = reader.text("hours") else {
        return if reader.has("hours") {
            Err(Told)
        } else {
            Ok(None)
        };
    };
    let ends = text.split_once('-').and_then(|(from, to)| {
        let to = if to == "24:00" { "00:00" } else { to };
        Some((clock(from)?, clock(to)?))
    });
    let Some((from, to)) = ends else {
        let message = format!("{} is not a range of hours", quoted(text));
        let help = "write \"HH:MM-HH:MM\", such as \"08:00-18:00\" or \"22:00-06:00\"";
        reader.desk.fault_with(&at, message, help);
        return Err(Told);
    };
    if text == "00:00-24:00" {
        return Ok(None);
    }
    if from == to {
        let message = format!("{} is no time at all", quoted(text));
        let help = "for the whole day leave \"hours\" out";
        reader.desk.fault_with(&at, message, help);
        return Err(Told);
    }
    Ok(Some((from, to)))
}

fn clock(text: &str) -> Option<Time> {
    let two = |text: &str| -> Option<i8> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (hour, minute) = text.split_once(':')?;
    Time::new(two(hour)?, two(minute)?, 0, 0).ok()
}

fn days(reader: &Reader<'_, '_>) -> Weekdays {
    if !reader.has("days") {
        return Weekdays::ALL;
    }
    let mut days = Weekdays::NONE;
    for (text, span) in reader.texts("days") {
        let offset = DAYS
            .iter()
            .position(|day| *day == text)
            .and_then(|n| i8::try_from(n).ok());
        if let Some(day) = offset.and_then(|n| Weekday::from_monday_zero_offset(n).ok()) {
            days = days.with(day);
        } else {
            let message = format!("{} is not a day of the week", quoted(text));
            let help = format!("the days are {}", super::text::any_of(&DAYS));
            reader.desk.fault_with(&span, message, help);
        }
    }
    days
}

fn zone(reader: &Reader<'_, '_>) -> Option<TimeZone> {
    let Some((name, span)) = reader.text("zone") else {
        return (!reader.has("zone")).then_some(TimeZone::UTC);
    };
    if let Ok(zone) = TimeZone::get(name) {
        return Some(zone);
    }
    let known: Vec<String> = jiff::tz::db()
        .available()
        .map(|zone| zone.to_string())
        .collect();
    let message = format!("no time zone is called {}", quoted(name));
    let help = match super::text::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "a name of the IANA list, such as \"Europe/Berlin\" or \"UTC\"".into(),
    };
    reader.desk.fault_with(&span, message, help);
    None
}
