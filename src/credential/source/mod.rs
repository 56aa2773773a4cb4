//! Where secret values come from: environment, file, command, keyring.
//!
//! [`Source::read`] reads once. A [`Watcher`] keeps a [`Watched`] value up to date, for static credentials, agents'
//! proxy tokens and operators' tokens alike.

mod command;
mod file;
mod keyring;
mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

pub use watch::{Watched, Watcher};

use super::settings::Source;
pub use crate::process::Env;
use crate::secret::Secret;

/// Why a source gives no value. The texts name what an operator can mend, and hold nothing of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// The path leads to a folder, a device or a pipe.
    #[error("this is not a regular file")]
    NotAFile,
    /// There is more of it than is read.
    #[error("the value is longer than {0} bytes")]
    TooLong(usize),
    /// Nothing is left of it without its trailing line ends.
    #[error("the value is empty")]
    Empty,
    /// The command cannot be started.
    #[error("the command cannot be started: {0}")]
    NotStarted(io::ErrorKind),
    /// The command ended with another code than 0, or its output could not be read.
    #[error("the command failed")]
    Failed,
    /// The command or the keyring took too long.
    #[error("no value came within {0:?}")]
    TimedOut(Duration),
    /// The keyring has no such entry.
    #[error("the keyring has no entry for this service and user")]
    NoEntry,
    /// There is no keyring service, or it is locked.
    #[error(
        "no keyring can be used: it needs the session's Secret Service (DBUS_SESSION_BUS_ADDRESS), unlocked"
    )]
    NoKeyring,
    /// This keyward was built without the feature `keyring`.
    #[error("this keyward is built without keyrings (feature `keyring`)")]
    NotBuilt,
}

impl Source {
    /// Reads the value once, without its trailing line ends.
    ///
    /// # Errors
    /// [`SourceError`], to be shown to the operator.
    pub async fn read(&self, env: Env<'_>) -> Result<Secret, SourceError> {
        match self {
            Self::Env(name) => {
                let value = env(name).ok_or_else(|| SourceError::NotSet(name.clone()))?;
                trimmed(&Zeroizing::new(value.into_encoded_bytes()))
            }
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || file::read(&path)).await;
                read.map_err(|_| SourceError::Unreadable(io::ErrorKind::Other))?
                    .map(|(secret, _)| secret)
            }
            Self::Command {
                argv,
                deadline,
                max_output,
                ttl: _,
            } => command::run(argv, *deadline, *max_output, &command::surroundings(env)).await,
            Self::Keyring { service, user } => keyring::read(service, user).await,
        }
    }
}

/// The value without trailing CR and LF, which editors and `echo` leave. What stands inside is the value's own: where
/// it cannot stand in a header, the injection refuses it.
fn trimmed(bytes: &[u8]) -> Result<Secret, SourceError> {
    let end = bytes
        .iter()
        .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
        .ok_or(SourceError::Empty)?;
    Ok(Secret::new(bytes.get(..=end).unwrap_or_default().to_vec()))
}
