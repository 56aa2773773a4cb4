//! Whether the runtimes of this machine trust the CA: each is really run, through a keyward of this process's own that
//! holds no credential and reaches nobody. Any answer inside TLS shows trust.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use super::super::run::Certificates;
use super::{Finding, java};
use crate::agent::AgentId;
use crate::app::{App, Environment, Surroundings, roots_file};
use crate::audit::{Settings, Sink};
use crate::config::{Admin, Config};
use crate::host::{HostMatch, Target};
use crate::identity::AgentEntry;
use crate::proxy::{Identify, Limits, ListenAddr, ListenerSettings, Unmatched, UpstreamSettings};
use crate::route::Route;
use crate::tls::{Authority, CaSettings, Role};

pub(super) const CHECK: &str = "trust";
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody listens there (RFC 6335 §6: tcpmux, which no machine of today has).
const NOBODY: &str = "127.0.0.1:1";

/// One way of asking.
struct Trial {
    name: &'static str,
    program: &'static str,
    /// What it is called with; `{}` is the URL.
    args: &'static [&'static str],
    /// What its output has where TLS held.
    holds: &'static str,
    /// The variable by which it is told of the CA.
    variable: &'static str,
}

const TRIALS: [Trial; 6] = [
    Trial {
        name: "curl",
        program: "curl",
        args: &[
            "-sS",
            "-m",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "held %{http_code}",
            "{}",
        ],
        holds: "held ",
        variable: "CURL_CA_BUNDLE",
    },
    Trial {
        name: "Python",
        program: "python3",
        args: &["-c", PYTHON, "{}"],
        holds: "held",
        variable: "SSL_CERT_FILE",
    },
    Trial {
        name: "Python requests",
        program: "python3",
        args: &["-c", REQUESTS, "{}"],
        holds: "held",
        variable: "REQUESTS_CA_BUNDLE",
    },
    Trial {
        name: "Python httpx",
        program: "python3",
        args: &["-c", HTTPX, "{}"],
        holds: "held",
        variable: "SSL_CERT_FILE",
    },
    Trial {
        name: "Node",
        program: "node",
        args: &["-e", NODE, "{}"],
        holds: "held",
        variable: "NODE_EXTRA_CA_CERTS",
    },
    Trial {
        name: "git",
        program: "git",
        args: &["ls-remote", "{}"],
        holds: "returned error: ",
        variable: "GIT_SSL_CAINFO",
    },
];

const PYTHON: &str = "\
import sys, urllib.request, urllib.error
try: urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError: pass
print('held', sys.version.split()[0])
";
const REQUESTS: &str = "\
import sys
try: import requests
except ImportError: print('absent'); sys.exit()
requests.get(sys.argv[1], timeout=10)
print('held', requests.__version__)
";
const HTTPX: &str = "\
import sys
try: import httpx
except ImportError: print('absent'); sys.exit()
httpx.get(sys.argv[1], timeout=10)
print('held', httpx.__version__)
";
/// By hand, since `fetch` knows a proxy in some versions only.
const NODE: &str = "\
const fail = (e) => { console.error(String(e)); process.exit(1); };
const url = new URL(process.argv[1]), proxy = new URL(process.env.HTTPS_PROXY);
require('http').request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: url.hostname + ':443',
  headers: { host: url.hostname + ':443' } })
  .on('connect', (answer, socket) => {
    if (answer.statusCode !== 200) fail('CONNECT: ' + answer.statusCode);
    require('tls').connect({ socket, servername: url.hostname }, () => {
      console.log('held', process.version); process.exit(0);
    }).on('error', fail);
  }).on('error', fail).end();
";

/// Tries every runtime that is installed.
pub(super) async fn look(
    config: &Config,
    agent: &AgentId,
    environment: &Environment,
) -> Vec<Finding> {
    let Some(host) = host(config, agent) else {
        return vec![Finding::ok(
            CHECK,
            "no route names a single host on port 443: the CA is not tried",
        )];
    };
    match with_probe(config, agent, environment, &host).await {
        Ok(findings) => findings,
        Err(why) => vec![Finding::fail(
            CHECK,
            why,
            "see `keyward ca show`, and the modes above",
        )],
    }
}

/// The first single host on 443 that this agent can ask for.
fn host(config: &Config, agent: &AgentId) -> Option<String> {
    let routes = config.routes.iter().filter(|route| route.admits(agent));
    let mut hosts = routes.flat_map(|route| &route.hosts);
    hosts.find_map(|pattern| match &pattern.kind {
        HostMatch::Exact(_) => {
            let text = pattern.to_string();
            (!text.contains(':')).then_some(text)
        }
        HostMatch::OneLabel(_) => None,
    })
}

