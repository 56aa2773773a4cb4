//! Whoever is signed in by `keyward login -c FILE --local`, for a relay that acts for them.

use async_trait::async_trait;

use crate::cli::login::Who;
use crate::login::Fault;
use crate::relay::{Absent, Proved, SignIn};
use crate::secret::Secret;

#[derive(Debug)]
pub(super) struct Kept(pub(super) Who);

#[async_trait]
impl SignIn for Kept {
    async fn current(&self) -> Result<Proved, Absent> {
        match self.0.current().await {
            Ok(signed_in) => Ok(Proved {
                user: signed_in.user,
                id_token: signed_in.id_token,
            }),
            Err(Fault::Refused(why)) => Err(Absent::SignedOut(why)),
            Err(_) => Err(Absent::Unknown),
        }
    }

    async fn keeps(&self, id_token: &Secret) -> bool {
        let who = self.0.clone();
        let known = Secret::new(id_token.expose().to_vec());
        let looked = tokio::task::spawn_blocking(move || who.keeps(&known)).await;
        looked.unwrap_or(false)
    }
}
