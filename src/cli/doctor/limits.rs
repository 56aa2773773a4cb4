//! How many descriptors this process could open: each connection of an agent takes two, and each idle one upstream.

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::config::Config;

/// What a daemon needs beside its connections.
const OWN: u64 = 64;

/// Looks at the hard limit, to which `serve` raises itself.
pub(super) fn look(config: &Config) -> Finding {
    let most = (config.listeners.iter())
        .filter_map(|listener| u64::try_from(listener.limits.max_connections).ok())
        .fold(0, u64::saturating_add);
    let wanted = most.saturating_mul(2).saturating_add(OWN);
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => Finding::warn(
            "limits",
            format!(
                "this process may open {limit} files at most, and max-connections can take {wanted}"
            ),
            format!(
                "LimitNOFILE={wanted} in the unit, --ulimit nofile={wanted} in docker, or a lower max-connections"
            ),
        ),
        Some(limit) => Finding::ok("limits", format!("{limit} files may be open")),
        None => Finding::ok("limits", "any number of files may be open"),
    }
}
