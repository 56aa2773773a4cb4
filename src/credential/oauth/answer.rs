//! The answer of a token endpoint (RFC 6749 §5): a token that can be used, or why there is none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tracing::warn;
use zeroize::Zeroizing;

use crate::issuer::{Answer, Fault};
use crate::secret::Secret;

use super::super::{IssueError, Life};

/// What an issuer granted.
pub(in super::super) struct Granted {
    /// `access_token`.
    pub(in super::super) token: Arc<Secret>,
    /// `expires_in`.
    pub(in super::super) life: Life,
    /// `refresh_token`.
    pub(super) refresh: Option<Wiped>,
}

/// No token that can be used.
pub(super) struct No {
    pub(super) error: IssueError,
    /// Whether that is because of the grant itself (`invalid_grant`).
    pub(super) bad_grant: bool,
    /// What the issuer gave all the same, to be taken back.
    pub(super) token: Option<Arc<Secret>>,
    /// The refresh token beside it: the one that was used may be good no longer.
    pub(super) refresh: Option<Wiped>,
}

impl From<IssueError> for No {
    fn from(error: IssueError) -> Self {
        Self {
            error,
            bad_grant: false,
            token: None,
            refresh: None,
        }
    }
}

/// Text that is wiped.
#[derive(Deserialize)]
#[serde(transparent)]
pub(in super::super) struct Wiped(
    #[serde(deserialize_with = "wiped")] pub(in super::super) Zeroizing<String>,
);

fn wiped<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

#[derive(Deserialize)]
struct Raw {
    access_token: Option<Wiped>,
    token_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    expires_in: Option<Value>,
    error: Option<Value>,
    refresh_token: Option<Wiped>,
}

/// `null` is something other than nothing.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Why an issuer was not heard.
pub(in super::super) fn unheard(fault: Fault) -> IssueError {
    match fault {
        Fault::TooLong => IssueError::Refused,
        _ => IssueError::Unavailable { retry_after: None },
    }
}

/// The same where what was asked for is a credential.
pub(in super::super) fn lost(fault: Fault) -> IssueError {
    match fault {
        Fault::Lost => IssueError::Lost,
        other => unheard(other),
    }
}

/// What an answer's status means where it is not a success.
pub(in super::super) fn status(answer: &Answer, now: Timestamp) -> Result<(), IssueError> {
    if answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error() {
        let retry_after = answer.retry_after(now);
        return Err(IssueError::Unavailable { retry_after });
    }
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(IssueError::Refused)
    }
}

/// Reads an answer; `bound` says that a token bound to a DPoP key was asked for.
pub(super) fn read(answer: &Answer, now: Timestamp, bound: bool) -> Result<Granted, No> {
    let standing = status(answer, now);
    if matches!(standing, Err(IssueError::Unavailable { .. })) {
        let retry_after = answer.retry_after(now);
        return Err(IssueError::Unavailable { retry_after }.into());
    }
    let Ok(raw) = answer.json::<Raw>() else {
        warn!(status = %answer.status, "a token endpoint answered with something other than a token");
        return Err(IssueError::Refused.into());
    };
    if let Some(error) = raw.error {
        warn!(status = %answer.status, error = known(&error), "a token endpoint said no");
        return Err(No {
            bad_grant: error == "invalid_grant",
            ..IssueError::Refused.into()
        });
    }
    standing?;
    match grant(&raw, bound) {
        Ok((token, life)) => Ok(Granted {
            token,
            life,
            refresh: raw.refresh_token,
        }),
        Err(why) => {
            warn!(why, "a token endpoint's answer cannot be used");
            let token = raw.access_token.filter(|token| !token.0.is_empty());
            Err(No {
                token: token.map(|token| Arc::new(Secret::new(token.0.as_bytes().to_vec()))),
                refresh: raw.refresh_token,
                ..IssueError::Refused.into()
            })
        }
    }
}

fn grant(raw: &Raw, bound: bool) -> Result<(Arc<Secret>, Life), &'static str> {
    let kind = raw.token_type.as_ref().ok_or("it has no token_type")?;
    // A bearer token where a bound one was asked for is nothing that the key protects (RFC 9449 §5).
    let due = if bound { "DPoP" } else { "Bearer" };
    if !kind.eq_ignore_ascii_case(due) {
        return Err("its token_type is another one than was asked for");
    }
    let token = token(raw.access_token.as_ref().ok_or("it has no access_token")?)?;
    Ok((token, life(raw.expires_in.as_ref())?))
}

/// A token that can stand in a header field: visible characters (RFC 6749 §A.12), and not too many.
pub(in super::super) fn token(text: &Wiped) -> Result<Arc<Secret>, &'static str> {
    let bytes = text.0.as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST_TOKEN {
        return Err("its token is empty or longer than 16 KiB");
    }
    if !bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err("its token holds a character that no header field may hold");
    }
    Ok(Arc::new(Secret::new(bytes.to_vec())))
}

