//! JWTs in which keyward names an agent to another issuer (RFC 7523 §3). They open nothing here: neither their type nor
//! their audience is that of a session token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;

use super::super::keys::{BadKey, Keys};
use super::super::random_id;
use super::AUDIENCE;
use crate::agent::AgentId;

/// How long such a JWT is good, in seconds.
const LIFE: i64 = 60;

/// Says to `audience`, an issuer's token URL, that `agent` is an agent of keyward's at `issuer`. `iat` is in Unix
/// seconds.
///
/// # Errors
/// [`BadKey`] where nothing can be signed, and for an audience that is keyward itself.
pub fn name_agent(
    keys: &Keys,
    agent: &AgentId,
    (issuer, audience): (&str, &str),
    iat: i64,
) -> Result<String, BadKey> {
    if audience == AUDIENCE {
        return Err(BadKey);
    }
    let key = keys.signing().ok_or(BadKey)?;
    let exp = iat.saturating_add(LIFE);
    let head = json!({ "typ": "JWT", "alg": "ES256", "kid": key.id() });
    let claims = json!({
        "iss": issuer,
        "aud": audience,
        "sub": agent.as_str(),
        "jti": &*random_id(),
        "iat": iat,
        "exp": exp,
    });
    let message = format!(
        "{}.{}",
        BASE64URL.encode(head.to_string()),
        BASE64URL.encode(claims.to_string())
    );
    let signature = key.sign(message.as_bytes(), exp.saturating_mul(1000))?;
    Ok(format!("{message}.{}", BASE64URL.encode(signature)))
}
