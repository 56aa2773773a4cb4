//! Texts that become numbers, and numbers and names that become text: durations, sizes, suggestions.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 3600 * 1000),
    ("d", 24 * 3600 * 1000),
];
const SIZES: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// `"30s"`, `"500ms"`, `"15m"`, `"1h"`, `"2d"`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// `"64KiB"`, `"1MiB"`, `"512B"`.
pub(super) fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// A whole number and a unit, without sign, blank or fraction.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// As it would be written.
pub(super) fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    show_scaled(millis, &DURATIONS)
}

/// As it would be written.
pub(super) fn show_size(value: u64) -> String {
    show_scaled(value, &SIZES)
}

fn show_scaled(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    match units.iter().rev().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => value.to_string(),
    }
}

/// The candidate that was probably meant.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A hostile file could make the distance costly; nobody mistypes a name of this length.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_ascii_lowercase();
    let bound = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&written, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(written: &str, candidate: &str) -> usize {
    strsim::damerau_levenshtein(written, &candidate.to_ascii_lowercase())
}

/// `"a", "b" or "c"`.
pub(super) fn any_of<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<_> = words
        .iter()
        .map(|w| format!("\"{}\"", w.as_ref()))
        .collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((only, _)) => only.clone(),
        None => "nothing".into(),
    }
}

/// Text from the file in quotes: without control characters, and no longer than a glance.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(60).map(visible).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// Control characters and those that turn the writing direction would let a file draw on the terminal.
pub(super) fn visible(c: char) -> char {
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    match c {
        '\t' => ' ',
        _ if c.is_control() || turns => '\u{fffd}',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "+1s",
            "1.5h",
            "1 s",
            "1y",
            "1h30m",
            "30S",
            "9223372036854775807d",
            "99999999999999999999s",
            "١s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_size_is_a_number_and_a_binary_unit() {
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(show_size(65_536), "64KiB");
        for bad in ["64", "64K", "64KB", "-1KiB", "1.5MiB", "99999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_suggestion_is_near() {
        assert_eq!(nearest("gihub", ["gitlab", "github"]), Some("github"));
        assert_eq!(
            nearest("max_connections", ["max-connections"]),
            Some("max-connections")
        );
        assert_eq!(nearest("vault", ["static", "env"]), None);
    }
}
