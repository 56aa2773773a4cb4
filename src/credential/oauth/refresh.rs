//! The refresh token grant (RFC 6749 §6): each answer may bring the next refresh token, and an issuer that sees an old
//! one twice ends the whole family. So the next one is stored, sealed, before its access token is used; the one before
//! is kept beside it; and only one process uses the family at a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::{Handle, IssueError, OutOfReach, Vessel, Watched};
use super::answer::{Granted, Wiped};
use super::client::TokenClient;
use super::form::Form;
use super::server::Endpoints;
use super::sign::current;
use crate::inject::DpopKey;
use crate::secret::Secret;

/// The family of one credential.
#[derive(Debug)]
pub(super) struct Family {
    id: String,
    first: Watched,
    vessel: Arc<dyn Vessel>,
    tasks: TaskTracker,
    /// A state that the issuer gave and the store did not take: nothing is asked before it has, or has a later one.
    unsaved: tokio::sync::Mutex<Option<Unsaved>>,
}

/// A state, and the version that it follows.
type Unsaved = (Option<i64>, State);

/// What became of a state that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Done,
    /// Somebody else has stored a later one, or had the family forgotten.
    Overtaken,
}

/// What is stored.
#[derive(Clone)]
struct State {
    newest: Zeroizing<String>,
    before: Option<Zeroizing<String>>,
    /// The hash of the file's token that the family began with: another one there begins another family.
    first: String,
}

#[derive(Serialize)]
struct Written<'a> {
    newest: &'a str,
    before: Option<&'a str>,
    first: &'a str,
}

#[derive(Deserialize)]
struct Read {
    newest: Wiped,
    before: Option<Wiped>,
    first: String,
}

impl State {
    fn write(&self) -> Result<Secret, IssueError> {
        let written = Written {
            newest: &self.newest,
            before: self.before.as_deref().map(String::as_str),
            first: &self.first,
        };
        let bytes = serde_json::to_vec(&written).map_err(|_| IssueError::Store)?;
        Ok(Secret::new(bytes))
    }

    fn read(kept: &Secret) -> Result<Self, IssueError> {
        let read: Read = serde_json::from_slice(kept.expose()).map_err(|_| IssueError::Store)?;
        Ok(Self {
            newest: read.newest.0,
            before: read.before.map(|before| before.0),
            first: read.first,
        })
    }
}

impl State {
    /// Whether what is stored is of the same family.
    fn is_kin(&self, kept: &Secret) -> bool {
        Self::read(kept).is_ok_and(|kept| kept.first == self.first)
    }

    /// What is there once `used` has brought `next`.
    fn followed_by(&self, next: Wiped, used: &Zeroizing<String>) -> Self {
        Self {
            newest: next.0,
            before: Some(used.clone()),
            first: self.first.clone(),
        }
    }
}

impl Family {
    pub(super) fn new(id: String, first: Watched, vessel: Arc<dyn Vessel>) -> Self {
        Self {
            id,
            first,
            vessel,
            tasks: TaskTracker::new(),
            unsaved: tokio::sync::Mutex::default(),
        }
    }

