//! A secret from the operating system's keyring: on Linux the session's Secret Service, over D-Bus.

use super::SourceError;
use crate::secret::Secret;

#[cfg(feature = "keyring")]
pub(super) async fn read(service: &str, user: &str) -> Result<Secret, SourceError> {
    let (service, user) = (service.to_owned(), user.to_owned());
    // The crate blocks, and a locked keyring may ask its user: not on a worker thread, and not for ever.
    let turn = tokio::time::timeout(DEADLINE, TURN.acquire())
        .await
        .map_err(|_| SourceError::TimedOut(DEADLINE))?
        .map_err(|_| SourceError::NoKeyring)?;
    let entry = tokio::task::spawn_blocking(move || {
        // Held to the end of the call, which a deadline does not stop.
        let _turn = turn;
        let secret = ::keyring::Entry::new(&service, &user)?.get_secret()?;
        Ok::<_, ::keyring::Error>(zeroize::Zeroizing::new(secret))
    });
    let answer = tokio::time::timeout(DEADLINE, entry)
        .await
        .map_err(|_| SourceError::TimedOut(DEADLINE))?
        .map_err(|_| SourceError::NoKeyring)?;
    match answer {
        Ok(bytes) => super::trimmed(&bytes),
        Err(::keyring::Error::NoEntry) => Err(SourceError::NoEntry),
        // The other errors' texts may quote what the service sent.
        Err(_) => Err(SourceError::NoKeyring),
    }
}

#[cfg(not(feature = "keyring"))]
#[expect(
    clippy::unused_async,
    reason = "the same signature as with the feature"
)]
pub(super) async fn read(_service: &str, _user: &str) -> Result<Secret, SourceError> {
    Err(SourceError::NotBuilt)
}

/// One call at a time: calls that hang must not use up the runtime's threads.
#[cfg(feature = "keyring")]
static TURN: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);
/// How long a keyring may take; a person may have to unlock it.
#[cfg(feature = "keyring")]
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
