//! A connection of an agent without its bytes: whose the requests on it are. By it is measured what that costs.

use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::Semaphore;

use super::accept::Seat;
use super::connect::Front;
use super::identify::identify_again;
use super::{ListenerSettings, Proxy, Refusal};
use crate::clock::Now;
use crate::identity::{Link, Peer};
use crate::session::{Hold, Session};

/// One such connection.
#[derive(Debug)]
pub struct Asker(Front);

impl Proxy {
    /// A connection of this peer to this listener.
    ///
    /// # Errors
    /// [`Refusal::Draining`] where there is no place for one.
    pub fn asker(
        &self,
        listener: Arc<ListenerSettings>,
        (peer, link): (Peer, Link),
    ) -> Result<Asker, Refusal> {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let seat = Seat::take(&self.0, permit.map_err(|_| Refusal::Draining)?);
        let shared = Arc::clone(&self.0);
        Ok(Asker(Front::new(
            shared,
            listener,
            (peer, link),
            Arc::new(seat),
        )))
    }
}

impl Asker {
    /// Whose a request with these headers is, and that its agents may act: as for each plain request of a connection.
    ///
    /// # Errors
    /// The refusal.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Hold, Refusal> {
        let snapshot = self.0.shared.snapshot.load_full();
        let hold = identify_again(&self.0, &snapshot, headers).await?;
        snapshot.registry.admit_all(hold.session().chain())?;
        Ok(hold)
    }

    /// Whether a session may be used for one more request: as for each request in a tunnel.
    ///
    /// # Errors
    /// The refusal.
    pub fn lives(&self, session: &Session, now: &Now) -> Result<(), Refusal> {
        self.0.shared.lives(session, now)
    }
}
