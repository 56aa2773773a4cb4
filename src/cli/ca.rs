//! `keyward ca path|show|issue|rotate`: the CA that agents trust.

use std::io::{self, Write};
use std::path::Path;

use super::{FileArg, NO, UNAVAILABLE, absolute, complain, consult};
use crate::app::{constraints, roots_file};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::tls::{Authority, CaError, CertificateFacts, Overlap, Role};

/// The arguments of `keyward ca`.
#[derive(Debug, clap::Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the PEM file that agents trust, one line
    Path {
        #[command(flatten)]
        file: FileArg,
    },
    /// Show the certificates: names, validity, fingerprints, and what they may issue for
    Show {
        #[command(flatten)]
        file: FileArg,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Issue another intermediate for the file's hosts, under the same root: agents notice nothing
    Issue {
        #[command(flatten)]
        file: FileArg,
    },
    /// Make another root: agents must read ca.pem again
    Rotate {
        #[command(flatten)]
        file: FileArg,
        /// Leave the old root out of ca.pem: its key may be in other hands
        #[arg(long)]
        drop_old: bool,
    },
}

impl Command {
    fn file(&self) -> &FileArg {
        match self {
            Self::Path { file }
            | Self::Show { file, .. }
            | Self::Issue { file }
            | Self::Rotate { file, .. } => file,
        }
    }
}

/// Answers; the exit code. 1: there is no CA on disk to speak of.
pub fn run(args: &CaArgs, out: &mut dyn Write) -> u8 {
    let config = match consult(&args.command.file().config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Some(dir) = config.ca.dir.as_deref() else {
        complain(&IN_MEMORY);
        return NO;
    };
    let done = match &args.command {
        Command::Path { .. } => return path(&config, out),
        Command::Show { json, .. } => return show(dir, *json, out),
        Command::Issue { .. } => Authority::issue(dir, &constraints(&config), &SystemClock),
        Command::Rotate { drop_old, .. } => {
            if is_missing(dir) {
                return missing(dir);
            }
            let overlap = if *drop_old {
                Overlap::Drop
            } else {
                Overlap::Keep
            };
            Authority::rotate(dir, &constraints(&config), &SystemClock, overlap)
        }
    };
    if let Err(error) = done {
        return fault(&error);
    }
    let next = match &args.command {
        Command::Rotate { .. } => "restart keyward, and let every agent read ca.pem again",
        _ => "a keyward that runs goes on with the old intermediate until it is restarted",
    };
    complain(&next);
    show(dir, false, out)
}

/// What `path` and `env` say of a CA without a folder.
pub(super) const IN_MEMORY: &str = "this file's CA lives in memory ([ca] dir is left out), so no file holds its root: set [ca] dir, or fetch http://ADDRESS/ca.pem from a proxy listener of the running daemon";

fn path(config: &Config, out: &mut dyn Write) -> u8 {
    let Some(file) = roots_file(&config.ca) else {
        return NO;
    };
    // A closed pipe is the reader's own choice.
    writeln!(out, "{}", absolute(&file).display()).ok();
    if !file.exists() {
        complain(&"that file is not there yet: `keyward serve` or `keyward ca issue` makes it");
    }
    0
}

fn show(dir: &Path, json: bool, out: &mut dyn Write) -> u8 {
    if is_missing(dir) {
        return missing(dir);
    }
    match Authority::show(dir) {
        Ok(facts) => {
            let print = if json { print_json } else { print_text };
            print(&facts, out).ok();
            0
        }
        Err(error) => fault(&error),
    }
}

fn is_missing(dir: &Path) -> bool {
    !Authority::roots_file(dir).exists()
}

fn missing(dir: &Path) -> u8 {
    let dir = dir.display();
    complain(&format_args!(
        "there is no CA in {dir} yet: `keyward serve` or `keyward ca issue` makes one"
    ));
    NO
}

fn fault(error: &CaError) -> u8 {
    match std::error::Error::source(error) {
        Some(cause) => complain(&format_args!("{error}: {cause}")),
        None => complain(error),
    }
    UNAVAILABLE
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Root => "root",
        Role::PreviousRoot => "previous-root",
        Role::Intermediate => "intermediate",
    }
}

fn print_text(facts: &[CertificateFacts], out: &mut dyn Write) -> io::Result<()> {
    for fact in facts {
        writeln!(out, "{}", role(fact.role))?;
        writeln!(out, "  subject      {}", fact.subject)?;
        writeln!(
            out,
            "  valid        {} to {}",
            fact.not_before, fact.not_after
        )?;
        writeln!(out, "  serial       {}", fact.serial)?;
        writeln!(out, "  sha-256      {}", fact.fingerprint)?;
        if !fact.permitted.is_empty() {
            writeln!(out, "  issues for   {}", fact.permitted.join(", "))?;
        }
    }
    Ok(())
}

fn print_json(facts: &[CertificateFacts], out: &mut dyn Write) -> io::Result<()> {
    let items: Vec<serde_json::Value> = facts
        .iter()
        .map(|fact| {
            serde_json::json!({
                "role": role(fact.role),
                "subject": fact.subject,
                "serial": fact.serial,
                "fingerprint": fact.fingerprint,
                "not-before": fact.not_before.to_string(),
                "not-after": fact.not_after.to_string(),
                "permitted": fact.permitted,
            })
        })
        .collect();
    writeln!(out, "{}", serde_json::Value::Array(items))
}
