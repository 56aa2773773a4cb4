//! `[agent.ID]`: the registry of agents, each with the source of its static token.

use jiff::civil::Date;
use toml::de::DeValue;

use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use super::source;
use crate::agent::AgentId;
use crate::credential::Source;
use crate::identity::{AgentEntry, Status};

pub(super) static AGENT: Section = Section {
    title: "[agent.ID]",
    keys: &[
        key(
            "token",
            Kind::Source,
            Need::Optional,
            "A static proxy token: the password of `http://ANY:TOKEN@HOST:PORT`.",
        ),
        key(
            "purpose",
            Kind::Text("what it is for"),
            Need::Optional,
            "What it is for.",
        ),
        key(
            "owner",
            Kind::Text("who answers for it"),
            Need::Optional,
            "Who answers for it.",
        ),
        key(
            "permissions",
            Kind::List(&Kind::Text("a scope or \"route:NAME\"")),
            Need::Optional,
            "The widest scope of its sessions: upstream scopes and `route:NAME`. Left out: no bound but the routes.",
        ),
        key(
            "tools",
            Kind::List(&Kind::Text("a tool's name")),
            Need::Optional,
            "The tools that it is meant to use.",
        ),
        key(
            "data-class",
            Kind::Text("a class of data"),
            Need::Optional,
            "The class of data that it works with.",
        ),
        key(
            "environment",
            Kind::Text("an environment"),
            Need::Optional,
            "Where it runs.",
        ),
        key(
            "created",
            Kind::Date,
            Need::Optional,
            "When it was registered.",
        ),
        key(
            "last-audit",
            Kind::Date,
            Need::Optional,
            "When somebody last looked at it.",
        ),
        key(
            "status",
            Kind::Choice(&["active", "suspended", "deprecated"]),
            Need::Default("\"active\""),
            "`suspended`: refused from the next request on. `deprecated`: served, and reported.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>, id: AgentId) -> (AgentEntry, Option<Source>) {
    let entry = AgentEntry {
        id,
        purpose: reader.plain_text("purpose"),
        owner: reader.plain_text("owner"),
        permissions: reader
            .has("permissions")
            .then(|| words(reader, "permissions")),
        tools: words(reader, "tools"),
        data_class: reader.plain_text("data-class"),
        environment: reader.plain_text("environment"),
        created: date(reader, "created"),
        last_audit: date(reader, "last-audit"),
        status: match reader.choice("status") {
            Some("suspended") => Status::Suspended,
            Some("deprecated") => Status::Deprecated,
            _ => Status::Active,
        },
    };
    (entry, source::read(reader, "token"))
}

/// Words as OAuth scopes are: visible, and without blanks (RFC 6749 §3.3), so that a list of them can be split again.
fn words(reader: &Reader<'_, '_>, name: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (text, span) in reader.texts(name) {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            let message =
                format!("\"{name}\" holds words of visible ASCII characters without blanks");
            reader.desk.fault(&span, message);
        } else {
            words.push(text.to_owned());
        }
    }
    words
}

fn date(reader: &Reader<'_, '_>, name: &str) -> Option<Date> {
    let value = reader.raw(name)?;
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        _ => {
            reader.wrong(name, value);
            return None;
        }
    };
    // jiff reads much more than a date as one: times, zones, week dates.
    let date = text.parse().ok().filter(|_| text.len() == 10);
    if date.is_none() {
        let message = format!("{} is not a date", super::text::quoted(&text));
        reader
            .desk
            .fault_with(&value.span(), message, "such as \"2026-11-01\"");
    }
    date
}
