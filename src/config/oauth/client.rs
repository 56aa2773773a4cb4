//! `client-id`, `client-secret` and `client-auth`: who asks an issuer, and how it shows that.

use std::sync::Arc;

use toml::de::DeValue;

use super::super::key::{Key, Kind as K, Need, Section, key};
use super::super::reader::Reader;
use super::super::source;
use crate::credential::Source;
use crate::credential::oauth::{Algorithm, Client, ClientAuth, SigningKey};

pub(super) const ID: Key = key(
    "client-id",
    K::Text("the id of a client"),
    Need::Required,
    "The client that keyward is to the issuer.",
);
pub(super) const SECRET: Key = key(
    "client-secret",
    K::Source,
    Need::Optional,
    "The client's secret, required unless `client-auth` names a key.",
);
pub(in crate::config) const AUTH: Key = key(
    "client-auth",
    K::Either(&FORMS),
    Need::Default("\"client-secret-basic\""),
    "How the client shows that it is the one.",
);

static FORMS: [K; 2] = [
    K::Choice(&["client-secret-basic", "client-secret-post"]),
    K::Table(&CLIENT_AUTH),
];

static CLIENT_AUTH: Section = Section {
    title: "client-auth",
    keys: &[
        key(
            "private-key-jwt",
            K::Table(&PRIVATE_KEY_JWT),
            Need::OneOf,
            "By a JWT that it signs (RFC 7523 §2.2).",
        ),
        key(
            "tls-client-auth",
            K::Table(&TLS_CLIENT_AUTH),
            Need::OneOf,
            "By a certificate of a CA that the issuer trusts (RFC 8705 §2.1).",
        ),
        key(
            "self-signed-tls-client-auth",
            K::Table(&TLS_CLIENT_AUTH),
            Need::OneOf,
            "By a certificate that the issuer knows (RFC 8705 §2.2).",
        ),
    ],
};

static PRIVATE_KEY_JWT: Section = Section {
    title: "private-key-jwt",
    keys: &[
        KEY,
        ALG,
        KID,
        key(
            "aud",
            K::Text("an audience"),
            Need::Optional,
            "Whom the JWT is for; left out it is the issuer, else the token URL.",
        ),
    ],
};

static TLS_CLIENT_AUTH: Section = Section {
    title: "tls-client-auth",
    keys: &[
        key(
            "cert",
            K::Path,
            Need::Required,
            "The client's certificate and those that it needs, in PEM; read again when it changes.",
        ),
        key("key", K::Source, Need::Required, "Its private key, in PEM."),
    ],
};

pub(super) const KEY: Key = key(
    "key",
    K::Source,
    Need::Required,
    "The private key that signs, in PEM (PKCS#8).",
);
pub(super) const ALG: Key = key(
    "alg",
    K::Choice(Algorithm::WORDS),
    Need::Default("\"RS256\""),
    "The algorithm that it signs with.",
);
pub(super) const KID: Key = key(
    "kid",
    K::Text("the id of a key"),
    Need::Optional,
    "The key's id, as the issuer knows it.",
);

pub(in crate::config) fn read(reader: &Reader<'_, '_>) -> Option<Client> {
    let id = reader.plain_text("client-id");
    let auth = auth(reader);
    Some(Client {
        id: id?.into(),
        auth: auth?,
    })
}

fn auth(reader: &Reader<'_, '_>) -> Option<ClientAuth> {
    let Some(value) = reader.raw("client-auth") else {
        return secret(reader).map(ClientAuth::SecretBasic);
    };
    match value.get_ref() {
        DeValue::String(word) if word == "client-secret-basic" => {
            secret(reader).map(ClientAuth::SecretBasic)
        }
        DeValue::String(word) if word == "client-secret-post" => {
            secret(reader).map(ClientAuth::SecretPost)
        }
        DeValue::Table(_) => {
            if reader.has("client-secret") {
                let message = "\"client-secret\" is not used with this \"client-auth\"";
                let help = "a client shows one thing: leave one of them out";
                let span = reader.key_span("client-secret");
                reader.desk.fault_with(&span, message, help);
            }
            let title = "client-auth".to_owned();
            let below = Reader::open_value(reader.desk, &CLIENT_AUTH, title, value.span(), value)?;
            with_key(&below)
        }
        _ => {
            reader.wrong("client-auth", value);
            None
        }
    }
}

fn secret(reader: &Reader<'_, '_>) -> Option<Source> {
    if !reader.has("client-secret") {
        let message = format!("{} needs the key \"client-secret\"", reader.title);
        let help = "or client-auth = { private-key-jwt = { … } }, which needs none";
        reader.desk.missing(&reader.span, message, help);
    }
    source::read(reader, "client-secret")
}

fn with_key(reader: &Reader<'_, '_>) -> Option<ClientAuth> {
    let word = reader.chosen()?;
    let below = reader.table(word)?;
    if word == "private-key-jwt" {
        return Some(ClientAuth::PrivateKeyJwt {
            audience: below.plain_text("aud").map(Arc::from),
            key: signing_key(&below)?,
        });
    }
    let key = source::read(&below, "key");
    Some(ClientAuth::Tls {
        certificate: Source::File(below.path("cert")?),
        key: key?,
    })
}

/// `key`, `alg` and `kid`.
pub(super) fn signing_key(reader: &Reader<'_, '_>) -> Option<SigningKey> {
    let id = reader.plain_text("kid").map(Arc::from);
    let algorithm = reader.choice("alg").and_then(Algorithm::of);
    Some(SigningKey {
        pem: source::read(reader, "key")?,
        algorithm: algorithm.unwrap_or(Algorithm::Rs256),
        id,
    })
}
