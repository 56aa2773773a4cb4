//! The command line: one file a subcommand. Logs go to stderr; stdout belongs to the answer.

pub mod agent;
pub mod approval;
pub mod audit;
pub mod ca;
pub mod check;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod env;
pub mod explain;
pub mod init;
pub mod lease;
pub mod login;
pub mod man;
pub mod operator;
pub mod preset;
pub mod relay;
pub mod run;
pub mod serve;
pub mod session;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::AgentId;
use crate::app::Environment;
use crate::config::{self, Config, Loaded, Report};
use crate::credential::Source;

/// Asked, and the answer is no.
pub const NO: u8 = 1;
/// EX_USAGE of sysexits(3).
pub const USAGE: u8 = 64;
/// EX_UNAVAILABLE.
pub const UNAVAILABLE: u8 = 69;
/// EX_SOFTWARE: a bug.
pub const BUG: u8 = 70;
/// EX_CONFIG.
pub const CONFIG: u8 = 78;

/// A credential-injecting HTTPS egress proxy for AI agents: the agent holds no secret
#[derive(Debug, Parser)]
#[command(
    name = "keyward",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one command with keys that it cannot find
    Run(run::RunArgs),
    /// Run the daemon: sidecar, VM, gateway
    Serve(serve::ServeArgs),
    /// Give the processes of this machine one constant proxy URL, and prove them to a gateway elsewhere
    Relay(Box<relay::RelayArgs>),
    /// Write a first file from what this machine has: keys, proxies, roots, logins
    Init(init::InitArgs),
    /// Show every fault of a configuration file, with line, column and caret
    Check(check::CheckArgs),
    /// Try what users get wrong: trust in each runtime, proxy variables, clock, reachability, file modes
    Doctor(doctor::DoctorArgs),
    /// Say what would happen to one request, and why, offline
    Explain(explain::ExplainArgs),
    /// Show the whole path on loopback, with nothing to set up
    Demo(demo::DemoArgs),
    /// Print the lines that point an agent at a running daemon
    Env(env::EnvArgs),
    /// Show, re-issue or replace the CA that agents trust
    Ca(ca::CaArgs),
    /// Verify or query an audit trail, offline
    Audit(audit::AuditArgs),
    /// Sign in as the person for whom agents act
    Login(login::LoginArgs),
    /// List or revoke the leases of a running keyward
    Lease(lease::LeaseArgs),
    /// List, show or end sessions, or hand one's own on
    Session(session::SessionArgs),
    /// List, show, suspend or resume agents
    Agent(agent::AgentArgs),
    /// List what agents ask of people, approve or deny it
    Approval(approval::ApprovalArgs),
    /// List or show the services that are built in
    Preset(preset::PresetArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
    /// Write the pages of the manual
    Man(man::ManArgs),
}

/// The name of the file that a subcommand reads.
#[derive(Debug, clap::Args)]
pub struct FileArg {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,
}

/// Parses the arguments and runs what they name. `environment` is the process's own, captured before anything else.
pub fn main(environment: Environment) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // A closed pipe is the reader's own choice.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    let mut out = std::io::stdout().lock();
    let code = match &cli.command {
        Command::Run(args) => {
            drop(out);
            return ExitCode::from(run::run(args, &environment));
        }
        Command::Serve(args) => {
            drop(out);
            return ExitCode::from(serve::run(args, environment));
        }
        Command::Relay(args) => {
            drop(out);
            return ExitCode::from(relay::run(args, &environment));
        }
        Command::Check(args) => check::run(args, &mut out),
        Command::Explain(args) => explain::run(args, &mut out),
        Command::Demo(args) => demo::run(args, &environment, &mut out),
        Command::Env(args) => env::run(args, &environment, &mut out),
        Command::Ca(args) => ca::run(args, &mut out),
        Command::Init(args) => init::run(args, &environment, &mut out),
        Command::Doctor(args) => doctor::run(args, &environment, &mut out),
        Command::Man(args) => man::run(args, &mut out),
        Command::Completions(args) => {
            completions::run(args, &mut out);
            0
        }
        Command::Audit(args) => audit::run(args, &environment, &mut out),
        Command::Login(args) => login::run(args, &environment, &mut out),
        Command::Lease(args) => lease::run(args, &environment, &mut out),
        Command::Session(args) => session::run(args, &environment, &mut out),
        Command::Agent(args) => agent::run(args, &environment, &mut out),
        Command::Approval(args) => approval::run(args, &environment, &mut out),
        Command::Preset(args) => {
            match (args.presets()).map(|presets| preset::run(args, &presets, &mut out)) {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    complain(&error);
                    NO
                }
                Err(code) => code,
            }
        }
    };
    out.flush().ok();
    ExitCode::from(code)
}

/// Says on stderr what went wrong.
pub(crate) fn complain(error: &dyn std::fmt::Display) {
    writeln!(std::io::stderr(), "keyward: {error}").ok();
}

/// The agent that a command is about: the one that is named, the file's only one, else `default`.
pub(crate) fn acting(config: &Config, named: Option<&AgentId>) -> AgentId {
    match (named, &*config.agents) {
        (Some(agent), _) => agent.clone(),
        (None, [(only, _)]) => only.id.clone(),
        (None, _) => "default".parse().expect("`default` is a name"),
    }
}

/// Where a secret is read from, without anything of what it holds. Of a command only the program is shown: an argument
/// may be a secret that somebody wrote there by mistake.
pub(crate) fn shape(source: &Source) -> String {
    match source {
        Source::Env(name) => format!("env {name}"),
        Source::File(path) => format!("file {}", path.display()),
        Source::Command { argv, .. } => {
            format!(
                "command {}",
                argv.first().map(String::as_str).unwrap_or_default()
            )
        }
        Source::Keyring { service, user } => format!("keyring {service}/{user}"),
    }
}

/// A path as a program with another working directory finds it too.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Loads a file, showing its warnings and faults on stderr.
///
/// # Errors
/// The exit code, where the file does not hold.
pub(crate) fn load(path: &Path) -> Result<Config, u8> {
    let Loaded { config, warnings } = read(path).map_err(|report| shown(&report))?;
    if !warnings.is_empty() {
        write!(std::io::stderr(), "{warnings}").ok();
    }
    Ok(config)
}

/// Loads a file for a command that only asks about it: what it lacks on this machine is for `check` and `serve` to say.
///
/// # Errors
/// The exit code, where the file does not hold.
pub(crate) fn consult(path: &Path) -> Result<Config, u8> {
    read(path)
        .map(|loaded| loaded.config)
        .map_err(|report| shown(&report))
}

fn read(path: &Path) -> Result<Loaded, Report> {
    config::load(path, &**crate::preset::Presets::shipped())
}

fn shown(report: &Report) -> u8 {
    write!(std::io::stderr(), "{report}").ok();
    CONFIG
}
