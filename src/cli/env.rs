//! `keyward env`: the lines that point an agent at a running daemon of this file.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::run::url;
use super::{FileArg, NO, UNAVAILABLE, absolute, acting, ca, complain, consult};
use crate::agent::AgentId;
use crate::app::{Environment, roots_file};
use crate::config::Config;
use crate::credential::Source;
use crate::preset::Preset;
use crate::proxy::{Identify, ListenAddr, ListenerSettings, Unmatched};
use crate::secret::Secret;

/// The arguments of `keyward env`.
#[derive(Debug, clap::Args)]
pub struct EnvArgs {
    #[command(flatten)]
    file: FileArg,
    /// The agent [default: the file's only one, else `default`]
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// Whose lines [default: those of $SHELL]
    #[arg(long, value_enum)]
    shell: Option<Shell>,
    /// Where the agent finds the root's PEM file [default: ca.pem in the folder of [ca] dir]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Lead SDKs that know no proxy to `http://ADDRESS/PRESET/…`, with the agent's token for their key
    #[arg(long)]
    base_url: bool,
    /// Write the system's roots and keyward's to FILE, for agents that reach other hosts too
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// A manner of writing variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    /// `export NAME='VALUE'`
    Bash,
    /// The same as bash
    Zsh,
    /// `set -gx NAME 'VALUE'`
    Fish,
    /// NAME=VALUE, for `--env-file`
    Docker,
    /// The items of a container's `env:`
    Kubernetes,
}

/// Variables that replace a runtime's own list of roots.
const REPLACE: [&str; 9] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// Variables that add to it.
const ADD: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Where systems keep their roots in one PEM file: Debian, Fedora, SUSE, and Alpine, BSD and macOS.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What an agent needs to know where a variable that replaces names our root alone.
const TUNNELLED: [&str; 2] = [
    "Hosts that no route names are tunnelled, with certificates of their own: --bundle FILE",
    "writes the system's roots and keyward's into one file for these variables.",
];

/// Why there are no lines.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(
        "no listener of this file has an address that can be known beforehand: port 0, unix sockets and systemd's sockets are not; name one such as \"127.0.0.1:8180\""
    )]
    NoAddress,
    #[error("agent {0} is not in this file")]
    Unknown(AgentId),
    #[error("agent {0} has no token in this file, and a base URL needs one in place of the key")]
    NoToken(AgentId),
    #[error("the token of agent {0} cannot be read: {1}")]
    Token(AgentId, String),
    #[error("the listener serves no base URLs: write base-url = true in [proxy]")]
    NoBaseUrls,
    #[error("{}", ca::IN_MEMORY)]
    InMemory,
    #[error("{}: {error}", path.display())]
    Bundle { path: PathBuf, error: io::Error },
}

