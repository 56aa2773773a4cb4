//! Services as data: for each its hosts, where its secret goes, what the environment calls it, and what may be done there.
//!
//! A [`Preset`] is one file of `presets/`, or one `[preset.NAME]` of the operator's file. It says what is so of a
//! service; whether a request may be sent is for the routes and the policy to say.

mod file;
mod shipped;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::Method;
use jiff::civil::Date;

use crate::agent::Name;
use crate::host::{HostPattern, Scheme, Target};
use crate::inject::Placement;
use crate::route::PathPattern;

pub use file::{BadPreset, File};
pub use shipped::Presets;

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// What `preset = "NAME"` of a route calls it.
    pub name: Name,
    /// What people call it.
    pub title: Box<str>,
    /// Where it answers. Empty where every customer has a host of their own: then [`Preset::host_shape`] says which
    /// host the route must name.
    pub hosts: Vec<HostPattern>,
    /// What the route's own host looks like, where there are no `hosts`.
    pub host_shape: Option<Box<str>>,
    /// The paths that it speaks of; empty for every path of its hosts.
    pub paths: Vec<PathPattern>,
    /// Its secrets. All of them go into every request; a service with a choice of secrets is several presets. The
    /// first is what the route's `credential` fills.
    pub keys: Vec<Key>,
    /// Where its SDKs take another base URL from.
    pub base_url: Option<BaseUrl>,
    /// What can be done there; the first that matches names the request.
    pub operations: Vec<Operation>,
    /// Requests whose answer is a new credential, or which let one in. They are refused unless a route grants them.
    pub minting: Vec<Minting>,
    /// Files in which its command-line tools keep a login, from the home directory (`~/…`).
    pub login_files: Vec<Box<str>>,
    /// Where in such files the token of its first key stands: `run` serves it.
    pub logins: Vec<Login>,
    /// Where its clients refresh a token by themselves: a route of this preset answers with its placeholder.
    pub token_endpoints: Vec<TokenEndpoint>,
    /// Clients write `%2F` into its paths.
    pub encoded_slash: bool,
    /// What the preset does not do.
    pub note: Option<Box<str>>,
    /// The vendor's page that says how requests are authenticated.
    pub source: Box<str>,
    /// The day on which the first host and the placements were compared with that page; `None` where they were not.
    /// Operations, variables and minting are not covered by it.
    pub checked: Option<Date>,
}

/// One secret of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// What it is called beside the other secrets of its preset.
    pub name: Name,
    /// Where it goes. Empty where no placement does it (AWS signs requests): the broker's provider has to.
    pub placements: Vec<Placement>,
    /// The environment variables that carry it.
    pub env: Vec<Box<str>>,
    /// The environment variables of the user-id that goes with it. That is no secret: the agent keeps it. A
    /// [`Placement::Basic`] with an empty user is filled from the first that is set.
    pub user_env: Vec<Box<str>>,
    /// What stands in the agent's environment instead: its clients accept it, and no server does.
    pub placeholder: Box<str>,
}

/// Where a command-line tool keeps its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The file, from the home directory (`~/…`).
    pub file: Box<str>,
    /// The part of the file.
    pub part: Part,
    /// The dotted path of the token's end in a JSON file, in milliseconds since 1970.
    pub expires: Option<Box<str>>,
}

/// Where a client asks for another token (RFC 6749 §3.2), always by `POST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// Its host.
    pub host: HostPattern,
    /// Its path.
    pub path: PathPattern,
}

/// A part of a login file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The text at this dotted path of a JSON object.
    Json(Box<str>),
    /// What follows these words in the first line that begins so, and `after`, where there is one, among the lines
    /// below this one.
    Line {
        /// How the line begins.
        begins: Box<str>,
        /// The line before.
        after: Option<Box<str>>,
    },
}

/// The base URL of a service's SDKs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// The environment variables that change it.
    pub env: Vec<Box<str>>,
    /// What it is where none is set.
    pub url: Box<str>,
}

