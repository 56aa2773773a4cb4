//! What an answer is scrubbed of while it lasts: a stream may outlive the lease that it was asked for with.

use std::sync::Arc;

use super::tunnel::{Grant, Tunnel};
use crate::scrub::{Patterns, Source, Watch};

/// The secrets of one tunnel's session at one host.
struct Secrets {
    tunnel: Arc<Tunnel>,
    grant: Arc<Grant>,
}

impl Source for Secrets {
    fn mark(&self) -> u64 {
        self.tunnel.shared.broker.landed()
    }

    fn patterns(&self) -> Arc<Patterns> {
        let session = self.tunnel.session();
        self.tunnel.shared.broker.patterns(
            session.agent(),
            session.id(),
            session.person(),
            &self.grant.credentials,
        )
    }
}

/// What an answer is searched for, beginning with `patterns`, which were found after the broker had this mark.
pub(super) fn watch(
    tunnel: &Arc<Tunnel>,
    grant: &Arc<Grant>,
    patterns: Arc<Patterns>,
    mark: u64,
) -> Watch {
    let secrets = Secrets {
        tunnel: Arc::clone(tunnel),
        grant: Arc::clone(grant),
    };
    Watch::new(patterns, Arc::new(secrets), mark)
}