    /// Uses the family for one access token. It runs as a task of its own: whoever waits may give up at a deadline, and
    /// the answer is stored all the same.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        client: &Arc<TokenClient>,
        at: &Arc<Endpoints>,
        (form, key): (Form, Option<Arc<DpopKey>>),
    ) -> Result<Granted, IssueError> {
        let (family, client, at) = (Arc::clone(self), Arc::clone(client), Arc::clone(at));
        let turn = self
            .tasks
            .spawn(async move { family.in_turn(&client, &at, (&form, key.as_deref())).await });
        turn.await
            .unwrap_or(Err(IssueError::Unavailable { retry_after: None }))
    }

    async fn in_turn(
        &self,
        client: &TokenClient,
        at: &Endpoints,
        asking: (&Form, Option<&DpopKey>),
    ) -> Result<Granted, IssueError> {
        let mut unsaved = self.unsaved.lock().await;
        let until = Instant::now() + WAIT;
        let mut turn = Instant::now() + TURN;
        while !self.vessel.claim(&self.id, TURN).await.map_err(store)? {
            if Instant::now() > until {
                return Err(IssueError::Unavailable { retry_after: None });
            }
            sleep(PAUSE).await;
            turn = Instant::now() + TURN;
        }
        let mut unused = None;
        let outcome = self
            .use_it((client, at, turn), asking, &mut unsaved, &mut unused)
            .await;
        if self.vessel.release(&self.id).await.is_err() {
            warn!(credential = %self.id, "the turn to use a refresh token was not given back; it ends by itself");
        }
        drop(unsaved);
        if let Some(token) = unused {
            // An access token whose refresh token is not stored is not used, and not left alone either.
            let handle = Handle::new(token);
            timeout(CALL, client.revoke(&handle)).await.ok();
        }
        outcome
    }

    async fn use_it(
        &self,
        (client, at, turn): (&TokenClient, &Endpoints, Instant),
        (form, key): (&Form, Option<&DpopKey>),
        unsaved: &mut Option<Unsaved>,
        unused: &mut Option<Arc<Secret>>,
    ) -> Result<Granted, IssueError> {
        if let Some((version, state)) = unsaved.as_ref() {
            if self.save(*version, state).await? == Saved::Overtaken {
                // Ours was used up by the later one, or goes with its family: it is not shown to the issuer.
                warn!(credential = %self.id, "another process has stored a later refresh token; that one is used");
            }
            *unsaved = None;
        }
        let kept = self.vessel.load(&self.id).await.map_err(store)?;
        let version = kept.as_ref().map(|kept| kept.version);
        let stored = kept.map(|kept| State::read(&kept.secret)).transpose()?;
        let first = current(&self.first);
        let state = match (stored, first) {
            (Some(state), Err(_)) => state,
            (Some(state), Ok(first)) if state.first == fingerprint(&first) => state,
            (_, Ok(first)) => State {
                newest: text(&first)?,
                before: None,
                first: fingerprint(&first),
            },
            (None, Err(error)) => return Err(error),
        };
        let tries = std::iter::once(&state.newest).chain(&state.before);
        let mut last = IssueError::Refused;
        for token in tries {
            if Instant::now() + CALL + SAVING > turn {
                // Another may have its turn before the answer was stored.
                return Err(IssueError::Unavailable { retry_after: None });
            }
            let mut form = form.clone();
            form.push("refresh_token", token.as_bytes());
            let answer = timeout(CALL, client.try_token(at, &form, key)).await;
            match answer.unwrap_or_else(|_| Err(IssueError::TimedOut.into())) {
                Ok(mut granted) => {
                    if let Some(next) = granted.refresh.take() {
                        let next = state.followed_by(next, token);
                        let kept = self.keep(version, next, unsaved).await;
                        kept.inspect_err(|_| *unused = Some(Arc::clone(&granted.token)))?;
                    }
                    return Ok(granted);
                }
                Err(no) => {
                    last = no.error;
                    if let Some(next) = no.refresh {
                        let next = state.followed_by(next, token);
                        self.keep(version, next, unsaved).await?;
                    }
                    if !no.bad_grant {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    async fn keep(
        &self,
        version: Option<i64>,
        next: State,
        unsaved: &mut Option<Unsaved>,
    ) -> Result<(), IssueError> {
        *unsaved = Some((version, next.clone()));
        let saved = self.save(version, &next).await?;
        *unsaved = None;
        match saved {
            Saved::Done => Ok(()),
            // The turn was lost while the issuer thought: the next try begins with what is stored now.
            Saved::Overtaken => Err(IssueError::Unavailable { retry_after: None }),
        }
    }

    /// Stores a state that follows `version`, or fails: an access token whose refresh token is not stored is not used.
    async fn save(&self, version: Option<i64>, state: &State) -> Result<Saved, IssueError> {
        let written = state.write()?;
        let saving = timeout(SAVING, async {
            let mut version = version;
            loop {
                match self.vessel.replace(&self.id, version, &written).await {
                    Ok(true) => return Saved::Done,
                    Ok(false) => match self.vessel.load(&self.id).await {
                        // This very state, taken at a try whose answer was lost.
                        Ok(Some(kept)) if kept.secret == written => return Saved::Done,
                        // A store that was brought back from a backup: ours is the later one.
                        Ok(Some(kept))
                            if version.is_some_and(|due| kept.version < due)
                                && state.is_kin(&kept.secret) =>
                        {
                            version = Some(kept.version);
                        }
                        Ok(_) => return Saved::Overtaken,
                        Err(OutOfReach) => sleep(PAUSE).await,
                    },
                    Err(OutOfReach) => sleep(PAUSE).await,
                }
            }
        });
        saving.await.map_err(|_| IssueError::Store)
    }
}

fn store(_: OutOfReach) -> IssueError {
    IssueError::Store
}

fn text(secret: &Secret) -> Result<Zeroizing<String>, IssueError> {
    let text = std::str::from_utf8(secret.expose()).map_err(|_| IssueError::Refused)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A hash that tells tokens apart and says nothing of them.
fn fingerprint(secret: &Secret) -> String {
    DpopKey::hash(secret.expose())
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State(..)")
    }
}

/// How long a turn lasts at most. The issuer is not asked where its answer might not be stored by then.
const TURN: Duration = Duration::from_secs(45);
/// How long the issuer may think.
const CALL: Duration = Duration::from_secs(15);
/// How long another's turn is waited for.
const WAIT: Duration = Duration::from_secs(50);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long it is tried to store a state before the access token is given up.
const SAVING: Duration = Duration::from_secs(6);
