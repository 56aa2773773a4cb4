//! `[trust.NAME]`: which agent a proof is of, and exactly one kind table below it.
//!
//! A new kind is a file here with its [`Section`] and reader, and a line in [`KINDS`] and [`TRUST`].

mod aws;
mod jwt;
mod kubernetes;
mod peer;
mod relay;
mod spiffe;

use toml::de::DeValue;

pub(super) use spiffe::{BUNDLE, bundle, socket};

use super::fault::Span;
use super::key::{Kind as K, Need, Section, key};
use super::reader::{self, Reader};
use super::values;
use crate::agent::{AgentId, Name};
use crate::credential::Source;
use crate::identity::{AgentEntry, Mapping, Pattern, Trust as Settings, TrustKind};
use crate::issuer::Endpoint;

pub(super) static TRUST: Section = Section {
    title: "[trust.NAME]",
    keys: &[
        key(
            "agent",
            K::Table(&AGENT),
            Need::Required,
            "Which agent the proof is of.",
        ),
        key(
            "jwt",
            K::Table(&jwt::JWT),
            Need::OneOf,
            "Tokens of an OpenID issuer. The subject is `sub`.",
        ),
        key(
            "kubernetes",
            K::Table(&kubernetes::KUBERNETES),
            Need::OneOf,
            "Service accounts of a cluster. The subject is `NAMESPACE/SERVICEACCOUNT`.",
        ),
        key(
            "spiffe",
            K::Table(&spiffe::SPIFFE),
            Need::OneOf,
            "Workloads of a SPIFFE trust domain. The subject is the SPIFFE ID.",
        ),
        key(
            "aws",
            K::Table(&aws::AWS),
            Need::OneOf,
            "Instances and principals of AWS, at `/token`. The subject is the caller's ARN, or `arn:aws:ec2:REGION:ACCOUNT:instance/ID`.",
        ),
        key(
            "peer",
            K::Table(&peer::PEER),
            Need::OneOf,
            "Processes on this machine. The subject is the executable's path.",
        ),
        key(
            "relay",
            K::Table(&relay::RELAY),
            Need::OneOf,
            "Processes behind relays that prove themselves by an X.509-SVID. The subject is the executable's path.",
        ),
    ],
};

pub(super) static AGENT: Section = Section {
    title: "agent of [trust.NAME]",
    keys: &[
        key(
            "map",
            K::Map(&K::Text("an agent's id")),
            Need::OneOf,
            "`\"SUBJECT\" = \"ID\"`: `*` is any run of characters, and the first that matches, in the file's order, decides. None: refused.",
        ),
        key(
            "id",
            K::Text("an agent's id"),
            Need::OneOf,
            "Whoever this table proves is this agent.",
        ),
        key(
            "claim",
            K::Text("a claim's name"),
            Need::OneOf,
            "With `jwt`: this claim holds the agent's id.",
        ),
    ],
};

/// `[trust.NAME]`, with the source of the token that keyward itself shows to the kind's issuer.
#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    /// What is believed.
    pub settings: Settings,
    /// `token` of a kind that has one.
    pub token: Option<Source>,
}

type Read = Option<(TrustKind, Option<Source>)>;

type ReadKind = fn(&Reader<'_, '_>) -> Read;

const KINDS: &[(&str, ReadKind)] = &[
    ("jwt", jwt::read),
    ("kubernetes", kubernetes::read),
    ("spiffe", spiffe::read),
    ("aws", aws::read),
    ("peer", peer::read),
    ("relay", relay::read),
];

/// Every table, in the file's order.
pub(super) fn all(
    reader: &Reader<'_, '_>,
    agents: &[((AgentEntry, Option<Source>), Span)],
) -> Vec<Trust> {
    let known: Vec<&AgentId> = agents.iter().map(|((entry, _), _)| &entry.id).collect();
    let named = reader.named("trust").into_iter();
    named
        .filter_map(|(name, below)| read(&below, name, &known))
        .collect()
}

