//! `keyward session list|show|end|delegate|bind`: the sessions of a running keyward, and tokens for a sub-agent or for the
//! person who signed in.

mod token;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::operator::{self, AdminArgs, shown};
use super::{NO, complain};
use crate::agent::{AgentId, Name};
use crate::app::Environment;
use token::{Binding, Wanted};

/// The arguments of `keyward session`.
#[derive(Debug, clap::Args)]
pub struct SessionArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the sessions that live
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one session
    Show {
        /// The session's id
        session: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// End a session and all that was handed on from it
    End {
        /// The session's id
        session: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Hand one's own session on: prints a token for a sub-agent
    Delegate {
        /// The sub-agent
        #[arg(long, value_name = "ID")]
        agent: AgentId,
        /// What it may do, parted by spaces; left out, as much as allowed
        #[arg(long, value_name = "S")]
        scope: Option<String>,
        /// How long, such as 60s or 5m; left out, as long as allowed
        #[arg(long, value_name = "D", value_parser = duration)]
        ttl: Option<Duration>,
        /// Where a person has to approve it: do not wait, but print the ticket and end with 1
        #[arg(long)]
        no_wait: bool,
        /// The ticket of an earlier try, with the same agent, scope and ttl
        #[arg(long, value_name = "TICKET")]
        ticket: Option<String>,
        /// Print the whole answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Have an agent act for whoever signed in here: prints a token of the gateway at KEYWARD_URL
    Bind {
        /// The file with the login, and with the roots behind the gateway's certificate
        #[arg(short = 'c', long = "config", value_name = "FILE")]
        config: PathBuf,
        /// For whom, where several logins of the file are signed in
        #[arg(long, value_name = "NAME")]
        login: Option<Name>,
        /// Whose static token KEYWARD_TOKEN is; a JWT says it itself [default: the file's only one, else `default`]
        #[arg(long, value_name = "ID")]
        agent: Option<AgentId>,
        /// What it may do, parted by spaces; left out, as much as allowed
        #[arg(long, value_name = "S")]
        scope: Option<String>,
        /// How long, such as 60s or 5m; left out, as long as allowed
        #[arg(long, value_name = "D", value_parser = duration)]
        ttl: Option<Duration>,
        /// Print the whole answer as JSON
        #[arg(long)]
        json: bool,
    },
}

/// The members that the table shows.
const COLUMNS: [&str; 9] = [
    "session",
    "agent",
    "user",
    "chain",
    "trust",
    "depth",
    "scope",
    "expires",
    "last-used",
];

/// Runs the subcommand; the exit code.
pub fn run(args: &SessionArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let done = match &args.command {
        Command::List { admin } => {
            operator::call(admin, environment, (Method::GET, "sessions"), None).map(|answer| {
                // A closed pipe is the reader's own choice.
                operator::print_list(&answer, admin.json, &COLUMNS, out).ok();
            })
        }
        Command::Show { session, admin } => path("sessions", session)
            .and_then(|path| operator::call(admin, environment, (Method::GET, &path), None))
            .map(|answer| print_object(&answer, admin.json, out)),
        Command::End { session, admin } => path("sessions", session)
            .and_then(|path| operator::call(admin, environment, (Method::DELETE, &path), None))
            .map(|_| {
                let text = if admin.json {
                    serde_json::json!({ "session": session }).to_string()
                } else {
                    format!("{session}: ended")
                };
                writeln!(out, "{text}").ok();
            }),
        Command::Delegate {
            agent,
            scope,
            ttl,
            no_wait,
            ticket,
            json,
        } => {
            let wanted = Wanted {
                agent,
                scope: scope.as_deref(),
                ttl: *ttl,
                ticket: ticket.as_deref(),
                waits: !no_wait,
            };
            token::delegate(environment, &wanted).and_then(|answer| print(&answer, *json, out))
        }
        Command::Bind {
            config,
            login,
            agent,
            scope,
            ttl,
            json,
        } => {
            let binding = Binding {
                file: config,
                login: login.as_ref(),
                agent: agent.as_ref(),
                scope: scope.as_deref(),
                ttl: *ttl,
            };
            token::bind(environment, &binding).and_then(|answer| print(&answer, *json, out))
        }
    };
    done.err().unwrap_or(0)
}

/// The token of an answer, or the ticket of one that a person has to approve first.
fn print(answer: &Value, json: bool, out: &mut dyn Write) -> Result<(), u8> {
    let member = |name| answer.get(name).and_then(Value::as_str);
    let token = member("access_token");
    match token.or(member("ticket")).filter(|_| !json) {
        Some(text) => writeln!(out, "{text}").ok(),
        None => writeln!(out, "{answer}").ok(),
    };
    if token.is_some() { Ok(()) } else { Err(NO) }
}

/// The path of one thing. An id is of the grammar of names; anything else would be another path.
pub(super) fn path(kind: &str, id: &str) -> Result<String, u8> {
    if id.parse::<AgentId>().is_err() {
        complain(&"404 not-found: there is nothing of this id");
        return Err(NO);
    }
    Ok(format!("{kind}/{id}"))
}

/// An object as JSON, or one member a line.
pub(super) fn print_object(answer: &Value, json: bool, out: &mut dyn Write) {
    if json {
        writeln!(out, "{}", operator::visible_json(answer)).ok();
        return;
    }
    for (name, value) in answer.as_object().into_iter().flatten() {
        match value {
            // One a line: of two on one nobody sees where the first ends.
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    writeln!(out, "{name:<12} {}", shown(item)).ok();
                }
            }
            value => {
                writeln!(out, "{name:<12} {}", shown(value)).ok();
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let bad = "a duration is a number and s, m or h";
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad)?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    let seconds = seconds.filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in ["", "5", "s", "0s", "1d", "-1s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
