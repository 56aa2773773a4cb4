//! The secrets of the tests, and every form in which one may not come back.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// What credentials hold: with characters that base64, percent and JSON encodings change.
pub const CANARY: &str = "sk-canary-7f3Qp9+LmNw2/RtY6sKd0=Vb";
/// The secret of a second credential.
pub const OTHER: &str = "other-canary-Zq8+41xT/vvR0pLe=Wn3a";

/// Each form of a secret that is looked for.
pub fn forms(secret: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![
        ("raw".to_owned(), bytes.to_vec()),
        ("hex".to_owned(), hex.clone().into_bytes()),
        ("HEX".to_owned(), hex.to_uppercase().into_bytes()),
        ("percent".to_owned(), percent(bytes, false)),
        ("percent of all".to_owned(), percent(bytes, true)),
        (
            "JSON \\u".to_owned(),
            bytes.iter().fold(Vec::new(), |mut out, b| {
                out.extend_from_slice(format!("\\u{b:04x}").as_bytes());
                out
            }),
        ),
        (
            "JSON with \\/".to_owned(),
            secret.replace('/', "\\/").into_bytes(),
        ),
    ];
    for (name, engine) in [("base64", &STANDARD), ("base64url", &URL_SAFE)] {
        for lead in 0..3 {
            let shifted = [&vec![b'x'; lead][..], bytes].concat();
            let text = engine.encode(&shifted);
            // Only the characters that depend on the secret alone.
            let from = (lead * 8).div_ceil(6);
            let to = shifted.len() * 8 / 6;
            forms.push((
                format!("{name} at {lead}"),
                text.as_bytes()[from..to].to_vec(),
            ));
        }
    }
    forms
}

fn percent(bytes: &[u8], all: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for b in bytes {
        if all || !(b.is_ascii_alphanumeric() || b"-._~".contains(b)) {
            out.extend_from_slice(format!("%{b:02X}").as_bytes());
        } else {
            out.push(*b);
        }
    }
    out
}

/// The name of the first form of any canary that stands in these bytes.
pub fn find(haystack: &[u8]) -> Option<String> {
    for secret in [CANARY, OTHER] {
        for (name, form) in forms(secret) {
            if memchr::memmem::find(haystack, &form).is_some() {
                return Some(format!("{name} of {secret}"));
            }
        }
    }
    None
}

#[test]
fn each_form_is_found_where_it_stands() {
    for (name, form) in forms(CANARY) {
        let text = [b"before ", &form[..], b" after"].concat();
        assert!(find(&text).is_some(), "{name}");
    }
    for lead in 0..3 {
        let text = format!("{}user:{CANARY}!", "y".repeat(lead));
        assert!(find(STANDARD.encode(text).as_bytes()).is_some(), "{lead}");
    }
    assert_eq!(find(b"sk-canary-7f3Qp9"), None);
}
