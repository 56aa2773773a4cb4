//! `[[route]]`: what it matches, what it injects, and which of the names it uses exist.

use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::approval;
use super::condition::{self, WHEN};
use super::fault::Span;
use super::hosts;
use super::key::{Kind, Need, Section, key};
use super::narrow;
use super::placement::{self, INJECT};
use super::reader::Reader;
use super::spiffe;
use super::text::{nearest, quoted};
use super::{PresetRoute, Presets};
use crate::agent::Name;
use crate::inject::Placement;
use crate::policy::Conditions;
use crate::route::{BadMethod, MethodSet, PLACEHOLDER, PathPattern, Route, TokenAnswer};

pub(super) static ROUTE: Section = Section {
    title: "[[route]]",
    keys: &[
        key(
            "name",
            Kind::Text("a name"),
            Need::Optional,
            "How audit, metrics and policy call it; left out, `route-N` with its place from 1.",
        ),
        key(
            "preset",
            Kind::Text("the name of a known service"),
            Need::Optional,
            "A known service: gives `hosts`, `paths`, `inject` and `encoded-slash`, each of which may be written beside it.",
        ),
        key(
            "hosts",
            Kind::List(&Kind::Text("a host")),
            Need::Optional,
            "Matches these hosts; required without `preset`. `*.` is exactly one label; `HOST:PORT` for another port than 443.",
        ),
        key(
            "methods",
            Kind::List(&Kind::Text("a method")),
            Need::Default(
                "[\"GET\", \"HEAD\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\", \"OPTIONS\"]",
            ),
            "Matches these methods. An `OPTIONS` request carries the credential only where `OPTIONS` is written here.",
        ),
        key(
            "paths",
            Kind::List(&Kind::Text("a path pattern")),
            Need::Default("[\"/**\"]"),
            "Matches these paths: `*` is anything within a segment, `**` any number of segments.",
        ),
        key(
            "agents",
            Kind::List(&Kind::Text("an agent's ID")),
            Need::Optional,
            "Matches these agents; left out, every agent.",
        ),
        key(
            "credential",
            Kind::Text("the NAME of a credential"),
            Need::Optional,
            "The `[credential.NAME]` that is injected; left out, the request goes on as it came.",
        ),
        key(
            "inject",
            Kind::Either(&[
                Kind::Choice(&["bearer", "sigv4"]),
                Kind::Table(&INJECT),
                Kind::List(&Kind::Either(&[
                    Kind::Choice(&["bearer", "sigv4"]),
                    Kind::Table(&INJECT),
                ])),
            ]),
            Need::Optional,
            "Where the credential goes: `\"bearer\"`, `\"sigv4\"` (an AWS signature), a table, or a list of them. Required with `credential`, unless `preset` gives it.",
        ),
        key(
            "peer-ids",
            Kind::List(&Kind::Text("a SPIFFE ID")),
            Need::Optional,
            "With a `spiffe` credential, required: who the upstream may be. It must prove one of these SPIFFE IDs (`*` is one segment of the path) to its trust domain's bundle; public roots and the host's name do not count.",
        ),
        key(
            "verify-name",
            Kind::Flag,
            Need::Default("false"),
            "With `peer-ids`: the peer's certificate must be for the host's name as well.",
        ),
        key(
            "scopes",
            Kind::List(&Kind::Text("a scope")),
            Need::Optional,
            "Narrows the lease to these scopes: a subset of the credential's. Routes that narrow differently have leases of their own.",
        ),
        key(
            "repositories",
            Kind::List(&Kind::Text("a repository's name")),
            Need::Optional,
            "Narrows a `github-app` credential to these repositories.",
        ),
        key(
            "permissions",
            Kind::Map(&Kind::Choice(&["read", "write", "admin"])),
            Need::Optional,
            "Narrows a `github-app` credential to these permissions.",
        ),
        key(
            "session-policy",
            Kind::Path,
            Need::Optional,
            "Narrows an `aws` credential by this policy, a JSON file.",
        ),
        key(
            "answer",
            Kind::Choice(&["token"]),
            Need::Optional,
            "keyward answers itself, and nothing goes upstream: `token`, a placeholder as a token endpoint would give it (for libraries that refresh by themselves).",
        ),
        key(
            "when",
            Kind::Table(&WHEN),
            Need::Optional,
            "A guard: outside these hours the request is refused, and no later route is tried.",
        ),
        key(
            "source",
            Kind::List(&Kind::Text("a network, such as \"10.0.0.0/8\"")),
            Need::Optional,
            "A guard: the networks that the agent may call from.",
        ),
        key(
            "approval",
            Kind::Text("the NAME of an [approval.NAME]"),
            Need::Optional,
            "Each request waits for people's yes: those of this `[approval.NAME]`. WebSockets are refused then.",
        ),
        key(
            "ranges",
            Kind::Flag,
            Need::Default("false"),
            "Passes `Range` on although a credential is injected: a slice can cut a secret so that nobody recognises it. Left out, the whole is asked for, and the slice is cut here.",
        ),
        key(
            "encoded-slash",
            Kind::Flag,
            Need::Default("false"),
            "Allows `%2F` in the path, as npm and GitLab write it.",
        ),
        key(
            "websocket",
            Kind::Flag,
            Need::Default("true"),
            "Allows WebSocket upgrades.",
        ),
        key(
            "minting",
            Kind::Flag,
            Need::Default("false"),
            "Allows the requests of the `preset` whose answer is a new credential (API keys, tokens), which are refused otherwise.",
        ),
    ],
};

