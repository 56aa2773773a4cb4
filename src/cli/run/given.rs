//! With a file: what it says, under the listener and the agent of this session.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::found::{self, Found};
use super::{Prepared, lift};
use crate::agent::AgentId;
use crate::app::Environment;
use crate::audit::Sink;
use crate::cli::{BUG, USAGE, complain, load};
use crate::config::{self, Config, Login};
use crate::credential::Source;
use crate::identity::AgentEntry;
use crate::preset::Presets;
use crate::proxy::Unmatched;

/// The session that the environment makes; `lent` is what a file says about everything but credentials and routes.
///
/// # Errors
/// The exit code.
pub(super) fn nothing(
    agent: Option<AgentId>,
    strict: bool,
    environment: &Environment,
    lent: Option<Config>,
) -> Result<Prepared, u8> {
    let presets = &lent
        .as_ref()
        .map_or_else(|| Arc::clone(Presets::shipped()), Config::presets);
    let lift::Lifted {
        variables,
        notes: of_logins,
    } = lift::look(environment, presets, Timestamp::now());
    let mut known: HashMap<String, OsString> = HashMap::clone(environment);
    known.extend(variables.iter().cloned());
    let Found {
        text,
        taken,
        served,
        notes,
        ..
    } = found::look(&Arc::new(known), presets, strict);
    let loaded = config::parse(&text, "the environment", Path::new(""), &**presets);
    let config = loaded.map_err(|report| {
        complain(&report);
        BUG
    })?;
    let found = config.config;
    let presets = Arc::clone(presets);
    let usual = &found.listeners;
    let (config, tunnels, hidden) = match lent {
        None => (found, !strict, Vec::new()),
        Some(file) => {
            // A listener that is the usual one in every key says nothing about hosts that no route names.
            let says = file.listeners.first().filter(|_| file.listeners != *usual);
            let open = says.is_none_or(|one| one.unmatched == Unmatched::Tunnel);
            let hidden = files_of(&file);
            let config = Config {
                agents: found.agents,
                credentials: found.credentials,
                routes: found.routes,
                conditions: found.conditions,
                ..file
            };
            (config, open && !strict, hidden)
        }
    };
    Ok(Prepared {
        config,
        agent: agent_of(&[], agent)?,
        tunnels,
        taken,
        services: served,
        presets,
        lifted: variables,
        hidden,
        notes: of_logins.into_iter().chain(notes).collect(),
    })
}

/// Whether the file leaves credentials, routes and agents to the environment.
fn is_lent(config: &Config) -> bool {
    config.agents.is_empty() && config.credentials.is_empty() && config.routes.is_empty()
}

/// The session of a file.
///
/// # Errors
/// The exit code.
pub(super) fn file(
    path: &Path,
    agent: Option<AgentId>,
    strict: bool,
    environment: &Environment,
) -> Result<Prepared, u8> {
    let config = load(path)?;
    let presets = config.presets();
    if is_lent(&config) {
        return nothing(agent, strict, environment, Some(config));
    }
    let agents: Vec<AgentEntry> = (config.agents.iter())
        .map(|(entry, _)| entry.clone())
        .collect();
    let agent = agent_of(&agents, agent)?;
    let tunnels =
        (config.listeners.first()).is_some_and(|listener| listener.unmatched == Unmatched::Tunnel);
    let mut taken: BTreeMap<String, Option<String>> = BTreeMap::new();
    for var in config.env_names() {
        let key = presets.by_env(var).flat_map(|preset| &preset.keys);
        let placeholder = key.filter(|key| key.env.iter().any(|own| **own == *var));
        let placeholder = placeholder.map(|key| key.placeholder.to_string()).next();
        taken.insert(var.to_owned(), placeholder);
    }
    let mut services = Vec::new();
    let lent = (config.routes.iter()).filter(|route| route.credential.is_some());
    for preset in lent.filter_map(|route| presets.get(route.preset.as_ref()?.as_str())) {
        for key in &preset.keys {
            let set = (key.env.iter()).filter(|var| found::is_set(environment, var));
            // Clients look for a key before they make a request: where none is set, the first name gets one.
            let mut names: Vec<&str> = set.map(|var| &**var).collect();
            if names.is_empty() {
                names.extend(key.env.first().map(|var| &**var));
            }
            for var in names {
                taken.insert(var.to_owned(), Some(key.placeholder.to_string()));
            }
        }
        services.push(preset.clone());
    }
    let mut notes = shared_means(&config, environment);
    let mut kept: Vec<&str> = (presets.iter().flat_map(|preset| preset.env()))
        .filter(|var| found::is_set(environment, var) && !taken.contains_key(*var))
        .collect();
    kept.sort_unstable();
    kept.dedup();
    if !kept.is_empty() {
        notes.push(format!(
            "no source of the file names {}: the command keeps it",
            kept.join(", ")
        ));
    }
    Ok(Prepared {
        hidden: files_of(&config),
        config,
        agent,
        tunnels,
        taken,
        services,
        presets,
        lifted: Vec::new(),
        notes,
    })
}

