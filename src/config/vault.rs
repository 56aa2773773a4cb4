//! `[credential.NAME.vault]`: where the Vault is, who keyward is to it, and what is read.

use super::fault::Span;
use super::key::{Kind as K, Need, Section, key};
use super::reader::Reader;
use super::source;
use crate::credential::{Kind, VaultLogin, VaultRead, VaultSettings};
use crate::issuer::Endpoint;

pub(super) static VAULT: Section = Section {
    title: "[credential.NAME.vault]",
    keys: &[
        key(
            "url",
            K::Text("a URL such as https://vault.example.com:8200"),
            Need::Required,
            "Where its API is, without `/v1`: https, or http to a loopback host. Name the active node or what leads to it: redirects are not followed.",
        ),
        key(
            "namespace",
            K::Text("the name of a namespace"),
            Need::Optional,
            "The namespace of login and secret.",
        ),
        key(
            "login",
            K::Table(&LOGIN),
            Need::Required,
            "Who keyward is to the Vault.",
        ),
        key(
            "kv",
            K::Table(&KV),
            Need::OneOf,
            "One field of a KV v2 secret; read again every five minutes.",
        ),
        key(
            "path",
            K::Text("a path such as database/creds/readonly"),
            Need::OneOf,
            "Any dynamic engine: what is issued at this path. Its lease is revoked.",
        ),
        key(
            "field",
            K::Text("the name of a field"),
            Need::Optional,
            "With `path`: the field that is the secret. Left out: the answer is a certificate and its key, for `inject = \"client-certificate\"`.",
        ),
        key(
            "user-field",
            K::Text("the name of a field"),
            Need::Optional,
            "With `path` and `field`: the field that fills the empty user of `inject = { basic = \"\" }`.",
        ),
        key(
            "data",
            K::Map(&K::Text("text")),
            Need::Optional,
            "With `path`: the call is a POST with these members.",
        ),
    ],
};

pub(super) static LOGIN: Section = Section {
    title: "the login of a vault",
    keys: &[
        key("approle", K::Table(&APPROLE), Need::OneOf, "By AppRole."),
        key(
            "jwt",
            K::Table(&JWT),
            Need::OneOf,
            "By a JWT that somebody else signs.",
        ),
        key(
            "kubernetes",
            K::Table(&KUBERNETES),
            Need::OneOf,
            "By the token of a Kubernetes service account.",
        ),
        key(
            "token",
            K::Source,
            Need::OneOf,
            "A token, used as it is: whoever made it renews it.",
        ),
    ],
};

pub(super) static APPROLE: Section = Section {
    title: "the login approle",
    keys: &[
        key(
            "role-id",
            K::Text("a role id"),
            Need::Required,
            "The role's id, which is no secret.",
        ),
        key(
            "secret-id",
            K::Source,
            Need::Required,
            "The secret id, or with `wrapped` the wrapping token that it comes in.",
        ),
        key(
            "wrapped",
            K::Flag,
            Need::Default("false"),
            "`secret-id` is a wrapping token: it is unwrapped once.",
        ),
        key(
            "mount",
            K::Text("a path"),
            Need::Default("\"approle\""),
            "Where the method is mounted below `auth/`.",
        ),
    ],
};

const ROLE: super::key::Key = key(
    "role",
    K::Text("the name of a role"),
    Need::Required,
    "The role to log in as.",
);

const TOKEN: super::key::Key = key(
    "token",
    K::Source,
    Need::Required,
    "The JWT; a file that somebody renews is read again when it changes.",
);

pub(super) static JWT: Section = Section {
    title: "the login jwt",
    keys: &[
        key(
            "mount",
            K::Text("a path"),
            Need::Default("\"jwt\""),
            "Where the method is mounted below `auth/`.",
        ),
        ROLE,
        TOKEN,
    ],
};

pub(super) static KUBERNETES: Section = Section {
    title: "the login kubernetes",
    keys: &[
        key(
            "mount",
            K::Text("a path"),
            Need::Default("\"kubernetes\""),
            "Where the method is mounted below `auth/`.",
        ),
        ROLE,
        TOKEN,
    ],
};