/// One thing that can be done at a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its name in policy and audit (`chat.completions.create`).
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Its method; an operation by `GET` is meant by `HEAD` too (RFC 9110 §9.3.2).
    pub method: Method,
    /// Its path.
    pub path: PathPattern,
}

/// What an operation does to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Looks.
    Read,
    /// Makes or changes something, or spends money.
    Write,
    /// Removes something.
    Delete,
    /// Changes who may do what.
    Admin,
}

/// A request that would bring a credential into being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minting {
    /// Its method; `None` for every method.
    pub method: Option<Method>,
    /// Its path as written, for people.
    pub path: Box<str>,
    /// Its path, [`folded`].
    folded: PathPattern,
}

/// `login.example.com/oauth/token`.
impl fmt::Display for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

impl Preset {
    /// Whether one of its hosts is this target.
    pub fn names(&self, target: &Target) -> bool {
        target.scheme == Scheme::Https && self.hosts.iter().any(|host| host.matches(target))
    }

    /// What this request does: the first operation that matches.
    pub fn operation(&self, method: &Method, path: &str) -> Option<&Operation> {
        let method = match *method {
            Method::HEAD => &Method::GET,
            _ => method,
        };
        self.operations
            .iter()
            .find(|operation| operation.method == *method && operation.path.matches(path))
    }

    /// Whether this request would bring a credential into being.
    ///
    /// A list that refuses must be wider than what the upstream routes: see [`folded`] for what is not looked at.
    pub fn mints(&self, method: &Method, path: &str) -> bool {
        if self.minting.is_empty() {
            return false;
        }
        let path = folded(path);
        let within = |path: &str| self.minting.iter().any(|m| m.matches(method, path));
        within(&path) || (path.contains("%2f") && within(&path.replace("%2f", "/")))
    }

    /// Every environment variable that holds one of its secrets.
    pub fn env(&self) -> impl Iterator<Item = &str> {
        self.keys
            .iter()
            .flat_map(|key| key.env.iter())
            .map(|v| &**v)
    }
}

impl Minting {
    fn new(method: Option<Method>, path: &PathPattern) -> Option<Self> {
        Some(Self {
            method,
            path: path.as_str().into(),
            folded: folded(path.as_str()).parse().ok()?,
        })
    }

    fn matches(&self, method: &Method, folded_path: &str) -> bool {
        self.method.as_ref().is_none_or(|own| own == method) && self.folded.matches(folded_path)
    }
}

/// A path without what some services do not look at when they route: letter case, parameters of a segment (`;a=b`),
/// one slash at the end, and the extension that names a format.
fn folded(path: &str) -> Cow<'_, str> {
    let path = if path.bytes().any(|b| b.is_ascii_uppercase() || b == b';') {
        let plain = |segment: &str| segment.split(';').next().unwrap_or_default().to_lowercase();
        Cow::Owned(path.split('/').map(plain).collect::<Vec<_>>().join("/"))
    } else {
        Cow::Borrowed(path)
    };
    let ends = ["/", ".json", ".xml", ".csv"];
    let kept = ends
        .iter()
        .fold(&*path, |path, end| path.strip_suffix(end).unwrap_or(path))
        .len();
    match path {
        _ if kept == 0 => Cow::Borrowed("/"),
        Cow::Borrowed(path) => Cow::Borrowed(path.get(..kept).unwrap_or(path)),
        Cow::Owned(mut path) => {
            path.truncate(kept);
            Cow::Owned(path)
        }
    }
}

/// `POST /user/keys`, or `* /v1/keys/**` for every method.
impl fmt::Display for Minting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.method.as_ref().map_or("*", Method::as_str);
        write!(f, "{method} {}", self.path)
    }
}

impl Action {
    /// `read`, `write`, `delete` or `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an action is `read`, `write`, `delete` or `admin`")]
pub struct BadAction;

impl FromStr for Action {
    type Err = BadAction;

    fn from_str(text: &str) -> Result<Self, BadAction> {
        [Self::Read, Self::Write, Self::Delete, Self::Admin]
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or(BadAction)
    }
}
