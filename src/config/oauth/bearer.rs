//! `[credential.NAME.jwt-bearer]` (RFC 7523 §2.1).

use std::sync::Arc;

use super::super::key::{Kind as K, Need, Section, key};
use super::super::reader::Reader;
use super::super::source;
use super::hosted::endpoint;
use super::{SCOPES, client};
use crate::credential::Kind;
use crate::credential::oauth::{Assertion, Grant, Server, Settings, Workload};

pub(super) static BEARER: Section = Section {
    title: "[credential.NAME.jwt-bearer]",
    keys: &[
        key(
            "token-url",
            K::Text("an https URL"),
            Need::OneOf,
            "Where tokens are issued for a JWT of these claims: with `iss`, `sub` and `key`.",
        ),
        key(
            "service-account",
            K::Source,
            Need::OneOf,
            "Google's key file of a service account: issuer, key, key id and token URL stand in it.",
        ),
        key(
            "workload-identity",
            K::Table(&WORKLOAD),
            Need::OneOf,
            "Google's workload identity federation: a foreign token becomes a service account's.",
        ),
        key(
            "iss",
            K::Text("an issuer"),
            Need::Optional,
            "With `token-url`, required: who signs; at Salesforce the client's id.",
        ),
        key(
            "sub",
            K::Text("a subject"),
            Need::Optional,
            "With `token-url`: for whom the token is; left out it is `iss`.",
        ),
        key(
            "aud",
            K::Text("an audience"),
            Need::Optional,
            "With `token-url`: for whom the JWT is; left out it is the token URL.",
        ),
        key(
            "key",
            K::Source,
            Need::Optional,
            "With `token-url`, required: the private key that signs, in PEM (PKCS#8).",
        ),
        client::ALG,
        client::KID,
        key(
            "revocation-url",
            K::Text("an https URL"),
            Need::Optional,
            "With `token-url`: where tokens are revoked (RFC 7009). Left out, they are not.",
        ),
        SCOPES,
        key(
            "sts-url",
            K::Text("an https URL"),
            Need::Default("\"https://sts.googleapis.com/v1/token\""),
            "With `workload-identity`: where the foreign token is exchanged.",
        ),
        key(
            "iam-url",
            K::Text("an https URL"),
            Need::Default("\"https://iamcredentials.googleapis.com\""),
            "With `workload-identity`: where the service account's token is made.",
        ),
    ],
};

static WORKLOAD: Section = Section {
    title: "workload-identity",
    keys: &[
        key(
            "audience",
            K::Text("the name of a provider"),
            Need::Required,
            "The pool's provider: `//iam.googleapis.com/projects/…/providers/…`.",
        ),
        key(
            "subject-token",
            K::Source,
            Need::Required,
            "The foreign token, a JWT; it is read again when it changes.",
        ),
        key(
            "service-account",
            K::Text("the e-mail address of a service account"),
            Need::Required,
            "The service account whose token is made.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let kind = reader.chosen()?;
    let with: &[(&str, &[&str])] = &[
        (
            "token-url",
            &["iss", "sub", "aud", "key", "alg", "kid", "revocation-url"],
        ),
        ("workload-identity", &["sts-url", "iam-url"]),
    ];
    for (owner, names) in with {
        for name in *names {
            if *owner != kind && reader.has(name) {
                let message = format!("\"{name}\" belongs to \"{owner}\"");
                reader.desk.fault(&reader.key_span(name), message);
            }
        }
    }
    match kind {
        "token-url" => own(reader),
        "service-account" => {
            let file = source::read(reader, "service-account");
            let grant = file.map(Grant::ServiceAccount);
            super::settings(reader, Some(Server::InKeyFile), grant, None)
        }
        _ => workload(reader),
    }
}

fn own(reader: &Reader<'_, '_>) -> Option<Kind> {
    for name in ["iss", "key"] {
        if !reader.has(name) {
            let message = format!("\"token-url\" needs the key \"{name}\" beside it");
            reader
                .desk
                .missing(&reader.span, message, "it stands in the JWT, or signs it");
        }
    }
    let server = super::urls(reader);
    super::settings(reader, server, assertion(reader), None)
}

fn assertion(reader: &Reader<'_, '_>) -> Option<Grant> {
    let issuer: Option<Arc<str>> = reader.plain_text("iss").map(Arc::from);
    let subject = reader.plain_text("sub").map(Arc::from);
    let audience = reader.plain_text("aud").map(Arc::from);
    let key = client::signing_key(reader);
    let issuer = issuer?;
    Some(Grant::JwtBearer(Assertion {
        subject: subject.unwrap_or_else(|| Arc::clone(&issuer)),
        issuer,
        audience,
        key: key?,
    }))
}

fn workload(reader: &Reader<'_, '_>) -> Option<Kind> {
    let below = reader.table("workload-identity")?;
    let subject = source::read(&below, "subject-token");
    let audience = below.plain_text("audience").map(Arc::from);
    let account = account(&below);
    let sts = endpoint(reader, "sts-url")?;
    let iam = endpoint(reader, "iam-url")?;
    let path = format!(
        "v1/projects/-/serviceAccounts/{}:generateAccessToken",
        account?
    );
    let scopes = super::scopes(reader);
    if scopes.is_empty() && !reader.has("scopes") {
        let message = "\"workload-identity\" needs the key \"scopes\" beside it";
        let help = "for example: scopes = [\"https://www.googleapis.com/auth/cloud-platform\"]";
        reader.desk.missing(&reader.span, message, help);
    }
    Some(Kind::Oauth(Box::new(Settings {
        server: Server::Urls {
            token: sts,
            revocation: None,
        },
        client: None,
        grant: Grant::WorkloadIdentity(Workload {
            subject: subject?,
            generate: iam.join(&path).ok()?,
        }),
        scopes,
        audience,
        resource: Vec::new(),
        dpop: false,
    })))
}

/// An e-mail address stands in a path as it is.
fn account(reader: &Reader<'_, '_>) -> Option<String> {
    let (text, span) = reader.text("service-account")?;
    let clean = |b: u8| b.is_ascii_alphanumeric() || b"@.-_".contains(&b);
    if text.is_empty() || !text.bytes().all(clean) {
        let message = "this is not the e-mail address of a service account";
        reader.desk.fault(&span, message);
        return None;
    }
    Some(text.to_owned())
}
