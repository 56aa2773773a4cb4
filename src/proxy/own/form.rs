//! A bounded form, of which no parameter stands twice (RFC 6749 §3.2).

use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use zeroize::Zeroizing;

use super::answer::TokenError;
use crate::proxy::connect::Front;

/// The longest body, in bytes: two tokens of 16 KiB fit, and what describes them.
const LONGEST: usize = 64 * 1024;
/// The most parameters.
const MOST: usize = 32;

/// The parameters of a request.
pub(super) struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    /// Reads a POST.
    pub(super) async fn read(
        front: &Front,
        request: Request<Incoming>,
    ) -> Result<(HeaderMap, Self), TokenError> {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST {
            return Err(TokenError::Method);
        }
        // A page in somebody's browser is no agent, whatever address its name resolves to.
        if parts.headers.contains_key(ORIGIN) {
            return Err(TokenError::Request("Browsers get no tokens here."));
        }
        let media_type = parts.headers.get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.as_bytes().split(|b| *b == b';').next());
        let form = media_type.is_some_and(|media_type| {
            media_type
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        });
        if !form || parts.uri.query().is_some() {
            return Err(TokenError::Request(
                "Send the parameters in the body as application/x-www-form-urlencoded.",
            ));
        }
        let read = Limited::new(body, LONGEST).collect();
        let read = tokio::time::timeout(front.listener.limits.header_timeout, read).await;
        let Ok(Ok(body)) = read else {
            return Err(TokenError::Request(
                "The body is longer than 64 KiB, broke off or took too long.",
            ));
        };
        Ok((parts.headers, Self::parse(&body.to_bytes())?))
    }

    fn parse(body: &[u8]) -> Result<Self, TokenError> {
        let mut found: Vec<(String, Zeroizing<String>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            let name = name.into_owned();
            if found.len() == MOST {
                return Err(TokenError::Request("There are too many parameters."));
            }
            if found.iter().any(|(known, _)| *known == name) {
                return Err(TokenError::Request("A parameter stands twice."));
            }
            found.push((name, Zeroizing::new(value.into_owned())));
        }
        Ok(Self(found))
    }

    /// A parameter; one without a value is as good as none (RFC 6749 §3.1).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter();
        let (_, value) = found.find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// A parameter that must be there.
    pub(super) fn need(&self, name: &'static str) -> Result<&str, TokenError> {
        self.get(name).ok_or(TokenError::Request(match name {
            "token" => "The parameter token is missing.",
            "grant_type" => "The parameter grant_type is missing.",
            "subject_token" => "The parameter subject_token is missing.",
            "subject_token_type" => "The parameter subject_token_type is missing.",
            "actor_token" => "The parameter actor_token is missing.",
            "actor_token_type" => "The parameter actor_token_type is missing.",
            "agent" => "The parameter agent is missing.",
            _ => "A parameter is missing.",
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        let form = Form::parse(b"a=1&b=%20x&c=&d").ok().unwrap();
        assert_eq!(form.get("a"), Some("1"));
        assert_eq!(form.get("b"), Some(" x"));
        assert_eq!((form.get("c"), form.get("d")), (None, None));
        assert!(Form::parse(b"a=1&b=2&%61=1").is_err());
        let many: Vec<String> = (0..40).map(|n| format!("p{n}=1")).collect();
        assert!(Form::parse(many.join("&").as_bytes()).is_err());
    }
}