fn read(reader: &Reader<'_, '_>, name: Name, known: &[&AgentId]) -> Option<Trust> {
    if matches!(name.as_str(), "token" | "open" | "session") {
        let message = format!("\"{name}\" is what records call a proof without a table");
        reader
            .desk
            .fault_with(&reader.span, message, "choose another name");
    }
    let word = reader.chosen();
    let kind = word.and_then(|word| {
        let below = reader.table(word)?;
        let (_, read) = KINDS.iter().find(|(kind, _)| *kind == word)?;
        read(&below)
    });
    let agent = reader
        .table("agent")
        .and_then(|below| mapping(&below, word, known));
    let (kind, token) = kind?;
    Some(Trust {
        settings: Settings {
            name,
            agent: agent?,
            kind,
        },
        token,
    })
}

fn mapping(reader: &Reader<'_, '_>, kind: Option<&str>, known: &[&AgentId]) -> Option<Mapping> {
    match reader.chosen()? {
        "id" => {
            let (text, span) = reader.text("id")?;
            Some(Mapping::Id(agent(reader, text, &span, known)?))
        }
        "claim" => {
            let name = reader.plain_text("claim")?;
            if kind.is_some_and(|kind| kind != "jwt") {
                let message = "only the tokens of `jwt` have claims that name an agent";
                let help = "write agent = { map = { \"SUBJECT\" = \"ID\" } }, or { id = \"ID\" }";
                reader
                    .desk
                    .fault_with(&reader.key_span("claim"), message, help);
            }
            Some(Mapping::Claim(name))
        }
        _ => map(reader, known),
    }
}

fn map(reader: &Reader<'_, '_>, known: &[&AgentId]) -> Option<Mapping> {
    let entries = reader.entries("map");
    if entries.is_empty() {
        if reader.has("map") {
            let message = "\"map\" is empty: nobody would be any agent";
            reader.desk.fault(&reader.key_span("map"), message);
        }
        return None;
    }
    let mut rows: Vec<(Pattern, AgentId)> = Vec::new();
    for (key, value) in entries {
        let DeValue::String(text) = value.get_ref() else {
            let message = format!("\"map\" leads to {}", reader::article(value.get_ref()));
            let help = "write the agent's id as text";
            reader.desk.fault_with(&value.span(), message, help);
            continue;
        };
        if let Some((earlier, _)) = rows.iter().find(|(row, _)| row.matches(key.get_ref())) {
            let message = "this row can never match";
            let help = format!(
                "\"{}\" stands above it: the first match decides",
                earlier.as_str()
            );
            reader.desk.warn(&key.span(), message, help);
        }
        let id = agent(reader, text, &value.span(), known);
        rows.extend(id.map(|id| (Pattern::new(key.get_ref()), id)));
    }
    Some(Mapping::Map(rows))
}

/// An agent that the file does not know may stand in the store: whoever is it is `unregistered` until then.
fn agent(reader: &Reader<'_, '_>, text: &str, span: &Span, known: &[&AgentId]) -> Option<AgentId> {
    let id: AgentId = values::parse(reader.desk, text, span)?;
    if !known.contains(&&id) {
        let message = format!("there is no [agent.{id}] in this file");
        let help = "add it; who is proved to be an agent that nobody registered is refused";
        reader.desk.warn(span, message, help);
    }
    Some(id)
}

/// The URL of an issuer.
pub(super) fn endpoint(reader: &Reader<'_, '_>, name: &str) -> Option<Endpoint> {
    let (text, span) = reader.text(name)?;
    match text.parse() {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            let message = format!("\"{name}\" cannot be called: {error}");
            reader.desk.fault(&span, message);
            None
        }
    }
}

/// Texts that are not empty.
pub(super) fn words(reader: &Reader<'_, '_>, name: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (text, span) in reader.texts(name) {
        if text.is_empty() || text.chars().any(char::is_control) {
            let message =
                format!("\"{name}\" holds a text that is empty or has a control character");
            reader.desk.fault(&span, message);
        } else {
            words.push(text.to_owned());
        }
    }
    words
}
