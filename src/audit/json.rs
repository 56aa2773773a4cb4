//! Values as JSON text, escaped so far that a line stays one line and a terminal shows it as it is.

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
    // Without a way out early, so that the compiler takes many bytes at once: a member is seldom anything but plain.
    if text.bytes().fold(true, |so_far, byte| so_far & plain(byte)) {
        line.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            escape_char(c, line);
        }
    }
    line.push(b'"');
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
    /// RFC 3339 in UTC, to the millisecond.
    fn write(&self, line: &mut Vec<u8>) {
        put(line, format_args!("\"{self:.3}\""));
    }
}

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
