//! What a provider says of itself (OpenID Connect Discovery 1.0, RFC 8414), as far as signing people in needs it.

use serde::Deserialize;

use crate::issuer::{Answer, Endpoint};

/// The endpoints of one provider.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) authorization: Endpoint,
    pub(super) token: Endpoint,
    /// RFC 8628 §4.
    pub(super) device: Option<Endpoint>,
    /// RFC 7009.
    pub(super) revocation: Option<Endpoint>,
    /// `authorization_response_iss_parameter_supported` (RFC 9207 §3).
    pub(super) says_issuer: bool,
}

#[derive(Deserialize)]
struct Raw {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    mtls_endpoint_aliases: Aliases,
}

#[derive(Deserialize, Default)]
struct Aliases {
    #[serde(rename = "token_endpoint")]
    token: Option<String>,
    #[serde(rename = "device_authorization_endpoint")]
    device: Option<String>,
    #[serde(rename = "revocation_endpoint")]
    revocation: Option<String>,
}

impl Metadata {
    /// Reads the document of `issuer`; `mutual` picks the endpoints for clients with a certificate (RFC 8705 §5).
    pub(super) fn read(answer: &Answer, issuer: &str, mutual: bool) -> Result<Self, &'static str> {
        let raw: Raw = answer.json().map_err(|_| "they are not JSON")?;
        // OpenID Connect Discovery 1.0 §4.3: else one provider could hand out the endpoints of another.
        if raw.issuer != issuer {
            return Err("they are of another issuer");
        }
        let aliases = raw.mtls_endpoint_aliases;
        let pick = |alias: Option<String>, own: Option<String>| alias.filter(|_| mutual).or(own);
        let parse = |text: String| {
            text.parse::<Endpoint>()
                .map_err(|_| "they name an endpoint that may not be called")
        };
        let need = |text: Option<String>, why| text.ok_or(why).and_then(parse);
        Ok(Self {
            issuer: raw.issuer,
            authorization: need(
                raw.authorization_endpoint,
                "they name no authorization endpoint",
            )?,
            token: need(
                pick(aliases.token, raw.token_endpoint),
                "they name no token endpoint",
            )?,
            device: pick(aliases.device, raw.device_authorization_endpoint)
                .map(parse)
                .transpose()?,
            revocation: pick(aliases.revocation, raw.revocation_endpoint)
                .map(parse)
                .transpose()?,
            says_issuer: raw.authorization_response_iss_parameter_supported,
        })
    }
}
