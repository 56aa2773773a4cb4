//! Live connections: counted for each agent, and cut when a reload takes away what they were granted.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Snapshot;
use super::tunnel::Tunnel;
use crate::agent::AgentId;
use crate::host::Target;
use crate::session::Session;

/// Every live connection of an identified agent.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    connections: HashMap<u64, Connection>,
    by_agent: HashMap<AgentId, usize>,
}

/// What runs on a connection.
#[derive(Debug)]
pub(super) enum Connection {
    /// Intercepted: its grant is compared.
    Intercept(Weak<Tunnel>),
    /// Tunnelled untouched.
    Blind {
        session: Arc<Session>,
        target: Arc<Target>,
        cut: CancellationToken,
    },
}

/// A place in the register; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place {
    live: Arc<Live>,
    agent: AgentId,
    id: Option<u64>,
}

impl Live {
    /// Counts a connection of this agent in; `None` where it has too many.
    pub(super) fn enter(self: &Arc<Self>, agent: &AgentId, most: usize) -> Option<Place> {
        let mut inner = self.0.lock();
        let count = inner.by_agent.entry(agent.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            live: Arc::clone(self),
            agent: agent.clone(),
            id: None,
        })
    }

    /// Cuts every connection that the new configuration no longer grants.
    pub(super) fn settle(&self, snapshot: &Arc<Snapshot>) -> usize {
        let mut cut = 0;
        for connection in self.0.lock().connections.values() {
            match connection {
                Connection::Intercept(tunnel) => {
                    if let Some(tunnel) =
                        tunnel.upgrade().filter(|tunnel| tunnel.loses_by(snapshot))
                    {
                        tunnel.cut.cancel();
                        cut += 1;
                    }
                }
                Connection::Blind {
                    session,
                    target,
                    cut: token,
                } => {
                    let chain = session.chain();
                    let kept = (snapshot.registry.admit_all(chain)).is_ok_and(|now| now.is_all())
                        && !snapshot.table.speaks_of(target);
                    if !kept {
                        token.cancel();
                        cut += 1;
                    }
                }
            }
        }
        cut
    }
}

impl Place {
    /// Says what runs on the connection.
    pub(super) fn runs(&mut self, connection: Connection) {
        let mut inner = self.live.0.lock();
        let id = inner.next;
        inner.next += 1;
        inner.connections.insert(id, connection);
        self.id = Some(id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.live.0.lock();
        if let Some(id) = self.id {
            inner.connections.remove(&id);
        }
        if let Some(count) = inner.by_agent.get_mut(&self.agent) {
            *count -= 1;
            if *count == 0 {
                inner.by_agent.remove(&self.agent);
            }
        }
    }
}
