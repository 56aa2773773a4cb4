//! Whether requests get through now: found out once for all who ask, and for nobody who is not served.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Shared;
use super::fault::Fault;

/// What the last probe came to. Whoever holds it probes for all.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<(Instant, Result<(), Fault>)>>);

/// For how long that is told.
const KEPT: Duration = Duration::from_secs(1);

impl Health {
    /// What a request of a process that is served would meet now, or at most a second ago.
    pub(super) async fn of(&self, shared: &Shared) -> Result<(), Fault> {
        let clock = shared.standings.clock();
        let mut last = self.0.lock().await;
        if let Some((at, result)) = &*last
            && clock.mono().saturating_duration_since(*at) < KEPT
        {
            return result.clone();
        }
        let result = probe(shared).await;
        *last = Some((clock.mono(), result.clone()));
        result
    }
}

/// Whether a request would get to the gateway now.
pub(super) async fn probe(shared: &Shared) -> Result<(), Fault> {
    let standing = shared.standings.current().await?;
    shared.gateway.open(&standing.connector).await.map(drop)
}