/// `expires_in`: a number of seconds above zero.
fn life(value: Option<&Value>) -> Result<Life, &'static str> {
    let Some(value) = value else {
        return Ok(Life::UNSTATED);
    };
    let Value::Number(number) = value else {
        return Err("its expires_in is not a number");
    };
    let seconds = number.as_f64().ok_or("its expires_in is not a number")?;
    if seconds <= 0.0 {
        return Err("its expires_in is not above zero");
    }
    Ok(Life::For(
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
    ))
}

/// An OAuth error code, if it is one that the standards know: what else an issuer writes there is not logged.
fn known(error: &Value) -> &'static str {
    const CODES: [&str; 14] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "invalid_dpop_proof",
        "use_dpop_nonce",
        "access_denied",
        "interaction_required",
        "consent_required",
        "server_error",
        "temporarily_unavailable",
    ];
    let code = CODES.into_iter().find(|code| error == code);
    code.unwrap_or("another error")
}

/// Whether an answer asks for a proof with the nonce that it brings (RFC 9449 §8).
pub(super) fn wants_nonce(answer: &Answer) -> bool {
    let error = answer.json::<Raw>().ok().and_then(|raw| raw.error);
    answer.status.is_client_error() && error.is_some_and(|error| error == "use_dpop_nonce")
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// No token is longer, in bytes.
const LONGEST_TOKEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const NEVER: IssueError = IssueError::Unavailable { retry_after: None };

    fn judged(status: u16, body: &str, bound: bool) -> Result<Life, IssueError> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        };
        let read = read(&answer, Timestamp::UNIX_EPOCH, bound);
        read.map(|granted| granted.life).map_err(|no| no.error)
    }

    fn with(more: &str) -> String {
        format!(r#"{{"access_token":"t","token_type":"Bearer"{more}}}"#)
    }

    #[test]
    fn a_life_is_a_number_above_zero_or_five_minutes() {
        let seconds = |n| Ok(Life::For(Duration::from_secs(n)));
        for (more, life) in [
            ("", Ok(Life::UNSTATED)),
            (r#","expires_in":60"#, seconds(60)),
            (r#","expires_in":60.0"#, seconds(60)),
            (r#","expires_in":1e300"#, Ok(Life::For(Duration::MAX))),
            (r#","expires_in":0"#, Err(IssueError::Refused)),
            (r#","expires_in":-1"#, Err(IssueError::Refused)),
            (r#","expires_in":"3600""#, Err(IssueError::Refused)),
            (r#","expires_in":"0""#, Err(IssueError::Refused)),
            (r#","expires_in":null"#, Err(IssueError::Refused)),
            (
                r#","expires_in":60,"expires_in":600"#,
                Err(IssueError::Refused),
            ),
        ] {
            assert_eq!(judged(200, &with(more), false), life, "{more}");
        }
    }

    #[test]
    fn what_is_no_usable_token_is_refused() {
        let long = format!(
            r#"{{"access_token":"{}","token_type":"Bearer"}}"#,
            "x".repeat(LONGEST_TOKEN + 1)
        );
        for body in [
            "",
            "<html>log in</html>",
            "[]",
            "{}",
            r#"{"access_token":"t"}"#,
            r#"{"access_token":7,"token_type":"Bearer"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"t","token_type":"mac"}"#,
            r#"{"access_token":"t","token_type":"DPoP"}"#,
            r#"{"access_token":"t","token_type":"N_A"}"#,
            r#"{"access_token":"t\r\nx: y","token_type":"Bearer"}"#,
            r#"{"access_token":"t\u0000","token_type":"Bearer"}"#,
            r#"{"access_token":"tö","token_type":"Bearer"}"#,
            r#"{"access_token":"t","token_type":"Bearer","error":"invalid_grant"}"#,
            &long,
        ] {
            assert_eq!(judged(200, body, false), Err(IssueError::Refused), "{body}");
        }
        for status in [301, 302, 400, 401, 403, 404] {
            assert_eq!(judged(status, &with(""), false), Err(IssueError::Refused));
        }
        for status in [429, 500, 502, 503] {
            assert_eq!(judged(status, &with(""), false), Err(NEVER));
        }
        assert!(judged(200, r#"{"access_token":"t","token_type":"bEARER"}"#, false).is_ok());
    }

    #[test]
    fn a_bearer_token_is_not_a_bound_one() {
        assert_eq!(judged(200, &with(""), true), Err(IssueError::Refused));
        assert!(judged(200, r#"{"access_token":"t","token_type":"DPoP"}"#, true).is_ok());
    }
}
