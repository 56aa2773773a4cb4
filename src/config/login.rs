//! `[login.NAME]`: whose tokens say who a person is.

use super::key::{Kind as K, Need, Section, key};
use super::oauth::client;
use super::reader::Reader;
use crate::agent::Name;
use crate::credential::Source;
use crate::credential::oauth::{Client, ClientAuth};
use crate::identity::Login as Settings;

pub(super) static LOGIN: Section = Section {
    title: "[login.NAME]",
    keys: &[key(
        "oidc",
        K::Table(&OIDC),
        Need::Required,
        "An OpenID issuer.",
    )],
};

static OIDC: Section = Section {
    title: "[login.NAME.oidc]",
    keys: &[
        key(
            "issuer",
            K::Text("a URL"),
            Need::Required,
            "The issuer: exactly what stands in `iss`. Its keys are found by OpenID discovery.",
        ),
        key(
            "client-id",
            K::Text("the id of a client"),
            Need::Required,
            "The client that keyward is to the issuer: a person's token must have it in `aud`.",
        ),
        key(
            "client-secret",
            K::Source,
            Need::Optional,
            "The client's secret, if it has one.",
        ),
        client::AUTH,
        key(
            "scopes",
            K::List(&K::Text("a scope")),
            Need::Default("[\"openid\"]"),
            "The scopes that a sign-in asks for. `offline_access` lets it be renewed.",
        ),
        key(
            "user-claim",
            K::Text("a claim's name"),
            Need::Default("\"sub\""),
            "The claim that names the person. Its value must never pass on to another person.",
        ),
    ],
};

/// `[login.NAME]`, with what keyward shows to the issuer as a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    /// Whose tokens count.
    pub settings: Settings,
    /// `client-id` with `client-secret` or `client-auth`; `None` is a public client.
    pub client: Option<Client>,
}

impl Login {
    /// Where its secret is read from.
    pub fn source(&self) -> Option<&Source> {
        match &self.client.as_ref()?.auth {
            ClientAuth::SecretBasic(one)
            | ClientAuth::SecretPost(one)
            | ClientAuth::Assertion(one)
            | ClientAuth::Tls { key: one, .. } => Some(one),
            ClientAuth::PrivateKeyJwt { key, .. } => Some(&key.pem),
        }
    }
}

/// Every table.
pub(super) fn all(reader: &Reader<'_, '_>) -> Vec<Login> {
    let mut logins: Vec<Login> = Vec::new();
    for (name, below) in reader.named("login") {
        let Some(oidc) = below.table("oidc") else {
            continue;
        };
        let Some(login) = read(&oidc, name) else {
            continue;
        };
        let same = |known: &&Login| known.settings.issuer == login.settings.issuer;
        if let Some(known) = logins.iter().find(same) {
            let message = format!(
                "[login.{}] has this issuer already: a token would be of two logins",
                known.settings.name
            );
            let help = "leave one of them out: a person is a login and a name";
            let span = oidc.key_span("issuer");
            oidc.desk.fault_with(&span, message, help);
        }
        logins.push(login);
    }
    logins
}

fn read(reader: &Reader<'_, '_>, name: Name) -> Option<Login> {
    let discovery = super::trust::endpoint(reader, "issuer");
    let with_secret = reader.has("client-secret") || reader.has("client-auth");
    let client = with_secret.then(|| client::read(reader));
    let scopes = if reader.has("scopes") {
        super::trust::words(reader, "scopes")
    } else {
        vec!["openid".to_owned()]
    };
    if !scopes.iter().any(|scope| scope == "openid") {
        let message = "\"scopes\" lacks \"openid\": no ID token would come of it";
        let help = "for example: scopes = [\"openid\", \"email\"]";
        let span = reader.key_span("scopes");
        reader.desk.fault_with(&span, message, help);
    }
    let user_claim = if reader.has("user-claim") {
        reader.plain_text("user-claim")
    } else {
        Some("sub".to_owned())
    };
    let client_id = reader.plain_text("client-id");
    let settings = Settings {
        name,
        issuer: reader.text("issuer")?.0.to_owned(),
        discovery: discovery?,
        client_id: client_id?,
        scopes,
        user_claim: user_claim?,
    };
    // `Some(None)`: its faults are told.
    let client = match client {
        None => None,
        Some(client) => Some(client?),
    };
    Some(Login { settings, client })
}
