//! `keyward approval list|show|approve|deny`: what agents ask of a running keyward, and the answers.

use std::io::Write;

use http::Method;
use serde_json::json;

use super::operator::{self, AdminArgs};
use super::session::{path, print_object};
use crate::app::Environment;

/// The arguments of `keyward approval`.
#[derive(Debug, clap::Args)]
pub struct ApprovalArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what is asked, or was in the last day
    List {
        /// Only these
        #[arg(long, value_name = "WORD", value_parser = ["pending", "approved", "denied", "expired", "used"])]
        status: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one of them whole
    Show {
        /// The approval's id
        approval: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Say yes, as the approver whose token stands in KEYWARD_ADMIN_TOKEN
    Approve {
        /// The approval's id
        approval: String,
        /// Why, for the audit
        #[arg(long, value_name = "T")]
        reason: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Say no, as the approver whose token stands in KEYWARD_ADMIN_TOKEN
    Deny {
        /// The approval's id
        approval: String,
        /// Why, for the audit
        #[arg(long, value_name = "T")]
        reason: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// The members that the table shows.
const COLUMNS: [&str; 10] = [
    "approval",
    "code",
    "name",
    "status",
    "agent",
    "user",
    "method",
    "url",
    "sub-agent",
    "expires",
];

/// Runs the subcommand; the exit code.
pub fn run(args: &ApprovalArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let decided = |id: &str, word: &str, reason: &Option<String>, admin: &AdminArgs| {
        let body = json!({ "reason": reason });
        path("approvals", id).and_then(|path| {
            let path = format!("{path}/{word}");
            operator::call(admin, environment, (Method::POST, &path), Some(&body))
        })
    };
    let (admin, answer) = match &args.command {
        Command::List { status, admin } => {
            let path = match status {
                Some(status) => format!("approvals?status={status}"),
                None => "approvals".to_owned(),
            };
            let listed = operator::call(admin, environment, (Method::GET, &path), None);
            return listed.map_or_else(
                |code| code,
                |answer| {
                    // A closed pipe is the reader's own choice.
                    operator::print_list(&answer, admin.json, &COLUMNS, out).ok();
                    0
                },
            );
        }
        Command::Show { approval, admin } => (
            admin,
            path("approvals", approval)
                .and_then(|path| operator::call(admin, environment, (Method::GET, &path), None)),
        ),
        Command::Approve {
            approval,
            reason,
            admin,
        } => (admin, decided(approval, "approve", reason, admin)),
        Command::Deny {
            approval,
            reason,
            admin,
        } => (admin, decided(approval, "deny", reason, admin)),
    };
    match answer {
        Ok(answer) => {
            print_object(&answer, admin.json, out);
            0
        }
        Err(code) => code,
    }
}
