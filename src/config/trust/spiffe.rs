//! `[trust.NAME.spiffe]`.

use super::{Read, endpoint, words};
use crate::config::fault::Named;
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::Reader;
use crate::config::values;
use crate::identity::{BundlePlace, SpiffeSettings, TrustKind, is_trust_domain};

pub(in crate::config) static SPIFFE: Section = Section {
    title: "[trust.NAME.spiffe]",
    keys: &[
        key(
            "trust-domain",
            K::Text("a trust domain, such as \"prod.example\""),
            Need::Required,
            "The trust domain; SVIDs of others are not this table's.",
        ),
        key(
            "bundle",
            K::Table(&BUNDLE),
            Need::Required,
            "What the trust domain is believed by.",
        ),
        key(
            "audience",
            K::List(&K::Text("an audience")),
            Need::Optional,
            "JWT-SVIDs must be made for one of these. Left out: X.509-SVIDs only.",
        ),
    ],
};

pub(in crate::config) static BUNDLE: Section = Section {
    title: "bundle of [trust.NAME.spiffe]",
    keys: &[
        key(
            "file",
            K::Path,
            Need::OneOf,
            "A file of PEM roots, or a SPIFFE JWK set; read again when it changes.",
        ),
        key(
            "endpoint",
            K::Text("a URL"),
            Need::OneOf,
            "A bundle endpoint (profile `https_web`): a SPIFFE JWK set.",
        ),
        key(
            "workload-api",
            K::Text("a socket, \"unix:PATH\""),
            Need::OneOf,
            "The Workload API of the SPIFFE agent on this machine.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    let domain = domain(reader);
    let bundle = bundle(reader);
    let settings = SpiffeSettings {
        audience: words(reader, "audience"),
        trust_domain: domain?,
        bundle: bundle?,
    };
    Some((TrustKind::Spiffe(Box::new(settings)), None))
}

pub(super) fn domain(reader: &Reader<'_, '_>) -> Option<String> {
    reader.text("trust-domain").and_then(|(text, span)| {
        if !is_trust_domain(text) {
            let message = "this is no trust domain";
            let help = "write it in lower case and without `spiffe://`, such as \"prod.example\"";
            reader.desk.fault_with(&span, message, help);
            return None;
        }
        Some(text.to_owned())
    })
}

pub(super) fn bundle(reader: &Reader<'_, '_>) -> Option<BundlePlace> {
    reader.table("bundle").and_then(|below| {
        if below.has("endpoint") {
            return Some(BundlePlace::Endpoint(endpoint(&below, "endpoint")?));
        }
        if below.has("workload-api") {
            return workload(&below);
        }
        let path = below.path("file")?;
        let site = Named::Certificates(path.clone());
        below.desk.site(&below.raw("file")?.span(), site);
        Some(BundlePlace::File(path))
    })
}

fn workload(reader: &Reader<'_, '_>) -> Option<BundlePlace> {
    let (text, span) = reader.text("workload-api")?;
    let Some(path) = text.strip_prefix("unix:") else {
        let message = "the Workload API is at a unix socket";
        let help = "such as \"unix:/run/spire/agent/public/api.sock\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    };
    // SPIFFE_ENDPOINT_SOCKET is often written with an empty authority.
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(BundlePlace::WorkloadApi(values::path(
        reader.desk,
        path,
        &span,
    )?))
}