/// A route, and where it stands.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) route: Route,
    pub(super) conditions: Conditions,
    /// `[[route]]`, or its name.
    pub(super) span: Span,
    /// `inject`, or what stands for it.
    pub(super) inject: Span,
    /// `peer-ids`.
    pub(super) peers: Span,
    /// What it narrows.
    pub(super) narrow: narrow::Places,
    /// Whether it names a credential, known or not.
    pub(super) names_credential: bool,
    /// Where clients of its preset refresh tokens by themselves.
    pub(super) token_endpoints: Vec<Route>,
}

/// The names that a route can refer to.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) credentials: Vec<&'a str>,
    pub(super) agents: Vec<&'a str>,
    pub(super) approvals: Vec<&'a str>,
    pub(super) presets: &'a dyn Presets,
}

/// One route, `index` from 0.
pub(super) fn read(reader: &Reader<'_, '_>, index: usize, known: &Known<'_>) -> Option<Written> {
    let mut preset = preset(reader, known);
    let credential = credential(reader, known);
    let placements = placements(reader, preset.as_ref().map(|(_, preset)| preset));
    let hosts = hosts::read(reader, preset.as_ref().map(|(_, preset)| preset));
    for (host, span) in &hosts {
        hosts::look_at(reader, host, span, reader.has("credential"));
    }
    let gives_encoded = preset
        .as_ref()
        .is_some_and(|(_, preset)| preset.encoded_slash);
    let mut conditions = condition::read(reader);
    conditions.approval = approval::named(reader, &known.approvals);
    if !reader.flag("minting") {
        conditions.minting = preset
            .as_ref()
            .and_then(|(_, preset)| preset.minting.clone());
    }
    let paths = match &preset {
        Some((_, preset)) if !reader.has("paths") => preset.paths.clone(),
        _ => reader.list_of::<PathPattern>("paths"),
    };
    let (narrow, narrowed) = narrow::read(reader);
    let answer = answer(reader);
    let endpoints = preset
        .as_mut()
        .filter(|_| reader.has("credential"))
        .map(|(_, preset)| std::mem::take(&mut preset.token_endpoints))
        .unwrap_or_default();
    let placeholder = preset
        .as_ref()
        .and_then(|(_, preset)| preset.placeholder.clone());
    let route = Route {
        name: name(reader, index)?,
        index,
        hosts: hosts.into_iter().map(|(host, _)| host).collect(),
        methods: methods(reader),
        paths,
        agents: agents(reader, known),
        slot: 0,
        ranges: reader.flag("ranges"),
        encoded_slash: if reader.has("encoded-slash") {
            reader.flag("encoded-slash")
        } else {
            gives_encoded
        },
        empty_segments: false, // known with the credential
        websocket: reader.flag("websocket"),
        placements: match credential {
            Some(_) => placements,
            None => Vec::new(),
        },
        credential,
        preset: preset.map(|(name, _)| name),
        narrow: Arc::new(narrow),
        answer,
        peers: spiffe::peers(reader).map(Arc::new),
    };
    let span = if reader.has("name") {
        reader.key_span("name")
    } else {
        reader.span.clone()
    };
    let answered = TokenAnswer::new(placeholder.as_deref().unwrap_or(PLACEHOLDER));
    let token_endpoints = endpoints
        .into_iter()
        .map(|at| route.token_endpoint(at.host, at.path, answered.clone()))
        .collect();
    Some(Written {
        token_endpoints,
        route,
        conditions,
        span,
        inject: reader.key_span("inject"),
        peers: reader.key_span("peer-ids"),
        narrow: narrowed,
        names_credential: reader.has("credential"),
    })
}

/// A route that answers by itself has nothing to inject.
fn answer(reader: &Reader<'_, '_>) -> Option<TokenAnswer> {
    reader.choice("answer")?;
    if reader.has("credential") {
        let message =
            "\"answer\" and \"credential\" in one route: what keyward answers itself is never sent";
        let help = "leave one of them out";
        reader
            .desk
            .fault_with(&reader.key_span("answer"), message, help);
    }
    Some(TokenAnswer::new(PLACEHOLDER))
}

fn name(reader: &Reader<'_, '_>, index: usize) -> Option<Arc<str>> {
    if !reader.has("name") {
        return Some(format!("route-{}", index + 1).into());
    }
    let (text, span) = reader.text("name")?;
    match text.parse::<Name>() {
        Ok(name) => Some(name.shared()),
        Err(error) => {
            let message = format!("{} is not a name", quoted(text));
            reader.desk.fault_with(&span, message, error);
            None
        }
    }
}

