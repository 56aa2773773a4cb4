//! Whoever is signed in at a login of a file, for commands that go on with it: `run`, and a session at a gateway.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{NO, UNAVAILABLE, USAGE, complain};
use super::kept::{Content, Kept, Lock};
use crate::agent::Name;
use crate::app::{self, Environment, StartHint};
use crate::config::Config;
use crate::login::{Fault, Provider, SignedIn};
use crate::secret::Secret;

/// A kept sign-in, and the provider that renews it.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    provider: Arc<Provider>,
    kept: Kept,
}

impl Who {
    /// Who is signed in at the login that is named, else at the file's only one where somebody is; `None` where nobody is
    /// and no login is named.
    ///
    /// # Errors
    /// The exit code, after the reason was shown on stderr.
    pub(crate) async fn find(
        config: &Config,
        named: Option<&Name>,
        environment: &Environment,
    ) -> Result<Option<Self>, u8> {
        let mut there = Vec::new();
        for (place, login) in config.logins.iter().enumerate() {
            let name = &login.settings.name;
            let kept = Kept::of(&login.settings, environment);
            let Some(kept) = kept.filter(Kept::is_there) else {
                continue;
            };
            if named.is_none_or(|named| named == name) {
                there.push((place, name, kept));
            }
        }
        let (place, kept) = match (there.pop(), &*there, named) {
            (Some((place, _, kept)), [], _) => (place, kept),
            (Some((_, last, _)), others, _) => {
                let names = others.iter().map(|(_, name, _)| name.as_str());
                let names: Vec<&str> = names.chain([last.as_str()]).collect();
                complain(&format_args!(
                    "say for whom with --login; somebody is signed in at: {}",
                    names.join(", ")
                ));
                return Err(USAGE);
            }
            (None, _, None) => return Ok(None),
            (None, _, Some(name)) => {
                complain(&format_args!(
                    "nobody is signed in at {name}: keyward login {name} -c FILE --local"
                ));
                return Err(NO);
            }
        };
        let provider = Arc::new(providers(config, environment).await?.swap_remove(place));
        Ok(Some(Self { provider, kept }))
    }

    /// The login that is named, else the file's only one, whether or not somebody is signed in there yet.
    ///
    /// # Errors
    /// The exit code, after the reason was shown on stderr.
    pub(crate) async fn at(
        config: &Config,
        named: Option<&Name>,
        environment: &Environment,
    ) -> Result<Self, u8> {
        let known: Vec<&Name> = config.logins.iter().map(|one| &one.settings.name).collect();
        let place = match (named, &*known) {
            (Some(name), _) => known.iter().position(|one| *one == name),
            (None, [_]) => Some(0),
            (None, _) => None,
        };
        let Some((place, login)) = place.zip(place.and_then(|place| config.logins.get(place)))
        else {
            let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
            complain(&format_args!(
                "say for whom with --login; the file's [login.NAME] are: {}",
                names.join(", ")
            ));
            return Err(USAGE);
        };
        let Some(kept) = Kept::of(&login.settings, environment) else {
            complain(
                &"neither XDG_STATE_HOME nor HOME is set: there is no place where a sign-in is kept",
            );
            return Err(UNAVAILABLE);
        };
        let provider = Arc::new(providers(config, environment).await?.swap_remove(place));
        Ok(Self { provider, kept })
    }

    /// Whether this is the ID token that is kept now; `None` where none of this user is. Reads a file.
    pub(crate) fn keeps(&self, id_token: &Secret, user: &str) -> Option<bool> {
        let kept = self.kept.read().ok().flatten()?;
        let is_same = kept.id_token.equals(id_token.expose());
        (is_same || kept.user == user).then_some(is_same)
    }

    /// The sign-in as it is now, with an ID token that holds: renewed where the one that is kept is about to end.
    ///
    /// # Errors
    /// [`Fault`]: there is none any more. The file of one that the provider refuses stays: what is wrong with it may
    /// pass.
    pub(crate) async fn current(&self) -> Result<SignedIn, Fault> {
        renewed(&self.provider, &self.kept).await
    }

    /// As [`Who::current`], for a command that ends where there is none.
    ///
    /// # Errors
    /// The exit code, after the reason and the next step were shown on stderr.
    pub(crate) async fn needed(&self) -> Result<SignedIn, u8> {
        self.current().await.map_err(|fault| {
            let name = self.provider.name();
            complain(&format_args!(
                "the sign-in at {name} cannot be used: {fault}\n  = keyward login {name} -c FILE --local; to act for nobody, the same with --forget"
            ));
            match fault {
                Fault::Refused(_) => NO,
                _ => UNAVAILABLE,
            }
        })
    }
}

async fn providers(config: &Config, environment: &Environment) -> Result<Vec<Provider>, u8> {
    app::people(config, environment).await.map_err(|error| {
        complain(&format_args!("{error}\n  = {}", StartHint(&error)));
        super::super::serve::exit_code(&error)
    })
}

async fn renewed(provider: &Provider, kept: &Kept) -> Result<SignedIn, Fault> {
    let gone = Fault::Refused("the kept sign-in cannot be read: sign in anew");
    let waiting = kept.clone();
    // Another command may be renewing it just now.
    let turn = tokio::task::spawn_blocking(move || waiting.lock()).await;
    let _turn: Lock = match turn {
        Ok(Ok(turn)) => turn,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => return Err(Fault::Busy),
        Ok(Err(_)) | Err(_) => return Err(gone),
    };
    let Some(Content {
        user,
        expires,
        id_token,
        access_token,
        refresh_token,
    }) = kept.read().map_err(|_| gone)?
    else {
        return Err(Fault::Refused("nobody is signed in any more"));
    };
    let left = expires.duration_since(Timestamp::now());
    let known = if left < MARGIN && refresh_token.is_some() {
        None
    } else {
        match (
            provider.verified(&id_token, access_token.as_ref()).await,
            &refresh_token,
        ) {
            (Ok(known), _) => Some(known),
            // Signed with a key that is gone, say: a new one tells.
            (Err(Fault::Refused(_)), Some(_)) => None,
            (Err(Fault::Refused(_)), None) if left <= jiff::SignedDuration::ZERO => {
                return Err(Fault::Refused("the sign-in has ended"));
            }
            (Err(fault), _) => return Err(fault),
        }
    };
    match (known, refresh_token) {
        (Some(known), refresh_token) => Ok(SignedIn {
            user: known.user,
            expires: known.expires,
            id_token,
            access_token,
            refresh_token,
        }),
        (None, Some(refresh)) => {
            let fresh = provider.refresh(&refresh).await?;
            // OpenID Connect Core 1.0 §12.2.
            if *fresh.user.name != *user {
                return Err(Fault::Refused("the provider now names another person"));
            }
            let written = kept.write(&fresh, Some(&refresh));
            written.map_err(|_| Fault::Refused("the renewed sign-in cannot be kept"))?;
            Ok(SignedIn {
                refresh_token: fresh.refresh_token.or(Some(refresh)),
                ..fresh
            })
        }
        (None, None) => Err(gone),
    }
}

/// So long before its end a sign-in is renewed.
pub(crate) const MARGIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);
/// How long it is waited after a provider did not answer.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);
