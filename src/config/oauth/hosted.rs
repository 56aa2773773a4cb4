//! `[credential.NAME.github-app]` and `[credential.NAME.azure]`: issuers with ways of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::DeValue;

use super::super::key::{Key, Kind as K, Need, Section, key};
use super::super::reader::Reader;
use super::super::source;
use super::SCOPES;
use crate::credential::oauth::{Client, ClientAuth, Grant, Server, Settings};
use crate::credential::{AzureSettings, GithubAppSettings, Kind};
use crate::issuer::Endpoint;

pub(in super::super) const GITHUB_KEY: Key = key(
    "github-app",
    K::Table(&GITHUB),
    Need::OneOf,
    "An installation token of a GitHub App, cut to repositories and permissions.",
);

pub(in super::super) const AZURE_KEY: Key = key(
    "azure",
    K::Table(&AZURE),
    Need::OneOf,
    "A token of Microsoft Entra ID.",
);

static GITHUB: Section = Section {
    title: "[credential.NAME.github-app]",
    keys: &[
        key(
            "app-id",
            K::Text("the id of an App"),
            Need::Required,
            "The App's id, or its client id.",
        ),
        key(
            "installation-id",
            K::Count(1, i64::MAX as u64),
            Need::Required,
            "Where the App is installed.",
        ),
        key(
            "private-key",
            K::Source,
            Need::Required,
            "The App's private key, in PEM.",
        ),
        key(
            "api-url",
            K::Text("an https URL"),
            Need::Default("\"https://api.github.com\""),
            "The API; at GitHub Enterprise Server `https://HOST/api/v3`.",
        ),
        key(
            "repositories",
            K::List(&K::Text("the name of a repository")),
            Need::Optional,
            "The repositories, without their owner. Left out: all of the installation.",
        ),
        key(
            "permissions",
            K::Map(&K::Text("read, write or admin")),
            Need::Optional,
            "Name and level: `{ contents = \"write\" }`. Left out: all of the installation.",
        ),
    ],
};

static AZURE: Section = Section {
    title: "[credential.NAME.azure]",
    keys: &[
        key(
            "tenant",
            K::Text("a tenant"),
            Need::Optional,
            "The tenant, by id or name; required unless `login` is `managed-identity`.",
        ),
        key(
            "client-id",
            K::Text("the id of a client"),
            Need::Optional,
            "The client; required unless `login` is `managed-identity`, where it says which of the machine's identities.",
        ),
        key(
            "login",
            K::Either(&[K::Choice(&["managed-identity"]), K::Table(&LOGIN)]),
            Need::Required,
            "How keyward signs in: by a secret, by a foreign token, or as the machine that it runs on.",
        ),
        key(
            "authority",
            K::Text("an https URL"),
            Need::Default("\"https://login.microsoftonline.com\""),
            "Where tokens are issued.",
        ),
        key(
            "imds-url",
            K::Text("a URL"),
            Need::Default("\"http://169.254.169.254\""),
            "With `managed-identity`: the machine's metadata service.",
        ),
        SCOPES,
    ],
};

static LOGIN: Section = Section {
    title: "the login of azure",
    keys: &[
        key(
            "client-secret",
            K::Source,
            Need::OneOf,
            "The client's secret.",
        ),
        key(
            "federated",
            K::Source,
            Need::OneOf,
            "A token of another issuer that Entra ID trusts for this client; it is read again when it changes.",
        ),
    ],
};

pub(super) fn github(reader: &Reader<'_, '_>) -> Option<Kind> {
    let app = reader.plain_text("app-id").map(Arc::from);
    let installation = reader.count("installation-id");
    let key = source::read(reader, "private-key");
    let api: Option<Endpoint> = endpoint(reader, "api-url");
    let repositories = repositories(reader);
    let permissions = permissions(reader);
    let api = api?;
    let make = format!("app/installations/{installation}/access_tokens");
    Some(Kind::GithubApp(Box::new(GithubAppSettings {
        app: app?,
        key: key?,
        make: api.join(&make).ok()?,
        end: api.join("installation/token").ok()?,
        repositories,
        permissions,
    })))
}