/// Prints the lines; the exit code.
pub fn run(args: &EnvArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let config = match consult(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match lines(&config, args, environment) {
        Ok(lines) => {
            let shell = args.shell.unwrap_or_else(|| own_shell(environment));
            // A closed pipe is the reader's own choice.
            print(&lines, shell, out).ok();
            0
        }
        Err(
            fault @ (Fault::Unknown(_) | Fault::NoBaseUrls | Fault::NoToken(_) | Fault::InMemory),
        ) => {
            complain(&fault);
            NO
        }
        Err(fault) => {
            complain(&fault);
            UNAVAILABLE
        }
    }
}

/// A variable, or a comment.
enum Line {
    Set(String, String),
    Comment(String),
}

fn lines(config: &Config, args: &EnvArgs, environment: &Environment) -> Result<Vec<Line>, Fault> {
    let agent = acting(config, args.agent.as_ref());
    let (listener, address) = listener(config).ok_or(Fault::NoAddress)?;
    let roots = match (&args.ca, roots_file(&config.ca)) {
        (Some(given), _) => given.clone(),
        (None, Some(file)) => absolute(&file),
        (None, None) => return Err(Fault::InMemory),
    };
    let user = user(config, listener, &agent, environment)?;
    let url = format!("http://{user}{address}");
    let mut lines = vec![Line::Comment(format!(
        "agent {agent} through keyward at {address}"
    ))];
    for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
        lines.push(Line::Set(name.into(), url.clone()));
        lines.push(Line::Set(name.to_ascii_lowercase(), url.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        lines.push(Line::Set(name.into(), "localhost,127.0.0.1,::1".into()));
    }
    lines.push(Line::Set("NODE_USE_ENV_PROXY".into(), "1".into()));
    // Left to itself git asks the proxy first which method it takes: a 407 before each connection.
    lines.push(Line::Set(
        "GIT_HTTP_PROXY_AUTHMETHOD".into(),
        "basic".into(),
    ));
    trust(listener, args, &roots, &mut lines)?;
    if args.base_url {
        if !listener.base_url {
            return Err(Fault::NoBaseUrls);
        }
        let token = token(config, &agent, environment)?.ok_or(Fault::NoToken(agent.clone()))?;
        let token = std::str::from_utf8(token.expose()).unwrap_or_default();
        bases(config, &agent, (&address.to_string(), token), &mut lines);
    } else {
        placeholders(config, &agent, &mut lines);
    }
    Ok(lines)
}

/// The first listener with a TCP address that is known before it listens, as an agent on this machine dials it.
fn listener(config: &Config) -> Option<(&ListenerSettings, SocketAddr)> {
    config.listeners.iter().find_map(|listener| {
        listener.listen.iter().find_map(|listen| match listen {
            ListenAddr::Tcp(address) if address.port() != 0 => {
                let mut address = *address;
                match address {
                    SocketAddr::V4(_) if address.ip().is_unspecified() => {
                        address.set_ip(Ipv4Addr::LOCALHOST.into());
                    }
                    SocketAddr::V6(_) if address.ip().is_unspecified() => {
                        address.set_ip(Ipv6Addr::LOCALHOST.into());
                    }
                    SocketAddr::V4(_) | SocketAddr::V6(_) => {}
                }
                Some((listener, address))
            }
            ListenAddr::Tcp(_)
            | ListenAddr::Tls(_)
            | ListenAddr::Unix(_)
            | ListenAddr::Systemd(_) => None,
        })
    })
}

/// `AGENT:TOKEN@`, or nothing where nothing is asked.
fn user(
    config: &Config,
    listener: &ListenerSettings,
    agent: &AgentId,
    environment: &Environment,
) -> Result<String, Fault> {
    if listener.identify == Identify::Open {
        return Ok(String::new());
    }
    let Some(token) = token(config, agent, environment)? else {
        complain(&format_args!(
            "agent {agent} has no token in this file: the proxy variables name none, and keyward asks for one"
        ));
        return Ok(String::new());
    };
    complain(&format_args!(
        "these lines hold the proxy token of agent {agent}: keep them where only it can read them"
    ));
    // The agent's own token, for the agent: this is the one secret that the command line prints.
    Ok(format!("{agent}:{}@", percent(token.expose())))
}

/// The agent's own token, where the file has one.
fn token(
    config: &Config,
    agent: &AgentId,
    environment: &Environment,
) -> Result<Option<Secret>, Fault> {
    let entry = config.agents.iter().find(|(entry, _)| entry.id == *agent);
    let (_, source) = entry.ok_or_else(|| Fault::Unknown(agent.clone()))?;
    let read = source.as_ref().map(|source| read(source, environment));
    read.transpose()
        .map_err(|why| Fault::Token(agent.clone(), why))
}

fn read(source: &Source, environment: &Environment) -> Result<Secret, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let look = |name: &str| environment.get(name).cloned();
    runtime
        .block_on(source.read(&look))
        .map_err(|error| error.to_string())
}

/// User-info of a URL (RFC 3986 §3.2.1): all but unreserved characters are encoded.
fn percent(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            use fmt::Write as _;
            // Writing to a String cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}

fn trust(
    listener: &ListenerSettings,
    args: &EnvArgs,
    roots: &Path,
    lines: &mut Vec<Line>,
) -> Result<(), Fault> {
    let whole = if let Some(bundle) = &args.bundle {
        combine(roots, bundle)?;
        absolute(bundle)
    } else {
        if args.ca.is_none() && !roots.exists() {
            complain(&format_args!(
                "{} is not there yet: `keyward serve` or `keyward ca issue` makes it",
                roots.display()
            ));
        }
        if listener.unmatched == Unmatched::Tunnel {
            lines.extend(TUNNELLED.map(|text| Line::Comment(text.into())));
        }
        roots.to_owned()
    };
    let (roots, whole) = (roots.display(), whole.display());
    lines.extend(ADD.map(|name| Line::Set(name.into(), roots.to_string())));
    lines.extend(REPLACE.map(|name| Line::Set(name.into(), whole.to_string())));
    Ok(())
}

/// Writes the system's roots and ours into one file, whole or not at all.
fn combine(roots: &Path, bundle: &Path) -> Result<(), Fault> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Fault::Bundle { path, error }
    };
    let system = SYSTEM.iter().map(Path::new).find(|path| path.exists());
    let system = system.ok_or_else(|| {
        let error = io::Error::other("no file of the system's roots was found");
        at(Path::new("/etc/ssl"))(error)
    })?;
    let mut text = std::fs::read(system).map_err(at(system))?;
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend(std::fs::read(roots).map_err(at(roots))?);
    let mut draft = bundle.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    std::fs::write(&draft, text).map_err(at(&draft))?;
    std::fs::rename(&draft, bundle).map_err(at(bundle))
}

