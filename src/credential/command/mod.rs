//! `[credential.NAME.command]`: a plug-in in any language. One JSON object goes in, one comes out.
//!
//! The command runs once for each call, with an empty environment but for `PATH` and what the file keeps, in a process
//! group of its own. What it writes to its standard error is counted and thrown away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing::warn;
use zeroize::Zeroizing;

use super::given::{self, Wiped, present};
use super::source::Env;
use super::{CredentialProvider, Handle, IssueError, Issued, RevokeError, Scope};
use crate::agent::Name;
use crate::inject::Material;
use crate::process::{self, Broken, Surroundings};

/// The version of the protocol.
const VERSION: u64 = 1;
/// How many commands of one credential run at a time: a thousand sessions must not be a thousand processes.
const AT_A_TIME: usize = 16;

/// `[credential.NAME.command]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// `run`: program and arguments; no shell.
    pub run: Vec<String>,
    /// `max-output`, in bytes.
    pub max_output: usize,
    /// `env`: the variables that it gets beside `PATH`.
    pub env: Vec<String>,
}

/// Runs a command for each lease.
#[derive(Debug)]
pub struct CommandProvider {
    credential: Name,
    settings: CommandSettings,
    surroundings: Surroundings,
    turns: Semaphore,
}

/// What the command reads, to issue.
#[derive(Debug, Serialize)]
struct IssueAsk<'a> {
    version: u64,
    op: &'static str,
    credential: &'a str,
    /// `null` where the lease serves everybody.
    agent: Option<&'a str>,
    user: Option<&'a str>,
    /// `null` where the lease serves more than one session.
    session: Option<&'a str>,
    scopes: Vec<&'a str>,
}

/// What the command reads, to revoke.
#[derive(Debug, Serialize)]
struct RevokeAsk<'a> {
    version: u64,
    op: &'static str,
    handle: &'a str,
}

/// What every answer may say.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Said {
    #[serde(default, deserialize_with = "present")]
    version: Option<u64>,
    error: Option<IgnoredAny>,
    /// In seconds; heeded beside `error` only, and only where it is a number above zero.
    #[serde(default)]
    retry_after: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Given {
    secret: Wiped,
    #[serde(default, deserialize_with = "present")]
    expires_in: Option<f64>,
    handle: Option<Wiped>,
    #[serde(default)]
    revoke: bool,
}

/// Why a call came to nothing, for the operator; nothing that the command wrote is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it cannot be started: {0}")]
    NotStarted(std::io::ErrorKind),
    #[error("it wrote more than max-output")]
    TooLong,
    #[error("its output could not be read")]
    Unread,
    #[error("it ended with another code than 0")]
    Code,
    #[error("it answered with an error")]
    Error(Option<Duration>),
    #[error("its answer is not the JSON object of this protocol")]
    Rubbish,
    #[error("its answer is of another version of the protocol")]
    Version,
}

impl From<Fault> for IssueError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Error(Some(retry_after)) => Self::RefusedFor { retry_after },
            Fault::NotStarted(_)
            | Fault::TooLong
            | Fault::Unread
            | Fault::Code
            | Fault::Error(None)
            | Fault::Rubbish
            | Fault::Version => Self::Refused,
        }
    }
}

impl CommandProvider {
    /// Runs what the settings name. `env` is keyward's environment as it was captured at the start.
    pub fn new(credential: Name, settings: CommandSettings, env: Env<'_>) -> Self {
        let kept = settings.env.iter().map(String::as_str);
        Self {
            credential,
            surroundings: Surroundings::keeping(env, std::iter::once("PATH").chain(kept)),
            turns: Semaphore::new(AT_A_TIME),
            settings,
        }
    }

