//! `keyward agent list|show|suspend|resume`: the registry of a running keyward.

use std::io::Write;

use http::Method;
use serde_json::json;

use super::operator::{self, AdminArgs};
use super::session::{path, print_object};
use crate::app::Environment;

/// The arguments of `keyward agent`.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents of the registry
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one agent
    Show {
        /// The agent's id
        agent: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Refuse an agent from its next request on, and end its sessions
    Suspend {
        /// The agent's id
        agent: String,
        /// Why, for the audit
        #[arg(long, value_name = "T")]
        reason: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let an agent act again that was suspended by order
    Resume {
        /// The agent's id
        agent: String,
        /// Why, for the audit
        #[arg(long, value_name = "T")]
        reason: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// The members that the table shows.
const COLUMNS: [&str; 7] = [
    "agent",
    "status",
    "owner",
    "purpose",
    "last-used",
    "stale",
    "source",
];

/// Runs the subcommand; the exit code.
pub fn run(args: &AgentArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let ordered = |agent: &str, order: &str, reason: &Option<String>, admin: &AdminArgs| {
        let body = json!({ "reason": reason });
        path("agents", agent).and_then(|path| {
            let path = format!("{path}/{order}");
            operator::call(admin, environment, (Method::POST, &path), Some(&body))
        })
    };
    let (admin, answer) = match &args.command {
        Command::List { admin } => {
            let listed = operator::call(admin, environment, (Method::GET, "agents"), None);
            return listed.map_or_else(
                |code| code,
                |answer| {
                    // A closed pipe is the reader's own choice.
                    operator::print_list(&answer, admin.json, &COLUMNS, out).ok();
                    0
                },
            );
        }
        Command::Show { agent, admin } => (
            admin,
            path("agents", agent)
                .and_then(|path| operator::call(admin, environment, (Method::GET, &path), None)),
        ),
        Command::Suspend {
            agent,
            reason,
            admin,
        } => (admin, ordered(agent, "suspend", reason, admin)),
        Command::Resume {
            agent,
            reason,
            admin,
        } => (admin, ordered(agent, "resume", reason, admin)),
    };
    match answer {
        Ok(answer) => {
            print_object(&answer, admin.json, out);
            0
        }
        Err(code) => code,
    }
}
