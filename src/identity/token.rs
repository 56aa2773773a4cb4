//! Static proxy tokens: `http://ANY:TOKEN@host:port`, or `Proxy-Authorization: Bearer TOKEN` (RFC 9110 §11.7, RFC 7617).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use zeroize::Zeroizing;

use super::jwt::verified;
use super::{AttestError, Attested, Evidence, TokenType, TrustProvider};
use crate::agent::AgentId;
use crate::secret::Secret;

/// The longest credential that is looked at, in bytes; a JWT fits.
const MAX_PRESENTED: usize = 16 * 1024;

/// What an agent presented: the token, whatever scheme carried it.
#[derive(Debug)]
pub struct Presented {
    token: Secret,
    digest: [u8; 32],
}

impl Presented {
    /// A token that came another way than in `Proxy-Authorization`, and is one.
    ///
    /// # Errors
    /// [`AttestError::Bad`] for one that is empty, too long, or not of visible ASCII.
    pub fn of(token: &[u8]) -> Result<Self, AttestError> {
        let visible = token.iter().all(|b| (0x21..0x7f).contains(b));
        if token.is_empty() || token.len() > MAX_PRESENTED || !visible {
            return Err(AttestError::Bad);
        }
        Ok(Self::new(Secret::new(token.to_vec())))
    }

    /// A token of our own making.
    pub fn new(token: Secret) -> Self {
        let digest = sha256(&token);
        Self { token, digest }
    }

    /// Its SHA-256: what it is looked up by.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What evidence is known by once it was revoked, where this is a JWT: the SHA-256 of the part that was signed.
    pub fn stem(&self) -> [u8; 32] {
        verified::stem(self.token.expose())
    }

    /// Whether it can be a JWT in compact form (RFC 7515 §7.1): two dots, and a head that begins as JSON does.
    pub fn is_jwt(&self) -> bool {
        let token = self.token.expose();
        token.starts_with(b"eyJ") && token.split(|b| *b == b'.').count() == 3
    }

    /// The token. `Secret` still: it is the agent's own credential (asset S4).
    pub fn token(&self) -> &Secret {
        &self.token
    }
}

/// Reads `Proxy-Authorization`. `Ok(None)`: there is none. Of two fields neither the first nor the last wins.
///
/// # Errors
/// [`AttestError::Bad`] for two fields, another scheme, or anything malformed.
pub fn presented(headers: &HeaderMap) -> Result<Option<Presented>, AttestError> {
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() || field.len() > MAX_PRESENTED {
        return Err(AttestError::Bad);
    }
    let text = field.to_str().map_err(|_| AttestError::Bad)?;
    let (scheme, rest) = text.split_once(' ').ok_or(AttestError::Bad)?;
    let rest = rest.trim_matches(' ');
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        rest.as_bytes().to_vec()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = BASE64.decode(rest).map_err(|_| AttestError::Bad)?;
        let colon = pair
            .iter()
            .position(|b| *b == b':')
            .ok_or(AttestError::Bad)?;
        pair.get(colon + 1..).unwrap_or_default().to_vec()
    } else {
        return Err(AttestError::Bad);
    };
    Presented::of(&Zeroizing::new(token)).map(Some)
}

/// The tokens of `[agent.ID]` entries, kept as SHA-256 digests: looking one up tells nothing by its timing but whether
/// the digest is there.
#[derive(Debug, Default)]
pub struct StaticTokens(ArcSwap<HashMap<[u8; 32], AgentId>>);

impl StaticTokens {
    /// Tokens and whose they are.
    pub fn new<'a>(tokens: impl IntoIterator<Item = (&'a Secret, AgentId)>) -> Self {
        let tokens_by_digest = Self::default();
        tokens_by_digest.replace(tokens);
        tokens_by_digest
    }

    /// Whose the token is.
    pub fn whose(&self, token: &Secret) -> Option<AgentId> {
        self.0.load().get(&sha256(token)).cloned()
    }

    /// Puts another set in place: a token file changed.
    pub fn replace<'a>(&self, tokens: impl IntoIterator<Item = (&'a Secret, AgentId)>) {
        self.0.store(Arc::new(
            tokens
                .into_iter()
                .map(|(token, agent)| (sha256(token), agent))
                .collect(),
        ));
    }
}

fn sha256(token: &Secret) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token.expose()).as_ref());
    out
}

#[async_trait]
impl TrustProvider for StaticTokens {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let any = evidence.presented_as == TokenType::Any;
        let Some(presented) = evidence.presented.filter(|_| any) else {
            return Ok(None);
        };
        let agent = self.0.load().get(presented.digest()).cloned();
        Ok(agent.map(|agent| Attested::new(agent, "token".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                PROXY_AUTHORIZATION,
                http::HeaderValue::from_bytes(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn both_schemes_carry_the_token() {
        for value in [
            &b"Bearer tok-123"[..],
            b"bearer tok-123",
            b"Basic YW55OnRvay0xMjM=",
            b"basic OnRvay0xMjM=",
        ] {
            let found = presented(&fields(&[value])).unwrap().unwrap();
            assert!(found.token().equals(b"tok-123"), "{value:?}");
        }
        assert!(presented(&fields(&[])).unwrap().is_none());
    }

    #[test]
    fn a_token_is_taken_as_it_stands() {
        // A colon in it, and what another program would decode once more.
        let pair = BASE64.encode("any:a:b%41&amp;");
        let found = presented(&fields(&[format!("BASIC  {pair} ").as_bytes()]));
        assert!(found.unwrap().unwrap().token().equals(b"a:b%41&amp;"));
        let long = |length: usize| format!("Bearer {}", "a".repeat(length));
        assert!(presented(&fields(&[long(16_000).as_bytes()])).is_ok());
        let too_long = presented(&fields(&[long(17_000).as_bytes()]));
        assert_eq!(too_long.unwrap_err(), AttestError::Bad);
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        for values in [
            &[&b"Bearer a"[..], b"Basic OmE="][..],
            &[b"Bearer a", b"Bearer a"],
            &[b"Bearer"],
            &[b"Basic !!!"],
            &[b"Basic bm9jb2xvbg=="],
            &[b"Digest x"],
            &[b"Bearer a\xffb"],
            &[b"Bearer a b"],
            &[b"Basic YW55Og=="],
            // Other blanks, other alphabets, no padding, two lists in one field, and what is no visible ASCII below.
            &[b"Bearer\ta"],
            &[b"Bearer "],
            &[b"Bearer a, Bearer b"],
            &[b"Bearer a,Basic OmE="],
            &[b"Basic OmE"],
            &[b"Basic OmE=="],
            &[b"Basic Om E="],
            &[b"Basic Om-_"],
            &[b"Basic OmF="],
            &[b"Basic OmEgYg=="],
            &[b"Basic OsOp"],
            &[b"Basic OmEA"],
            &[b"Basic OgBhAA=="],
            &[b" Bearer a"],
            &[b"BearerX a"],
        ] {
            assert_eq!(
                presented(&fields(values)).unwrap_err(),
                AttestError::Bad,
                "{values:?}"
            );
        }
    }
}
