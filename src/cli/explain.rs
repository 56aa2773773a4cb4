//! `keyward explain`: what would happen to one request, and why, without a network and without reading a secret.
//!
//! The objects that judge are those of the data path, made from the same file: what is said here is what is done there.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use jiff::Timestamp;
use jiff::civil::Weekday;

use super::{FileArg, acting, consult, shape};
use crate::agent::{AgentId, Name};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::credential::{Kind, Spec};
use crate::head::Head;
use crate::host::{BadHost, Scheme, Target};
use crate::identity::{AgentEntry, Registry};
use crate::inject::Placement;
use crate::policy::{Conditions, Denial, Hours, Policy, Query, Unmet, Verdict};
use crate::preset::Presets;
use crate::proxy::{Identify, ListenAddr, Refusal, Unmatched};
use crate::route::{Candidates, MethodSet, Route, Table};

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
    /// It is sent, by this route.
    Allow { route: Arc<Route>, inject: bool },
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
            let tunnels = self.unmatched() == Unmatched::Tunnel && !credentialed;
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
        let query = Query {
            agent: &self.agent,
            session: &"explain".into(),
            target: &self.target,
            source: self.args.from.or(assumed),
            now,
            candidates,
        };
        match self.policy.evaluate(&query, head) {
            Verdict::Allow(permit) => Ok(Outcome::Allow {
                route: Arc::clone(permit.route()),
                inject: permit.credential().is_some(),
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
            ListenAddr::Tcp(addr) => Some(*addr),
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
        Denial::EncodedSlash { .. } => Some("encoded-slash"),
        Denial::Minting { .. } => Some("minting"),
        Denial::WebSocket { .. } => Some("websocket"),
    }
}

/// The kind of a credential and the shape of what it is made from.
fn origin(spec: &Spec) -> (&'static str, String) {
    match &spec.kind {
        Kind::Static { value } => ("static", shape(value)),
    }
}

// What is shown.
impl Case<'_> {
    fn json(&self, outcome: &Outcome) -> serde_json::Value {
        let (decision, word, rule) = match outcome {
            Outcome::Allow { .. } => ("allow", None, None),
            Outcome::Tunnel => ("tunnel", None, None),
            Outcome::Deny { refusal, rule, .. } => ("deny", Some(refusal.word()), *rule),
        };
        let (route, injected) = match outcome {
            Outcome::Allow { route, inject } => (Some(route), Some(route).filter(|_| *inject)),
            Outcome::Tunnel => (None, None),
            Outcome::Deny { route, .. } => (route.as_ref(), None),
        };
        let spec = self.spec(injected.and_then(|route| route.credential.as_ref()));
        let placements = injected.map_or(&[][..], |route| &route.placements);
        serde_json::json!({
            "decision": decision,
            "word": word,
            "route": route.map(|route| &*route.name),
            "rule": rule,
            "agent": self.agent.as_str(),
            "credential": spec.map(|spec| spec.name.as_str()),
            "source": spec.map(|spec| origin(spec).1),
            "inject": placements.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "approval": null,
            "limits": [],
        })
    }

    fn print(&self, outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
        let (method, path) = (&self.args.method, self.args.url.path.path());
        // The query may hold a secret, and nothing is matched by it.
        let scheme = self.target.scheme.as_str();
        let url = format!("{scheme}://{}{path}", self.target.authority());
        let agent = &self.agent;
        let mut lines: Vec<(&str, String)> = Vec::new();
        match outcome {
            Outcome::Allow { route, inject } => {
                writeln!(out, "allow  {method} {url} by agent {agent}")?;
                self.route_lines(route, &mut lines);
                self.credential_lines(route, *inject, &mut lines);
                self.guard_lines(route, &mut lines);
            }
            Outcome::Tunnel => {
                writeln!(out, "tunnel  {method} {url} by agent {agent}")?;
                let what = "no route names this host: the connection is passed through and counted; nothing is read, injected or judged in it";
                lines.push(("why", what.into()));
            }
            Outcome::Deny { refusal, route, .. } => {
                let (status, word) = refusal.status();
                let status = status.as_u16();
                writeln!(
                    out,
                    "deny {word} ({status})  {method} {url} by agent {agent}"
                )?;
                lines.push(("why", refusal.detail().into()));
                match route {
                    Some(route) => {
                        self.route_lines(route, &mut lines);
                        self.guard_lines(route, &mut lines);
                    }
                    None if *refusal == Refusal::NoRoute => self.near_lines(&mut lines),
                    None => {}
                }
            }
        }
        self.note_lines(outcome, &mut lines);
        for (label, text) in lines {
            writeln!(out, "  {label:<11}{text}")?;
        }
        Ok(())
    }

    fn route_lines(&self, route: &Route, lines: &mut Vec<(&str, String)>) {
        let (place, all) = (route.index + 1, self.config.routes.len());
        let text = if route.index < all {
            format!("{} ({place} of {all} in the file)", route.name)
        } else {
            format!("{}: no route names this host", route.name)
        };
        lines.push(("route", text));
        let preset = route
            .preset
            .as_ref()
            .and_then(|name| Presets::shipped().get(name.as_str()));
        if let Some(preset) = preset {
            let operation = preset.operation(&self.args.method, self.args.url.path.path());
            let operation = operation
                .map(|operation| format!(", {} ({})", operation.name, operation.action))
                .unwrap_or_default();
            lines.push(("preset", format!("{}{operation}", preset.name)));
        }
    }

    fn credential_lines(&self, route: &Route, inject: bool, lines: &mut Vec<(&str, String)>) {
        let Some(spec) = self.spec(route.credential.as_ref()) else {
            lines.push(("credential", "none: the request is sent as it came".into()));
            return;
        };
        let (kind, source) = origin(spec);
        let text = format!("{}: {kind}, from {source} (not read here)", spec.name);
        lines.push(("credential", text));
        if !inject {
            let why =
                "nothing: a CORS preflight carries no credential unless `methods` names OPTIONS";
            lines.push(("inject", why.into()));
            return;
        }
        for placement in &route.placements {
            lines.push(("inject", placement.to_string()));
            if matches!(placement, Placement::Substitute { .. }) {
                let what = "the agent has to write the placeholder there, once; else bad-request";
                lines.push(("", what.into()));
            }
        }
    }

    fn guard_lines(&self, route: &Route, lines: &mut Vec<(&str, String)>) {
        let Some(guards) = self.policy.conditions(route) else {
            return;
        };
        if let Some(hours) = &guards.when {
            let holds = if hours.contains(self.at) {
                "holds"
            } else {
                "is not met"
            };
            let text = format!("when {}: {holds} at {:.0}", spell(hours), self.at);
            lines.push(("guard", text));
        }
        if !guards.source.is_empty() {
            let nets: Vec<String> = guards.source.iter().map(ToString::to_string).collect();
            let said = self.source_said(guards);
            lines.push(("guard", format!("source {}: {said}", nets.join(", "))));
        }
        if let Some(preset) = &guards.minting {
            let mints = preset.mints(&self.args.method, self.args.url.path.path());
            let said = if mints {
                "this request would make one"
            } else {
                "this request makes none"
            };
            lines.push(("guard", format!("no new credentials: {said}")));
        }
    }

    fn source_said(&self, guards: &Conditions) -> String {
        let Some(from) = self.args.from else {
            return "depends on the agent's address, taken to hold (try --from IP)".into();
        };
        let alone = Conditions {
            source: guards.source.clone(),
            ..Conditions::default()
        };
        match alone.check(Some(from), self.at) {
            Ok(()) => format!("holds for {from}"),
            Err(_) => format!("is not met by {from}"),
        }
    }

    /// The routes that name the host, and why each is not the one.
    fn near_lines(&self, lines: &mut Vec<(&str, String)>) {
        let before = lines.len();
        for route in &self.config.routes {
            let mut other_port = (*self.target).clone();
            let named = route.hosts.iter().any(|host| host.matches(&self.target));
            let port = route.hosts.iter().find_map(|host| {
                other_port.port = host.port;
                host.matches(&other_port).then_some(host.port)
            });
            let Some(port) = port else { continue };
            let why = if !named {
                format!("names this host at port {port}")
            } else if !route.admits(&self.agent) {
                let agents: Vec<&str> = route.agents.iter().map(Name::as_str).collect();
                format!("is for agents {}", agents.join(", "))
            } else if let Some(methods) = other_methods(route, &self.args.method) {
                format!("is for methods {methods}")
            } else {
                let paths: Vec<String> = route.paths.iter().map(ToString::to_string).collect();
                format!("is for paths {}", paths.join(", "))
            };
            lines.push(("not route", format!("{}: it {why}", route.name)));
        }
        if lines.len() == before {
            lines.push(("not route", "no route names this host".into()));
        }
    }

    fn note_lines(&self, outcome: &Outcome, lines: &mut Vec<(&str, String)>) {
        let sent = !matches!(outcome, Outcome::Deny { .. });
        if let Some(place) = self
            .config
            .upstream
            .connect_to
            .get(&*self.target)
            .filter(|_| sent)
        {
            lines.push(("note", format!("dials {place} (connect-to)")));
        } else if let Some(parent) = self.config.upstream.via.as_ref().filter(|_| sent) {
            lines.push((
                "note",
                format!("goes through the parent proxy {parent} (via)"),
            ));
        }
        let unmatched = self.unmatched();
        for other in self
            .config
            .listeners
            .iter()
            .filter(|other| other.unmatched != unmatched)
        {
            let does = match other.unmatched {
                Unmatched::Refuse => "refuses",
                Unmatched::Tunnel => "tunnels",
            };
            lines.push((
                "note",
                format!("listener {} {does} hosts that no route names", other.name),
            ));
        }
        let open = self
            .config
            .listeners
            .iter()
            .any(|one| one.identify == Identify::Open);
        if self.config.agents.is_empty() && !open {
            let what = "the file has no [agent]: `run` acts as default, and `serve` answers 407 unidentified to everybody";
            lines.push(("note", what.into()));
        }
    }
}

/// The methods that a route has instead of this one.
fn other_methods(route: &Route, method: &Method) -> Option<String> {
    let default = MethodSet::DEFAULT;
    let set = route.methods.as_ref().unwrap_or(&default);
    let standard = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let listed = standard.into_iter().filter(|name| {
        name.parse::<Method>()
            .is_ok_and(|method| set.contains(&method))
    });
    (!set.contains(method)).then(|| listed.collect::<Vec<_>>().join(", "))
}

/// `08:00-18:00 mon tue (Europe/Berlin)`.
fn spell(hours: &Hours) -> String {
    let span = match hours.span {
        Some((from, to)) => format!("{}-{}", from.strftime("%H:%M"), to.strftime("%H:%M")),
        None => "all day".into(),
    };
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days: Vec<&str> = (0i8..)
        .zip(days)
        .filter(|(offset, _)| {
            Weekday::from_monday_zero_offset(*offset).is_ok_and(|day| hours.days.contains(day))
        })
        .map(|(_, name)| name)
        .collect();
    let zone = hours.zone.iana_name().unwrap_or("UTC");
    format!("{span} {} ({zone})", days.join(" "))
}
