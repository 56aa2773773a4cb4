//! `keyward relay`: from its arguments and what it finds around it to the end of its drain.

mod person;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::login::Who;
use super::{BUG, CONFIG, UNAVAILABLE, USAGE, absolute, complain, consult};
use crate::agent::Name;
use crate::app::Environment;
use crate::clock::SystemClock;
use crate::host::Target;
use crate::identity::{Learnt, PeerSettings};
use crate::issuer::Endpoint;
use crate::issuer::spiffe::workload::Address;
use crate::relay::{Aws, AwsProof, Certificate, Fault, Listen, Relay, Settings, StartError, Token};
use crate::syscall::{self, Role};
use crate::telemetry;

/// The arguments of `keyward relay`.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// The gateway's tls: listener, by the name in its certificate
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    gateway: Target,
    /// A PEM file of the roots behind the gateway's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Where the gateway is dialled, if not by its name
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    connect_to: Option<Target>,
    /// Where processes connect: a loopback address, or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8180", value_parser = listen)]
    listen: Vec<Listen>,
    /// A client certificate in PEM, its chain behind it; read again when it changes
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The SPIFFE Workload API, for a client certificate [default: $SPIFFE_ENDPOINT_SOCKET]
    #[arg(long, value_name = "unix:PATH", conflicts_with = "cert")]
    workload_api: Option<Address>,
    /// Exchange a JWT-SVID for this audience beside the certificate; with --aws: for whom the call is signed [default
    /// there: the gateway's name]
    #[arg(long, value_name = "AUDIENCE", conflicts_with = "token_file")]
    audience: Option<String>,
    /// A token that proves this machine, read again at each use [default: /var/run/secrets/keyward/token, if it is there]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Prove this machine by AWS [default: caller-identity, where nothing else is there, and variables name AWS keys or
    /// this is an EC2 instance]
    #[arg(long, value_enum, value_name = "PROOF", conflicts_with_all = ["token_file", "tell_process", "pass_credentials"])]
    aws: Option<Proof>,
    /// The gateway's sts-url [default: $AWS_ENDPOINT_URL_STS, else https://sts.amazonaws.com]
    #[arg(long, value_name = "URL")]
    sts_url: Option<Endpoint>,
    /// Act for whoever is signed in by `keyward login -c FILE --local`
    #[arg(short = 'c', long = "config", value_name = "FILE", conflicts_with_all = ["tell_process", "pass_credentials"])]
    config: Option<PathBuf>,
    /// At which [login.NAME] of the file, if it has several
    #[arg(long, value_name = "NAME", requires = "config")]
    login: Option<Name>,
    /// Serve processes of these users [default: the relay's own]
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// Serve only processes that run these files
    #[arg(long, value_name = "PATH")]
    allow_executable: Vec<PathBuf>,
    /// Serve only processes in these control groups, or below
    #[arg(long, value_name = "GROUP", value_parser = group)]
    allow_cgroup: Vec<String>,
    /// Serve whoever connects, from anywhere: nobody is told apart
    #[arg(long, conflicts_with_all = ["allow_uid", "allow_executable", "allow_cgroup", "tell_process"])]
    allow_anyone: bool,
    /// Tell the gateway which process it is: its user, and its executable or what is listed; it needs [trust.NAME.relay],
    /// and an X.509-SVID here
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        default_missing_value = "executable", conflicts_with_all = ["token_file", "audience", "pass_credentials"])]
    tell_process: Option<Vec<Told>>,
    /// Pass a process's own Proxy-Authorization on, in place of the relay's
    #[arg(long)]
    pass_credentials: bool,
    /// How long open connections may go on after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// Connections of allowed processes at once; others are counted apart
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
}

/// What is told of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Told {
    /// Nothing beside the user
    User,
    /// The executable's path
    Executable,
    /// The SHA-256 of its content
    Sha256,
    /// The effective group
    Group,
    /// The control groups
    Cgroups,
}

/// What AWS proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Proof {
    /// A call of STS that is signed with AWS keys and that only the gateway may send
    CallerIdentity,
    /// The identity document of an EC2 instance, which whoever has a copy can show
    IdentityDocument,
}

/// Where a projected token for keyward is looked for. Not the service account's usual one: that is made for the
/// cluster's API, and nobody else is to have it.
const TOKEN: &str = "/var/run/secrets/keyward/token";
const SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";
/// What says that this machine is an EC2 instance.
const VENDOR: &str = "/sys/devices/virtual/dmi/id/sys_vendor";
/// The variables of which each names AWS keys.
const AWS_KEYS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];
/// As the gateway's own default has it.
const STS: &str = "https://sts.amazonaws.com";

