//! The person for whom the session acts: whoever signed in by `keyward login`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::Name;
use crate::app::{App, Environment};
use crate::cli::complain;
use crate::cli::login::{AGAIN, MARGIN, Who};
use crate::config::Config;
use crate::login::{Fault, SignedIn};
use crate::policy::Person;

/// A kept sign-in under which a session runs.
#[derive(Debug)]
pub(super) struct Acting {
    who: Who,
    pub(super) person: Arc<Person>,
    expires: Timestamp,
    renews: bool,
}

/// Who is signed in at the login that is named, else at the file's only one where somebody is.
///
/// # Errors
/// The exit code. A sign-in that has ended is a fault: the session would act for nobody, in silence.
pub(super) async fn find(
    config: &Config,
    named: Option<&Name>,
    environment: &Environment,
) -> Result<Option<Acting>, u8> {
    match Who::find(config, named, environment).await? {
        Some(who) => {
            let signed_in = who.needed().await?;
            Ok(Some(Acting::new(who, &signed_in)))
        }
        None => Ok(None),
    }
}

impl Acting {
    fn new(who: Who, signed_in: &SignedIn) -> Self {
        Self {
            who,
            person: Arc::new(Person::new(signed_in.user.clone(), signed_in.tokens())),
            expires: signed_in.expires,
            renews: signed_in.refresh_token.is_some(),
        }
    }

    /// When the session ends: with the ID token, unless that is renewed.
    pub(super) fn end(&self) -> Option<Timestamp> {
        (!self.renews).then_some(self.expires)
    }

    /// What the user is told.
    pub(super) fn note(&self) -> String {
        let user = &self.person.user;
        let name = user.name.escape_debug();
        match self.end() {
            None => format!("acting for {name} ({})", user.provider),
            Some(end) => format!("acting for {name} ({}) until {end}", user.provider),
        }
    }

    /// Renews the sign-in for as long as the command runs. Once it cannot be renewed and its time is up, the session
    /// ends; this never returns.
    pub(super) async fn keep(mut self, app: &App) -> Infallible {
        while self.renews {
            let due = self.expires.duration_since(Timestamp::now()) - MARGIN / 2;
            tokio::time::sleep(Duration::try_from(due).unwrap_or_default()).await;
            match self.who.current().await {
                Ok(fresh) if fresh.user == self.person.user => {
                    self.person.renew(fresh.tokens());
                    // One that is as short as the margin would be renewed without a pause.
                    tokio::time::sleep(AGAIN).await;
                    self.expires = fresh.expires;
                }
                Err(Fault::Unavailable | Fault::Busy) if self.expires > Timestamp::now() => {
                    tokio::time::sleep(AGAIN).await;
                }
                _ => {
                    let user = &self.person.user;
                    complain(&format_args!(
                        "the sign-in at {} has ended, and the session with it: keyward login {0}",
                        user.provider
                    ));
                    app.end_run("expired");
                    break;
                }
            }
        }
        std::future::pending().await
    }
}
