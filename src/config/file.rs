//! The file as a whole: its sections, the names that connect them, and the configuration that comes of both.

use std::collections::HashSet;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use super::fault::{Desk, Span};
use super::key::{HOUR, Kind, Need, Section, key, secs};
use super::reader::Reader;
use super::{
    Admin, Config, Presets, Trust, admin, agent, approval, audit, ca, credential, lint, listener,
    login, narrow, preset, route, session, store, trust, upstream,
};
use crate::credential::{Source, Spec};
use crate::identity::AgentEntry;
use crate::inject::Placement;
use crate::policy::Conditions;
use crate::proxy::{ListenAddr, ListenerSettings, UpstreamSettings};
use crate::route::{Narrow, Route};

pub(super) static ROOT: Section = Section {
    title: "the top of the file",
    keys: &[
        key(
            "drain",
            Kind::Duration(secs(0), HOUR),
            Need::Default("\"30s\""),
            "How long requests under way may take to end when keyward stops. Stands above the first table.",
        ),
        key(
            "proxy",
            Kind::Table(&listener::LISTENER),
            Need::Optional,
            "The listener `default`.",
        ),
        key(
            "listener",
            Kind::Named(&listener::LISTENER),
            Need::Optional,
            "Other listeners, with the same keys. With one of these and without `[proxy]` there is no `default`.",
        ),
        key(
            "admin",
            Kind::Table(&admin::ADMIN),
            Need::Optional,
            "The operators' side; left out, there is none.",
        ),
        key(
            "ca",
            Kind::Table(&ca::CA),
            Need::Optional,
            "The root that agents trust.",
        ),
        key(
            "audit",
            Kind::Table(&audit::AUDIT),
            Need::Optional,
            "Where records go.",
        ),
        key(
            "store",
            Kind::Table(&store::STORE),
            Need::Optional,
            "What outlasts the process; left out, nothing does.",
        ),
        key(
            "upstream",
            Kind::Table(&upstream::UPSTREAM),
            Need::Optional,
            "Whom keyward trusts, and how it gets there.",
        ),
        key(
            "agent",
            Kind::Named(&agent::AGENT),
            Need::Optional,
            "The registry of agents.",
        ),
        key(
            "trust",
            Kind::Named(&trust::TRUST),
            Need::Optional,
            "Who else proves to be an agent; asked in the file's order, tokens of `[agent.ID]` last.",
        ),
        key(
            "login",
            Kind::Named(&login::LOGIN),
            Need::Optional,
            "Whose tokens say for which person an agent acts.",
        ),
        key(
            "approval",
            Kind::Named(&approval::APPROVAL),
            Need::Optional,
            "Whom an agent has to ask.",
        ),
        key(
            "session",
            Kind::Table(&session::SESSION),
            Need::Optional,
            "How long sessions live, and how far they may be handed on.",
        ),
        key(
            "credential",
            Kind::Named(&credential::CREDENTIAL),
            Need::Optional,
            "The credentials; exactly one kind table below each.",
        ),
        key(
            "preset",
            Kind::Named(&preset::PRESET),
            Need::Optional,
            "Services of your own, or in place of known ones, for `preset` of routes.",
        ),
        key(
            "route",
            Kind::Rows(&route::ROUTE),
            Need::Optional,
            "The routes: the first one that matches host, method, path and agent decides.",
        ),
    ],
};

/// Reads the whole file; it `is_whole` where the parser lost nothing. The configuration holds only if the desk has no
/// fault afterwards.
pub(super) fn read(
    desk: &Desk,
    root: &DeTable<'_>,
    presets: &dyn Presets,
    is_whole: bool,
) -> Config {
    let reader = Reader::open(desk, &ROOT, "the file".into(), 0..0, root);
    let mut credentials = credentials(&reader);
    for (spec, span) in &credentials {
        if spec.kind.needs_store() && !reader.has("store") {
            let message = format!("\"{}\" needs a [store] that lasts", spec.name);
            let help = "each refresh token is good once: the next one must outlive a restart";
            desk.fault_with(span, message, help);
        }
    }
    let own = preset::Own::read(&reader, presets);
    let mut routes = routes(&reader, &own);
    assign_slots(desk, &mut routes, &mut credentials);
    let agents = agents(&reader, &routes);
    let trust = trust::all(&reader, &agents);
    let listeners = listeners(&reader, agents.len());
    let admin = reader
        .table("admin")
        .map(|below| (admin::read(&below), below.span));
    let parts = Parts {
        listeners,
        admin,
        agents,
        trust,
        credentials,
        routes,
        services: own.into_services(),
    };
    if is_whole && !desk.has_faults() {
        lint::look(desk, &parts);
    }
    resolve(&reader, parts)
}

