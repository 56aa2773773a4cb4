//! `[credential.NAME.aws]`, and what a route that signs needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::fault::{Desk, Named};
use super::key::{Kind as K, Need, Section, key, secs};
use super::reader::Reader;
use super::route::Written;
use super::source;
use super::text::quoted;
use crate::credential::{AwsSource, AwsSpec, Kind, Spec};
use crate::host::{HostMatch, HostPattern};
use crate::inject::{Placement, SigningScope};
use crate::route::Route;

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
            "role-arn",
            K::Text("an ARN, such as \"arn:aws:iam::123456789012:role/agent\""),
            Need::Optional,
            "The role that is assumed; left out, the source's own keys sign.",
        ),
        key(
            "region",
            K::Text("a region, such as \"eu-central-1\""),
            Need::Required,
            "The region whose STS is called.",
        ),
        key(
            "sts-url",
            K::Text("a URL"),
            Need::Optional,
            "The STS; left out, that of the region.",
        ),
        key(
            "duration",
            K::Duration(secs(900), secs(12 * 3600)),
            Need::Default("\"15m\""),
            "How long the role's keys are good.",
        ),
        key(
            "session-policy",
            K::Path,
            Need::Optional,
            "A file with a policy that narrows the role; read again when it changes.",
        ),
        key(
            "tags",
            K::Map(&K::Text("a value")),
            Need::Optional,
            "Tags of the role's session; `{agent}` and `{user}` stand for who they are.",
        ),
    ],
};

pub(super) static SOURCES: Section = Section {
    title: "the keys of \"source\"",
    keys: &[
        key(
            "web-identity",
            K::Source,
            Need::OneOf,
            "A token that STS takes for `role-arn` (OpenID Connect), read anew for each call.",
        ),
        key(
            "static",
            K::Table(&STATIC_KEYS),
            Need::OneOf,
            "Keys that somebody else rotates.",
        ),
    ],
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
    let role = reader.has("role-arn").then(|| role(reader));
    let sts = match &region {
        _ if reader.has("sts-url") => reader.parsed("sts-url"),
        Some(region) => {
            let end = if region.starts_with("cn-") { ".cn" } else { "" };
            let url = format!("https://sts.{region}.amazonaws.com{end}");
            url.parse().ok()
        }
        None => None,
    };
    let policy = reader.has("session-policy").then(|| policy(reader));
    let tags = tags(reader);
    let duration = reader.duration("duration");
    let needs_role = |name: &str| {
        let message = format!("\"{name}\" needs a \"role-arn\"");
        let help = "only a role's session has a life, a policy and tags of its own";
        reader
            .desk
            .fault_with(&reader.key_span(name), message, help);
    };
    if role.is_none() {
        for name in ["session-policy", "tags", "duration"] {
            if reader.has(name) {
                needs_role(name);
            }
        }
        if matches!(source, Some(AwsSource::WebIdentity(_))) {
            needs_role("source");
        }
    }
    if !tags.is_empty() && matches!(source, Some(AwsSource::WebIdentity(_))) {
        let message = "a web identity brings its own tags: \"tags\" cannot be given";
        reader.desk.fault(&reader.key_span("tags"), message);
    }
    Some(Kind::Aws(Box::new(AwsSpec {
        source: source?,
        region: region?,
        role: match role {
            Some(role) => Some(role?),
            None => None,
        },
        sts: sts?,
        duration,
        policy: match policy {
            Some(policy) => Some(policy?),
            None => None,
        },
        tags,
    })))
}

fn role(reader: &Reader<'_, '_>) -> Option<Box<str>> {
    let (text, span) = reader.text("role-arn")?;
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_role = matches!(parts[..], ["arn", _, "iam", "", account, role]
        if account.len() == 12 && role.starts_with("role/"));
    if !is_role || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("{} is not the ARN of a role", quoted(text));
        let help = "for example \"arn:aws:iam::123456789012:role/agent\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(text.into())
}

fn policy(reader: &Reader<'_, '_>) -> Option<PathBuf> {
    let path = reader.path("session-policy")?;
    let span = reader.raw("session-policy")?.span();
    reader.desk.site(&span, Named::Certificates(path.clone()));
    Some(path)
}

/// The most tags that a session takes.
const MOST_TAGS: usize = 50;

fn tags(reader: &Reader<'_, '_>) -> BTreeMap<Box<str>, Box<str>> {
    let mut tags = BTreeMap::new();
    for (key, value) in reader.entries("tags") {
        let name: &str = key.get_ref();
        let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        match value.get_ref().as_str() {
            Some(text) if plain(name) && name.len() <= 128 && plain(text) => {
                tags.insert(name.into(), text.into());
            }
            _ => {
                let message = format!("the tag {} is not a text that a tag can be", quoted(name));
                reader.desk.fault(&value.span(), message);
            }
        }
    }
    if tags.len() > MOST_TAGS {
        let message = format!("a session has at most {MOST_TAGS} tags");
        reader.desk.fault(&reader.key_span("tags"), message);
    }
    tags
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
    let chosen = below.chosen()?;
    if chosen == "web-identity" {
        return source::read(&below, chosen).map(AwsSource::WebIdentity);
    }
    let keys = below.table(chosen)?;
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

/// Whether every request of the route is signed for S3.
pub(super) fn is_s3(route: &Route) -> bool {
    let mut scopes = route
        .placements
        .iter()
        .filter_map(|placement| match placement {
            Placement::SigV4(scope) => Some(scope),
            _ => None,
        });
    scopes.next().is_some_and(|scope| {
        let mut hosts = route.hosts.iter();
        hosts.all(|pattern| scope.is_s3(&example(pattern)))
    })
}

/// A host that the pattern means.
fn example(HostPattern { kind, .. }: &HostPattern) -> String {
    match kind {
        HostMatch::Exact(host) => host.to_string(),
        HostMatch::OneLabel(name) => format!("x.{name}"),
    }
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
    let own_policy = matches!(&spec.kind, Kind::Aws(aws) if aws.policy.is_some());
    if own_policy && route.narrow.session_policy.is_some() {
        let message = format!("\"{}\" has a session policy already", spec.name);
        desk.fault_with(
            span,
            message,
            "a session has one policy: write it in the routes only",
        );
    }
    if scope.service.as_deref() == Some("s3express") {
        let message = "the sessions of S3 Express are signed in a way of their own, which keyward does not know";
        desk.fault_with(span, message, "use a general purpose bucket");
        return;
    }
    for pattern in &route.hosts {
        let host = example(pattern);
        if scope.settle(&host).is_none() {
            let message = format!("nothing tells the service and region that {host} is signed for");
            let help = "write inject = { sigv4 = { service = \"s3\", region = \"eu-central-1\" } }";
            desk.fault_with(span, message, help);
            return;
        }
    }
}
