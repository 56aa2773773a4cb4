//! `keyward lease list|revoke`: the leases of a running keyward.

use std::io::Write;

use http::Method;
use serde_json::Value;

use super::operator::{self, AdminArgs};
use super::{NO, complain};
use crate::agent::Name;
use crate::app::Environment;

/// The arguments of `keyward lease`.
#[derive(Debug, clap::Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the leases that live, or are being revoked
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Withdraw one lease, or all of a credential, and revoke them at the issuer
    Revoke {
        /// The lease's id
        #[arg(required_unless_present = "credential")]
        lease: Option<String>,
        /// All leases of this credential
        #[arg(long, value_name = "NAME", conflicts_with = "lease")]
        credential: Option<Name>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// The members that the table shows.
const COLUMNS: [&str; 8] = [
    "lease",
    "credential",
    "agent",
    "user",
    "session",
    "scopes",
    "expires",
    "state",
];

/// Runs the subcommand; the exit code.
pub fn run(args: &LeaseArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let done = match &args.command {
        Command::List { admin } => {
            operator::call(admin, environment, (Method::GET, "leases"), None).map(|answer| {
                // A closed pipe is the reader's own choice.
                operator::print_list(&answer, admin.json, &COLUMNS, out).ok();
            })
        }
        Command::Revoke {
            lease,
            credential,
            admin,
        } => revoke(
            admin,
            environment,
            (lease.as_deref(), credential.as_ref()),
            out,
        ),
    };
    done.err().unwrap_or(0)
}

fn revoke(
    admin: &AdminArgs,
    environment: &Environment,
    (lease, credential): (Option<&str>, Option<&Name>),
    out: &mut dyn Write,
) -> Result<(), u8> {
    let (method, path, what) = match (lease, credential) {
        (_, Some(name)) => (
            Method::POST,
            format!("credentials/{name}/revoke"),
            name.as_str(),
        ),
        // An id is hexadecimal; anything else would be another path.
        (Some(id), None) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            (Method::DELETE, format!("leases/{id}"), id)
        }
        _ => {
            complain(&"404 not-found: there is no live lease of this id");
            return Err(NO);
        }
    };
    let answer = operator::call(admin, environment, (method, &path), None)?;
    let shown = if admin.json {
        let object = if answer.is_null() {
            serde_json::json!({ "lease": what })
        } else {
            answer
        };
        writeln!(out, "{object}")
    } else {
        match answer.get("leases").and_then(Value::as_u64) {
            Some(count) => writeln!(out, "{what}: {count} revoked"),
            None => writeln!(out, "{what}: revoked"),
        }
    };
    shown.ok();
    Ok(())
}
