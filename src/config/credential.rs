//! `[credential.NAME]`: what is common to all kinds, and exactly one kind table below it.
//!
//! A new kind is a [`Section`], a function, and a line in [`KINDS`] and [`CREDENTIAL`].

use super::key::{HOUR, Kind as K, Need, Section, key, millis, secs};
use super::oauth;
use super::reader::Reader;
use super::source;
use crate::agent::Name;
use crate::credential::{Kind, OnFailure, Share, Spec};

pub(super) static CREDENTIAL: Section = Section {
    title: "[credential.NAME]",
    keys: &[
        key(
            "static",
            K::Table(&STATIC),
            Need::OneOf,
            "A value that somebody else rotates.",
        ),
        oauth::CLIENT_CREDENTIALS_KEY,
        oauth::EXCHANGE_KEY,
        oauth::BEARER_KEY,
        oauth::REFRESH_KEY,
        oauth::GITHUB_KEY,
        oauth::AZURE_KEY,
        key(
            "aws",
            K::Table(&super::aws::AWS),
            Need::OneOf,
            "AWS keys, which sign requests.",
        ),
        key(
            "command",
            K::Table(&super::plugin::COMMAND),
            Need::OneOf,
            "A plug-in in any language that issues and revokes.",
        ),
        key(
            "vault",
            K::Table(&super::vault::VAULT),
            Need::OneOf,
            "OpenBao or HashiCorp Vault: a KV field, or what an engine issues.",
        ),
        key(
            "client-certificate",
            K::Table(&super::certificate::CLIENT_CERTIFICATE),
            Need::OneOf,
            "A certificate and its key from files, for `inject = \"client-certificate\"`.",
        ),
        key(
            "spiffe",
            K::Table(&super::spiffe::SPIFFE),
            Need::OneOf,
            "An X.509-SVID, for `inject = \"client-certificate\"` towards other workloads.",
        ),
        key(
            "share",
            K::Choice(&["session", "agent", "all"]),
            Need::Default("\"session\""),
            "How far one lease may serve: one session, all sessions of one agent, everybody.",
        ),
        key(
            "on-failure",
            K::Choice(&["refuse", "stale"]),
            Need::Default("\"refuse\""),
            "What happens when the issuer fails: `stale` uses the old lease, within its own life.",
        ),
        key(
            "max-life",
            K::Duration(secs(1), secs(365 * 24 * 3600)),
            Need::Optional,
            "No lease is used longer than this, whatever its issuer says.",
        ),
        key(
            "deadline",
            K::Duration(millis(100), secs(300)),
            Need::Default("\"10s\""),
            "The time for one issue, retries included.",
        ),
        key(
            "failure-ttl",
            K::Duration(secs(0), HOUR),
            Need::Default("\"5s\""),
            "How long a failure is remembered.",
        ),
        key(
            "unscrubbed",
            K::Flag,
            Need::Default("false"),
            "Allows a secret shorter than 12 bytes, and leaves it in answers: too short to be told from chance.",
        ),
    ],
};

pub(super) static STATIC: Section = Section {
    title: "[credential.NAME.static]",
    keys: &[key(
        "value",
        K::Source,
        Need::Required,
        "Where the secret is read from.",
    )],
};

/// Kind tables by their key, each with what reads it.
pub(super) type Kinds = &'static [(&'static str, fn(&Reader<'_, '_>) -> Option<Kind>)];

const KINDS: [Kinds; 2] = [
    &[
        ("static", static_value),
        ("aws", super::aws::read),
        ("command", super::plugin::read),
        ("vault", super::vault::read),
        ("client-certificate", super::certificate::read),
        ("spiffe", super::spiffe::read),
    ],
    oauth::KINDS,
];

fn static_value(reader: &Reader<'_, '_>) -> Option<Kind> {
    let value = source::read(reader, "value")?;
    Some(Kind::Static { value })
}

/// One credential; its `slots` are filled by the routes that use it.
pub(super) fn read(reader: &Reader<'_, '_>, name: Name) -> Option<Spec> {
    let kind = reader.chosen().and_then(|word| {
        let below = reader.table(word)?;
        let (_, read) = KINDS
            .iter()
            .copied()
            .flatten()
            .find(|(kind, _)| *kind == word)?;
        read(&below)
    });
    if kind.as_ref().is_some_and(Kind::names_agent) && reader.choice("share") == Some("all") {
        let message = "a token that names the agent cannot serve every agent";
        let help = "write share = \"session\" or \"agent\"";
        reader
            .desk
            .fault_with(&reader.key_span("share"), message, help);
    }
    let max_life = reader.optional_duration("max-life");
    let deadline = reader.duration("deadline");
    if max_life.is_some_and(|life| life <= deadline) {
        let span = reader
            .raw("max-life")
            .map_or(reader.span.clone(), toml::Spanned::span);
        let message = "\"max-life\" is no longer than \"deadline\"";
        let help =
            "a lease can be over before it is handed out: a life counts from before the call";
        reader.desk.warn(&span, message, help);
    }
    Some(Spec {
        name,
        share: match reader.choice("share") {
            Some("agent") => Share::Agent,
            Some("all") => Share::All,
            _ => Share::Session,
        },
        on_failure: match reader.choice("on-failure") {
            Some("stale") => OnFailure::Stale,
            _ => OnFailure::Refuse,
        },
        max_life,
        deadline,
        failure_ttl: reader.duration("failure-ttl"),
        unscrubbed: reader.flag("unscrubbed"),
        kind: kind?,
        network: "".into(),
        slots: Vec::new(),
    })
}
