//! A header field as an approver reads it: a text of visible ASCII whatever the agent wrote, and no credential.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name, in lower case.
    name: String,
    /// Its value; `None` where it may be a credential.
    value: Option<String>,
    /// How many bytes the value has, where not all of them are shown.
    bytes: Option<usize>,
}

/// The most bytes of a name or value that are shown.
const MOST: usize = 256;

/// A field with such a part in its name holds a credential, or may.
const PRIVATE: [&str; 16] = [
    "auth", "cookie", "cred", "csrf", "jwt", "key", "nonce", "passcode", "passw", "pin", "secret",
    "session", "sig", "sso", "token", "xsrf",
];
/// A value that begins so is a credential, whatever its field is called (RFC 9110 §11.4).
const SCHEMES: [&str; 6] = [
    "aws4-",
    "basic ",
    "bearer ",
    "digest ",
    "dpop ",
    "negotiate ",
];

impl Field {
    /// The field of this name, in lower case, and value.
    pub fn of(name: &str, value: &[u8]) -> Self {
        let hidden = is_private(name, value);
        Self {
            name: visible(name.as_bytes()),
            value: (!hidden).then(|| visible(value)),
            bytes: (hidden || value.len() > MOST).then_some(value.len()),
        }
    }

    /// The object of the API.
    pub(super) fn shown(&self) -> Value {
        let mut shown = json!({ "name": self.name, "value": self.value });
        if let (Some(bytes), Some(members)) = (self.bytes, shown.as_object_mut()) {
            members.insert("bytes".into(), bytes.into());
        }
        shown
    }
}

fn is_private(name: &str, value: &[u8]) -> bool {
    // `pin` is a word, and a part of others that hide nothing.
    let named = |part: &&str| match *part {
        "pin" => name.split(['-', '_']).any(|word| word == "pin"),
        part => name.contains(part),
    };
    let begins = |scheme: &&str| {
        let start = value.trim_ascii_start().get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    PRIVATE.iter().any(named) || SCHEMES.iter().any(begins)
}

/// The first bytes as visible ASCII: what is none is `\xNN`, and a backslash is two, so that no two values look the same.
fn visible(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(MOST) {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // A text takes what is written.
            _ => write!(text, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_wrote_is_visible_and_bounded() {
        let shown = |name: &str, value: &[u8]| Field::of(name, value).shown();
        assert_eq!(
            shown("x-tenant", b"other"),
            json!({ "name": "x-tenant", "value": "other" })
        );
        let evil = "a\u{202e}b\u{1b}[31m\u{200b}\\x1b\"<é".as_bytes();
        let text = shown("x", evil)["value"].as_str().unwrap().to_owned();
        assert_eq!(text, r#"a\xe2\x80\xaeb\x1b[31m\xe2\x80\x8b\\x1b"<\xc3\xa9"#);
        let long = shown("x", &[b'v'; 5000]);
        assert_eq!(long["value"].as_str().unwrap().len(), MOST);
        assert_eq!(long["bytes"], 5000);
    }

    #[test]
    fn what_may_be_a_credential_is_not_shown() {
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "apikey",
            "x-csrf-token",
            "x-goog-iam-authorization-token",
            "x-amz-security-token",
            "private-token",
            "x-user-pin",
            "x-hub-signature-256",
        ] {
            let field = Field::of(name, b"hush").shown();
            assert_eq!(field, json!({ "name": name, "value": null, "bytes": 4 }));
        }
        for value in ["Bearer abc", "basic YWJj", " DPoP x", "AWS4-HMAC-SHA256 C"] {
            assert_eq!(
                Field::of("x", value.as_bytes()).shown()["value"],
                Value::Null
            );
        }
        for name in [
            "content-type",
            "x-shipping",
            "accept",
            "x-tenant",
            "idempotency",
        ] {
            assert_eq!(Field::of(name, b"seen").shown()["value"], "seen", "{name}");
        }
    }
}
