//! `keyward run`: one session around one command, which works with keys that it cannot find.
//!
//! The keys come from a file's sources, or without a file from the environment. The command gets placeholders, the
//! proxy, the CA and a token of its own; the session, its listener and its token end with it.

mod bases;
mod doors;
mod found;
mod given;
mod lift;
mod logins;
mod person;
mod surroundings;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{BUG, UNAVAILABLE, complain};
use crate::agent::{AgentId, Name};
use crate::app::{App, Environment, StartError, StartHint, Surroundings};
use crate::audit::{Counts, Settings, Sink};
use crate::config::{Admin, Config};
use crate::credential::Source;
use crate::identity::AgentEntry;
use crate::preset::{Preset, Presets};
use crate::proxy::{Identify, ListenAddr, ListenerSettings, Unmatched};
use crate::sandbox::{self, Plan, SandboxError};
use crate::syscall::{self, Role};
use crate::telemetry;
pub(crate) use bases::url;
pub(crate) use found::{Found, look};
use surroundings::Access;
pub(crate) use surroundings::Certificates;

/// The arguments of `keyward run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file; without one, or with one that has no credentials, routes and agents, keys of known
    /// services are taken from the environment
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent that the command is; left out, the file's only one, else `default`
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// Act for the person who signed in there by `keyward login`; left out, at the only login where somebody did
    #[arg(long, value_name = "NAME", requires = "config")]
    login: Option<Name>,
    /// Refuse hosts that no route names
    #[arg(long)]
    strict: bool,
    /// Give the command a network of its own, whose only way out is keyward
    #[arg(long)]
    isolate: bool,
    /// Have SDKs that know no proxy call services under `http://127.0.0.1:PORT/PRESET/…`
    #[arg(long)]
    base_url: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What a session is made of, wherever it comes from.
#[derive(Debug)]
struct Prepared {
    config: Config,
    agent: AgentEntry,
    /// Whether hosts that no route names are tunnelled.
    tunnels: bool,
    /// The variables that leave the environment, with what stands there instead.
    taken: BTreeMap<String, Option<String>>,
    /// The services for which a key is held: their tools' logins are masked.
    services: Vec<Arc<Preset>>,
    /// Every service that is known, those of the file too.
    presets: Arc<Presets>,
    /// Variables that the sources read beside the caller's: tokens of logins that are served.
    lifted: Vec<(String, OsString)>,
    /// Files to mask.
    hidden: Vec<PathBuf>,
    /// What the user should know.
    notes: Vec<String>,
}

/// The proxy's port in a network of its own, where every port is free.
const INSIDE: u16 = 8180;
/// The command and all that it started are gone by then: what is left are sockets that close.
const GRACE: Duration = Duration::from_millis(500);