/// What was read, each with its place.
#[derive(Debug)]
pub(super) struct Parts {
    /// Without a span: the listener that nobody wrote.
    pub(super) listeners: Vec<(ListenerSettings, Option<Span>)>,
    pub(super) admin: Option<(Admin, Span)>,
    pub(super) agents: Vec<((AgentEntry, Option<Source>), Span)>,
    pub(super) trust: Vec<Trust>,
    pub(super) credentials: Vec<(Spec, Span)>,
    pub(super) routes: Vec<route::Written>,
    pub(super) services: Vec<crate::preset::Preset>,
}

fn resolve(reader: &Reader<'_, '_>, parts: Parts) -> Config {
    let mut after = Vec::new();
    let (mut routes, mut conditions): (Vec<Route>, Vec<Conditions>) = parts
        .routes
        .into_iter()
        .map(|written| {
            let guards = Conditions {
                minting: None,
                ..written.conditions.clone()
            };
            let endpoints = written.token_endpoints.into_iter();
            after.extend(endpoints.map(|endpoint| (endpoint, guards.clone())));
            (written.route, written.conditions)
        })
        .unzip();
    // Behind what is written: a route of the file for such a host is the one that is meant.
    for (mut endpoint, guards) in after {
        endpoint.index = routes.len();
        routes.push(endpoint);
        conditions.push(guards);
    }
    let upstream = reader.table("upstream");
    let approvals = named_below(reader, "approval");
    let people = approval::People {
        operators: parts
            .admin
            .iter()
            .flat_map(|(admin, _)| admin.tokens.iter().map(|(name, _)| name.as_str()))
            .collect(),
        logins: named_below(reader, "login"),
    };
    Config {
        approvals: approval::all(reader, &people),
        listeners: parts
            .listeners
            .into_iter()
            .map(|(listener, _)| listener)
            .collect(),
        admin: parts.admin.map(|(admin, _)| admin).unwrap_or_default(),
        ca: reader
            .table("ca")
            .map(|below| ca::read(&below))
            .unwrap_or_default(),
        store: reader
            .table("store")
            .map(|below| store::read(&below))
            .unwrap_or_default(),
        audit: reader.table("audit").map(|below| audit::read(&below)),
        upstream: upstream.map_or_else(UpstreamSettings::default, |below| upstream::read(&below)),
        agents: parts.agents.into_iter().map(|(agent, _)| agent).collect(),
        trust: parts.trust,
        logins: login::all(reader),
        credentials: parts
            .credentials
            .into_iter()
            .map(|(spec, _)| spec)
            .collect(),
        routes,
        conditions,
        services: parts.services,
        session: reader
            .table("session")
            .map(|below| session::read(&below, &approvals))
            .unwrap_or_default(),
        drain: reader.duration("drain"),
    }
}

fn agents(
    reader: &Reader<'_, '_>,
    routes: &[route::Written],
) -> Vec<((AgentEntry, Option<Source>), Span)> {
    let routes: Vec<&str> = routes.iter().map(|written| &*written.route.name).collect();
    let named = reader.named("agent").into_iter();
    named
        .map(|(id, below)| {
            route::look_at_permissions(&below, &routes);
            (agent::read(&below, id), below.span)
        })
        .collect()
}

fn credentials(reader: &Reader<'_, '_>) -> Vec<(Spec, Span)> {
    let named = reader.named("credential").into_iter();
    named
        .filter_map(|(name, below)| Some((credential::read(&below, name)?, below.span)))
        .collect()
}

fn routes(reader: &Reader<'_, '_>, presets: &dyn Presets) -> Vec<route::Written> {
    let known = route::Known {
        credentials: named_below(reader, "credential"),
        agents: named_below(reader, "agent"),
        approvals: named_below(reader, "approval"),
        presets,
    };
    let mut found = Vec::new();
    let mut taken = HashSet::new();
    for (index, below) in reader.rows("route").iter().enumerate() {
        let Some(written) = route::read(below, index, &known) else {
            continue;
        };
        if !taken.insert(written.route.name.clone()) {
            let message = format!("another route is called \"{}\"", written.route.name);
            let help = "audit, metrics and policy tell routes apart by name; one without a name is route-N";
            reader.desk.fault_with(&written.span, message, help);
        }
        found.push(written);
    }
    found
}

/// The NAMEs of `[KEY.NAME]`.
fn named_below<'a>(reader: &Reader<'a, '_>, key: &str) -> Vec<&'a str> {
    if !is_table(reader, key) {
        return Vec::new();
    }
    let entries = reader.entries(key).into_iter();
    entries.map(|(name, _)| &**name.get_ref()).collect()
}

