//! `keyward explain`: what would happen to one request, and why, without a network and without reading a secret.
//!
//! The objects that judge are those of the data path, made from the same file: what is said here is what is done there.

mod shown;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use jiff::Timestamp;

use super::{FileArg, acting, consult, shape};
use crate::agent::{AgentId, Name};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::credential::{Kind, Spec};
use crate::delegation::Scope;
use crate::head::Head;
use crate::host::{BadHost, Scheme, Target};
use crate::identity::{AgentEntry, Registry};
use crate::policy::{Denial, Policy, Query, Unmet, Verdict};
use crate::proxy::{ListenAddr, Refusal, Unmatched};
use crate::route::{Candidates, Route, Table};

/// The arguments of `keyward explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    file: FileArg,
    /// The agent that asks [default: the file's only one, else `default`]
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// The address that it calls from [default: one that the route's `source` allows]
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The time of the request, such as 2026-11-21T08:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The method, in capitals
    method: Method,
    /// An http:// or https:// URL
    url: Url,
}

/// A URL, cut as a client cuts it: where the connection goes, and what is asked there.
#[derive(Debug, Clone)]
struct Url {
    target: Target,
    path: PathAndQuery,
}

/// Why a text is no URL that a proxy could be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum BadUrl {
    #[error("a URL begins with https:// or http://")]
    Scheme,
    #[error(transparent)]
    Host(#[from] BadHost),
    #[error("the path holds characters that no request line can hold")]
    Path,
}

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(BadUrl::Scheme),
        };
        // RFC 9110 §4.2.5: a fragment is never sent.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            target: Target::from_authority(scheme, authority)?,
            path: PathAndQuery::from_maybe_shared(format!("{slash}{path}"))
                .map_err(|_| BadUrl::Path)?,
        })
    }
}

/// What would happen.
enum Outcome {
    /// It is sent, by this route; where there is an approval, only once people have said yes.
    Allow {
        route: Arc<Route>,
        inject: bool,
        approval: Option<Name>,
    },
    /// The connection is passed through unread.
    Tunnel,
    /// It is refused.
    Deny {
        refusal: Refusal,
        route: Option<Arc<Route>>,
        /// The guard that is not met.
        rule: Option<&'static str>,
    },
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Deny {
            refusal,
            route: None,
            rule: None,
        }
    }
}

/// Explains one request; the exit code. A refusal is an answer, so it is 0 too.
pub fn run(args: &ExplainArgs, out: &mut dyn Write) -> u8 {
    let config = match consult(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let case = Case::new(&config, args);
    let outcome = case.decide().unwrap_or_else(|outcome| outcome);
    let shown = if args.json {
        writeln!(out, "{}", case.json(&outcome))
    } else {
        case.print(&outcome, out)
    };
    // A closed pipe is the reader's own choice.
    shown.ok();
    0
}

/// One request before everything that judges it.
struct Case<'a> {
    config: &'a Config,
    args: &'a ExplainArgs,
    agent: AgentId,
    at: Timestamp,
    target: Arc<Target>,
    table: Table,
    policy: Policy,
}

impl<'a> Case<'a> {
    fn new(config: &'a Config, args: &'a ExplainArgs) -> Self {
        Self {
            config,
            args,
            agent: acting(config, args.agent.as_ref()),
            at: args.at.unwrap_or_else(|| SystemClock.now().wall),
            target: Arc::new(args.url.target.clone()),
            table: Table::new(config.routes.clone()),
            policy: Policy::new(config.conditions.clone()),
        }
    }

    /// The steps of the data path, in its order (`proxy::connect`, then `proxy::exchange`).
    fn decide(&self) -> Result<Outcome, Outcome> {
        self.registry().admit(&self.agent).map_err(Refusal::from)?;
        let (target, plain) = (&*self.target, self.target.scheme == Scheme::Http);
        let credentialed = self.table.is_credentialed(target);
        if plain && credentialed {
            return Err(Refusal::Cleartext.into());
        }
        let mut candidates = self.table.candidates(target, &self.agent);
        let reachable = self
            .config
            .upstream
            .foresee(&self.own(), target)
            .map_err(Outcome::from);
        if candidates.is_empty() {
            let tunnels = self.unmatched() == Unmatched::Tunnel
                && !self.table.speaks_of(target)
                && !target.host.is_single_label();
            match (tunnels, plain) {
                (true, true) => candidates = Candidates::only(self.table.unmatched()),
                (true, false) => return reachable.map(|()| Outcome::Tunnel),
                (false, true) => {
                    reachable?;
                    return Err(Refusal::NoRoute.into());
                }
                (false, false) => return Err(Refusal::NoRoute.into()),
            }
        }
        reachable?;
        self.judge(&candidates)
    }

