//! `[credential.NAME.spiffe]`, and who the other side of a route may be.

use super::fault::{Desk, Named, Span};
use super::key::{Kind as K, Need, Section, key};
use super::reader::Reader;
use super::route::Written;
use super::source;
use super::text::quoted;
use super::trust;
use crate::credential::{CertificateSettings, Kind, Spec, SpiffeSettings, SvidSource};
use crate::issuer::spiffe::BundlePlace;
use crate::spiffe::{Peers, is_domain};

pub(super) static SPIFFE: Section = Section {
    title: "[credential.NAME.spiffe]",
    keys: &[
        key(
            "source",
            K::Table(&SOURCE),
            Need::Required,
            "Where the SVID comes from.",
        ),
        key(
            "spiffe-id",
            K::Text("a SPIFFE ID"),
            Need::Optional,
            "The ID that the SVID must have; `{agent}` stands for the id of the agent that calls, so that each has its own. Left out: the Workload API's default, or whatever is in the files.",
        ),
        key(
            "bundles",
            K::Map(&K::Table(&trust::BUNDLE)),
            Need::Optional,
            "`\"TRUST-DOMAIN\" = { … }`: what the peers of that domain are believed by. The Workload API brings those of its own domain and of federated ones; with files, every domain of `peer-ids` must be here.",
        ),
    ],
};

pub(super) static SOURCE: Section = Section {
    title: "source of [credential.NAME.spiffe]",
    keys: &[
        key(
            "workload-api",
            K::Text("a socket, \"unix:PATH\""),
            Need::OneOf,
            "The Workload API of the SPIFFE agent on this machine.",
        ),
        key(
            "cert",
            K::Path,
            Need::OneOf,
            "A file of the SVID in PEM, the leaf first, that another program rotates; with `key`.",
        ),
        key(
            "key",
            K::Source,
            Need::Optional,
            "With `cert`, required: its key in PEM.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let source = reader.table("source").and_then(|below| svid(&below));
    let id = reader.parsed("spiffe-id");
    let bundles = bundles(reader);
    if reader.has("spiffe-id") && id.is_none() {
        return None;
    }
    Some(Kind::Spiffe(Box::new(SpiffeSettings {
        source: source?,
        id,
        bundles,
    })))
}

fn svid(reader: &Reader<'_, '_>) -> Option<SvidSource> {
    if reader.has("workload-api") {
        if reader.has("key") {
            let message = "the Workload API brings the key with the SVID";
            let span = reader.key_span("key");
            reader.desk.fault_with(&span, message, "leave \"key\" out");
        }
        return Some(SvidSource::WorkloadApi(trust::socket(reader)?));
    }
    let cert = reader.path("cert")?;
    let span = reader.raw("cert")?.span();
    reader.desk.site(&span, Named::Certificates(cert.clone()));
    if !reader.has("key") {
        let message = "\"cert\" without \"key\": nothing proves an SVID but its key";
        let help = "add key = { file = \"svid.key\" }";
        reader.desk.missing(&reader.key_span("cert"), message, help);
    }
    let key = source::read(reader, "key")?;
    Some(SvidSource::Files(CertificateSettings { cert, key }))
}

fn bundles(reader: &Reader<'_, '_>) -> Vec<(String, BundlePlace)> {
    let mut found = Vec::new();
    for (domain, value) in reader.entries("bundles") {
        let span = domain.span();
        let title = format!("[credential.NAME.spiffe.bundles.\"{}\"]", domain.get_ref());
        let below = Reader::open_value(reader.desk, &trust::BUNDLE, title, span.clone(), value);
        let place = below.and_then(|below| trust::bundle(&below));
        if !is_domain(domain.get_ref()) {
            let message = format!("{} is no trust domain", quoted(domain.get_ref()));
            let help = "write it in lower case and without `spiffe://`, such as \"prod.example\"";
            reader.desk.fault_with(&span, message, help);
        }
        found.extend(place.map(|place| (domain.get_ref().to_string(), place)));
    }
    found
}

/// `peer-ids` and `verify-name` of a route.
pub(super) fn peers(reader: &Reader<'_, '_>) -> Option<Peers> {
    let ids = reader.list_of("peer-ids");
    let verify_name = reader.flag("verify-name");
    if reader.has("verify-name") && !reader.has("peer-ids") {
        let message = "\"verify-name\" without \"peer-ids\": names are always verified then";
        let span = reader.key_span("verify-name");
        reader.desk.fault_with(&span, message, "leave it out");
    }
    (!ids.is_empty()).then_some(Peers { ids, verify_name })
}

/// An SVID goes to peers that prove theirs, and peers are held to the bundles that come with an SVID.
pub(super) fn look_at(desk: &Desk, written: &Written, spec: Option<&Spec>) {
    let peers = written.route.peers.as_deref();
    let span: &Span = &written.peers;
    let Some(spec) = spec.filter(|spec| spec.kind.checks_peers()) else {
        if peers.is_some() {
            let message = "\"peer-ids\" needs a credential of the kind spiffe, which brings the bundles that peers are held to";
            let help = "write [credential.NAME.spiffe], and inject = \"client-certificate\"";
            desk.fault_with(span, message, help);
        }
        return;
    };
    let Some(peers) = peers else {
        let message = format!(
            "\"{}\" is an SVID, and the route does not say which workload it may be shown to",
            spec.name
        );
        let help = "add peer-ids = [\"spiffe://…\"]; for a server that is no workload, use the kind client-certificate";
        desk.missing(&written.inject, message, help);
        return;
    };
    let Kind::Spiffe(settings) = &spec.kind else {
        return;
    };
    if matches!(settings.source, SvidSource::Files(_)) {
        for domain in peers.domains() {
            if !settings.bundles.iter().any(|(known, _)| known == domain) {
                let message = format!(
                    "\"{}\" has no bundle of the trust domain \"{domain}\", so no peer of it can be believed",
                    spec.name
                );
                let help =
                    format!("add bundles = {{ \"{domain}\" = {{ file = \"bundle.pem\" }} }}");
                desk.fault_with(span, message, help);
            }
        }
    }
}
