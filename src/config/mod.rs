//! The configuration: a TOML file as written becomes either all of its faults at once, or a [`Config`] that holds.
//!
//! Each section is a file with the table of its keys; reader, JSON Schema and docs are made from those tables. A
//! secret never stands in the file, and a report never shows what stands where one could.

mod admin;
mod agent;
mod approval;
mod audit;
mod aws;
mod ca;
mod certificate;
mod conceal;
mod condition;
mod credential;
mod fault;
mod file;
mod hosts;
mod key;
mod lint;
mod listener;
mod login;
mod machine;
mod narrow;
mod oauth;
mod placement;
mod plugin;
mod preset;
mod reader;
mod report;
mod route;
mod schema;
mod session;
mod shape;
mod source;
mod spiffe;
mod store;
mod syntax;
mod text;
mod trust;
mod upstream;
mod values;
mod vault;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

pub use admin::Admin;
pub use approval::Approval;
pub use login::Login;
pub use report::{Note, Report, Severity};
pub use schema::schema;
pub use trust::Trust;

use crate::audit::Settings as AuditSettings;
use crate::credential::{Source, Spec};
use crate::host::HostPattern;
use crate::identity::AgentEntry;
use crate::inject::Placement;
use crate::policy::Conditions;
use crate::preset::{self as preset_room, Preset, TokenEndpoint};
use crate::proxy::{ListenerSettings, UpstreamSettings};
use crate::route::{PathPattern, Route};
use crate::session::Settings as SessionSettings;
use crate::store::Settings as StoreSettings;
use crate::tls::CaSettings;
use fault::{Desk, Draft};

/// What holds: every name leads somewhere, every value is in its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[proxy]` first, then `[listener.NAME]`; never empty.
    pub listeners: Vec<ListenerSettings>,
    /// `[admin]`; left out, neither `listen` nor `socket`.
    pub admin: Admin,
    /// `[ca]`.
    pub ca: CaSettings,
    /// `[audit]`; `None` leaves the place to the subcommand.
    pub audit: Option<AuditSettings>,
    /// `[store]`; left out, in memory.
    pub store: StoreSettings,
    /// `[upstream]`.
    pub upstream: UpstreamSettings,
    /// `[agent.ID]`, each with the source of its static token.
    pub agents: Vec<(AgentEntry, Option<Source>)>,
    /// `[trust.NAME]`, in the file's order.
    pub trust: Vec<Trust>,
    /// `[login.NAME]`.
    pub logins: Vec<Login>,
    /// `[credential.NAME]`, with the placement lists of their routes.
    pub credentials: Vec<Spec>,
    /// `[[route]]`, in the order of decision.
    pub routes: Vec<Route>,
    /// The guards of each route, in the routes' order.
    pub conditions: Vec<Conditions>,
    /// `[preset.NAME]`: services of the operator's own, or in place of known ones.
    pub services: Vec<Preset>,
    /// `[approval.NAME]`.
    pub approvals: Vec<Approval>,
    /// `[session]`.
    pub session: SessionSettings,
    /// `drain`: how long requests under way may take to end.
    pub drain: Duration,
}

impl Config {
    /// The parts in which this configuration and `other` differ that a reload does not take up.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let admin = |config: &Self| {
            let Admin {
                listen,
                socket,
                public_url,
                ..
            } = &config.admin;
            (*listen, socket.clone(), public_url.clone())
        };
        let parts = [
            ("listeners", self.listeners == other.listeners),
            (
                "[admin] listen, socket or public-url",
                admin(self) == admin(other),
            ),
            ("[ca]", self.ca == other.ca),
            ("[audit]", self.audit == other.audit),
            ("[store]", self.store == other.store),
            ("drain", self.drain == other.drain),
        ];
        let differing = parts.into_iter().filter(|(_, same)| !same);
        differing.map(|(part, _)| part).collect()
    }
}

/// A configuration, and what its operator should still look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Warnings only.
    pub warnings: Report,
}

/// The services that a route's `preset` can name.
pub trait Presets: Debug {
    /// What the preset gives a route.
    fn find(&self, name: &str) -> Option<PresetRoute>;
    /// Every name, for suggestions.
    fn names(&self) -> Vec<&str>;
}

