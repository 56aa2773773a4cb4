//! Which route a request belongs to. Routes *match* by host, method, path and agent; the first match decides.
//!
//! One [`Table`] serves injection and enforcement alike: what injects is what is enforced (a rival's bypass of July
//! 2026 came of two lists that disagreed).

mod answer;
mod methods;
mod narrow;
mod path;
mod table;

use std::sync::Arc;

use crate::agent::{AgentId, Name};
use crate::host::HostPattern;
use crate::inject::Placement;
use crate::spiffe::Peers;

pub use answer::{PLACEHOLDER, TokenAnswer};
pub use methods::{BadMethod, MethodSet};
pub use narrow::Narrow;
pub use path::{BadPath, PathPattern};
pub use table::{Candidates, Table};

/// One `[[route]]`, resolved.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the file, and none follows from another"
)]
pub struct Route {
    /// `name`, or `route-N` with its place from 1: what audit, metrics and policy call it.
    pub name: Arc<str>,
    /// Its place in the file, from 0.
    pub index: usize,
    /// The hosts it speaks of; never empty.
    pub hosts: Vec<HostPattern>,
    /// The methods it matches; `None` matches every method of the default list (see [`MethodSet::DEFAULT`]).
    pub methods: Option<MethodSet>,
    /// The paths it matches; empty matches every path.
    pub paths: Vec<PathPattern>,
    /// The agents it matches; empty matches every agent.
    pub agents: Vec<AgentId>,
    /// The credential that is injected; `None` forwards the request as it came.
    pub credential: Option<Name>,
    /// Where the credential goes; empty where there is none.
    pub placements: Vec<Placement>,
    /// Which of the credential's placement lists this route uses (`credential::Spec::slots`).
    pub slot: usize,
    /// `Range` passes on injected requests (`ranges = true`): a slice can cut a secret so that nobody recognises it.
    pub ranges: bool,
    /// `%2F` may stand in the path (`encoded-slash = true`): npm and GitLab write names so.
    pub encoded_slash: bool,
    /// `//` may stand in the path: each host is signed for S3, where it is a part of a key.
    pub empty_segments: bool,
    /// WebSocket upgrades are forwarded (`websocket`, on where left out).
    pub websocket: bool,
    /// The preset it was made from, if any.
    pub preset: Option<Name>,
    /// What it asks for less than the credential may give.
    pub narrow: Arc<Narrow>,
    /// keyward's own answer (`answer`): nothing goes upstream.
    pub answer: Option<TokenAnswer>,
    /// Who the upstream must be by its X.509-SVID (`peer-ids`); `None` where its host's name says so.
    pub peers: Option<Arc<Peers>>,
}

impl Route {
    /// A route that covers everything and injects nothing.
    fn unmatched(index: usize) -> Self {
        Self {
            name: "unmatched".into(),
            index,
            hosts: Vec::new(),
            methods: None,
            paths: Vec::new(),
            agents: Vec::new(),
            credential: None,
            placements: Vec::new(),
            slot: 0,
            ranges: true,
            encoded_slash: true,
            empty_segments: false,
            websocket: true,
            preset: None,
            narrow: Arc::default(),
            answer: None,
            peers: None,
        }
    }

    /// Whether requests of this agent can match.
    pub fn admits(&self, agent: &AgentId) -> bool {
        self.agents.is_empty() || self.agents.contains(agent)
    }

    /// Whether a request with this method and path matches; host and agent were settled before.
    pub fn covers(&self, method: &http::Method, path: &str) -> bool {
        self.methods
            .as_ref()
            .unwrap_or(&MethodSet::DEFAULT)
            .contains(method)
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)))
    }

    /// Whether the credential is injected for this method: a CORS preflight carries none unless the route names
    /// `OPTIONS` itself (Fetch standard, "CORS-preflight fetch").
    pub fn injects(&self, method: &http::Method) -> bool {
        self.credential.is_some() && (method != http::Method::OPTIONS || self.methods.is_some())
    }
}