/// The agent that is asked for, else the only one, else `default`.
fn agent_of(known: &[AgentEntry], asked: Option<AgentId>) -> Result<AgentEntry, u8> {
    let find = |id: &str| known.iter().find(|entry| entry.id.as_str() == id).cloned();
    let listed = || {
        let ids: Vec<&str> = known.iter().map(|entry| entry.id.as_str()).collect();
        ids.join(", ")
    };
    match (asked, known) {
        (Some(id), []) => Ok(AgentEntry::bare(id)),
        (Some(id), _) => find(id.as_str()).ok_or_else(|| {
            complain(&format_args!(
                "no agent is called \"{id}\"; the file has: {}",
                listed()
            ));
            USAGE
        }),
        (None, [only]) => Ok(only.clone()),
        (None, []) => {
            let default: Result<AgentId, _> = "default".parse();
            default.map(AgentEntry::bare).map_err(|_| BUG)
        }
        (None, _) => find("default").ok_or_else(|| {
            complain(&format_args!(
                "say which agent runs with --agent; the file has: {}",
                listed()
            ));
            USAGE
        }),
    }
}

fn sources(config: &Config) -> impl Iterator<Item = &Source> {
    let specs = config.credentials.iter();
    let credentials = specs.flat_map(|spec| spec.kind.sources());
    let agents = config.agents.iter().filter_map(|(_, token)| token.as_ref());
    let operators = config.admin.tokens.iter().map(|(_, token)| token);
    let logins = config.logins.iter().filter_map(Login::source);
    let trust = config.trust.iter().filter_map(|one| one.token.as_ref());
    let all = credentials.chain(agents).chain(operators);
    let webhooks = config
        .approvals
        .iter()
        .filter_map(|one| one.secret.as_ref());
    all.chain(logins)
        .chain(trust)
        .chain(webhooks)
        .chain(config.store.sources())
}

/// The files that the command must not read or change: secrets, the CA's folder, the audit trail.
fn files_of(config: &Config) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = sources(config)
        .filter_map(|source| match source {
            Source::File(path) => Some(path.clone()),
            _ => None,
        })
        .collect();
    files.extend(config.ca.dir.clone());
    if let Some(Sink::File(path)) = config.audit.as_ref().map(|audit| &audit.sink) {
        for extension in ["jsonl", "checkpoints", "key"] {
            files.push(path.with_extension(extension));
        }
        files.push(path.clone());
    }
    files
}

/// Sources that the command, being the same user, can ask itself.
fn shared_means(config: &Config, environment: &Environment) -> Vec<String> {
    let mut commands = Vec::new();
    let mut keyring = false;
    for source in sources(config) {
        match source {
            Source::Command { argv, .. } => commands.extend(argv.first().cloned()),
            // On Linux it is asked over the session bus, which is covered where it is a file.
            Source::Keyring { .. } => {
                keyring = cfg!(not(target_os = "linux"))
                    || super::doors::look(environment, false).bus_is_open;
            }
            _ => {}
        }
    }
    let mut notes: Vec<String> = commands
        .iter()
        .map(|program| format!("a secret comes from {program}, which the command can run as well"))
        .collect();
    if keyring {
        notes.push("a secret comes from the keyring, which the command can ask as well".to_owned());
    }
    notes
}