/// Something else than a table is told once, where the section itself is read.
fn is_table(reader: &Reader<'_, '_>, name: &str) -> bool {
    matches!(
        reader.raw(name).map(Spanned::get_ref),
        Some(toml::de::DeValue::Table(_))
    )
}

/// Gives each distinct placement list of a credential a slot, in the order of the routes.
fn assign_slots(desk: &Desk, routes: &mut [route::Written], credentials: &mut [(Spec, Span)]) {
    let mut known_narrows: Vec<Arc<Narrow>> = Vec::new();
    for written in routes {
        let route = &mut written.route;
        // What is equal is one: the broker then need not compare.
        match known_narrows.iter().find(|known| **known == route.narrow) {
            Some(known) => route.narrow = Arc::clone(known),
            None => known_narrows.push(Arc::clone(&route.narrow)),
        }
        let of_route = |spec: &&mut (Spec, Span)| Some(&spec.0.name) == route.credential.as_ref();
        let Some((spec, _)) = credentials.iter_mut().find(of_route) else {
            // A credential that is not there was told already.
            if route.credential.is_none() && !written.names_credential {
                narrow::look(desk, &written.narrow, None);
                super::spiffe::look_at(desk, written, None);
            }
            continue;
        };
        narrow::look(desk, &written.narrow, Some(spec));
        let asks_user = |p: &Placement| matches!(p, Placement::Basic { user } if user.is_empty());
        if !spec.kind.brings_user() && route.placements.iter().any(asks_user) {
            let message = format!(
                "inject = {{ basic = \"\" }} needs a user name, and \"{}\" brings none",
                spec.name
            );
            desk.fault_with(
                &written.inject,
                message,
                "write the user name: inject = { basic = \"USER\" }",
            );
        }
        let bearer = route.placements.iter().all(|p| *p == Placement::Bearer);
        if spec.kind.is_bound() && !bearer {
            let message = format!(
                "the tokens of \"{}\" are bound by DPoP, and go as bearer only",
                spec.name
            );
            let help = "write inject = \"bearer\", or leave out `dpop`";
            desk.fault_with(&written.inject, message, help);
        }
        let is_certificate = |p: &Placement| *p == Placement::ClientCertificate;
        let brings = spec.kind.brings_certificate();
        if route.placements.iter().any(|p| is_certificate(p) != brings) {
            let name = &spec.name;
            let (message, help) = if brings {
                (
                    format!("\"{name}\" is a certificate, which goes into the TLS handshake"),
                    "write inject = \"client-certificate\", and nothing beside it",
                )
            } else {
                (
                    format!("\"{name}\" brings no certificate"),
                    "name a credential of the kind client-certificate or spiffe, or a vault without \"field\"",
                )
            };
            desk.fault_with(&written.inject, message, help);
        }
        super::aws::look_at(desk, written, spec);
        super::spiffe::look_at(desk, written, Some(spec));
        let route = &mut written.route;
        route.empty_segments = super::aws::is_s3(route);
        let known = spec.slots.iter().position(|slot| *slot == route.placements);
        route.slot = known.unwrap_or_else(|| {
            spec.slots.push(route.placements.clone());
            spec.slots.len() - 1
        });
    }
}

fn listeners(reader: &Reader<'_, '_>, agents: usize) -> Vec<(ListenerSettings, Option<Span>)> {
    let proxy = reader
        .table("proxy")
        .map(|below| (listener::default_name(), below));
    let mut found: Vec<(ListenerSettings, Option<Span>)> = Vec::new();
    for (name, below) in proxy.into_iter().chain(reader.named("listener")) {
        if *name.as_str() == *listener::default_name().as_str() && !found.is_empty() {
            let message = "the listener \"default\" is [proxy]";
            reader.desk.fault(&below.span, message);
            continue;
        }
        let settings = listener::read(&below, name, agents);
        look_at_addresses(reader.desk, &settings, &below.span, &found);
        found.push((settings, Some(below.span)));
    }
    if found.is_empty() {
        found.push((listener::unwritten(), None));
    }
    found
}

fn look_at_addresses(
    desk: &Desk,
    new: &ListenerSettings,
    span: &Span,
    others: &[(ListenerSettings, Option<Span>)],
) {
    for addr in &new.listen {
        let picks =
            matches!(addr, ListenAddr::Tcp(addr) | ListenAddr::Tls(addr) if addr.port() == 0);
        let taken = |(other, _): &&(ListenerSettings, _)| other.listen.contains(addr);
        if let Some((other, _)) = others.iter().find(taken).filter(|_| !picks) {
            let message = format!(
                "the listener \"{}\" has an address of \"{}\"",
                new.name, other.name
            );
            desk.fault_with(span, message, "each listener has addresses of its own");
        }
    }
}