/// The services for which this agent has a credential, each once.
fn services(config: &Config, agent: &AgentId) -> Vec<Arc<Preset>> {
    let presets = config.presets();
    let lent = (config.routes.iter())
        .filter(|route| route.admits(agent) && route.credential.is_some())
        .filter_map(|route| presets.get(route.preset.as_ref()?.as_str()));
    let mut found: Vec<Arc<Preset>> = Vec::new();
    for preset in lent {
        if !found.contains(preset) {
            found.push(Arc::clone(preset));
        }
    }
    found
}

/// Base URLs and the token for services whose SDKs take them; placeholders for the others.
fn bases(config: &Config, agent: &AgentId, (address, token): (&str, &str), lines: &mut Vec<Line>) {
    let what = "SDKs that know no proxy call keyward itself; the agent's token is their key.";
    lines.push(Line::Comment(what.into()));
    let mut seen: Vec<String> = Vec::new();
    for preset in services(config, agent) {
        let base = preset.base_url.as_ref();
        let urls = base.iter().flat_map(|base| &base.env);
        let url = url(&preset, address);
        let mut pairs: Vec<(&str, &str)> = urls.map(|name| (&**name, url.as_str())).collect();
        for key in &preset.keys {
            let value = if base.is_some() {
                token
            } else {
                &*key.placeholder
            };
            pairs.extend(key.env.iter().map(|name| (&**name, value)));
        }
        for (name, value) in pairs {
            if !seen.iter().any(|known| known == name) {
                seen.push(name.to_owned());
                lines.push(Line::Set(name.to_owned(), value.to_owned()));
            }
        }
    }
}

/// SDKs fail without a key before they connect; these hold none.
fn placeholders(config: &Config, agent: &AgentId, lines: &mut Vec<Line>) {
    let mut seen: Vec<Box<str>> = Vec::new();
    for preset in services(config, agent) {
        for (key, name) in preset
            .keys
            .iter()
            .flat_map(|key| key.env.iter().map(move |name| (key, name)))
        {
            if seen.is_empty() {
                let what =
                    "No secrets: SDKs want something here, and keyward puts the real one in.";
                lines.push(Line::Comment(what.into()));
            }
            if !seen.contains(name) {
                seen.push(name.clone());
                lines.push(Line::Set(name.to_string(), key.placeholder.to_string()));
            }
        }
    }
}

fn own_shell(environment: &Environment) -> Shell {
    let shell = environment.get("SHELL").map(Path::new);
    match shell.and_then(Path::file_name) {
        Some(name) if name == "fish" => Shell::Fish,
        _ => Shell::Bash,
    }
}

fn print(lines: &[Line], shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    for line in lines {
        match (line, shell) {
            (Line::Comment(text), _) => writeln!(out, "# {text}")?,
            (Line::Set(name, value), Shell::Bash | Shell::Zsh) => {
                writeln!(out, "export {name}='{}'", value.replace('\'', r"'\''"))?;
            }
            (Line::Set(name, value), Shell::Fish) => {
                let value = value.replace('\\', r"\\").replace('\'', r"\'");
                writeln!(out, "set -gx {name} '{value}'")?;
            }
            (Line::Set(name, value), Shell::Docker) => writeln!(out, "{name}={value}")?,
            (Line::Set(name, value), Shell::Kubernetes) => {
                // A JSON string is a YAML one.
                let value = serde_json::Value::String(value.clone());
                writeln!(out, "- name: {name}\n  value: {value}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str, shell: Shell) -> String {
        let mut out = Vec::new();
        print(&[Line::Set("X".into(), value.into())], shell, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_quote_in_a_value_ends_no_string_of_any_shell() {
        assert_eq!(written("a'b", Shell::Bash), "export X='a'\\''b'\n");
        assert_eq!(written("a'b\\", Shell::Fish), "set -gx X 'a\\'b\\\\'\n");
        assert_eq!(written("a'b", Shell::Docker), "X=a'b\n");
        assert_eq!(
            written("a\"b", Shell::Kubernetes),
            "- name: X\n  value: \"a\\\"b\"\n"
        );
    }

    #[test]
    fn a_token_stays_one_token_in_the_user_info() {
        assert_eq!(percent(b"a:b@c/d%~-"), "a%3Ab%40c%2Fd%25~-");
    }
}
