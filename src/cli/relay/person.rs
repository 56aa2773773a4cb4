//! Whoever is signed in by `keyward login -c FILE --local`, for a relay that acts for them.

use async_trait::async_trait;

use crate::cli::login::Who;
use crate::login::Fault;
use crate::relay::{self, Absent, Proved, SignIn};
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

    async fn look(&self, proved: &Proved) -> relay::Kept {
        let who = self.0.clone();
        let token = Secret::new(proved.id_token.expose().to_vec());
        let user = proved.user.name.clone();
        let looked = tokio::task::spawn_blocking(move || match who.keeps(&token, &user) {
            Some(true) => relay::Kept::Same,
            Some(false) => relay::Kept::Renewed,
            None => relay::Kept::Gone,
        });
        looked.await.unwrap_or(relay::Kept::Gone)
    }
}
