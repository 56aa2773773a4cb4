//! The standard chain: environment, web identity, profile files, container, instance. The first that is there is asked,
//! and if it fails nobody else is: keys of another identity are not a substitute.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{Env, IssueError, Issued, Life};
use super::held::key_id;
use super::metadata::{Container, Instance};
use super::profile::Profile;
use crate::inject::{Keys, Material};
use crate::issuer::Client;
use crate::secret::Secret;

/// The variables of the chain that hold secrets.
pub(super) const SECRET: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// How long keys of a file are used before it is read again.
const LOOK_AGAIN: Duration = Duration::from_mins(5);

/// What keyward starts from.
#[derive(Debug)]
pub(super) enum Found {
    /// Keys.
    Keys(Issued),
    /// A token that STS takes, and the role that it is for where that is known.
    WebIdentity {
        role: Option<String>,
        token: Arc<Secret>,
    },
}

/// The chain as keyward's environment sets it out.
#[derive(Debug)]
pub(super) struct Chain {
    variables: Option<Keys>,
    web: Option<(PathBuf, String)>,
    profile: Profile,
    container: Option<Container>,
    instance: Option<Instance>,
}

impl Chain {
    pub(super) fn of(env: Env<'_>, client: Client) -> Self {
        let text = |name: &str| env(name).and_then(|value| value.into_string().ok());
        let some = |name: &str| text(name).filter(|value| !value.is_empty());
        let secret = |name: &str| some(name).map(|value| Arc::new(Secret::from(value)));
        let variables = some("AWS_ACCESS_KEY_ID")
            .and_then(|id| key_id(id.as_bytes()))
            .zip(secret("AWS_SECRET_ACCESS_KEY"))
            .map(|(id, key)| Keys {
                id,
                secret: key,
                token: secret("AWS_SESSION_TOKEN"),
            });
        let web = some("AWS_WEB_IDENTITY_TOKEN_FILE").zip(some("AWS_ROLE_ARN"));
        let off = some("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        Self {
            variables,
            web: web.map(|(file, role)| (file.into(), role)),
            profile: Profile::of(&some),
            container: Container::of(&some, client.clone()),
            instance: (!off).then(|| Instance::of(&some, client)).flatten(),
        }
    }

    pub(super) async fn find(&self, now: Timestamp) -> Result<Found, IssueError> {
        if let Some(keys) = &self.variables {
            return Ok(Found::Keys(of_file(keys.clone(), Life::Endless)));
        }
        if let Some((file, role)) = &self.web {
            return Ok(Found::WebIdentity {
                role: Some(role.clone()),
                token: read(file.clone()).await?,
            });
        }
        let profile = self.profile.clone();
        let found = tokio::task::spawn_blocking(move || profile.find()).await;
        match found.map_err(|_| IssueError::Refused)? {
            Some(Found::Keys(issued)) => {
                return Ok(Found::Keys(Issued {
                    life: Life::For(LOOK_AGAIN),
                    ..issued
                }));
            }
            Some(found) => return Ok(found),
            None => {}
        }
        if let Some(container) = &self.container {
            return container.keys(now).await.map(Found::Keys);
        }
        match &self.instance {
            Some(instance) => instance.keys(now).await.map(Found::Keys),
            None => Err(IssueError::Refused),
        }
    }
}

/// Keys without an issuer's word on them.
pub(super) fn of_file(keys: Keys, life: Life) -> Issued {
    Issued {
        material: Material::Aws(keys),
        life,
        handle: None,
        superseded: None,
    }
}

/// A token's file, which its issuer writes anew from time to time.
pub(super) async fn read(file: PathBuf) -> Result<Arc<Secret>, IssueError> {
    let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    let bytes = read.ok().and_then(Result::ok);
    let secret = Secret::new(bytes.ok_or(IssueError::Unavailable { retry_after: None })?);
    let usable = !secret.is_empty() && secret.len() <= 64 * 1024;
    usable.then(|| Arc::new(secret)).ok_or(IssueError::Refused)
}
