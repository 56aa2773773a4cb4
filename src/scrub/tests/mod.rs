//! Nothing of a secret comes out, in no form and in no cut; everything else does.

mod decode;
mod forms;
mod stream;
mod websocket;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;

use super::{Patterns, Scrubber, Source, Watch};
use crate::secret::Secret;

/// Holds every character that some form treats apart.
const KEY: &str = "sk-?Qm7>vX2/L\"r9\\Tz+W c%4Nd&Yb<é😀~K'f";

fn patterns(secrets: &[&str]) -> Arc<Patterns> {
    let secrets: Vec<Secret> = secrets
        .iter()
        .map(|&secret| Secret::from(secret.to_owned()))
        .collect();
    Arc::new(Patterns::compile(&secrets))
}

/// What comes out when `input` goes in, cut at `cuts`.
fn scrubbed(patterns: &Arc<Patterns>, input: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut scrubber = Scrubber::new(Arc::clone(patterns));
    let mut out = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        let cut = cut.clamp(from, input.len());
        out.extend(scrubber.push(Bytes::copy_from_slice(&input[from..cut])));
        from = cut;
    }
    out.extend(scrubber.finish());
    assert_eq!(scrubber.altered(), out != input);
    out
}

/// `secret` as JSON, percent-encoding or HTML writes it, where `pick` says how each character is escaped.
fn escaped(secret: &str, pick: impl Fn(usize) -> usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, char) in secret.chars().enumerate() {
        let code = u32::from(char);
        let mut plain = [0; 4];
        let plain = char.encode_utf8(&mut plain);
        let text = match pick(index) {
            1 => plain.bytes().map(|byte| format!("%{byte:02x}")).collect(),
            2 => plain.bytes().map(|byte| format!("%{byte:02X}")).collect(),
            3 => units(char, |unit| format!("\\u{unit:04x}")),
            4 => units(char, |unit| format!("\\u{unit:04X}")),
            5 => format!("&#{code};"),
            6 => format!("&#x{code:x};"),
            7 => format!("&#X{code:X};"),
            8 => format!("&#00{code};"),
            9 => format!("&#x00000000{code:X};"),
            10 => match char {
                '/' | '"' | '\\' => format!("\\{char}"),
                _ => char.to_string(),
            },
            11 => match char {
                '&' => "&amp;".to_owned(),
                '<' => "&lt;".to_owned(),
                '>' => "&gt;".to_owned(),
                '"' => "&quot;".to_owned(),
                '\'' => "&apos;".to_owned(),
                _ => char.to_string(),
            },
            12 if char == ' ' => "+".to_owned(),
            _ => char.to_string(),
        };
        out.extend(text.into_bytes());
    }
    out
}

fn units(char: char, write: impl Fn(u16) -> String) -> String {
    let mut units = [0; 2];
    char.encode_utf16(&mut units)
        .iter()
        .map(|&unit| write(unit))
        .collect()
}

/// `secret` in every form of which it is one of few, with a name.
fn forms(secret: &str) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw".to_owned(), secret.as_bytes().to_vec()),
        ("hex".to_owned(), hex(secret, |_| false)),
        ("upper hex".to_owned(), hex(secret, |_| true)),
        ("mixed hex".to_owned(), hex(secret, |at| at % 3 == 0)),
        (
            "utf-16le".to_owned(),
            secret.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ),
        (
            "utf-16be".to_owned(),
            secret.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        ),
    ];
    for before in ["", "u", "u:", "user:"] {
        let text = format!("{before}{secret}");
        for (name, engine) in [
            ("base64", &STANDARD),
            ("base64 unpadded", &STANDARD_NO_PAD),
            ("base64url", &URL_SAFE),
            ("base64url unpadded", &URL_SAFE_NO_PAD),
        ] {
            let encoded = engine.encode(&text);
            for (what, escape) in [("", "/"), (" in JSON", "\\/"), (" in a URL", "%2F")] {
                forms.push((
                    format!("{name}{what} after {before:?}"),
                    encoded.replace('/', escape).into_bytes(),
                ));
            }
        }
    }
    for how in 1..=12 {
        forms.push((format!("escape {how}"), escaped(secret, |_| how)));
        forms.push((
            format!("each second by {how}"),
            escaped(secret, |at| how * (at % 2)),
        ));
        forms.push((
            format!("last by {how}"),
            escaped(secret, |at| how * usize::from(at > 30)),
        ));
    }
    forms
}

fn hex(secret: &str, upper: impl Fn(usize) -> bool) -> Vec<u8> {
    let digits: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits
        .bytes()
        .enumerate()
        .map(|(at, digit)| {
            if upper(at) {
                digit.to_ascii_uppercase()
            } else {
                digit
            }
        })
        .collect()
}

/// Whether five characters of the encoded secret in a row came out: less than that may stand at the ends of base64.
fn leaks(out: &[u8], form: &[u8]) -> bool {
    form.windows(5).any(|part| {
        part.iter().any(|&byte| byte != b'*') && out.windows(5).any(|seen| seen == part)
    })
}