/// Runs the relay until SIGTERM or SIGINT; the exit code.
pub fn run(args: &RelayArgs, environment: &Environment) -> u8 {
    let hardening = syscall::harden(Role::Daemon);
    syscall::raise_nofile();
    telemetry::log(
        environment.get("RUST_LOG").and_then(|value| value.to_str()),
        "info",
    );
    let settings = match settings(args, environment) {
        Ok(settings) => settings,
        Err(why) => {
            complain(&why);
            return USAGE;
        }
    };
    info!(%hardening, "process hardened");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            let mut settings = settings;
            if let Some(file) = &args.config {
                let config = match consult(file) {
                    Ok(config) => config,
                    Err(code) => return code,
                };
                match Who::at(&config, args.login.as_ref(), environment).await {
                    Ok(who) => settings.person = Some(Arc::new(person::Kept(who))),
                    Err(code) => return code,
                }
            }
            serve(settings, Duration::from_secs(args.drain)).await
        }),
        Err(error) => {
            complain(&error);
            BUG
        }
    }
}

async fn serve(settings: Settings, drain: Duration) -> u8 {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        complain(&"signals cannot be caught");
        return BUG;
    };
    let gateway = settings.gateway.clone();
    info!(
        certificate = shown(&settings.certificate),
        token = settings.token.as_ref().map(shown_token),
        acts_for_whoever_is_signed_in = settings.person.is_some(),
        "evidence"
    );
    let relay = match Relay::start(settings, Arc::new(SystemClock)).await {
        Ok(relay) => relay,
        Err(StartError::Evidence(fault)) => {
            complain(&format_args!("{fault}\n  = {}", fault.hint()));
            return CONFIG;
        }
        Err(error) => {
            complain(&error);
            return UNAVAILABLE;
        }
    };
    info!(addresses = relay.addresses().join(" "), %gateway, "relaying");
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    let first = async {
        match relay.probe().await {
            Ok(()) => info!(%gateway, "the gateway is there"),
            Err(fault) => {
                warn!(%fault, hint = fault.hint(), "no gateway yet; it is tried again at each request");
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = first => {}
    }
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    info!(grace = ?drain, "draining");
    relay.shut_down(drain).await;
    info!("stopped");
    0
}

fn settings(args: &RelayArgs, environment: &Environment) -> Result<Settings, String> {
    let (certificate, token) = evidence(args, environment, (Path::new(TOKEN), Path::new(VENDOR)))?;
    if args.tell_process.is_some() && matches!(certificate, Certificate::Own) {
        return Err(
            "--tell-process needs an X.509-SVID that proves the relay: give SPIFFE_ENDPOINT_SOCKET, or --cert and --key"
                .to_owned(),
        );
    }
    if args.tell_process.is_some() && token.is_some() {
        return Err("--tell-process and a token exclude each other".to_owned());
    }
    let anywhere = args.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(address) if !address.ip().is_loopback() => Some(address),
        Listen::Tcp(_) | Listen::Unix(_) => None,
    });
    if let (Some(address), false) = (anywhere, args.allow_anyone) {
        return Err(format!(
            "{address} is no loopback address, and who comes from elsewhere cannot be told apart: listen on 127.0.0.1 or unix:PATH, or say --allow-anyone"
        ));
    }
    let callers = (!args.allow_anyone).then(|| PeerSettings {
        uids: if args.allow_uid.is_empty() {
            vec![rustix::process::geteuid().as_raw()]
        } else {
            args.allow_uid.clone()
        },
        executables: args
            .allow_executable
            .iter()
            .map(|path| path.canonicalize().unwrap_or_else(|_| absolute(path)))
            .collect(),
        cgroups: args.allow_cgroup.clone(),
        ..PeerSettings::default()
    });
    Ok(Settings {
        listen: args.listen.clone(),
        gateway: args.gateway.clone(),
        connect_to: args.connect_to.clone(),
        trust: args.trust.iter().map(|path| absolute(path)).collect(),
        certificate,
        token,
        person: None,
        callers,
        tells: args.tell_process.as_ref().map(|told| Learnt {
            gid: told.contains(&Told::Group),
            executable: told.contains(&Told::Executable),
            sha256: told.contains(&Told::Sha256),
            cgroups: told.contains(&Told::Cgroups),
        }),
        passes: args.pass_credentials,
        max_connections: args.max_connections as usize,
    })
}