async fn with_probe(
    config: &Config,
    agent: &AgentId,
    environment: &Environment,
    host: &str,
) -> Result<Vec<Finding>, String> {
    // A CA that is not there yet is not made by looking.
    let stands = roots_file(&config.ca).is_some_and(|roots| roots.is_file());
    let app = probe(config, agent, stands, host).await?;
    let port = (app.listeners().iter())
        .find_map(|(_, _, tcp)| tcp.first())
        .map(std::net::SocketAddr::port)
        .ok_or("the probe has no port")?;
    let certificates =
        Certificates::write(&app.roots_pem(), &super::super::run::random(), environment)
            .map_err(|error| format!("the CA cannot be written for the runtimes: {error}"))?;
    let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let own = stands && (is_set("HTTPS_PROXY") || is_set("https_proxy"));
    let proxy = format!("http://127.0.0.1:{port}");
    let mut told: Vec<(String, OsString)> = Vec::new();
    for (name, value) in environment.iter() {
        let keeps = own || ["PATH", "HOME", "LANG", "TMPDIR"].contains(&name.as_str());
        if keeps && !name.to_lowercase().ends_with("_proxy") {
            told.push((name.clone(), value.clone()));
        }
    }
    if !own {
        for (name, path) in certificates.variables() {
            told.push((name.to_owned(), path.into()));
        }
    }
    for name in ["HTTPS_PROXY", "https_proxy"] {
        told.push((name.to_owned(), proxy.clone().into()));
    }
    told.push(("GIT_TERMINAL_PROMPT".to_owned(), "0".into()));
    let whose = if own {
        "this shell's variables"
    } else {
        "the variables of `keyward env`"
    };
    let mut findings = vec![Finding::ok(
        CHECK,
        format!("tried with {whose}, as if for {host}"),
    )];
    let roots = roots_file(&config.ca).filter(|_| stands);
    let roots = roots.map_or_else(
        || "$(keyward ca path -c FILE)".into(),
        |roots| roots.display().to_string(),
    );
    for trial in &TRIALS {
        findings.extend(tried(trial, &told, host, &roots).await);
    }
    let known = (config.ca.dir.as_ref()).filter(|_| stands);
    let known = known.and_then(|dir| Authority::show(dir).ok());
    let known: Vec<String> = (known.unwrap_or_default().into_iter())
        .filter(|fact| fact.role != Role::Intermediate)
        .map(|fact| fact.fingerprint)
        .collect();
    findings.extend(java::look(&told, (&known, &roots)).await);
    app.shut_down(Duration::from_millis(200), "exit").await;
    Ok(findings)
}

/// A keyward with the file's hosts and CA, no credential, and no way to anybody.
async fn probe(config: &Config, agent: &AgentId, stands: bool, host: &str) -> Result<App, String> {
    let target = |text: &str| Target::from_connect(text).map_err(|error| error.to_string());
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let routes = config.routes.iter().map(|route| Route {
        credential: None,
        placements: Vec::new(),
        paths: Vec::new(),
        agents: Vec::new(),
        ..route.clone()
    });
    let config = Config {
        listeners: vec![ListenerSettings {
            name: agent.clone(),
            listen: vec![ListenAddr::Tcp(loopback)],
            unmatched: Unmatched::Refuse,
            identify: Identify::Open,
            base_url: false,
            tls: None,
            limits: Limits::default(),
        }],
        admin: Admin::default(),
        agents: vec![(AgentEntry::bare(agent.clone()), None)],
        credentials: Vec::new(),
        routes: routes.collect(),
        audit: None,
        ca: if stands {
            config.ca.clone()
        } else {
            CaSettings::default()
        },
        upstream: UpstreamSettings {
            connect_to: [(target(&format!("{host}:443"))?, target(NOBODY)?)].into(),
            via: None,
            ..config.upstream.clone()
        },
        ..config.clone()
    };
    let surroundings = Surroundings {
        environment: Arc::default(),
        audit: Settings::new(Sink::Memory),
        handed: Vec::new(),
    };
    App::start(config, surroundings)
        .await
        .map_err(|error| error.to_string())
}

/// What a program says, both streams; `None` where it is not installed.
pub(super) async fn said(
    program: &str,
    args: &[String],
    told: &[(String, OsString)],
) -> Option<String> {
    let run = Command::new(program)
        .args(args)
        .env_clear()
        .envs(told.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(Ok(output)) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Some(text)
        }
        Ok(Err(_)) => None,
        Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn tried(
    trial: &Trial,
    told: &[(String, OsString)],
    host: &str,
    roots: &str,
) -> Vec<Finding> {
    let url = format!("https://{host}/keyward-doctor");
    let args: Vec<String> = (trial.args.iter())
        .map(|arg| arg.replace("{}", &url))
        .collect();
    let Some(text) = said(trial.program, &args, told).await else {
        return Vec::new();
    };
    if text.starts_with("absent") {
        return Vec::new();
    }
    let mut found = Vec::new();
    if text.contains(trial.holds) && !text.contains("held 000") {
        found.push(Finding::ok(CHECK, format!("{} trusts the CA", trial.name)));
    } else {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let why: String = lines
            .next_back()
            .unwrap_or("it said nothing")
            .chars()
            .take(160)
            .collect();
        let message = format!("{} does not trust the CA: {why}", trial.name);
        let help = format!("export {}={roots}", trial.variable);
        found.push(Finding::fail(CHECK, message, help));
    }
    let version = text.split_once("held v").map(|(_, rest)| rest);
    let major = version.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    if trial.program == "node" && major.is_some_and(|major| major < 24) {
        found.push(Finding::warn(
            CHECK,
            "fetch of this Node knows no proxy (24 does, with NODE_USE_ENV_PROXY=1)",
            "write base-url = true in [proxy], and use `keyward env --base-url`, or `keyward run --base-url`",
        ));
    }
    found
}
