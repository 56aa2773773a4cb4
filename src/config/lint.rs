//! What holds and is still probably not meant: routes that never match, credentials that nobody uses, agents that
//! cannot get in.

use super::fault::Desk;
use super::file::Parts;
use crate::agent::AgentId;
use crate::host::Scheme;
use crate::host::{HostMatch, HostPattern, Target};
use crate::identity::{Mapping, Status};
use crate::proxy::Identify;
use crate::route::{MethodSet, PathPattern, Route};

/// Looks at a configuration without faults.
pub(super) fn look(desk: &Desk, parts: &Parts) {
    shadowed_routes(desk, parts);
    unused_credentials(desk, parts);
    unreachable_agents(desk, parts);
    idle_admin(desk, parts);
}

fn shadowed_routes(desk: &Desk, parts: &Parts) {
    for (place, later) in parts.routes.iter().enumerate() {
        let earlier = parts.routes.iter().take(place);
        let shadow = earlier
            .map(|written| &written.route)
            .find(|route| covers(route, &later.route));
        if let Some(shadow) = shadow {
            let message = format!("the route \"{}\" can never match", later.route.name);
            let help = format!(
                "the route \"{}\" stands above it and matches all that it matches: the first match decides",
                shadow.name
            );
            desk.warn(&later.span, message, help);
        }
    }
}

/// Whether every request that `later` matches is matched by `earlier`. It may say no where only a union, or a
/// pattern's finer meaning, would say yes.
fn covers(earlier: &Route, later: &Route) -> bool {
    let methods = |route: &Route| route.methods.clone().unwrap_or(MethodSet::DEFAULT);
    let agents = earlier.agents.is_empty()
        || (!later.agents.is_empty() && later.agents.iter().all(|id| earlier.agents.contains(id)));
    let hosts = |host: &HostPattern| earlier.hosts.iter().any(|wide| covers_host(wide, host));
    agents
        && !later.hosts.is_empty()
        && later.hosts.iter().all(hosts)
        && methods(earlier).covers(&methods(later))
        && covers_paths(&earlier.paths, &later.paths)
}

fn covers_host(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match &narrow.kind {
        HostMatch::OneLabel(_) => wide == narrow,
        HostMatch::Exact(host) => wide.matches(&Target {
            scheme: Scheme::Https,
            host: host.clone(),
            port: narrow.port,
        }),
    }
}

/// Empty is every path.
fn covers_paths(wide: &[PathPattern], narrow: &[PathPattern]) -> bool {
    let covered = |path: &PathPattern| wide.iter().any(|pattern| covers_path(pattern, path));
    wide.is_empty()
        || wide.iter().any(PathPattern::is_everything)
        || (!narrow.is_empty() && narrow.iter().all(covered))
}

fn covers_path(wide: &PathPattern, narrow: &PathPattern) -> bool {
    if wide == narrow || (!narrow.as_str().contains('*') && wide.matches(narrow.as_str())) {
        return true;
    }
    // `/v1/**` covers whatever begins with `/v1/`, stars or not.
    wide.as_str().strip_suffix("/**").is_some_and(|head| {
        let below = narrow.as_str().strip_prefix(head);
        !head.contains('*') && below.is_some_and(|rest| rest.starts_with('/'))
    })
}

fn unused_credentials(desk: &Desk, parts: &Parts) {
    for (spec, span) in &parts.credentials {
        if spec.slots.is_empty() {
            let message = format!("no route uses the credential \"{}\"", spec.name);
            let help = format!(
                "add credential = \"{}\" to a route, or leave it out",
                spec.name
            );
            desk.warn(span, message, help);
        }
    }
}

/// Agents without evidence, where every listener asks for it.
fn unreachable_agents(desk: &Desk, parts: &Parts) {
    let asks = |settings: &crate::proxy::ListenerSettings| settings.identify == Identify::Required;
    if !parts.listeners.iter().all(|(listener, _)| asks(listener)) {
        return;
    }
    // A file without listeners is one for `run`, which brings its own and a token for its agent.
    let Some(written) = parts.listeners.iter().find_map(|(_, span)| span.as_ref()) else {
        return;
    };
    let proves = |id: &AgentId| {
        let mut tables = parts.trust.iter();
        tables.any(|table| match &table.settings.agent {
            Mapping::Claim(_) => true,
            mapping => mapping.agents().contains(&id),
        })
    };
    if parts.agents.is_empty() {
        let message = "nobody can authenticate here: the file has no [agent.ID]";
        let help = "`keyward run` brings an agent and a token of its own; for `keyward serve` add [agent.ID] with a token";
        desk.warn(written, message, help);
    }
    for ((agent, token), span) in &parts.agents {
        if token.is_none() && agent.status != Status::Suspended && !proves(&agent.id) {
            let message = format!(
                "nobody can authenticate as \"{}\": it has no token",
                agent.id
            );
            let help =
                "add token = { file = \"PATH\" }; `keyward run --agent` brings a token of its own";
            desk.warn(span, message, help);
        }
    }
}

fn idle_admin(desk: &Desk, parts: &Parts) {
    if let Some((admin, span)) = &parts.admin
        && admin.listen.is_none()
        && admin.socket.is_none()
    {
        let message = "[admin] listens nowhere";
        desk.warn(
            span,
            message,
            "add listen = \"127.0.0.1:8181\", or a socket",
        );
    }
}