    /// Runs the command once. The broker sets the deadline; past it the command's whole process group is killed.
    async fn call<T: DeserializeOwned>(&self, ask: &(impl Serialize + Sync)) -> Result<T, Fault> {
        let mut input = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(&mut *input, ask).map_err(|_| Fault::Rubbish)?;
        // A shell reads lines.
        input.push(b'\n');
        let _turn = self.turns.acquire().await;
        let settings = &self.settings;
        let run = process::run(
            &settings.run,
            &input,
            settings.max_output,
            &self.surroundings,
        );
        let output = run.await.map_err(|broken| match broken {
            Broken::NotStarted(kind) => Fault::NotStarted(kind),
            Broken::TooLong => Fault::TooLong,
            Broken::Unread => Fault::Unread,
        });
        let complained = output.as_ref().map_or(0, |output| output.complained);
        let answer = output.and_then(|output| {
            if output.status.success() {
                return understand(&output.stdout);
            }
            // What it says of a time is heeded whatever its code; all else it says is not.
            match understand::<IgnoredAny>(&output.stdout) {
                Err(error @ Fault::Error(Some(_))) => Err(error),
                _ => Err(Fault::Code),
            }
        });
        if let Err(fault) = &answer {
            // Its length alone: what stands in it may be a secret.
            warn!(credential = %self.credential, %fault, stderr_bytes = complained, "the command gave nothing");
        }
        answer
    }
}

/// One JSON object, and nothing after it.
fn understand<T: DeserializeOwned>(output: &[u8]) -> Result<T, Fault> {
    if !output.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::Rubbish);
    }
    let said: Said = serde_json::from_slice(output).map_err(|_| Fault::Rubbish)?;
    if said.error.is_some() {
        let seconds = said
            .retry_after
            .as_ref()
            .and_then(serde_json::Value::as_f64);
        let wait = seconds.filter(|&seconds| seconds > 0.0);
        return Err(Fault::Error(wait.map(|seconds| {
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        })));
    }
    if said.version.is_some_and(|version| version != VERSION) {
        return Err(Fault::Version);
    }
    serde_json::from_slice(output).map_err(|_| Fault::Rubbish)
}

#[async_trait]
impl CredentialProvider for CommandProvider {
    fn kind(&self) -> &'static str {
        "command"
    }

    /// Its command is ended at the deadline.
    fn may_end_late(&self) -> bool {
        false
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let scopes = scope.narrow.scopes.iter().flatten();
        let ask = IssueAsk {
            version: VERSION,
            op: "issue",
            credential: scope.credential.as_str(),
            agent: scope.holder.agent().map(Name::as_str),
            user: scope.person.as_ref().map(|person| &*person.user.name),
            session: scope.holder.session().map(|session| &**session),
            scopes: scopes.map(|scope| &**scope).collect(),
        };
        let given: Given = self.call(&ask).await?;
        let handle = given.handle.filter(|_| given.revoke);
        if given.revoke && handle.is_none() {
            // It wants to be told to revoke, and did not say what.
            return Err(IssueError::Refused);
        }
        let handle = handle.map(|handle| Handle::new(Arc::new(handle.0)));
        let usable = given::usable(given.secret.0)
            .and_then(|secret| Ok((secret, given::life(given.expires_in)?)));
        match (usable, handle) {
            (Ok((secret, life)), handle) => Ok(Issued {
                material: Material::Token(secret),
                life,
                handle,
                superseded: None,
            }),
            (Err(error), Some(handle)) => {
                // It cannot be used here, and must not be good for anybody else.
                self.revoke(&handle).await.ok();
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        let handle =
            std::str::from_utf8(handle.content().expose()).map_err(|_| RevokeError::Failed)?;
        let ask = RevokeAsk {
            version: VERSION,
            op: "revoke",
            handle,
        };
        let revoked = self.call::<IgnoredAny>(&ask).await;
        revoked.map(drop).map_err(|_| RevokeError::Failed)
    }
}

/// Room for what is written: a buffer that grows would leave copies of a handle behind.
const ROOM: usize = 64 * 1024;

#[cfg(test)]
mod tests;
