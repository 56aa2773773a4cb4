//! `[credential.NAME.token-exchange]` (RFC 8693).

use std::sync::Arc;

use toml::de::DeValue;

use super::super::key::{Kind as K, Need, Section, key};
use super::super::reader::Reader;
use super::super::source;
use super::{AUDIENCE, DPOP, ISSUER, RESOURCE, REVOCATION_URL, SCOPES, TOKEN_URL, client};
use crate::credential::Kind;
use crate::credential::oauth::{Exchange, Grant, Party};

pub(super) static EXCHANGE: Section = Section {
    title: "[credential.NAME.token-exchange]",
    keys: &[
        ISSUER,
        TOKEN_URL,
        REVOCATION_URL,
        client::ID,
        client::SECRET,
        client::AUTH,
        key(
            "subject-token",
            K::Either(&[K::Choice(&["user", "agent"]), K::Table(&TOKEN)]),
            Need::Required,
            "For whom the token is: the user that the session was bound with, the agent by a JWT that keyward signs, or whoever a source says.",
        ),
        key(
            "subject-token-type",
            K::Choice(&[
                "access_token",
                "refresh_token",
                "id_token",
                "saml1",
                "saml2",
                "jwt",
            ]),
            Need::Optional,
            "What the subject token is (RFC 8693 §3). Left out: what the user's is, `access_token` or `id_token`; else `jwt`.",
        ),
        key(
            "actor-token",
            K::Either(&[K::Choice(&["agent"]), K::Table(&TOKEN)]),
            Need::Optional,
            "Who acts: the agent by a JWT that keyward signs, or whoever a source says.",
        ),
        SCOPES,
        AUDIENCE,
        RESOURCE,
        DPOP,
    ],
};

static TOKEN: Section = Section {
    title: "a token to exchange",
    keys: &[key(
        "source",
        K::Source,
        Need::Required,
        "Where the token is read from; it is read again when it changes.",
    )],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let server = super::server(reader);
    let client = client::read(reader);
    super::settings(reader, server, exchange(reader), Some(client))
}

fn exchange(reader: &Reader<'_, '_>) -> Option<Grant> {
    let subject = party(reader, "subject-token", &["user", "agent"]);
    let subject_type = reader.choice("subject-token-type").map(Arc::from);
    let actor = if reader.has("actor-token") {
        Some(party(reader, "actor-token", &["agent"])?)
    } else {
        None
    };
    Some(Grant::TokenExchange(Exchange {
        subject: subject?,
        subject_type,
        actor,
    }))
}

fn party(reader: &Reader<'_, '_>, name: &str, words: &[&str]) -> Option<Party> {
    let value = reader.raw(name)?;
    match value.get_ref() {
        DeValue::String(word) if words.contains(&&**word) => Some(if word == "user" {
            Party::User
        } else {
            Party::Agent
        }),
        DeValue::Table(_) => {
            let title = format!("\"{name}\"");
            let below = Reader::open_value(reader.desk, &TOKEN, title, value.span(), value)?;
            source::read(&below, "source").map(Party::Source)
        }
        _ => {
            let message = format!(
                "\"{name}\" is neither {} nor a source",
                super::super::text::any_of(words)
            );
            let help = format!("for example: {name} = {{ source = {{ file = \"PATH\" }} }}");
            reader.desk.fault_with(&value.span(), message, help);
            None
        }
    }
}