fn repositories(reader: &Reader<'_, '_>) -> Vec<Arc<str>> {
    let mut found = Vec::new();
    for (text, span) in reader.texts("repositories") {
        let clean = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if text.is_empty() || !text.bytes().all(clean) {
            let help = "write its name alone: the owner is the installation's";
            let message = "this is not the name of a repository";
            reader.desk.fault_with(&span, message, help);
        } else {
            found.push(text.into());
        }
    }
    found.sort();
    found
}

fn permissions(reader: &Reader<'_, '_>) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut found = BTreeMap::new();
    for (name, value) in reader.entries("permissions") {
        match value.get_ref() {
            DeValue::String(level) if ["read", "write", "admin"].contains(&&**level) => {
                found.insert((**name.get_ref()).into(), (**level).into());
            }
            _ => {
                let message = "the level of a permission is \"read\", \"write\" or \"admin\"";
                reader.desk.fault(&value.span(), message);
            }
        }
    }
    found
}

pub(super) fn azure(reader: &Reader<'_, '_>) -> Option<Kind> {
    let scopes = super::scopes(reader);
    if !reader.has("scopes") {
        let message = format!("{} needs the key \"scopes\"", reader.title);
        let help = "for example: scopes = [\"https://graph.microsoft.com/.default\"]";
        reader.desk.missing(&reader.span, message, help);
    }
    let client = reader.plain_text("client-id").map(Arc::from);
    let login = reader.raw("login")?;
    if let DeValue::Table(_) = login.get_ref() {
        return signed_in(reader, client, scopes);
    }
    if reader.choice("login") != Some("managed-identity") {
        return None;
    }
    if let [_, _, ..] = *scopes {
        let message = "a managed identity gives a token for one resource at a time";
        let help = "write one scope, and a credential for each other";
        reader
            .desk
            .fault_with(&reader.key_span("scopes"), message, help);
    }
    let imds: Option<Endpoint> = endpoint(reader, "imds-url");
    Some(Kind::Azure(Box::new(AzureSettings::Machine {
        endpoint: imds?.join("metadata/identity/oauth2/token").ok()?,
        client,
        scopes,
    })))
}

fn signed_in(
    reader: &Reader<'_, '_>,
    client: Option<Arc<str>>,
    scopes: Vec<Arc<str>>,
) -> Option<Kind> {
    for name in ["tenant", "client-id"] {
        if !reader.has(name) {
            let message = format!("{} needs the key \"{name}\"", reader.title);
            let help = "without it only login = \"managed-identity\" works";
            reader.desk.missing(&reader.span, message, help);
        }
    }
    let title = "\"login\"".to_owned();
    let value = reader.raw("login")?;
    let login = Reader::open_value(reader.desk, &LOGIN, title, value.span(), value)?;
    let auth = match login.chosen()? {
        "federated" => ClientAuth::Assertion(source::read(&login, "federated")?),
        _ => ClientAuth::SecretPost(source::read(&login, "client-secret")?),
    };
    let authority: Option<Endpoint> = endpoint(reader, "authority");
    let (tenant, span) = reader.text("tenant")?;
    let clean = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    if tenant.is_empty() || !tenant.bytes().all(clean) {
        let message = "this is not the id or name of a tenant";
        reader.desk.fault(&span, message);
        return None;
    }
    let token = authority?.join(&format!("{tenant}/oauth2/v2.0/token"));
    Some(Kind::Azure(Box::new(AzureSettings::Client(Box::new(
        Settings {
            server: Server::Urls {
                token: token.ok()?,
                revocation: None,
            },
            client: Some(Client { id: client?, auth }),
            grant: Grant::ClientCredentials,
            scopes,
            audience: None,
            resource: Vec::new(),
            dpop: false,
        },
    )))))
}

/// A URL that has a default.
pub(super) fn endpoint(reader: &Reader<'_, '_>, name: &str) -> Option<Endpoint> {
    if reader.has(name) {
        return reader.parsed(name);
    }
    let Need::Default(text) = reader.key(name).need else {
        return None;
    };
    text.trim_matches('"').parse().ok()
}
