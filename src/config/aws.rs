//! `[credential.NAME.aws]`, and what a route that signs needs.

use toml::de::DeValue;

use super::fault::Desk;
use super::key::{Kind as K, Need, Section, key};
use super::reader::Reader;
use super::route::Written;
use super::source;
use super::text::quoted;
use crate::credential::{AwsSource, AwsSpec, Kind, Spec};
use crate::host::{HostMatch, HostPattern};
use crate::inject::{Placement, SigningScope};

pub(super) static AWS: Section = Section {
    title: "[credential.NAME.aws]",
    keys: &[
        key(
            "source",
            K::Either(&[K::Choice(&["default"]), K::Table(&SOURCES)]),
            Need::Default("\"default\""),
            "The keys that keyward starts from: the standard chain, or a table that names them.",
        ),
        key(
            "region",
            K::Text("a region, such as \"eu-central-1\""),
            Need::Required,
            "The region whose STS is called.",
        ),
    ],
};

pub(super) static SOURCES: Section = Section {
    title: "the keys of \"source\"",
    keys: &[key(
        "static",
        K::Table(&STATIC_KEYS),
        Need::OneOf,
        "Keys that somebody else rotates.",
    )],
};

static STATIC_KEYS: Section = Section {
    title: "the keys of \"static\"",
    keys: &[
        key(
            "access-key-id",
            K::Source,
            Need::Required,
            "Where the access key's id is read from.",
        ),
        key(
            "secret-access-key",
            K::Source,
            Need::Required,
            "Where the secret access key is read from.",
        ),
        key(
            "session-token",
            K::Source,
            Need::Optional,
            "Where the session token of keys that end is read from.",
        ),
    ],
};

pub(super) static SIGV4: Section = Section {
    title: "the signature \"sigv4\"",
    keys: &[
        key(
            "service",
            K::Text("a signing name, such as \"s3\""),
            Need::Optional,
            "The service by its signing name; left out, what the host's name says.",
        ),
        key(
            "region",
            K::Text("a region, such as \"eu-central-1\""),
            Need::Optional,
            "The region; left out, what the host's name says.",
        ),
    ],
};

/// The kind table.
pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let source = keys(reader);
    let region = word(reader, "region");
    Some(Kind::Aws(Box::new(AwsSpec {
        source: source?,
        region: region?,
    })))
}

fn keys(reader: &Reader<'_, '_>) -> Option<AwsSource> {
    let Some(value) = reader.raw("source") else {
        return Some(AwsSource::Default);
    };
    let DeValue::Table(_) = value.get_ref() else {
        if value.get_ref().as_str() == Some("default") {
            return Some(AwsSource::Default);
        }
        reader.wrong("source", value);
        return None;
    };
    let title = "the keys of \"source\"".into();
    let below = Reader::open_value(reader.desk, &SOURCES, title, value.span(), value)?;
    let keys = below.table(below.chosen()?)?;
    Some(AwsSource::Static {
        access_key_id: source::read(&keys, "access-key-id")?,
        secret_access_key: source::read(&keys, "secret-access-key")?,
        session_token: if keys.has("session-token") {
            Some(source::read(&keys, "session-token")?)
        } else {
            None
        },
    })
}

/// The placement `sigv4`, as a table.
pub(super) fn signature(reader: &Reader<'_, '_>) -> Option<Placement> {
    let below = reader.table("sigv4")?;
    let part = |name: &str| {
        if below.has(name) {
            word(&below, name).map(Some)
        } else {
            Some(None)
        }
    };
    let (service, region) = (part("service"), part("region"));
    Some(Placement::SigV4(SigningScope {
        service: service?,
        region: region?,
    }))
}

/// A service or a region: what stands in the scope of a signature, and in host names.
fn word(reader: &Reader<'_, '_>, name: &str) -> Option<Box<str>> {
    let (text, span) = reader.text(name)?;
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(fits) {
        let message = format!("{} is not a {name}", quoted(text));
        let help = "lower-case letters, digits and `-`, such as \"s3\" or \"eu-central-1\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(text.into())
}

/// Signatures and AWS keys need each other, and each host of the route needs a service and a region.
pub(super) fn look_at(desk: &Desk, written: &Written, spec: &Spec) {
    let route = &written.route;
    let has_keys = matches!(spec.kind, Kind::Aws(_));
    let scope = route
        .placements
        .iter()
        .find_map(|placement| match placement {
            Placement::SigV4(scope) => Some(scope),
            _ => None,
        });
    let span = &written.inject;
    let Some(scope) = scope else {
        if has_keys && !route.placements.is_empty() {
            let message = format!("\"{}\" brings AWS keys, which only sign", spec.name);
            desk.fault_with(span, message, "write inject = \"sigv4\"");
        }
        return;
    };
    if !has_keys {
        let message = format!(
            "inject = \"sigv4\" needs AWS keys, and \"{}\" brings none",
            spec.name
        );
        desk.fault_with(
            span,
            message,
            "a credential of the kind [credential.NAME.aws]",
        );
        return;
    }
    if route.placements.len() > 1 {
        let message =
            "a signature covers the whole request: nothing can be placed beside \"sigv4\"";
        desk.fault(span, message);
    }
    for HostPattern { kind, .. } in &route.hosts {
        let host = match kind {
            HostMatch::Exact(host) => host.to_string(),
            HostMatch::OneLabel(name) => format!("x.{name}"),
        };
        if scope.settle(&host).is_none() {
            let message = format!("nothing tells the service and region that {host} is signed for");
            let help = "write inject = { sigv4 = { service = \"s3\", region = \"eu-central-1\" } }";
            desk.fault_with(span, message, help);
            return;
        }
    }
}
