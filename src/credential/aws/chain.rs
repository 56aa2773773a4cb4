//! The standard chain: environment, web identity, profile files, container, instance. The first that is there is asked,
//! and if it fails nobody else is: keys of another identity are not a substitute.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tracing::warn;

use super::super::{Env, IssueError, Issued, Life};
use super::held::key_id;
use super::life;
use super::metadata::{Container, Instance, LONGEST};
use super::profile::{Base, Place, Plan, Profile, Step};
use super::sso::Portal;
use crate::inject::{Keys, Material};
use crate::issuer::Client;
use crate::process::{self, Surroundings};
use crate::secret::Secret;

/// The variables of the chain that hold secrets.
pub(super) const SECRET: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// What `credential_process` gets of keyward's environment: nothing that holds a secret.
const FOR_PROCESS: [&str; 7] = [
    "PATH",
    "HOME",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];

/// How much it may write, in bytes.
const LONGEST_OUTPUT: usize = 64 * 1024;

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

/// What keyward starts from, and the roles on its way that a profile names.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) found: Found,
    pub(super) roles: Vec<Step>,
}

impl From<Found> for Start {
    fn from(found: Found) -> Self {
        let roles = Vec::new();
        Self { found, roles }
    }
}

/// The chain as keyward's environment sets it out.
#[derive(Debug)]
pub(super) struct Chain {
    variables: Link<Keys>,
    web: Option<(PathBuf, Option<String>)>,
    profile: Profile,
    surroundings: Surroundings,
    portal: Portal,
    container: Link<Container>,
    instance: Option<Instance>,
}

/// A link of the chain that variables name.
#[derive(Debug)]
enum Link<T> {
    /// They do not.
    Away,
    /// They do, and what they say cannot be used: the next link is not asked in its place.
    Bad,
    Here(T),
}

impl<T> Link<T> {
    fn of(named: bool, found: Option<T>) -> Self {
        match found {
            Some(found) => Self::Here(found),
            None if named => Self::Bad,
            None => Self::Away,
        }
    }

    fn is_away(&self) -> bool {
        matches!(self, Self::Away)
    }

    fn get(&self) -> Result<&T, IssueError> {
        match self {
            Self::Here(found) => Ok(found),
            Self::Away | Self::Bad => Err(IssueError::Refused),
        }
    }
}

/// What `credential_process` writes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    version: u64,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
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
        let named = |names: [&str; 2]| names.into_iter().any(|name| some(name).is_some());
        let web = some("AWS_WEB_IDENTITY_TOKEN_FILE");
        let off = some("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        Self {
            variables: Link::of(
                named(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
                variables,
            ),
            web: web.map(|file| (file.into(), some("AWS_ROLE_ARN"))),
            profile: Profile::of(&some),
            surroundings: Surroundings::keeping(env, FOR_PROCESS),
            portal: Portal::of(&some, client.clone()),
            container: Link::of(
                named([
                    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                ]),
                Container::of(&some, client.clone()),
            ),
            instance: (!off).then(|| Instance::of(&some, client)).flatten(),
        }
    }

    /// Says what is wrong with the profile before anybody needs it.
    pub(super) async fn look(&self) {
        if self.variables.is_away() && self.web.is_none() {
            self.plan().await.ok();
        }
    }

    pub(super) async fn find(&self, now: Timestamp) -> Result<Start, IssueError> {
        if !self.variables.is_away() {
            return self.at(Place::Environment, now).await;
        }
        if let Some((file, role)) = &self.web {
            let token = read(file.clone()).await?;
            let role = role.clone();
            return Ok(Found::WebIdentity { role, token }.into());
        }
        if let Some(Plan { base, roles }) = self.plan().await? {
            let Start { found, .. } = self.begin(base, now).await?;
            return Ok(Start { found, roles });
        }
        let place = if self.container.is_away() {
            Place::Instance
        } else {
            Place::Container
        };
        self.at(place, now).await
    }

    async fn plan(&self) -> Result<Option<Plan>, IssueError> {
        let profile = self.profile.clone();
        let plan = tokio::task::spawn_blocking(move || profile.plan()).await;
        plan.map_err(|_| IssueError::Refused)?.map_err(|fault| {
            warn!("{fault}");
            IssueError::Refused
        })
    }

    async fn at(&self, place: Place, now: Timestamp) -> Result<Start, IssueError> {
        let issued = match place {
            Place::Environment => of_file(self.variables.get()?.clone(), Life::Endless),
            Place::Container => self.container.get()?.keys(now).await?,
            Place::Instance => {
                let instance = self.instance.as_ref().ok_or(IssueError::Refused)?;
                instance.keys(now).await?
            }
        };
        Ok(Found::Keys(issued).into())
    }

    async fn begin(&self, base: Base, now: Timestamp) -> Result<Start, IssueError> {
        let issued = match base {
            Base::Of(place) => return self.at(place, now).await,
            Base::WebIdentity { role, file } => {
                let token = read(file).await?;
                let role = Some(role);
                return Ok(Found::WebIdentity { role, token }.into());
            }
            Base::Keys(keys) => of_file(keys.0, Life::For(LOOK_AGAIN)),
            Base::Sso(sso) => self.portal.keys(&sso, now).await?,
            Base::Process(argv) => self.run(&argv, now).await?,
        };
        Ok(Found::Keys(issued).into())
    }

    /// Runs `credential_process`. The broker sets the deadline; past it its whole process group is killed.
    async fn run(&self, argv: &[String], now: Timestamp) -> Result<Issued, IssueError> {
        let output = process::run(argv, b"", LONGEST_OUTPUT, &self.surroundings).await;
        let output = output.ok().filter(|output| output.status.success());
        let written: Option<Written> =
            output.and_then(|output| serde_json::from_slice(&output.stdout).ok());
        let keys = written
            .filter(|written| written.version == 1)
            .and_then(|written| {
                let end: Option<Timestamp> = match written.expiration {
                    Some(end) => Some(end.parse().ok()?),
                    None => None,
                };
                let keys = Keys {
                    id: key_id(written.access_key_id.as_bytes())?,
                    secret: Arc::new(Secret::from(written.secret_access_key)),
                    token: written
                        .session_token
                        .map(|token| Arc::new(Secret::from(token))),
                };
                let life = end.map_or(Life::For(LOOK_AGAIN), |end| life(end, now, LONGEST));
                Some(of_file(keys, life))
            });
        keys.ok_or_else(|| {
            warn!("credential_process gave no keys: it did not start or end well, or did not write the JSON of version 1");
            IssueError::Refused
        })
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