fn preset(reader: &Reader<'_, '_>, known: &Known<'_>) -> Option<(Name, PresetRoute)> {
    let (text, span) = reader.text("preset")?;
    if let Some((name, found)) = text.parse().ok().zip(known.presets.find(text)) {
        return Some((name, found));
    }
    let message = format!("no preset is called {}", quoted(text));
    let help = match nearest(text, known.presets.names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "name hosts and inject in its place".into(),
    };
    reader.desk.fault_with(&span, message, help);
    None
}

fn credential(reader: &Reader<'_, '_>, known: &Known<'_>) -> Option<Name> {
    let (text, span) = reader.text("credential")?;
    if known.credentials.contains(&text) {
        return text.parse().ok(); // a bad NAME was told where it is defined
    }
    let message = format!("no credential is called {}", quoted(text));
    let help = match nearest(text, known.credentials.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => defined("[credential.NAME]", &known.credentials),
    };
    reader.desk.fault_with(&span, message, help);
    None
}

/// What there is, or how to make it.
fn defined(what: &str, known: &[&str]) -> String {
    match known {
        [] => format!("the file has no {what}"),
        _ => format!("the file has: {}", known.join(", ")),
    }
}

fn agents(reader: &Reader<'_, '_>, known: &Known<'_>) -> Vec<Name> {
    let mut agents = Vec::new();
    for (text, span) in reader.texts("agents") {
        // Without any [agent.ID] the one agent is called `default`.
        let implied = known.agents.is_empty() && text == "default";
        if implied || known.agents.contains(&text) {
            agents.extend(text.parse::<Name>().ok());
            continue;
        }
        let message = format!("no agent is called {}", quoted(text));
        let help = match nearest(text, known.agents.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => defined("[agent.ID]", &known.agents),
        };
        reader.desk.fault_with(&span, message, help);
    }
    agents
}

/// The placements that are written, else those of the preset. Placements and credential need each other.
fn placements(reader: &Reader<'_, '_>, preset: Option<&PresetRoute>) -> Vec<Placement> {
    let names_credential = reader.has("credential");
    if reader.has("inject") && !names_credential {
        let message = "\"inject\" without \"credential\": there is nothing to inject";
        let help = "name the credential, or leave \"inject\" out";
        reader
            .desk
            .missing(&reader.key_span("inject"), message, help);
    }
    if reader.has("inject") {
        return placement::read(reader, "inject");
    }
    let given = preset
        .map(|preset| preset.placements.clone())
        .unwrap_or_default();
    // A preset that nobody knows was told already.
    let unknown = reader.has("preset") && preset.is_none();
    if names_credential && given.is_empty() && !unknown {
        let message = "the route does not say where its credential goes";
        let help = "add inject = \"bearer\", { header = \"x-api-key\" }, { basic = \"USER\" }, { query = \"key\" } or { cookie = \"sid\" }";
        reader
            .desk
            .missing(&reader.key_span("credential"), message, help);
    }
    given
}

fn methods(reader: &Reader<'_, '_>) -> Option<MethodSet> {
    let texts = reader.texts("methods");
    if texts.is_empty() {
        return None;
    }
    let mut clean = Vec::new();
    for (text, span) in texts {
        match MethodSet::parse([text]) {
            Ok(_) => clean.push(text),
            Err(error) => {
                let upper = text.to_ascii_uppercase();
                let message = match &error {
                    BadMethod::Never(_) => error.to_string(),
                    _ => format!("{}: {error}", quoted(text)),
                };
                if upper != text && MethodSet::parse([&*upper]).is_ok() {
                    let help = format!("did you mean \"{upper}\"?");
                    reader.desk.fault_with(&span, message, help);
                } else {
                    reader.desk.fault(&span, message);
                }
            }
        }
    }
    MethodSet::parse(clean).ok()
}

/// An agent's permissions name routes as `route:NAME`.
pub(super) fn look_at_permissions(reader: &Reader<'_, '_>, routes: &[&str]) {
    // What is no list of texts is told where the agent is read.
    let Some(DeValue::Array(items)) = reader.raw("permissions").map(Spanned::get_ref) else {
        return;
    };
    let texts = items
        .iter()
        .filter_map(|item| Some((item.get_ref().as_str()?, item.span())));
    for (text, span) in texts {
        let Some(name) = text.strip_prefix("route:") else {
            continue;
        };
        if !routes.contains(&name) {
            let message = format!("no route is called {}", quoted(name));
            let help = match nearest(name, routes.iter().copied()) {
                Some(near) => format!("did you mean \"route:{near}\"?"),
                None => {
                    "a route's name is its key \"name\", or route-N with its place from 1".into()
                }
            };
            reader.desk.fault_with(&span, message, help);
        }
    }
}
