//! The kinds of credentials that OAuth issuers give: `[credential.NAME.oauth-client-credentials]` and its kin.

mod bearer;
pub(super) mod client;
mod exchange;
mod hosted;

use std::sync::Arc;

use super::credential::Kinds;
use super::key::{Key, Kind as K, Need, Section, key};
use super::reader::Reader;
use crate::credential::Kind;
use crate::credential::oauth::{Client, Grant, Server, Settings};

/// The kinds, as `[credential.NAME]` lists them.
pub(super) const KINDS: Kinds = &[
    ("oauth-client-credentials", client_credentials),
    ("token-exchange", exchange::read),
    ("jwt-bearer", bearer::read),
    ("oauth-refresh-token", refresh_token),
    ("github-app", hosted::github),
    ("azure", hosted::azure),
];

pub(super) const CLIENT_CREDENTIALS_KEY: Key = key(
    "oauth-client-credentials",
    K::Table(&CLIENT_CREDENTIALS),
    Need::OneOf,
    "A token of an OAuth issuer for keyward as a client (RFC 6749 §4.4).",
);
pub(super) const EXCHANGE_KEY: Key = key(
    "token-exchange",
    K::Table(&exchange::EXCHANGE),
    Need::OneOf,
    "A token in exchange for the user's or the agent's (RFC 8693).",
);
pub(super) const BEARER_KEY: Key = key(
    "jwt-bearer",
    K::Table(&bearer::BEARER),
    Need::OneOf,
    "A token in exchange for a JWT (RFC 7523 §2.1): Google's service accounts and workload identities, Salesforce.",
);

pub(super) const REFRESH_KEY: Key = key(
    "oauth-refresh-token",
    K::Table(&REFRESH),
    Need::OneOf,
    "A token by a refresh token that is kept, and replaced at each use (RFC 6749 §6). Needs a `[store]` that lasts.",
);
pub(super) use hosted::{AZURE_KEY, GITHUB_KEY};

static REFRESH: Section = Section {
    title: "[credential.NAME.oauth-refresh-token]",
    keys: &[
        ISSUER,
        TOKEN_URL,
        REVOCATION_URL,
        client::ID,
        client::SECRET,
        client::AUTH,
        key(
            "refresh-token",
            K::Source,
            Need::Required,
            "The first refresh token; each later one lives in the store. Another one here begins anew.",
        ),
        SCOPES,
        AUDIENCE,
        RESOURCE,
        DPOP,
    ],
};

static CLIENT_CREDENTIALS: Section = Section {
    title: "[credential.NAME.oauth-client-credentials]",
    keys: &[
        ISSUER,
        TOKEN_URL,
        REVOCATION_URL,
        client::ID,
        client::SECRET,
        client::AUTH,
        SCOPES,
        AUDIENCE,
        RESOURCE,
        DPOP,
    ],
};

const ISSUER: Key = key(
    "issuer",
    K::Text("an https URL"),
    Need::OneOf,
    "The issuer: its metadata (RFC 8414) say where tokens are issued and revoked.",
);
const TOKEN_URL: Key = key(
    "token-url",
    K::Text("an https URL"),
    Need::OneOf,
    "Where tokens are issued.",
);
const REVOCATION_URL: Key = key(
    "revocation-url",
    K::Text("an https URL"),
    Need::Optional,
    "With `token-url`: where tokens are revoked (RFC 7009). Left out, they are not.",
);
const SCOPES: Key = key(
    "scopes",
    K::List(&K::Text("a scope")),
    Need::Optional,
    "The scopes to ask for.",
);
const AUDIENCE: Key = key(
    "audience",
    K::Text("an audience"),
    Need::Optional,
    "Whom the token is for, in the issuer's words.",
);
const RESOURCE: Key = key(
    "resource",
    K::List(&K::Text("an absolute URI")),
    Need::Optional,
    "Where the token is used (RFC 8707).",
);
const DPOP: Key = key(
    "dpop",
    K::Flag,
    Need::Default("false"),
    "Binds each token to a key of its lease (RFC 9449): `inject = \"bearer\"` then sends `DPoP TOKEN` and a proof.",
);

fn client_credentials(reader: &Reader<'_, '_>) -> Option<Kind> {
    let server = server(reader);
    let client = client::read(reader);
    settings(reader, server, Some(Grant::ClientCredentials), Some(client))
}

fn refresh_token(reader: &Reader<'_, '_>) -> Option<Kind> {
    let server = server(reader);
    let client = client::read(reader);
    let first = super::source::read(reader, "refresh-token");
    settings(reader, server, first.map(Grant::Refresh), Some(client))
}

/// What all grants say beside themselves. A client that must be named and is not is `Some(None)`.
#[expect(
    clippy::option_option,
    reason = "a client that is not due, and one that has a fault"
)]
fn settings(
    reader: &Reader<'_, '_>,
    server: Option<Server>,
    grant: Option<Grant>,
    client: Option<Option<Client>>,
) -> Option<Kind> {
    let text = |name| {
        reader
            .section
            .find(name)
            .and_then(|_| reader.plain_text(name))
    };
    let (scopes, resource) = (scopes(reader), resources(reader));
    Some(Kind::Oauth(Box::new(Settings {
        server: server?,
        client: match client {
            Some(client) => Some(client?),
            None => None,
        },
        grant: grant?,
        scopes,
        audience: text("audience").map(Arc::from),
        resource,
        dpop: reader.section.find("dpop").is_some() && reader.flag("dpop"),
    })))
}

/// `issuer`, or the URLs.
fn server(reader: &Reader<'_, '_>) -> Option<Server> {
    if reader.chosen()? == "issuer" {
        if reader.has("revocation-url") {
            let message = "\"revocation-url\" belongs to \"token-url\"";
            let help = "with \"issuer\" the issuer's metadata name it";
            let span = reader.key_span("revocation-url");
            reader.desk.fault_with(&span, message, help);
        }
        return reader.parsed("issuer").map(Server::Issuer);
    }
    urls(reader)
}

fn urls(reader: &Reader<'_, '_>) -> Option<Server> {
    Some(Server::Urls {
        token: reader.parsed("token-url")?,
        revocation: if reader.has("revocation-url") {
            Some(reader.parsed("revocation-url")?)
        } else {
            None
        },
    })
}

/// `scopes`: each a scope-token of RFC 6749 §3.3, each once.
fn scopes(reader: &Reader<'_, '_>) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    for (text, span) in reader.texts("scopes") {
        let legal = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if text.is_empty() || !text.bytes().all(legal) {
            let help = "write each scope as an item of its own, without blanks and quotes";
            reader.desk.fault_with(&span, "this is not a scope", help);
        } else if !found.iter().any(|had| **had == *text) {
            found.push(text.into());
        }
    }
    found
}

/// `resource`: absolute URIs without a fragment (RFC 8707 §2).
fn resources(reader: &Reader<'_, '_>) -> Vec<Arc<str>> {
    if reader.section.find("resource").is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (text, span) in reader.texts("resource") {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let named = scheme.is_some_and(|scheme| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        });
        let visible = text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
        if named && visible {
            found.push(text.into());
        } else {
            let message = "a resource is an absolute URI without a fragment";
            reader.desk.fault(&span, message);
        }
    }
    found
}
