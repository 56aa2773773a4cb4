//! `[trust.NAME.jwt]`.

use toml::de::DeValue;

use super::{Read, endpoint, words};
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::{self, Reader};
use crate::identity::{Algorithm, JwtSettings, TrustKind};

pub(in crate::config) static JWT: Section = Section {
    title: "[trust.NAME.jwt]",
    keys: &[
        key(
            "issuer",
            K::Text("a URL"),
            Need::Required,
            "The issuer: exactly what stands in `iss`. Its keys are found by OpenID discovery.",
        ),
        key(
            "jwks-url",
            K::Text("a URL"),
            Need::Optional,
            "Where the keys are, in place of discovery.",
        ),
        key(
            "audience",
            K::List(&K::Text("an audience")),
            Need::Required,
            "`aud` must hold one of these.",
        ),
        key(
            "algorithms",
            K::List(&K::Choice(&[
                "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
                "EdDSA",
            ])),
            Need::Default("[\"RS256\", \"PS256\", \"ES256\", \"ES384\", \"EdDSA\"]"),
            "Algorithms that are accepted; each key verifies those of its own type only.",
        ),
        key(
            "claims",
            K::Map(&K::Either(&[
                K::Text("a text"),
                K::List(&K::Text("a text")),
            ])),
            Need::Optional,
            "Claims that must be there, each with its text or, as a list, one of several.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    let discovery = endpoint(reader, "issuer");
    let jwks = endpoint(reader, "jwks-url");
    let audience = words(reader, "audience");
    let claims = claims(reader);
    let algorithms = if reader.has("algorithms") {
        reader.list_of("algorithms")
    } else {
        use Algorithm as A;
        vec![A::Rs256, A::Ps256, A::Es256, A::Es384, A::EdDsa]
    };
    let settings = JwtSettings {
        issuer: reader.text("issuer")?.0.to_owned(),
        discovery: discovery?,
        jwks,
        audience,
        algorithms,
        claims,
    };
    Some((TrustKind::Jwt(Box::new(settings)), None))
}

/// `NAME = "text"` or `NAME = ["one", "of these"]`.
pub(super) fn claims(reader: &Reader<'_, '_>) -> Vec<(String, Vec<String>)> {
    let mut claims = Vec::new();
    for (key, value) in reader.entries("claims") {
        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            _ => None,
        };
        let texts: Option<Vec<String>> = match value.get_ref() {
            DeValue::Array(items) if !items.is_empty() => {
                items.iter().map(|item| text(item.get_ref())).collect()
            }
            other => text(other).map(|text| vec![text]),
        };
        if let Some(texts) = texts {
            claims.push((key.get_ref().to_string(), texts));
        } else {
            let message = format!(
                "a claim must be a text or a list of texts, not {}",
                reader::article(value.get_ref())
            );
            let help = "other claims than texts cannot be asked for";
            reader.desk.fault_with(&value.span(), message, help);
        }
    }
    claims
}
