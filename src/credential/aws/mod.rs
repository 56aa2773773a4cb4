//! `[credential.NAME.aws]`: AWS keys, as somebody else rotates them or as STS gives them for a while.

mod chain;
mod held;
mod metadata;
mod profile;
mod sso;
mod sso_token;
mod sts;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tracing::warn;

use super::{
    CredentialProvider, Env, Handle, IssueError, Issued, Life, RevokeError, Scope, Source, Watched,
    Watcher,
};
use crate::agent::Name;
use crate::clock::Clock;
use crate::inject::Material;
use crate::issuer::{Endpoint, Network};

use self::chain::{Chain, Found, Start as Origin};
use self::held::Held;
use self::profile::Step;
use self::sts::{Asked, Sts};

pub use self::metadata::Instance;

/// `[credential.NAME.aws]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsSpec {
    /// `source`: the keys that keyward starts from.
    pub source: AwsSource,
    /// `role-arn`: the role that is assumed; `None` gives out the source's own keys.
    pub role: Option<Box<str>>,
    /// `region`.
    pub region: Box<str>,
    /// `sts-url`.
    pub sts: Endpoint,
    /// `duration`: how long STS's keys are good.
    pub duration: Duration,
    /// `session-policy`: a file whose content narrows the role.
    pub policy: Option<PathBuf>,
    /// `tags` of the session; `{agent}` and `{user}` stand for themselves.
    pub tags: BTreeMap<Box<str>, Box<str>>,
}

/// Where keyward's own keys come from.
#[derive(Debug, Clone, PartialEq)]
pub enum AwsSource {
    /// The standard chain.
    Default,
    /// A token that STS takes for the role.
    WebIdentity(Source),
    /// Keys that somebody else rotates.
    Static {
        /// `access-key-id`
        access_key_id: Source,
        /// `secret-access-key`
        secret_access_key: Source,
        /// `session-token`
        session_token: Option<Source>,
    },
}

impl AwsSpec {
    /// The variables of keyward's environment that the standard chain reads, and that hold secrets.
    pub fn env_names(&self) -> Vec<&str> {
        match self.source {
            AwsSource::Default => chain::SECRET.to_vec(),
            AwsSource::WebIdentity(_) | AwsSource::Static { .. } => Vec::new(),
        }
    }

    /// Every source of a secret in it.
    pub fn sources(&self) -> Vec<&Source> {
        match &self.source {
            AwsSource::Default => Vec::new(),
            AwsSource::WebIdentity(token) => vec![token],
            AwsSource::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => {
                let mut sources = vec![access_key_id, secret_access_key];
                sources.extend(session_token);
                sources
            }
        }
    }
}