pub(super) static KV: Section = Section {
    title: "the KV secret of a vault",
    keys: &[
        key(
            "mount",
            K::Text("a path"),
            Need::Default("\"secret\""),
            "Where the KV v2 engine is mounted.",
        ),
        key(
            "path",
            K::Text("a path"),
            Need::Required,
            "The secret's path below the mount, without `data/`.",
        ),
        key(
            "field",
            K::Text("the name of a field"),
            Need::Required,
            "The field that is the secret.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let url = url(reader);
    let namespace = reader
        .has("namespace")
        .then(|| api_path(reader, "namespace"));
    let login = reader.table("login").and_then(|below| login(&below));
    let read = what(reader);
    Some(Kind::Vault(Box::new(VaultSettings {
        url: url?,
        namespace: match namespace {
            Some(name) => Some(name?),
            None => None,
        },
        login: login?,
        read: read?,
    })))
}

fn url(reader: &Reader<'_, '_>) -> Option<Endpoint> {
    let (text, span) = reader.text("url")?;
    let url: Endpoint = super::values::parse(reader.desk, text, &span)?;
    if url.uri().query().is_some() {
        reader.desk.fault(&span, "the URL of a Vault has no query");
        return None;
    }
    if url.uri().path().trim_end_matches('/').ends_with("/v1") {
        let help = "keyward writes /v1 itself";
        let message = "the URL of a Vault ends before /v1";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(url)
}

fn login(reader: &Reader<'_, '_>) -> Option<VaultLogin> {
    let how = reader.chosen()?;
    if how == "token" {
        return source::read(reader, "token").map(VaultLogin::Token);
    }
    let below = reader.table(how)?;
    let mount = mount(&below, how);
    if how == "approle" {
        let (role_id, secret_id) = (
            below.plain_text("role-id"),
            source::read(&below, "secret-id"),
        );
        return Some(VaultLogin::AppRole {
            mount: mount?,
            role_id: role_id?,
            secret_id: secret_id?,
            wrapped: below.flag("wrapped"),
        });
    }
    let (role, token) = (below.plain_text("role"), source::read(&below, "token"));
    Some(VaultLogin::Jwt {
        mount: mount?,
        role: role?,
        token: token?,
    })
}

fn mount(reader: &Reader<'_, '_>, default: &str) -> Option<String> {
    if reader.has("mount") {
        api_path(reader, "mount")
    } else {
        Some(default.to_owned())
    }
}

fn what(reader: &Reader<'_, '_>) -> Option<VaultRead> {
    if reader.chosen()? == "kv" {
        for name in ["field", "user-field", "data"] {
            if reader.has(name) {
                let message = format!("\"{name}\" belongs to \"path\"");
                let help = "the field of a KV secret stands in its own table: kv = { mount = \"secret\", path = \"…\", field = \"…\" }";
                reader
                    .desk
                    .fault_with(&reader.key_span(name), message, help);
            }
        }
        let kv = reader.table("kv")?;
        let (mount, path) = (mount(&kv, "secret"), api_path(&kv, "path"));
        return Some(VaultRead::Kv {
            field: kv.plain_text("field")?,
            mount: mount?,
            path: path?,
        });
    }
    let named = |name: &str| {
        let given = reader.has(name).then(|| reader.plain_text(name));
        given.map_or(Some(None), |text| text.map(Some))
    };
    let (path, field, user_field) = (
        api_path(reader, "path"),
        named("field"),
        named("user-field"),
    );
    let data = reader.has("data").then(|| data(reader));
    if reader.has("user-field") && !reader.has("field") {
        let message = "\"user-field\" needs \"field\", the password";
        reader.desk.fault(&reader.key_span("user-field"), message);
    }
    Some(VaultRead::Engine {
        path: path?,
        field: field?,
        user_field: user_field?,
        data,
    })
}

fn data(reader: &Reader<'_, '_>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, value) in reader.entries("data") {
        match value.get_ref() {
            toml::de::DeValue::String(text) => {
                pairs.push((name.get_ref().to_string(), text.to_string()));
            }
            other => {
                let article = super::reader::article(other);
                let message = format!("a member of \"data\" is a text, not {article}");
                reader.desk.fault(&value.span(), message);
            }
        }
    }
    pairs
}

/// A path of the API without the slashes around it; nothing in it climbs, or ends it early.
fn api_path(reader: &Reader<'_, '_>, name: &str) -> Option<String> {
    let (text, span) = reader.text(name)?;
    let path = text.trim_matches('/');
    let fault = |span: &Span, message: String, help: &str| {
        reader.desk.fault_with(span, message, help);
        None
    };
    let part = |part: &str| part.is_empty() || part == "." || part == "..";
    let clean = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\');
    if path.is_empty() || path.split('/').any(part) || !path.bytes().all(clean) {
        let message = format!("\"{name}\" is not a path of the API");
        let help =
            "write its parts with single slashes between them, such as database/creds/readonly";
        return fault(&span, message, help);
    }
    if path.starts_with("v1/") {
        let message = format!("\"{name}\" begins after /v1/");
        return fault(&span, message, "leave v1/ out");
    }
    Some(path.to_owned())
}
