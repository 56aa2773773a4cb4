//! Keys that somebody else rotates, each part followed at its source.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::super::{Env, IssueError, Issued, Life, Source, Superseded, Watched, Watcher};
use crate::agent::Name;
use crate::inject::{Keys, Material};

/// The watched parts of one pair of keys.
#[derive(Debug)]
pub(super) struct Held {
    id: Watched,
    secret: Watched,
    token: Option<Watched>,
}

impl Held {
    pub(super) async fn open(
        (id, secret, token): (&Source, &Source, Option<&Source>),
        name: &Name,
        watcher: &Watcher,
        env: Env<'_>,
    ) -> Self {
        let id = watcher.watch(id, env).await;
        let secret = watcher.watch(secret, env).await;
        let token = match token {
            Some(token) => Some(watcher.watch(token, env).await),
            None => None,
        };
        for part in [Some(&id), Some(&secret), token.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Err(error) = part.current() {
                warn!(credential = %name, %error, "the AWS keys have no value yet; requests that need them are refused");
            }
        }
        Self { id, secret, token }
    }

    /// The keys as they are now. A lease of them ends when any part changes.
    pub(super) fn issue(&self) -> Result<Issued, IssueError> {
        let parts = [Some(&self.id), Some(&self.secret), self.token.as_ref()];
        let readings: Vec<_> = parts.into_iter().flatten().map(Watched::reading).collect();
        let superseded = Superseded::with(readings.iter().map(|one| one.superseded.clone()));
        let mut values = Vec::with_capacity(3);
        for reading in &readings {
            values.push(reading.value.clone().map_err(|_| NOT_YET)?);
        }
        let mut values = values.into_iter();
        let (Some(id), Some(secret)) = (values.next(), values.next()) else {
            return Err(IssueError::Refused);
        };
        Ok(Issued {
            material: Material::Aws(Keys {
                id: key_id(id.expose()).ok_or(IssueError::Refused)?,
                secret,
                token: values.next(),
            }),
            life: Life::Endless,
            handle: None,
            superseded: Some(superseded),
        })
    }
}

/// The id of an access key: it is sent in each signed request, so it must be able to stand there.
pub(super) fn key_id(bytes: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then(|| text.into())
}

/// The sources are looked at on their own time: to ask sooner would find the same.
pub(super) const NOT_YET: IssueError = IssueError::Unavailable {
    retry_after: Some(Duration::from_secs(1)),
};