    fn judge(&self, candidates: &Candidates) -> Result<Outcome, Outcome> {
        let head = self.head().map_err(Outcome::from)?;
        let matched = candidates.find(head.method(), head.path()).cloned();
        let guards = matched
            .as_ref()
            .and_then(|route| self.policy.conditions(route));
        let assumed = guards.and_then(|guards| guards.source.first().map(ipnet::IpNet::addr));
        let mut now = SystemClock.now();
        now.wall = self.at;
        let agents = self.config.agents.iter().map(|(entry, _)| entry.clone());
        let registry = Registry::new(agents);
        let listed = registry.iter().any(|entry| entry.id == self.agent);
        let permissions = if listed {
            registry.permissions(&self.agent)
        } else {
            Scope::ALL
        };
        let query = Query {
            agent: &self.agent,
            session: &"explain".into(),
            chain: std::slice::from_ref(&self.agent),
            person: None,
            scope: &Scope::ALL,
            permissions: &permissions,
            target: &self.target,
            source: self.args.from.or(assumed),
            now,
            candidates,
        };
        match self.policy.evaluate(&query, head) {
            Verdict::Allow(permit) => Ok(Outcome::Allow {
                route: Arc::clone(permit.route()),
                inject: permit.credential().is_some(),
                approval: None,
            }),
            Verdict::Ask(pending) => Ok(Outcome::Allow {
                route: Arc::clone(pending.route()),
                inject: pending.credential().is_some(),
                approval: Some(pending.approval().clone()),
            }),
            Verdict::Deny(denial, _) => Err(Outcome::Deny {
                refusal: Refusal::from(&denial),
                route: denial.route().and(matched),
                rule: rule(&denial),
            }),
        }
    }

    fn head(&self) -> Result<Head, Refusal> {
        let mut request = Request::new(());
        *request.method_mut() = self.args.method.clone();
        *request.uri_mut() = Uri::from(self.args.url.path.clone());
        let host = self.target.authority().parse();
        let host = host.map_err(|_| Refusal::Malformed("The host cannot be written."))?;
        request.headers_mut().insert(HOST, host);
        Ok(Head::clean(request.into_parts().0, &self.target)?)
    }

    /// Who may act. A file without agents has one called `default`, for `run` and for listeners that are open.
    fn registry(&self) -> Registry {
        let mut entries: Vec<AgentEntry> = self
            .config
            .agents
            .iter()
            .map(|(entry, _)| entry.clone())
            .collect();
        if entries.is_empty() {
            entries.push(AgentEntry::bare(acting(self.config, None)));
        }
        Registry::new(entries)
    }

    /// The first listener speaks for all.
    fn unmatched(&self) -> Unmatched {
        self.config
            .listeners
            .first()
            .map(|listener| listener.unmatched)
            .unwrap_or_default()
    }

    fn own(&self) -> Vec<SocketAddr> {
        let listeners = self.config.listeners.iter();
        let tcp = |addr: &ListenAddr| match addr {
            ListenAddr::Tcp(addr) | ListenAddr::Tls(addr) => Some(*addr),
            ListenAddr::Unix(_) | ListenAddr::Systemd(_) => None,
        };
        listeners
            .flat_map(|listener| listener.listen.iter().filter_map(tcp))
            .chain(self.config.admin.listen)
            .collect()
    }

    fn spec(&self, credential: Option<&Name>) -> Option<&Spec> {
        let credential = credential?;
        self.config
            .credentials
            .iter()
            .find(|spec| spec.name == *credential)
    }
}

fn rule(denial: &Denial) -> Option<&'static str> {
    match denial {
        Denial::NoRoute => None,
        Denial::Condition {
            unmet: Unmet::When, ..
        } => Some("when"),
        Denial::Condition {
            unmet: Unmet::Source,
            ..
        } => Some("source"),
        Denial::Scope { .. } => Some("permissions"),
        Denial::EncodedSlash { .. } | Denial::DecodedSlash { .. } => Some("encoded-slash"),
        Denial::EmptySegment { .. } => Some("inject"),
        Denial::Minting { .. } => Some("minting"),
        Denial::WebSocket { .. } => Some("websocket"),
    }
}

/// The kind of a credential and the shape of what it is made from.
fn origin(spec: &Spec) -> (&'static str, String) {
    match &spec.kind {
        Kind::Static { value } => ("static", shape(value)),
        kind => (kind.word(), format!("its issuer ({})", kind.word())),
    }
}