/// What the relay proves itself with: what the arguments name, else what is found.
fn evidence(
    args: &RelayArgs,
    environment: &Environment,
    (projected, vendor): (&Path, &Path),
) -> Result<(Certificate, Option<Token>), String> {
    let given = environment.get(SOCKET).and_then(|value| value.to_str());
    let given = given.filter(|value| !value.is_empty());
    let api = match (&args.workload_api, given) {
        (Some(api), _) => Some(api.clone()),
        (None, Some(text)) if args.cert.is_none() && args.token_file.is_none() => {
            let api = text.parse();
            Some(api.map_err(|error| format!("{SOCKET}: {error}"))?)
        }
        (None, Some(text)) if args.audience.is_some() => {
            let api = text.parse();
            Some(api.map_err(|error| format!("{SOCKET}: {error}"))?)
        }
        (None, _) => None,
    };
    let bare = args.cert.is_none()
        && api.is_none()
        && !args.pass_credentials
        && args.tell_process.is_none();
    let is_found = || {
        let is_set = |name: &&str| {
            environment
                .get(*name)
                .is_some_and(|value| !value.is_empty())
        };
        let is_ec2 =
            || std::fs::read_to_string(vendor).is_ok_and(|text| text.trim() == "Amazon EC2");
        AWS_KEYS.iter().any(is_set) || is_ec2()
    };
    let proof = args.aws.or_else(|| {
        let alone = bare && args.token_file.is_none() && !projected.exists();
        (alone && is_found()).then_some(Proof::CallerIdentity)
    });
    if let Some(proof) = proof {
        let token = Token::Aws(aws(args, environment, proof)?);
        return Ok((certificate(args, api), Some(token)));
    }
    let token = match (&args.token_file, &args.audience, &api) {
        (Some(file), _, _) => Some(Token::File(absolute(file))),
        (None, Some(audience), Some(api)) => Some(Token::Svid(api.clone(), audience.clone())),
        (None, Some(_), None) => {
            return Err(format!(
                "--audience needs the Workload API: set {SOCKET}, or give --workload-api"
            ));
        }
        (None, None, None) if args.cert.is_none() && projected.exists() => {
            Some(Token::File(projected.to_owned()))
        }
        (None, None, _) => None,
    };
    let certificate = certificate(args, api);
    if matches!(certificate, Certificate::Own) && token.is_none() && !args.pass_credentials {
        let fault = Fault::NoEvidence(format!(
            "{SOCKET} is not set, {} is not there, no variable names AWS keys, and no argument names any",
            projected.display()
        ));
        return Err(format!("{fault}\n  = {}", fault.hint()));
    }
    Ok((certificate, token))
}

fn certificate(args: &RelayArgs, api: Option<Address>) -> Certificate {
    match (&args.cert, &args.key, api) {
        (Some(cert), Some(key), _) => Certificate::Files {
            cert: absolute(cert),
            key: absolute(key),
        },
        (_, _, Some(api)) => Certificate::Workload(api),
        _ => Certificate::Own,
    }
}

fn aws(args: &RelayArgs, environment: &Environment, proof: Proof) -> Result<Aws, String> {
    const URL: &str = "AWS_ENDPOINT_URL_STS";
    let proof = match proof {
        Proof::IdentityDocument => AwsProof::IdentityDocument,
        Proof::CallerIdentity => {
            let named = environment.get(URL).and_then(|value| value.to_str());
            let named = named.filter(|text| !text.is_empty()).unwrap_or(STS);
            let named = || named.parse().map_err(|error| format!("{URL}: {error}"));
            AwsProof::CallerIdentity {
                audience: (args.audience.clone()).unwrap_or_else(|| args.gateway.host.to_string()),
                sts: args.sts_url.clone().map_or_else(named, Ok)?,
            }
        }
    };
    Ok(Aws {
        proof,
        environment: Arc::clone(environment),
    })
}

fn shown(certificate: &Certificate) -> String {
    match certificate {
        Certificate::Own => "a key of this process".to_owned(),
        Certificate::Files { cert, .. } => format!("file {}", cert.display()),
        Certificate::Workload(_) => "the Workload API's X.509-SVID".to_owned(),
    }
}

fn shown_token(token: &Token) -> String {
    match token {
        Token::File(path) => format!("file {}", path.display()),
        Token::Svid(_, audience) => format!("a JWT-SVID for {audience}"),
        Token::Aws(aws) => match &aws.proof {
            AwsProof::CallerIdentity { audience, .. } => {
                format!("a call of AWS STS, signed for {audience}")
            }
            AwsProof::IdentityDocument => "the identity document of this EC2 instance".to_owned(),
        },
    }
}

fn target(text: &str) -> Result<Target, String> {
    let text = text.strip_prefix("https://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    Target::from_connect(text).map_err(|error| format!("{error}; write it as gw.example.com:8543"))
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(
                "a unix socket has a path, such as unix:/run/keyward/relay.sock".to_owned(),
            );
        }
        return Ok(Listen::Unix(absolute(Path::new(path))));
    }
    let address: Result<SocketAddr, _> = text.parse();
    address
        .map(Listen::Tcp)
        .map_err(|_| "write an address and a port such as 127.0.0.1:8180, or unix:PATH".to_owned())
}

fn group(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') && text.len() > 1 {
        Ok(text.to_owned())
    } else {
        Err("a control group is a path below /, as it stands in /proc/PID/cgroup")
    }
}
