//! The grants of `POST /token`: what is shown, and the session that comes of it (docs/identity.md).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::TokenError;
use super::form::Form;
use super::{delegate, user};
use crate::agent::AgentId;
use crate::delegation::{Asked, Bounds, Refused, Scope};
use crate::identity::{AttestError, Attested, Presented, TokenType};
use crate::proxy::Snapshot;
use crate::proxy::bind::is_open_to;
use crate::proxy::connect::Front;
use crate::proxy::identify::{attest, is_revoked, session_of};
use crate::proxy::refusal::Refusal;
use crate::proxy::sessions::words;
use crate::secret::Secret;
use crate::session::{self, Opening, Session};

pub(super) const CLIENT_CREDENTIALS: &str = "client_credentials";
pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 §3.
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const AWS_DOCUMENT: &str = "urn:keyward:token-type:aws-identity-document";
const AWS_CALLER: &str = "urn:keyward:token-type:aws-caller-identity";

/// Answers a token request.
pub(super) async fn grant(
    front: &Front,
    headers: &HeaderMap,
    form: &Form,
) -> Result<Value, TokenError> {
    let snapshot = front.shared.snapshot.load_full();
    let opening = match form.need("grant_type")? {
        CLIENT_CREDENTIALS => {
            let attested = client(front, &snapshot, headers).await?;
            of_agent(front, &snapshot, &attested, form)?
        }
        TOKEN_EXCHANGE => exchange(front, &snapshot, headers, form).await?,
        _ => return Err(TokenError::GrantType),
    };
    issue(front, &snapshot, opening).await
}

async fn exchange(
    front: &Front,
    snapshot: &Snapshot,
    headers: &HeaderMap,
    form: &Form,
) -> Result<Opening, TokenError> {
    let subject = form.need("subject_token")?;
    if let Some(wanted) = form.get("requested_token_type")
        && wanted != ACCESS_TOKEN
    {
        return Err(TokenError::Request("Only access tokens are issued."));
    }
    // A session token hands on; beside an actor's, a token is the person's for whom that actor acts.
    if form.get("actor_token").is_some() || form.get("actor_token_type").is_some() {
        return user::of_user(front, snapshot, form).await;
    }
    match form.need("subject_token_type")? {
        user::ID_TOKEN => Err(TokenError::Request(
            "A person's token comes with the agent's own as actor_token.",
        )),
        ACCESS_TOKEN => {
            let parent = parent(front, subject).await?;
            if headers.contains_key(AUTHORIZATION) {
                // Who shows who it is hands on its own session, and nobody else's (RFC 8693 §4.4).
                let attested = client(front, snapshot, headers).await?;
                if attested.agent != *parent.agent() {
                    return Err(TokenError::Request(
                        "The subject_token is of another agent than the client.",
                    ));
                }
            }
            delegate::of_sub_agent(front, snapshot, &parent, form).await
        }
        kind => {
            let attested = evidence(front, snapshot, (subject, kind)).await?;
            of_agent(front, snapshot, &attested, form)
        }
    }
}

/// The agent that evidence of a named type proves.
pub(super) async fn evidence(
    front: &Front,
    snapshot: &Snapshot,
    (token, kind): (&str, &str),
) -> Result<Attested, TokenError> {
    let shown_as = match kind {
        JWT => TokenType::Jwt,
        AWS_DOCUMENT => TokenType::AwsIdentityDocument,
        AWS_CALLER => TokenType::AwsCallerIdentity,
        _ => {
            return Err(TokenError::Request(
                "The type of the token is not one that is taken here.",
            ));
        }
    };
    // EC2 gives the document in lines.
    let shown = match shown_as {
        TokenType::AwsIdentityDocument => presented(&token.replace(['\r', '\n'], ""))?,
        _ => presented(token)?,
    };
    if shown_as == TokenType::Jwt && !shown.is_jwt() {
        return Err(TokenError::Request("The token is no JWT."));
    }
    let now = front.shared.clock.now();
    if front.shared.sessions.is_blocked(&shown.stem(), &now) {
        return Err(TokenError::Request("The evidence was revoked."));
    }
    let attested = attest(front, snapshot, Some(&shown), shown_as).await?;
    attested.ok_or(TokenError::Request(
        "No trust provider here knows the token.",
    ))
}

pub(super) fn presented(token: &str) -> Result<Presented, TokenError> {
    // As in `Proxy-Authorization`: a token is visible ASCII.
    let visible = !token.is_empty() && token.bytes().all(|b| (0x21..0x7f).contains(&b));
    if !visible || token.len() > 16 * 1024 {
        return Err(TokenError::Request("A token is malformed."));
    }
    Ok(Presented::new(Secret::from(token.to_owned())))
}

