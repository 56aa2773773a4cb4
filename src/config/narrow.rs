//! What a route narrows: `scopes`, `repositories`, `permissions`, `session-policy`, each within what its credential
//! may give.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::fault::{Desk, Span};
use super::reader::Reader;
use super::text::quoted;
use crate::credential::{Bound, Spec};
use crate::route::Narrow;

/// The keys, in the order of the docs.
pub(super) const KEYS: [&str; 4] = ["scopes", "repositories", "permissions", "session-policy"];

/// Where each word stands.
#[derive(Debug, Default)]
pub(super) struct Places {
    keys: Vec<(&'static str, Span)>,
    scopes: Vec<(Arc<str>, Span)>,
    repositories: Vec<(Arc<str>, Span)>,
    permissions: Vec<(Arc<str>, Arc<str>, Span)>,
}

/// What a route narrows, and where it says so.
pub(super) fn read(reader: &Reader<'_, '_>) -> (Narrow, Places) {
    let mut places = Places {
        scopes: words(reader, "scopes"),
        repositories: words(reader, "repositories"),
        permissions: permissions(reader),
        ..Places::default()
    };
    for name in KEYS {
        if reader.has(name) {
            places.keys.push((name, reader.key_span(name)));
        }
    }
    let sorted = |name: &str, words: &[(Arc<str>, Span)]| {
        reader.has(name).then(|| {
            let mut words: Vec<Arc<str>> = words.iter().map(|(word, _)| Arc::clone(word)).collect();
            words.sort_unstable();
            words.dedup();
            words
        })
    };
    let map: BTreeMap<Arc<str>, Arc<str>> = places
        .permissions
        .iter()
        .map(|(name, level, _)| (Arc::clone(name), Arc::clone(level)))
        .collect();
    let narrow = Narrow {
        scopes: sorted("scopes", &places.scopes),
        repositories: sorted("repositories", &places.repositories),
        permissions: reader.has("permissions").then_some(map),
        session_policy: session_policy(reader),
    };
    (narrow, places)
}

/// Holds what a route narrows against its credential; without one there is nothing to narrow.
pub(super) fn look(desk: &Desk, places: &Places, spec: Option<&Spec>) {
    let Some(spec) = spec else {
        for (name, span) in &places.keys {
            let message = format!("\"{name}\" without \"credential\": there is nothing to narrow");
            desk.fault(span, message);
        }
        return;
    };
    let grants = spec.kind.grants();
    let unknown = |name: &str, knows: bool| {
        let Some((_, span)) = places.keys.iter().find(|(key, _)| *key == name && !knows) else {
            return;
        };
        let message = format!(
            "\"{name}\" narrows nothing: credentials of the kind \"{}\" have none",
            spec.kind.word()
        );
        desk.fault_with(span, message, "leave it out, or name another credential");
    };
    unknown("scopes", grants.scopes != Bound::Unknown);
    unknown("repositories", grants.repositories != Bound::Unknown);
    unknown("permissions", grants.permissions != Bound::Unknown);
    unknown("session-policy", grants.session_policy != Bound::Unknown);
    let within = |what: &str, words: &[(Arc<str>, Span)], bound: Bound<&[Arc<str>]>| {
        let Bound::Within(bound) = bound else { return };
        for (word, span) in words {
            if !bound.contains(word) {
                let message = format!(
                    "the {what} {} is not among those of \"{}\"",
                    quoted(word),
                    spec.name
                );
                let help = format!(
                    "a route only narrows; the credential has: {}",
                    bound.join(", ")
                );
                desk.fault_with(span, message, help);
            }
        }
    };
    within("scope", &places.scopes, grants.scopes);
    within("repository", &places.repositories, grants.repositories);
    if let Bound::Within(bound) = grants.permissions {
        for (name, level, span) in &places.permissions {
            let most = bound.get(name).map_or(0, |level| rank(level));
            if rank(level) > most {
                let message = format!(
                    "the permission {} = {} is more than \"{}\" has",
                    quoted(name),
                    quoted(level),
                    spec.name
                );
                desk.fault_with(span, message, "a route only narrows");
            }
        }
    }
}

/// GitHub's levels, each with those below it.
fn rank(level: &str) -> usize {
    match level {
        "read" => 1,
        "write" => 2,
        _ => 3,
    }
}

/// Words as OAuth scopes are (RFC 6749 §3.3): visible, and without blanks, `"` and `\`.
fn words(reader: &Reader<'_, '_>, name: &str) -> Vec<(Arc<str>, Span)> {
    let mut words = Vec::new();
    for (text, span) in reader.texts(name) {
        let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        if text.is_empty() || !text.bytes().all(fits) {
            let message = format!("\"{name}\" holds words of visible characters without blanks");
            reader.desk.fault(&span, message);
        } else {
            words.push((Arc::from(text), span));
        }
    }
    words
}

fn permissions(reader: &Reader<'_, '_>) -> Vec<(Arc<str>, Arc<str>, Span)> {
    let mut permissions = Vec::new();
    for (key, value) in reader.entries("permissions") {
        if let Some(level @ ("read" | "write" | "admin")) = value.get_ref().as_str() {
            permissions.push((Arc::from(&**key.get_ref()), Arc::from(level), value.span()));
        } else {
            let message = "a permission is \"read\", \"write\" or \"admin\"";
            reader.desk.fault(&value.span(), message);
        }
    }
    permissions
}

/// The policy's text. One that cannot be read is a fault, never no policy.
fn session_policy(reader: &Reader<'_, '_>) -> Option<Arc<str>> {
    let path = reader.path("session-policy")?;
    let span = reader.raw("session-policy")?.span();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("the session policy cannot be read: {}", error.kind());
            let help = format!("looked for {}", path.display());
            reader.desk.fault_with(&span, message, help);
            return None;
        }
    };
    let policy = serde_json::from_str::<serde_json::Value>(&text).ok();
    let Some(policy) = policy.filter(serde_json::Value::is_object) else {
        let message = "the session policy is not a JSON object";
        reader.desk.fault(&span, message);
        return None;
    };
    // Without its blanks: AWS bounds its length.
    Some(policy.to_string().into())
}