/// Gives AWS keys.
#[derive(Debug)]
pub struct AwsProvider {
    name: Name,
    start: Start,
    role: Option<Box<str>>,
    policy: Option<Watched>,
    tags: BTreeMap<Box<str>, Box<str>>,
    sts: Sts,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
enum Start {
    Chain(Box<Chain>),
    WebIdentity(Watched),
    Held(Held),
}

impl AwsProvider {
    /// Follows the sources of `spec`.
    pub async fn open(
        spec: &AwsSpec,
        name: &Name,
        (watcher, env): (&Watcher, Env<'_>),
        network: &Network,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let client = network.client();
        let start = match &spec.source {
            AwsSource::Default => {
                let chain = Chain::of(env, client.clone());
                chain.look().await;
                Start::Chain(Box::new(chain))
            }
            AwsSource::WebIdentity(token) => Start::WebIdentity(watcher.watch(token, env).await),
            AwsSource::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => {
                let sources = (access_key_id, secret_access_key, session_token.as_ref());
                Start::Held(Held::open(sources, name, watcher, env).await)
            }
        };
        let policy = match &spec.policy {
            Some(file) => Some(watcher.watch(&Source::File(file.clone()), env).await),
            None => None,
        };
        Self {
            name: name.clone(),
            start,
            role: spec.role.clone(),
            policy,
            tags: spec.tags.clone(),
            sts: Sts::new(client, spec),
            clock,
        }
    }

    async fn start(&self) -> Result<Origin, IssueError> {
        match &self.start {
            Start::Held(held) => held.issue().map(|keys| Found::Keys(keys).into()),
            Start::WebIdentity(token) => {
                let token = token.current().map_err(|_| held::NOT_YET)?;
                Ok(Found::WebIdentity { role: None, token }.into())
            }
            Start::Chain(chain) => {
                let found = chain.find(self.clock.now().wall).await;
                found.inspect_err(|_| {
                    warn!(credential = %self.name, "the standard chain gave no AWS keys: of variables, token, profile, container and instance, the first that is there is asked");
                })
            }
        }
    }

    /// Assumes the roles that a profile names on its way, one with the keys of the other.
    async fn climb(
        &self,
        mut keys: Issued,
        roles: Vec<Step>,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        for step in roles {
            let Material::Aws(pair) = &keys.material else {
                return Err(IssueError::Refused);
            };
            let of_step = Asked {
                external_id: step.external_id,
                duration: step.duration,
                ..Asked::bare(step.session.unwrap_or_else(|| asked.session.clone()))
            };
            keys = self.sts.assume(pair, &step.role, &of_step, now).await?;
        }
        Ok(keys)
    }

    /// What is asked of STS beside the role.
    fn asked(&self, scope: &Scope) -> Result<Asked, IssueError> {
        let session = sts::session_name(&scope.holder);
        let user = scope
            .person
            .as_ref()
            .map(|person| person.user.name.to_string());
        let mut tags = Vec::with_capacity(self.tags.len());
        for (key, template) in &self.tags {
            let agent = scope.holder.agent().map(ToString::to_string);
            let value = sts::tag(template, agent.as_deref(), user.as_deref()).ok_or_else(|| {
                warn!(credential = %self.name, tag = %key, "a session tag has no value for this session, or one that AWS does not take");
                IssueError::Refused
            })?;
            tags.push((key.clone(), value));
        }
        Ok(Asked {
            tags,
            policy: self.policy(scope)?,
            ..Asked::bare(session)
        })
    }

    /// The one session policy. STS takes one, and it has no meaning as a part of another: two are refused.
    fn policy(&self, scope: &Scope) -> Result<Option<String>, IssueError> {
        let own = match &self.policy {
            None => None,
            Some(watched) => {
                let secret = watched.current().map_err(|_| held::NOT_YET)?;
                let text = std::str::from_utf8(secret.expose());
                Some(text.map_err(|_| IssueError::Refused)?.to_owned())
            }
        };
        let routes = scope.narrow.session_policy.as_deref().map(str::to_owned);
        let text = match (own, routes) {
            (Some(_), Some(_)) => {
                warn!(credential = %self.name, "the credential and its route both have a session policy");
                return Err(IssueError::Refused);
            }
            (own, routes) => own.or(routes),
        };
        text.map(|text| {
            sts::compact(&text).ok_or_else(|| {
                warn!(credential = %self.name, "the session policy is no JSON object, or longer than 2,048 characters");
                IssueError::Refused
            })
        })
        .transpose()
    }
}

#[async_trait]
impl CredentialProvider for AwsProvider {
    fn kind(&self) -> &'static str {
        "aws"
    }

    fn revokes(&self) -> bool {
        false
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let asked = self.asked(scope)?;
        let now = self.clock.now().wall;
        let Origin { found, roles } = self.start().await?;
        let keys = match found {
            Found::Keys(issued) => issued,
            Found::WebIdentity { role, token } => {
                let wanted = self.role.as_deref().or(role.as_deref());
                let wanted = wanted.ok_or(IssueError::Refused)?;
                let other = |role: &&str| *role != wanted || !roles.is_empty();
                match role.as_deref().filter(other) {
                    // The environment's token is for another role, which may assume the one that is wanted.
                    Some(first) => {
                        let bare = Asked::bare(asked.session.clone());
                        self.sts.web_identity(&token, first, &bare, now).await?
                    }
                    None if asked.tags.is_empty() => {
                        return self.sts.web_identity(&token, wanted, &asked, now).await;
                    }
                    // The tags of such a session are those of its token.
                    None => {
                        warn!(credential = %self.name, "`tags` cannot be given to a role that a web identity assumes");
                        return Err(IssueError::Refused);
                    }
                }
            }
        };
        let keys = self.climb(keys, roles, &asked, now).await?;
        match (&self.role, &keys.material) {
            (Some(role), Material::Aws(pair)) => {
                let issued = self.sts.assume(pair, role, &asked, now).await?;
                // When keyward's own keys are replaced, what was made with the old ones is not used again.
                Ok(Issued {
                    superseded: keys.superseded,
                    ..issued
                })
            }
            (None, _) if asked.policy.is_none() && asked.tags.is_empty() => Ok(keys),
            // Without a role there is nobody who could give less than all.
            _ => {
                warn!(credential = %self.name, "a session policy and tags need a `role-arn`");
                Err(IssueError::Refused)
            }
        }
    }

    /// Keys that STS gave are good until their end: there is no call that ends them.
    async fn revoke(&self, _handle: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}

/// A life that ends at a date, by keyward's own clock, but not later than `most` from now.
fn life(end: Timestamp, now: Timestamp, most: Duration) -> Life {
    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    Life::For(left.min(most))
}
