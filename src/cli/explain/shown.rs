//! What `explain` shows: for a person, and for a program.

use std::io::Write;

use http::Method;
use jiff::civil::Weekday;

use super::{Case, Outcome, origin};
use crate::agent::Name;
use crate::approval::{Mode, Settings, Ticket};
use crate::inject::Placement;
use crate::policy::{Conditions, Hours};
use crate::proxy::{Identify, Refusal, Unmatched};
use crate::route::{MethodSet, Route};

impl Case<'_> {
    pub(super) fn json(&self, outcome: &Outcome) -> serde_json::Value {
        let (decision, word, rule) = match outcome {
            Outcome::Allow { approval: None, .. } => ("allow", None, None),
            Outcome::Allow {
                approval: Some(name),
                ..
            } => ("ask", self.asked_word(name), None),
            Outcome::Tunnel => ("tunnel", None, None),
            Outcome::Deny { refusal, rule, .. } => ("deny", Some(refusal.word()), *rule),
        };
        let (route, injected) = match outcome {
            Outcome::Allow { route, inject, .. } => (Some(route), Some(route).filter(|_| *inject)),
            Outcome::Tunnel => (None, None),
            Outcome::Deny { route, .. } => (route.as_ref(), None),
        };
        let spec = self.spec(injected.and_then(|route| route.credential.as_ref()));
        let approval = match outcome {
            Outcome::Allow { approval, .. } => approval.as_ref(),
            Outcome::Tunnel | Outcome::Deny { .. } => None,
        };
        let placements = injected.map_or(&[][..], |route| &route.placements);
        let mut shown = serde_json::json!({
            "decision": decision,
            "word": word,
            "route": route.map(|route| &*route.name),
            "rule": rule,
            "agent": self.agent.as_str(),
            "credential": spec.map(|spec| spec.name.as_str()),
            "source": spec.map(|spec| origin(spec).1),
            "inject": placements.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "approval": approval.map(Name::as_str),
            "limits": [],
        });
        let peers = injected.and_then(|route| route.peers.as_ref());
        if let (Some(peers), Some(members)) = (peers, shown.as_object_mut()) {
            let ids = peers.ids.iter().map(ToString::to_string);
            members.insert("peer-ids".into(), ids.collect::<Vec<_>>().into());
        }
        shown
    }

    pub(super) fn print(&self, outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
        let (method, path) = (&self.args.method, self.args.url.path.path());
        // The query may hold a secret, and nothing is matched by it.
        let scheme = self.target.scheme.as_str();
        let url = format!("{scheme}://{}{path}", self.target.authority());
        let agent = &self.agent;
        let mut lines: Vec<(&str, String)> = Vec::new();
        match outcome {
            Outcome::Allow {
                route,
                inject,
                approval,
            } => {
                let decision = if approval.is_some() { "ask" } else { "allow" };
                writeln!(out, "{decision}  {method} {url} by agent {agent}")?;
                self.route_lines(route, &mut lines);
                if let Some(name) = approval {
                    lines.push(("approval", self.approval_line(name)));
                }
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

    /// What the agent is told until people have decided; nothing where it waits.
    fn asked_word(&self, name: &Name) -> Option<&'static str> {
        let settings = self.approval(name)?;
        (settings.mode == Mode::Ticket).then(|| Refusal::ApprovalRequired(Ticket::NONE).word())
    }

    fn approval(&self, name: &Name) -> Option<&Settings> {
        let mut all = self.config.approvals.iter().map(|one| &one.settings);
        all.find(|settings| settings.name == *name)
    }

    /// `ops: 2 of alice, bob, carol within 2m; the request waits`.
    fn approval_line(&self, name: &Name) -> String {
        let Some(settings) = self.approval(name) else {
            return name.to_string();
        };
        let console = &settings.console;
        let approvers: Vec<&str> = console.approvers.iter().map(|one| &*one.name).collect();
        let does = match settings.mode {
            Mode::Hold => "the request waits",
            Mode::Ticket => "the agent comes again with a ticket",
        };
        format!(
            "{name}: {} of {} within {:?}; {does}",
            console.quorum,
            approvers.join(", "),
            settings.expires
        )
    }

    fn route_lines(&self, route: &Route, lines: &mut Vec<(&str, String)>) {
        let (place, all) = (route.index + 1, self.config.routes.len());
        let text = if route.index < all {
            format!("{} ({place} of {all} in the file)", route.name)
        } else {
            format!("{}: no route names this host", route.name)
        };
        lines.push(("route", text));
        let presets = self.config.presets();
        let preset = route.preset.as_ref();
        if let Some(preset) = preset.and_then(|name| presets.get(name.as_str())) {
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
        if let Some(peers) = &route.peers {
            let ids: Vec<String> = peers.ids.iter().map(ToString::to_string).collect();
            let name = if peers.verify_name {
                ", and for the host's name"
            } else {
                "; the host's name does not count"
            };
            let text = format!(
                "{}, by the bundle of its trust domain{name}",
                ids.join(", ")
            );
            lines.push(("peer", text));
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
