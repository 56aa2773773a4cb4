//! The grant for a person: their token beside the agent's own (RFC 8693 §1.1, delegation).

use std::sync::Arc;

use super::answer::TokenError;
use super::form::Form;
use super::grant::{
    ACCESS_TOKEN, NOTHING, WIDER, after, asked, evidence, of_agent, parent, presented,
};
use crate::agent::AgentId;
use crate::delegation::Bounds;
use crate::identity::{AttestError, Known, PersonError, TokenType, UserEvidence};
use crate::policy::{Person, UserToken, UserTokenType};
use crate::proxy::Snapshot;
use crate::proxy::connect::Front;
use crate::proxy::identify::attest;
use crate::secret::Secret;
use crate::session::{Opening, Session};

/// RFC 8693 §3.
pub(super) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// A session of the actor that acts for the subject. It ends when either's token does.
pub(super) async fn of_user(
    front: &Front,
    snapshot: &Snapshot,
    form: &Form,
) -> Result<Opening, TokenError> {
    let actor = form.need("actor_token")?;
    let opening = match form.need("actor_token_type")? {
        ACCESS_TOKEN => of_session(front, snapshot, &*parent(front, actor).await?, form)?,
        kind => {
            let attested = evidence(front, snapshot, (actor, kind)).await?;
            of_agent(front, snapshot, &attested, form)?
        }
    };
    let (person, known) = person(front, snapshot, form).await?;
    let actor = opening.chain.last().map_or("", AgentId::as_str);
    if !known.lets_act(actor, &front.shared.issuer) {
        return Err(TokenError::Request(
            "The subject_token names another who may act for the person.",
        ));
    }
    let end = opening
        .bounds
        .expires
        .map_or(known.expires, |end| end.min(known.expires));
    Ok(Opening {
        person: Some(Arc::new(person)),
        bounds: Bounds {
            expires: Some(end),
            ..opening.bounds
        },
        ..opening
    })
}

/// Whose the subject_token is. What proves an agent proves no person.
async fn person(
    front: &Front,
    snapshot: &Snapshot,
    form: &Form,
) -> Result<(Person, Known), TokenError> {
    let token = form.need("subject_token")?;
    let (shown_as, kind) = match form.need("subject_token_type")? {
        ID_TOKEN => (UserEvidence::IdToken, UserTokenType::IdToken),
        ACCESS_TOKEN => (UserEvidence::AccessToken, UserTokenType::AccessToken),
        _ => {
            return Err(TokenError::Request(
                "A person's token is an id_token or an access_token.",
            ));
        }
    };
    let shown = presented(token)?;
    match attest(front, snapshot, Some(&shown), TokenType::Jwt).await {
        Ok(None) | Err(AttestError::Bad) => {}
        Ok(Some(_)) => {
            return Err(TokenError::Request("The subject_token is an agent's own."));
        }
        Err(AttestError::Unavailable) => return Err(AttestError::Unavailable.into()),
    }
    let known = snapshot.logins.person(shown.token(), shown_as).await;
    let known = match known {
        Ok(Some(known)) => known,
        Ok(None) => {
            return Err(TokenError::Request(
                "No login here knows the subject_token.",
            ));
        }
        Err(PersonError::Bad) => {
            return Err(TokenError::Request("The subject_token does not hold."));
        }
        Err(PersonError::Unverified) => {
            return Err(TokenError::Request(
                "The subject_token does not say that its email is verified: email_verified must be true.",
            ));
        }
        Err(PersonError::Unavailable) => {
            return Err(TokenError::Unavailable(
                "It cannot be verified now who the person is. Try again later.",
            ));
        }
    };
    let token = UserToken {
        value: Secret::from(token.to_owned()),
        kind,
    };
    let person = Person::new(known.user.clone(), vec![token]);
    Ok((person, known))
}

/// The session of the same agents once more, no wider, and over with the one that it comes of.
fn of_session(
    front: &Front,
    snapshot: &Snapshot,
    actor: &Session,
    form: &Form,
) -> Result<Opening, TokenError> {
    if actor.person().is_some() {
        return Err(TokenError::Request(
            "The session of the actor_token acts for a person already.",
        ));
    }
    let permissions = snapshot.registry.admit_all(actor.chain())?;
    let asked = asked(snapshot, form)?;
    let widest = actor.bounds().scope.meet(&permissions);
    let scope = match asked.scope {
        None => widest,
        Some(scope) if scope.is_within(&widest) => scope,
        Some(_) => return Err(WIDER),
    };
    if scope.is_nothing() {
        return Err(NOTHING);
    }
    let (settings, now) = (front.shared.sessions.settings(), front.shared.clock.now());
    let life = asked
        .life
        .map_or(settings.ttl, |life| life.min(settings.ttl));
    let end = after(now.wall, life)?;
    let end = actor.bounds().expires.map_or(end, |last| end.min(last));
    actor.touch(&now);
    Ok(Opening {
        chain: actor.chain().to_vec(),
        trust: Arc::clone(actor.trust()),
        person: None,
        bounds: Bounds {
            scope,
            expires: Some(end),
            depth: actor.bounds().depth,
        },
        parent: Some(Arc::clone(actor.id())),
        bound: actor.bound().map(Into::into),
        idles: true,
    })
}