/// What a preset gives a route that names it; `hosts`, `paths`, `inject` and `encoded-slash` beside it win.
#[derive(Debug, Clone, PartialEq)]
pub struct PresetRoute {
    /// The service's hosts; empty where each customer has one, and the route must name it.
    pub hosts: Vec<HostPattern>,
    /// The service's part of those hosts; empty is all of them.
    pub paths: Vec<PathPattern>,
    /// Where the service expects its credential; empty where it takes several, and the route must say which.
    pub placements: Vec<Placement>,
    /// Whether its paths hold `%2F`.
    pub encoded_slash: bool,
    /// Where its clients refresh tokens, which keyward answers itself.
    pub token_endpoints: Vec<TokenEndpoint>,
    /// What stands for its first key.
    pub placeholder: Option<Box<str>>,
    /// The preset whose credential-minting requests are refused unless the route grants them.
    pub minting: Option<Arc<Preset>>,
}

/// A file longer than this is no configuration.
const LONGEST: u64 = 4 << 20;

/// Reads a file and looks at what it needs of this machine.
///
/// # Errors
/// Every fault, and every warning that goes with them.
pub fn load(path: &Path, presets: &dyn Presets) -> Result<Loaded, Report> {
    let shown = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        Report::of_file(&shown, format!("the file cannot be read: {error}"), None)
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Report::of_file(
            &shown,
            "the file is longer than 4 MiB".into(),
            None,
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let message = format!("the file is not UTF-8 text: byte {place} and what follows is not");
        Report::of_file(&shown, message, None)
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let desk = Desk::new(folder);
    let config = read(&desk, &text, presets);
    machine::look_at_file(&desk, &metadata);
    if config.is_some() {
        machine::look(&desk);
    }
    let config = config.filter(|_| !desk.has_faults());
    finish(desk, config, &shown, &text)
}

/// Reads a text. Relative paths start at `base`; the machine is not looked at.
///
/// # Errors
/// Every fault, and every warning that goes with them.
pub fn parse(text: &str, file: &str, base: &Path, presets: &dyn Presets) -> Result<Loaded, Report> {
    let desk = Desk::new(base);
    let config = read(&desk, text, presets);
    finish(desk, config, file, text)
}

/// Syntax first, then meaning. After a syntax error only what stands in the file is judged, not what is missing: the
/// parser may have lost it.
fn read(desk: &Desk, text: &str, presets: &dyn Presets) -> Option<Config> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let config = file::read(desk, root.get_ref(), presets, errors.is_empty());
    if errors.is_empty() {
        shape::look(desk, &file::ROOT, root.get_ref());
    } else {
        syntax::tell(desk, text, &errors);
    }
    (!desk.has_faults()).then_some(config)
}

fn finish(desk: Desk, config: Option<Config>, file: &str, text: &str) -> Result<Loaded, Report> {
    let drafts: Vec<Draft> = desk.into_drafts();
    let warnings = Report::new(file, text, drafts);
    match config {
        Some(config) => Ok(Loaded { config, warnings }),
        None => Err(warnings),
    }
}

impl Config {
    /// The services that routes can name: those that come with the program, and the file's own.
    pub fn presets(&self) -> Arc<preset_room::Presets> {
        let shipped = preset_room::Presets::shipped();
        if self.services.is_empty() {
            return Arc::clone(shipped);
        }
        Arc::new(shipped.with(self.services.clone()))
    }

    /// The environment variables that sources name: `run` takes them out of its child's environment.
    pub fn env_names(&self) -> Vec<&str> {
        let specs = self.credentials.iter();
        let of_credentials = specs.flat_map(|spec| spec.kind.env_names());
        let of_agents = self.agents.iter().filter_map(|(_, token)| token.as_ref());
        let of_admin = self.admin.tokens.iter().map(|(_, token)| token);
        let of_listeners = self.listeners.iter().filter_map(|listener| {
            let tls = listener.tls.as_ref();
            tls.map(|tls| &tls.key)
        });
        let of_trust = self.trust.iter().filter_map(|table| table.token.as_ref());
        let of_logins = self.logins.iter().filter_map(Login::source);
        let of_approvals = self.approvals.iter().filter_map(|one| one.secret.as_ref());
        let sources = of_agents
            .chain(of_logins)
            .chain(of_approvals)
            .chain(of_admin)
            .chain(of_trust)
            .chain(of_listeners)
            .chain(self.store.sources());
        let of_sources = sources.filter_map(|source| match source {
            Source::Env(name) => Some(name.as_str()),
            _ => None,
        });
        let mut names: Vec<&str> = of_credentials.chain(of_sources).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
