//! Values as JSON text, escaped so far that a line stays one line and a terminal shows it as it is.

use std::cell::Cell;
use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::AgentId;

/// What can stand as a member's value.
pub(super) trait Value {
    /// Appends the value to `line`.
    fn write(&self, line: &mut Vec<u8>);
}

/// Appends `text` as a JSON string. Beyond what RFC 8259 §7 demands, everything that moves a cursor, ends a line
/// (U+2028, U+2029) or turns the reading direction is written as `\u….`: CWE-117.
pub(super) fn escape(text: &str, line: &mut Vec<u8>) {
    line.push(b'"');
    // A member is seldom anything but plain.
    if all_plain(text.as_bytes()) {
        line.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            escape_char(c, line);
        }
    }
    line.push(b'"');
}

/// Whether every byte is plain. Eight are looked at in one word: members are too short for longer steps.
fn all_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    // Their high bit is set where a byte of `word` is zero, or less than `least`; a borrow shows only behind such a byte.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let less = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word & HIGH;
    let is = |word: u64, byte: u8| zero(word ^ (ONES * u64::from(byte)));
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| {
        let word = u64::from_ne_bytes(*word);
        let fault =
            word & HIGH | less(word, 0x20) | is(word, 0x7f) | is(word, b'"') | is(word, b'\\');
        fault == 0
    }) && rest.iter().copied().all(plain)
}

fn plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn escape_char(c: char, line: &mut Vec<u8>) {
    match c {
        '"' | '\\' => line.extend_from_slice(&[b'\\', u8::try_from(c).unwrap_or(b'?')]),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        c if c.is_control() || moves_text(c) => put(line, format_args!("\\u{:04x}", u32::from(c))),
        c => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Line and paragraph separators, marks and overrides of direction, the byte order mark.
fn moves_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn put(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a vector takes every byte");
}

impl Value for &str {
    fn write(&self, line: &mut Vec<u8>) {
        escape(self, line);
    }
}

impl Value for u64 {
    fn write(&self, line: &mut Vec<u8>) {
        let mut digits = [0; 20];
        let mut rest = *self;
        let mut used = 0;
        for slot in digits.iter_mut().rev() {
            *slot = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            used += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        line.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
    }
}

impl Value for u32 {
    fn write(&self, line: &mut Vec<u8>) {
        u64::from(*self).write(line);
    }
}

impl Value for u16 {
    fn write(&self, line: &mut Vec<u8>) {
        u64::from(*self).write(line);
    }
}

impl Value for f64 {
    /// JSON has no word for what is not finite: `null`.
    fn write(&self, line: &mut Vec<u8>) {
        if self.is_finite() {
            put(line, format_args!("{self}"));
        } else {
            line.extend_from_slice(b"null");
        }
    }
}

impl Value for Duration {
    fn write(&self, line: &mut Vec<u8>) {
        u64::try_from(self.as_millis())
            .unwrap_or(u64::MAX)
            .write(line);
    }
}

impl Value for Timestamp {
    /// RFC 3339 in UTC, to the millisecond. Of a second that was written before, only the milliseconds are made.
    fn write(&self, line: &mut Vec<u8>) {
        thread_local! {
            static LAST: Cell<(i64, [u8; SECOND])> = const { Cell::new((i64::MIN, [0; SECOND])) };
        }
        let begun = line.len();
        // Before 1970 a second is counted from its end, so it does not tell the text.
        let second = self.as_second();
        let millis = u16::try_from(self.subsec_millisecond())
            .ok()
            .filter(|_| second > 0);
        let (last, text) = LAST.get();
        if last == second
            && let Some(millis) = millis
        {
            line.push(b'"');
            line.extend_from_slice(&text);
            for power in [100, 10, 1] {
                line.push(b'0' + u8::try_from(millis / power % 10).unwrap_or_default());
            }
            line.extend_from_slice(b"Z\"");
            return;
        }
        put(line, format_args!("\"{self:.3}\""));
        if millis.is_some()
            && let Some((text, b"Z\"")) = line
                .get(begun + 1..)
                .and_then(|text| text.split_first_chunk::<SECOND>())
                .and_then(|(text, rest)| Some((text, rest.get(3..)?)))
        {
            LAST.set((second, *text));
        }
    }
}

/// The length of `2026-11-22T05:36:03.`, bytes.
const SECOND: usize = 20;

impl Value for &[AgentId] {
    fn write(&self, line: &mut Vec<u8>) {
        list(self.iter().map(AgentId::as_str), line);
    }
}

impl Value for &[String] {
    fn write(&self, line: &mut Vec<u8>) {
        list(self.iter().map(String::as_str), line);
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>, line: &mut Vec<u8>) {
    line.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            line.push(b',');
        }
        escape(item, line);
    }
    line.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &impl Value) -> String {
        let mut line = Vec::new();
        value.write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn plain_is_told_alike_by_words_and_by_bytes() {
        for len in 0..20 {
            assert!(all_plain(&vec![b'a'; len]));
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'~'; len];
                    if let Some(place) = text.get_mut(at) {
                        *place = byte;
                    }
                    assert_eq!(all_plain(&text), plain(byte), "{byte:#x} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn a_time_reads_alike_however_near_the_one_before_it_was() {
        let around = [
            -62_000_000_000_001_i64,
            -1_001,
            -1,
            0,
            7,
            999,
            1_000,
            1_795_325_762_040,
            1_795_325_762_049,
            1_795_325_762_999,
            1_795_325_763_000,
        ];
        for millis in around {
            let time = Timestamp::from_millisecond(millis).unwrap();
            for time in [time, time] {
                assert_eq!(written(&time), format!("\"{time:.3}\""));
            }
        }
    }
}
