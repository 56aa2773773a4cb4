//! What goes to the provider with the browser, and what may come back: state, nonce, PKCE and the issuer.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use form_urlencoded::Serializer;
use jiff::Timestamp;

use super::metadata::Metadata;
use crate::agent::Name;
use crate::secret::Secret;

/// A sign-in that was sent to the provider and has not come back.
#[derive(Debug)]
pub struct Begun {
    /// The login.
    pub login: Name,
    /// `state`: by it the answer finds its question. It is good once.
    pub state: String,
    /// Where the browser goes.
    pub url: String,
    pub(super) nonce: String,
    pub(super) verifier: Secret,
    pub(super) redirect_uri: String,
    issuer: String,
    /// Since when the person must have shown the provider who it is; `None`: a session of theirs there will do.
    pub(super) since: Option<Timestamp>,
    /// Whether the answer must say of whom it is (RFC 9207 §2.3).
    says_issuer: bool,
}

/// What an authorization endpoint sent back with the browser (RFC 6749 §4.1.2), not believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// `state`.
    pub state: String,
    issuer: Option<String>,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Code(String),
    Denied,
    Failed,
}

/// Why an answer is none to this question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Parameters are missing, or stand twice (RFC 6749 §3.1).
    #[error("the provider's answer is not well formed")]
    Malformed,
    /// It is of another question.
    #[error("the provider's answer belongs to another sign-in")]
    State,
    /// It is of another issuer, or does not say of which (RFC 9207 §2.4).
    #[error("the answer is not of the provider that was asked")]
    Issuer,
    /// The person, or the provider on their behalf, said no.
    #[error("the sign-in was denied at the provider")]
    Denied,
    /// The provider names an error.
    #[error("the provider could not sign the person in")]
    Failed,
}

impl Begun {
    /// A new question to this provider, with a state, a nonce and a verifier that nobody else knows.
    pub(super) fn new(
        (login, client_id, scopes): (&Name, &str, &[String]),
        metadata: &Metadata,
        (redirect_uri, since): (&str, Option<Timestamp>),
    ) -> Self {
        let (state, nonce, verifier) = (random(), random(), random());
        let challenge = BASE64URL.encode(digest(&SHA256, verifier.as_bytes()));
        let mut query = Serializer::new(String::new());
        query.extend_pairs([
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", redirect_uri),
            ("scope", &scopes.join(" ")),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        // OpenID Connect Core 1.0 §11: without it the scope is ignored.
        let consents = scopes.iter().any(|scope| scope == "offline_access");
        match (since.is_some(), consents) {
            (true, true) => query.append_pair("prompt", "login consent"),
            (true, false) => query.append_pair("prompt", "login"),
            (false, true) => query.append_pair("prompt", "consent"),
            (false, false) => &mut query,
        };
        if since.is_some() {
            // §3.1.2.1: `auth_time` is then in the ID token.
            query.append_pair("max_age", "0");
        }
        let at = metadata.authorization.to_string();
        // RFC 6749 §3.1: a query that the endpoint has stays.
        let joint = if at.contains('?') { '&' } else { '?' };
        let url = format!("{at}{joint}{}", query.finish());
        Self {
            login: login.clone(),
            state,
            url,
            nonce,
            verifier: Secret::from(verifier),
            redirect_uri: redirect_uri.to_owned(),
            issuer: metadata.issuer.clone(),
            since,
            says_issuer: metadata.says_issuer,
        }
    }

    /// The code, if this is the answer to this question. The issuer is looked at before anything that it says is
    /// believed, an error as well.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn code<'r>(&self, returned: &'r Returned) -> Result<&'r str, Unfit> {
        if !Secret::from(self.state.clone()).equals(returned.state.as_bytes()) {
            return Err(Unfit::State);
        }
        match &returned.issuer {
            Some(issuer) if *issuer == self.issuer => {}
            None if !self.says_issuer => {}
            Some(_) | None => return Err(Unfit::Issuer),
        }
        match &returned.outcome {
            Outcome::Code(code) => Ok(code),
            Outcome::Denied => Err(Unfit::Denied),
            Outcome::Failed => Err(Unfit::Failed),
        }
    }
}

impl Returned {
    /// Reads the query of a redirect.
    ///
    /// # Errors
    /// [`Unfit::Malformed`].
    pub fn read(query: &str) -> Result<Self, Unfit> {
        if query.len() > LONGEST {
            return Err(Unfit::Malformed);
        }
        let (mut state, mut issuer, mut code, mut error) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "iss" => &mut issuer,
                "code" => &mut code,
                "error" => &mut error,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Unfit::Malformed);
            }
        }
        let outcome = match (code, error) {
            (Some(code), None) if !code.is_empty() => Outcome::Code(code),
            (None, Some(error)) if error == "access_denied" => Outcome::Denied,
            (None, Some(_)) => Outcome::Failed,
            _ => return Err(Unfit::Malformed),
        };
        Ok(Self {
            state: state.ok_or(Unfit::Malformed)?,
            issuer,
            outcome,
        })
    }
}

