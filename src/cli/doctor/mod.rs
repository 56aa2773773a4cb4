//! `keyward doctor`: tries what users get wrong, and says how to mend each.

mod files;
mod issuers;
mod java;
mod limits;
mod reach;
mod runtimes;
mod variables;

use std::io::Write;

use serde::Serialize;

use super::{BUG, CONFIG, FileArg, NO, complain};
use crate::agent::AgentId;
use crate::app::Environment;
use crate::config::{self, Loaded, Severity};
use crate::preset::Presets;

/// The arguments of `keyward doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    file: FileArg,
    /// The agent whose surroundings are tried [default: the file's only one, else `default`]
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// Call no host of the file: only this machine is looked at
    #[arg(long)]
    offline: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// How a thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    /// It works, and is worth a look.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was tried: `file`, `modes`, `ca`, `limits`, `variables`, `trust`, `store`, `issuer`, `reach`, `clock`.
    check: &'static str,
    state: State,
    message: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            message: message.into(),
            help: None,
        }
    }

    fn warn(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Warn,
            message: message.into(),
            help: Some(help.into()),
        }
    }

    fn fail(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            ..Self::warn(check, message, help)
        }
    }
}

/// Looks at everything; the exit code. 1: something does not work.
pub fn run(args: &DoctorArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let Loaded { config, warnings } = match config::load(&args.file.config, &**Presets::shipped()) {
        Ok(loaded) => loaded,
        Err(report) => {
            let shown = if args.json {
                writeln!(out, "{}", report.to_json())
            } else {
                write!(out, "{report}")
            };
            // A closed pipe is the reader's own choice.
            shown.ok();
            return CONFIG;
        }
    };
    let mut findings = vec![Finding::ok("file", "the file has no faults")];
    for note in warnings.notes() {
        debug_assert_eq!(note.severity, Severity::Warning);
        let message = format!("{}:{}: {}", note.line, note.column, note.message);
        findings.push(Finding::warn(
            "file",
            message,
            note.help.clone().unwrap_or_default(),
        ));
    }
    findings.extend(files::look(&config, &args.file.config));
    findings.push(limits::look(&config));
    findings.extend(variables::look(&config, environment));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return BUG;
        }
    };
    let agent = super::acting(&config, args.agent.as_ref());
    findings.extend(runtime.block_on(async {
        let mut found = runtimes::look(&config, &agent, environment).await;
        found.extend(files::store(&config.store, environment, args.offline).await);
        if !args.offline {
            found.extend(reach::look(&config, environment).await);
        }
        found
    }));
    let shown = if args.json {
        serde_json::to_writer_pretty(&mut *out, &findings)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        print(&findings, out)
    };
    shown.ok();
    let fails = findings.iter().any(|one| one.state == State::Fail);
    if fails { NO } else { 0 }
}

fn print(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    for one in findings {
        let state = match one.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        writeln!(out, "{state:<4} {:<9} {}", one.check, one.message)?;
        if let Some(help) = one.help.as_ref().filter(|help| !help.is_empty()) {
            writeln!(out, "               = {help}")?;
        }
    }
    let count = |state| findings.iter().filter(|one| one.state == state).count();
    let (ok, warn, fail) = (count(State::Ok), count(State::Warn), count(State::Fail));
    writeln!(out, "{ok} ok, {warn} to look at, {fail} to mend")
}