/// The agent that the connection or HTTP Basic shows.
async fn client(
    front: &Front,
    snapshot: &Snapshot,
    headers: &HeaderMap,
) -> Result<Attested, TokenError> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else {
        let attested = attest(front, snapshot, None, TokenType::Any).await?;
        return attested.ok_or(TokenError::Client);
    };
    let basic = (field.to_str().ok())
        .filter(|_| fields.next().is_none())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, pair)| BASE64.decode(pair.trim_matches(' ')).ok())
        .and_then(|pair| String::from_utf8(pair).ok());
    let (agent, token) = (basic.as_deref())
        .and_then(|pair| pair.split_once(':'))
        .ok_or(TokenError::Client)?;
    let presented = presented(token).map_err(|_| TokenError::Client)?;
    match attest(front, snapshot, Some(&presented), TokenType::Any).await {
        Ok(Some(attested)) if attested.agent.as_str() == agent => Ok(attested),
        Err(AttestError::Unavailable) => Err(AttestError::Unavailable.into()),
        _ => Err(TokenError::Client),
    }
}

/// A session of an attested agent, as wide as it asks for within what it may have.
pub(super) fn of_agent(
    front: &Front,
    snapshot: &Snapshot,
    attested: &Attested,
    form: &Form,
) -> Result<Opening, TokenError> {
    if is_revoked(&front.shared, attested) {
        return Err(TokenError::Request("The evidence was revoked."));
    }
    snapshot.registry.admit(&attested.agent)?;
    let asked = asked(snapshot, form)?;
    let widest = snapshot.registry.permissions(&attested.agent);
    let scope = match asked.scope {
        None => widest,
        Some(scope) if scope.is_within(&widest) => scope,
        Some(_) => return Err(WIDER),
    };
    if scope.is_nothing() {
        return Err(NOTHING);
    }
    let settings = front.shared.sessions.settings();
    let life = asked
        .life
        .map_or(settings.ttl, |life| life.min(settings.ttl));
    let now = front.shared.clock.now().wall;
    // A session does not outlive what proved whose it is.
    let end = after(now, life)?;
    let end = attested.expires.map_or(end, |expires| end.min(expires));
    if end <= now {
        return Err(AttestError::Bad.into());
    }
    Ok(Opening {
        chain: vec![attested.agent.clone()],
        trust: Arc::clone(&attested.trust),
        person: None,
        bounds: Bounds {
            scope,
            expires: Some(end),
            depth: 0,
        },
        parent: None,
        bound: front.shared.bound_to(attested, front),
        idles: true,
    })
}

pub(super) const WIDER: TokenError =
    TokenError::Scope("The scope is wider than what is allowed. Ask for less, or leave it out.");
pub(super) const NOTHING: TokenError =
    TokenError::Scope("Nothing would be allowed under this scope.");

pub(super) fn after(now: Timestamp, life: Duration) -> Result<Timestamp, TokenError> {
    let end = now.checked_add(life);
    end.map_err(|_| TokenError::Request("The expires_in is not a time."))
}

/// The session that is handed on.
pub(super) async fn parent(front: &Front, token: &str) -> Result<Arc<Session>, TokenError> {
    let presented = presented(token)?;
    let session = match session_of(&front.shared, &presented).await {
        Ok(Some(session)) if !session.is_over(&front.shared.clock.now()) => session,
        Ok(None) | Err(Refusal::Unidentified) => {
            return Err(TokenError::Request("This is no session token."));
        }
        Err(Refusal::StoreUnavailable) => return Err(STORE),
        _ => {
            return Err(OVER);
        }
    };
    if !is_open_to(&session, front).await {
        return Err(TokenError::Request(
            "The subject_token is bound to another peer.",
        ));
    }
    Ok(session)
}

/// `scope` and `expires_in`.
pub(super) fn asked(snapshot: &Snapshot, form: &Form) -> Result<Asked, TokenError> {
    let scope: Option<Scope> = match form.get("scope") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            TokenError::Scope("The scope is not a list of words, parted by single spaces.")
        })?),
    };
    let routes = snapshot.table.routes();
    let known = |name: &str| routes.iter().any(|route| *route.name == *name);
    if !scope.iter().flat_map(Scope::routes).all(known) {
        return Err(TokenError::Scope(
            "The scope names a route that is not there.",
        ));
    }
    let life = match form.get("expires_in") {
        None => None,
        Some(text) => {
            let secs = text.parse::<u64>().ok().filter(|secs| *secs > 0);
            let bad = TokenError::Request("The expires_in is not a number of seconds above 0.");
            Some(Duration::from_secs(secs.ok_or(bad)?))
        }
    };
    Ok(Asked { scope, life })
}

