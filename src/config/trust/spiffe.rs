//! `[trust.NAME.spiffe]`.

use std::path::PathBuf;

use super::{Read, endpoint, words};
use crate::config::fault::Named;
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::Reader;
use crate::config::values;
use crate::identity::{SpiffeSettings, TrustKind};
use crate::issuer::spiffe::BundlePlace;
use crate::spiffe::is_domain;

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
    let bundle = reader.table("bundle").and_then(|below| bundle(&below));
    let settings = SpiffeSettings {
        audience: words(reader, "audience"),
        trust_domain: domain?,
        bundle: bundle?,
    };
    Some((TrustKind::Spiffe(Box::new(settings)), None))
}

pub(super) fn domain(reader: &Reader<'_, '_>) -> Option<String> {
    reader.text("trust-domain").and_then(|(text, span)| {
        if !is_domain(text) {
            let message = "this is no trust domain";
            let help = "write it in lower case and without `spiffe://`, such as \"prod.example\"";
            reader.desk.fault_with(&span, message, help);
            return None;
        }
        Some(text.to_owned())
    })
}

/// A place where a trust domain's bundle is.
pub(in crate::config) fn bundle(reader: &Reader<'_, '_>) -> Option<BundlePlace> {
    if reader.has("endpoint") {
        return Some(BundlePlace::Endpoint(endpoint(reader, "endpoint")?));
    }
    if reader.has("workload-api") {
        return Some(BundlePlace::WorkloadApi(socket(reader)?));
    }
    let path = reader.path("file")?;
    let site = Named::Certificates(path.clone());
    reader.desk.site(&reader.raw("file")?.span(), site);
    Some(BundlePlace::File(path))
}

/// The unix socket of `workload-api`.
pub(in crate::config) fn socket(reader: &Reader<'_, '_>) -> Option<PathBuf> {
    let (text, span) = reader.text("workload-api")?;
    let Some(path) = text.strip_prefix("unix:") else {
        let message = "the Workload API is at a unix socket";
        let help = "such as \"unix:/run/spire/agent/public/api.sock\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    };
    // SPIFFE_ENDPOINT_SOCKET is often written with an empty authority.
    let path = path.strip_prefix("//").unwrap_or(path);
    values::path(reader.desk, path, &span)
}