/// Runs the command to its end; its exit code.
pub fn run(args: &RunArgs, environment: &Environment) -> u8 {
    let hardening = syscall::harden(Role::Run);
    let files = syscall::raise_nofile();
    telemetry::log(
        environment.get("RUST_LOG").and_then(|value| value.to_str()),
        "warn",
    );
    tracing::debug!(%hardening, "process hardened");
    let agent = args.agent.clone();
    let prepared = match &args.config {
        Some(path) => given::file(path, agent, args.strict, environment),
        None => given::nothing(agent, args.strict, environment, None),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match (prepared, runtime) {
        (Ok(prepared), Ok(runtime)) => {
            runtime.block_on(session(args, prepared, environment, files.before))
        }
        (Err(code), _) => Err(code),
        (_, Err(error)) => {
            complain(&error);
            Err(BUG)
        }
    };
    ended.unwrap_or_else(|code| code)
}

async fn session(
    args: &RunArgs,
    mut prepared: Prepared,
    caller: &Environment,
    nofile: Option<u64>,
) -> Result<u8, u8> {
    let acting = person::find(&prepared.config, args.login.as_ref(), caller).await?;
    let trail = trail(&mut prepared, caller)?;
    let listener = listener(args, &prepared);
    let entry = prepared.agent.clone();
    let config = Config {
        listeners: vec![listener.clone()],
        admin: Admin::default(),
        agents: registered(&prepared),
        // The token that it is given says who the command is. A table that knows its process by another agent's name, or
        // evidence that lies about, would make it any agent of the file.
        trust: Vec::new(),
        ..prepared.config.clone()
    };
    let mut known: HashMap<String, OsString> = HashMap::clone(caller);
    known.extend(std::mem::take(&mut prepared.lifted));
    let surroundings = Surroundings {
        environment: Arc::new(known),
        audit: trail,
        handed: Vec::new(),
    };
    let app = App::start_beside(config, surroundings)
        .await
        .map_err(|error| refused(&error))?;
    let person = acting
        .as_ref()
        .map(|one| (Arc::clone(&one.person), one.end()));
    let token = app.begin_run(&entry.id, person);
    let token = token.map_err(|error| refused(&error))?;
    prepared
        .notes
        .extend(acting.as_ref().map(person::Acting::note));
    let port = app.listeners().iter().find_map(|(_, _, tcp)| tcp.first());
    let access = Access {
        agent: entry.id.as_str(),
        token: &token,
        port: port.map_or(INSIDE, std::net::SocketAddr::port),
    };
    let kept = async {
        match acting {
            Some(acting) => acting.keep(&app).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = command(args, &prepared, caller, (&app, &access, &listener, nofile)) => ended,
        never = kept => match never {},
    };
    let audit = Arc::clone(app.audit());
    app.shut_down(GRACE, "exit").await;
    if ended.is_ok()
        && let Some(counts) = audit.counts()
    {
        complain(&Summary(&counts));
    }
    ended
}

type Served<'a> = (&'a App, &'a Access<'a>, &'a ListenerSettings, Option<u64>);

/// Starts the command and waits for its end.
async fn command(
    args: &RunArgs,
    prepared: &Prepared,
    caller: &Environment,
    (app, access, listener, nofile): Served<'_>,
) -> Result<u8, u8> {
    // Another name than the token: this one is seen by whoever lists the folder.
    let certificates =
        Certificates::write(&app.roots_pem(), &random(), caller).map_err(|error| {
            complain(&format_args!(
                "the CA cannot be written for the command: {error}"
            ));
            UNAVAILABLE
        })?;
    let doors = doors::look(caller, args.isolate);
    let (masks, open) = logins::masks(prepared, &doors, caller);
    let bases = listener
        .base_url
        .then(|| bases::of(&prepared.services, access, caller));
    let (bases, elsewhere) = bases.unwrap_or_default();
    let bare = "this system has no certificate store: programs that read one trust keyward alone";
    let bare = (!certificates.has_system).then(|| bare.to_owned());
    let notes = prepared.notes.iter().cloned();
    for note in notes.chain(elsewhere).chain(open).chain(bare) {
        complain(&note);
    }
    let plan = Plan {
        argv: args.command.clone(),
        env: surroundings::environment(caller, &prepared.taken, bases, access, &certificates),
        masks,
        isolate: args.isolate.then_some(access.port),
        nofile,
    };
    let mut child = sandbox::spawn(&plan).map_err(|error| not_started(&error, &args.command))?;
    if let Some(socket) = child.take_listener() {
        app.serve_also(listener.clone(), socket)
            .map_err(|error| refused(&error))?;
    }
    for weaker in child.weaker() {
        complain(weaker);
    }
    let end = child.wait().await.map_err(|error| {
        complain(&WithCause(&error));
        error.exit_code()
    })?;
    Ok(end.code())
}

/// Where records go: never to standard output, which is the command's.
fn trail(prepared: &mut Prepared, caller: &Environment) -> Result<Settings, u8> {
    let state = super::login::state(caller);
    if let Some(folder) = &state {
        // The command finds none of the sign-ins and trails of its user, be they made while it runs.
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.ok();
        prepared.hidden.push(folder.clone());
    }
    let written = prepared.config.audit.take();
    if let Some(settings) = written.clone().filter(|audit| audit.sink != Sink::Stdout) {
        return Ok(settings);
    }
    let with = |sink| match &written {
        Some(settings) => Settings {
            sink,
            ..settings.clone()
        },
        None => Settings::new(sink),
    };
    let Some(folder) = state else {
        let note = "neither XDG_STATE_HOME nor HOME is set: the audit records end with the session";
        prepared.notes.push(note.to_owned());
        return Ok(with(Sink::Memory));
    };
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.map_err(|error| {
        complain(&format_args!(
            "the folder {} of the audit trail cannot be made: {error}",
            folder.display()
        ));
        UNAVAILABLE
    })?;
    Ok(with(Sink::File(folder.join("audit.jsonl"))))
}

/// The agents that the command's session can be handed on to: those of the file. None shows a token here.
fn registered(prepared: &Prepared) -> Vec<(AgentEntry, Option<Source>)> {
    let own = &prepared.agent;
    let others = prepared.config.agents.iter().map(|(entry, _)| entry);
    let others = others.filter(|entry| entry.id != own.id);
    let all = std::iter::once(own).chain(others);
    all.map(|entry| (entry.clone(), None)).collect()
}

/// The session's own listener, whatever the file says; the file's first one lends its limits.
fn listener(args: &RunArgs, prepared: &Prepared) -> ListenerSettings {
    let own = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let written = prepared.config.listeners.first();
    ListenerSettings {
        name: written.map_or(&prepared.agent.id, |one| &one.name).clone(),
        // An isolated command has its listener inside, and none is opened out here.
        listen: if args.isolate {
            Vec::new()
        } else {
            vec![ListenAddr::Tcp(own)]
        },
        unmatched: if prepared.tunnels && !args.strict {
            Unmatched::Tunnel
        } else {
            Unmatched::Refuse
        },
        identify: Identify::Required,
        base_url: args.base_url || written.is_some_and(|one| one.base_url),
        limits: written.map(|one| one.limits.clone()).unwrap_or_default(),
        tls: None,
    }
}

/// 128 bits nobody can guess, in hex.
pub(crate) fn random() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator answers");
    format!("{:032x}", u128::from_be_bytes(bytes))
}

fn refused(error: &StartError) -> u8 {
    complain(&format_args!("{error}\n  = {}", StartHint(error)));
    super::serve::exit_code(error)
}

fn not_started(error: &SandboxError, command: &[OsString]) -> u8 {
    match (error, command.first()) {
        (SandboxError::Command(cause), Some(program)) => {
            complain(&format_args!("{}: {cause}", program.display()));
        }
        _ => complain(&WithCause(error)),
    }
    error.exit_code()
}

struct WithCause<'a>(&'a SandboxError);

impl fmt::Display for WithCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match std::error::Error::source(self.0) {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

/// The line at the end.
struct Summary<'a>(&'a Counts);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: u64, one: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {one}s"),
        };
        let joined = |words: &std::collections::BTreeSet<String>| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.join(", ")
        };
        let counts = self.0;
        let hosts = u64::try_from(counts.hosts.len()).unwrap_or(u64::MAX);
        write!(
            f,
            "{}, {}, {}, {}",
            number(counts.requests, "request"),
            number(counts.tunnels, "tunnel"),
            number(hosts, "host"),
            number(counts.refusals, "refusal"),
        )?;
        if !counts.words.is_empty() {
            write!(f, " ({})", joined(&counts.words))?;
        }
        if counts.credentials.is_empty() {
            f.write_str("; no credential used")
        } else {
            write!(f, "; credentials used: {}", joined(&counts.credentials))
        }
    }
}
