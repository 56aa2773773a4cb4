//! All routes, indexed by host at load time so that a tunnel finds its own in one look.

use std::collections::HashMap;
use std::sync::Arc;

use super::Route;
use crate::agent::AgentId;
use crate::host::{Host, HostMatch, Target};

/// The routes of one configuration, in file order, with an index by host and port.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    exact: HashMap<(Host, u16), Vec<usize>>,
    one_label: HashMap<(Arc<str>, u16), Vec<usize>>,
}

/// The routes that name one target, for one agent, in file order.
#[derive(Debug, Clone, Default)]
pub struct Candidates(Box<[Arc<Route>]>);

impl Table {
    /// Indexes the routes; their order is the order of decision.
    pub fn new(routes: Vec<Route>) -> Self {
        let routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::new).collect();
        let mut table = Self {
            routes: Vec::new(),
            exact: HashMap::new(),
            one_label: HashMap::new(),
        };
        for (place, route) in routes.iter().enumerate() {
            for pattern in &route.hosts {
                let places = match &pattern.kind {
                    HostMatch::Exact(host) => {
                        table.exact.entry((host.clone(), pattern.port)).or_default()
                    }
                    HostMatch::OneLabel(parent) => table
                        .one_label
                        .entry((Arc::clone(parent), pattern.port))
                        .or_default(),
                };
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        table.routes = routes;
        table
    }

    /// The route of hosts that no route names, where a listener lets them through: it has no credential, and its guards
    /// stand behind those of all others.
    pub fn unmatched(&self) -> Arc<Route> {
        Arc::new(Route::unmatched(self.routes.len()))
    }

    /// Every route, in file order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The routes that name this target and admit this agent.
    pub fn candidates(&self, target: &Target, agent: &AgentId) -> Candidates {
        self.candidates_of(target, std::slice::from_ref(agent))
    }

    /// The routes that name this target and admit every agent of a chain: handing a session on opens no route.
    pub fn candidates_of(&self, target: &Target, chain: &[AgentId]) -> Candidates {
        Candidates(
            self.naming(target)
                .filter(|route| chain.iter().all(|agent| route.admits(agent)))
                .cloned()
                .collect(),
        )
    }

    /// Whether some route, for whatever agent, gives this host a credential, at this port or another: then nothing goes
    /// there in the clear.
    pub fn is_credentialed(&self, target: &Target) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.credential.is_some() && is_of(route, target))
    }

    /// Whether some route, for whatever agent, speaks of this host, at this port or another: then it is never tunnelled.
    /// What a route asks for (an approval, hours, certain agents, methods or peers) cannot be held in a tunnel.
    pub fn speaks_of(&self, target: &Target) -> bool {
        self.routes.iter().any(|route| is_of(route, target))
    }

    /// The routes that name this target, in file order: the merge of two ascending lists.
    fn naming(&self, target: &Target) -> impl Iterator<Item = &Arc<Route>> {
        let exact = self
            .exact
            .get(&(target.host.clone(), target.port))
            .map_or(&[][..], Vec::as_slice);
        let parent = target
            .host
            .name()
            .and_then(|name| name.split_once('.'))
            .map(|(_, parent)| Arc::from(parent));
        let wild = parent
            .and_then(|parent: Arc<str>| self.one_label.get(&(parent, target.port)))
            .map_or(&[][..], Vec::as_slice);
        let mut places: Vec<usize> = exact.iter().chain(wild).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .filter_map(|place| self.routes.get(place))
    }
}

/// Whether a route names this host, at whatever port.
fn is_of(route: &Route, target: &Target) -> bool {
    route.hosts.iter().any(|pattern| {
        let mut at_pattern = target.clone();
        at_pattern.port = pattern.port;
        pattern.matches(&at_pattern)
    })
}

impl Candidates {
    /// One route alone.
    pub fn only(route: Arc<Route>) -> Self {
        Self(Box::new([route]))
    }

    /// Whether no route names the target for this agent.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first route that covers this method and path.
    pub fn find(&self, method: &http::Method, path: &str) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| route.covers(method, path))
    }

    /// The routes that are asked before this one.
    pub fn before(&self, route: &Arc<Route>) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter().take_while(|one| !Arc::ptr_eq(one, route))
    }

    /// The routes, in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }
}