/// 256 bits that nobody can guess, in base64url: a state, a nonce, a verifier (RFC 7636 §4.1), a token.
pub fn random() -> String {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).expect("the system's random generator answers");
    BASE64URL.encode(bytes)
}

/// The longest query that is read, in bytes.
const LONGEST: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example.com";

    fn begun(says_issuer: bool) -> Begun {
        let metadata = Metadata {
            issuer: ISSUER.to_owned(),
            authorization: "https://id.example.com/auth?tenant=1".parse().unwrap(),
            token: "https://id.example.com/token".parse().unwrap(),
            device: None,
            revocation: None,
            says_issuer,
        };
        let scopes = ["openid".to_owned(), "offline_access".to_owned()];
        let login = "corp".parse().unwrap();
        let redirect = "http://127.0.0.1:4711/callback";
        Begun::new((&login, "keyward", &scopes), &metadata, (redirect, None))
    }

    fn returned(begun: &Begun, rest: &str) -> Result<Returned, Unfit> {
        Returned::read(&format!("state={}&{rest}", begun.state))
    }

    #[test]
    fn the_question_holds_what_the_answer_is_checked_by() {
        let begun = begun(true);
        let (base, query) = begun.url.split_once('?').unwrap();
        assert_eq!(base, "https://id.example.com/auth");
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let get = |name: &str| {
            let mut found = pairs.iter().filter(|(key, _)| key == name);
            let value = found.next().unwrap().1.clone();
            assert!(found.next().is_none(), "{name}");
            value
        };
        let challenge = BASE64URL.encode(digest(&SHA256, begun.verifier.expose()));
        for (name, value) in [
            ("tenant", "1"),
            ("response_type", "code"),
            ("client_id", "keyward"),
            ("redirect_uri", "http://127.0.0.1:4711/callback"),
            ("scope", "openid offline_access"),
            ("prompt", "consent"),
            ("state", &begun.state),
            ("nonce", &begun.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(get(name), value, "{name}");
        }
        // RFC 7636 §4.1: 43 to 128 characters.
        assert_eq!(begun.verifier.len(), 43);
        assert!(
            !begun
                .url
                .contains(std::str::from_utf8(begun.verifier.expose()).unwrap())
        );
    }

    #[test]
    fn a_code_is_taken_from_the_issuer_that_was_asked_only() {
        let strict = begun(true);
        let iss = "iss=https%3A%2F%2Fid.example.com";
        let code = |begun: &Begun, rest: &str| {
            let returned = returned(begun, rest)?;
            begun.code(&returned).map(str::to_owned)
        };
        assert_eq!(code(&strict, &format!("code=c&{iss}")), Ok("c".to_owned()));
        assert_eq!(code(&strict, "code=c"), Err(Unfit::Issuer));
        assert_eq!(code(&begun(false), "code=c"), Ok("c".to_owned()));
        for begun in [begun(true), begun(false)] {
            for other in [
                "https%3A%2F%2Fevil.example",
                "",
                "https%3A%2F%2Fid.example.com%2F",
            ] {
                for outcome in ["code=c", "error=access_denied"] {
                    let rest = format!("{outcome}&iss={other}");
                    assert_eq!(code(&begun, &rest), Err(Unfit::Issuer), "{rest}");
                }
            }
        }
        let denied = format!("error=access_denied&{iss}");
        assert_eq!(code(&strict, &denied), Err(Unfit::Denied));
        let failed = format!("error=server_error&error_description=x&{iss}");
        assert_eq!(code(&strict, &failed), Err(Unfit::Failed));
    }

    #[test]
    fn an_answer_with_two_readings_is_none() {
        let begun = begun(false);
        for bad in [
            "code=a&code=b",
            "code=a&state=x",
            "code=a&error=x",
            "",
            "code=",
            "iss=a&iss=a&code=c",
        ] {
            assert_eq!(returned(&begun, bad), Err(Unfit::Malformed), "{bad}");
        }
        assert_eq!(Returned::read("code=c"), Err(Unfit::Malformed));
        let other = Returned::read("state=other&code=c").unwrap();
        assert_eq!(begun.code(&other), Err(Unfit::State));
        let long = format!("code={}", "x".repeat(LONGEST));
        assert_eq!(returned(&begun, &long), Err(Unfit::Malformed));
    }
}