const STORE: TokenError = TokenError::Unavailable("The store does not answer. Try again later.");

/// Begins the session and makes its token.
async fn issue(front: &Front, snapshot: &Snapshot, opening: Opening) -> Result<Value, TokenError> {
    let shared = &front.shared;
    let now = shared.clock.now();
    shared.believe(&now).map_err(|_| STORE)?;
    let full = |_| TokenError::Unavailable("This agent has too many sessions. End some.");
    let session = shared.sessions.start(opening, &now).map_err(full)?;
    let words = words(snapshot, &session);
    shared.began(&session, &front.from, Some(&words));
    // Kept before its token leaves: no replica knows a token whose end it would not hear of.
    let kept = shared.keep(&session).await;
    // A parent that ended while this was computed takes its child along.
    let orphan = shared.is_orphan(&session).await;
    if kept.is_err() || !matches!(orphan, Ok(false)) {
        shared.end_session(session.id(), "parent", None).await.ok();
        let known = kept.is_ok() && orphan.is_ok();
        return Err(if known { OVER } else { STORE });
    }
    let iat = now.wall.as_second();
    let expires = session
        .bounds()
        .expires
        .map_or(i64::MAX, Timestamp::as_second);
    let times = (&*words, iat, expires);
    let token = session::mint(&shared.keys, &session, &shared.issuer, times)
        .map_err(|_| TokenError::Unavailable("No token can be signed now."))?;
    let known = Presented::new(Secret::from(token.clone()));
    shared.sessions.knows(*known.digest(), &session);
    Ok(json!({
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": expires - iat,
        "scope": words,
        "session": **session.id(),
    }))
}

const OVER: TokenError = TokenError::Request("The session of the subject_token has ended.");
const NOT_THEIRS: TokenError =
    TokenError::Request("The token is of another agent than the client.");

/// Ends the session of a token, or revokes evidence: what it opened at the proxy ends, and it opens nothing any more. It
/// is kept before this returns.
pub(super) async fn revoke(
    front: &Front,
    headers: &HeaderMap,
    token: &str,
) -> Result<(), TokenError> {
    // A client that shows who it is has to be one of those whose token it is, or that handed it on.
    let client = if headers.contains_key(AUTHORIZATION) {
        let snapshot = front.shared.snapshot.load_full();
        Some(client(front, &snapshot, headers).await?.agent)
    } else {
        None
    };
    let Ok(presented) = presented(token) else {
        return Ok(());
    };
    match session_of(&front.shared, &presented).await {
        Ok(Some(session)) => {
            if client.is_some_and(|agent| !session.chain().contains(&agent)) {
                return Err(NOT_THEIRS);
            }
            let ended = front.shared.end_session(session.id(), "revoked", None);
            ended.await.map(drop).map_err(|_| STORE)
        }
        Err(Refusal::StoreUnavailable) => Err(STORE),
        Ok(None) => revoke_evidence(front, &presented, client.as_ref()).await,
        // It opens nothing as it is.
        Err(_) => Ok(()),
    }
}

/// Only whoever shows the whole of it revokes it: it must hold, in whichever of its forms.
async fn revoke_evidence(
    front: &Front,
    presented: &Presented,
    client: Option<&AgentId>,
) -> Result<(), TokenError> {
    let snapshot = front.shared.snapshot.load_full();
    let mut unknown = Ok(());
    // A document of EC2 never ends, and is there for each process of the instance: it is not among these.
    for shown_as in [TokenType::Jwt, TokenType::AwsCallerIdentity] {
        match attest(front, &snapshot, Some(presented), shown_as).await {
            Ok(Some(attested)) if client.is_some_and(|agent| *agent != attested.agent) => {
                return Err(NOT_THEIRS);
            }
            Ok(Some(attested)) => {
                let revoked = front.shared.revoke_evidence(&attested, "revoked");
                return revoked.await.map_err(|_| STORE);
            }
            Ok(None) | Err(AttestError::Bad) => {}
            Err(AttestError::Unavailable) => unknown = Err(AttestError::Unavailable.into()),
        }
    }
    unknown
}

impl From<Refused> for TokenError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wider => WIDER,
            Refused::NotSmaller => Self::Scope(
                "The scope must be smaller than that of the subject_token. Ask for less.",
            ),
            Refused::Nothing => NOTHING,
            Refused::TooDeep => Self::Request("The chain of delegations is as long as it may be."),
            _ => Self::Request("The session of the subject_token has no time left."),
        }
    }
}
