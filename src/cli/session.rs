//! `keyward session list|show|end|delegate`: the sessions of a running keyward, and a sub-agent's token.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request};
use serde_json::Value;

use super::operator::{self, AdminArgs, shown};
use super::{BUG, NO, UNAVAILABLE, USAGE, complain};
use crate::agent::AgentId;
use crate::app::Environment;
use crate::clock::SystemClock;
use crate::issuer::{Endpoint, Network};
use crate::proxy::UpstreamSettings;
use crate::tls::Connector;

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
            delegate(environment, &wanted).and_then(|answer| {
                let member = |name| answer.get(name).and_then(Value::as_str);
                let token = member("access_token");
                match token.or(member("ticket")).filter(|_| !json) {
                    Some(text) => writeln!(out, "{text}").ok(),
                    None => writeln!(out, "{answer}").ok(),
                };
                if token.is_some() { Ok(()) } else { Err(NO) }
            })
        }
    };
    done.err().unwrap_or(0)
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

/// What is asked for, and what to do where a person has to approve it.
struct Wanted<'a> {
    agent: &'a AgentId,
    scope: Option<&'a str>,
    ttl: Option<Duration>,
    ticket: Option<&'a str>,
    waits: bool,
}

/// The answer that grants a token, or, for whoever does not wait, the one with a ticket.
fn delegate(environment: &Environment, wanted: &Wanted<'_>) -> Result<Value, u8> {
    let given = |name: &str| {
        let value = environment.get(name).and_then(|value| value.to_str());
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            complain(&format_args!(
                "{name} is not set: `keyward run` and `keyward env` set it"
            ));
            USAGE
        })
    };
    let (url, token) = (given("KEYWARD_URL")?, given("KEYWARD_TOKEN")?);
    let endpoint: Result<Endpoint, _> = format!("{}/token", url.trim_end_matches('/')).parse();
    let endpoint = endpoint.map_err(|error| {
        complain(&format_args!(
            "KEYWARD_URL cannot be called with a token: {error}"
        ));
        USAGE
    })?;
    let trust = UpstreamSettings::default().trust;
    let connector = Connector::new(&trust, None, Arc::new(SystemClock)).map_err(|error| {
        complain(&error);
        UNAVAILABLE
    })?;
    let client = Network::new(connector, std::collections::BTreeMap::new()).client();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            complain(&error);
            BUG
        })?;
    let mut ticket = wanted.ticket.map(str::to_owned);
    let mut told = false;
    loop {
        let request = request(&endpoint, token, wanted, ticket.as_deref());
        let answer = runtime.block_on(client.send(request)).map_err(|error| {
            complain(&format_args!("keyward does not answer: {error}"));
            UNAVAILABLE
        })?;
        let body: Value = answer.json().unwrap_or_default();
        if answer.status.is_success() {
            return Ok(body);
        }
        let said = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        if said("error") != "authorization_pending" {
            complain(&format_args!(
                "{} {}: {}",
                answer.status.as_u16(),
                said("error"),
                said("error_description")
            ));
            return Err(if answer.status.is_server_error() {
                UNAVAILABLE
            } else {
                NO
            });
        }
        if !told {
            told = true;
            let waits = if wanted.waits { "; waiting" } else { "" };
            complain(&format_args!(
                "a person has to approve this: approval {}, code {}{waits}",
                said("ticket"),
                said("code")
            ));
        }
        if !wanted.waits {
            return Ok(body);
        }
        ticket = Some(said("ticket").to_owned());
        let interval = body.get("interval").and_then(Value::as_u64).unwrap_or(5);
        let interval = Duration::from_secs(interval.clamp(1, 60));
        runtime.block_on(async { tokio::time::sleep(interval).await });
    }
}

fn request(
    endpoint: &Endpoint,
    token: &str,
    wanted: &Wanted<'_>,
    ticket: Option<&str>,
) -> Request<Bytes> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        (
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token", token),
        ("agent", wanted.agent.as_str()),
    ]);
    if let Some(scope) = wanted.scope {
        form.append_pair("scope", scope);
    }
    if let Some(ttl) = wanted.ttl {
        form.append_pair("expires_in", &ttl.as_secs().to_string());
    }
    if let Some(ticket) = ticket {
        form.append_pair("ticket", ticket);
    }
    let mut request = Request::new(Bytes::from(form.finish()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.uri().clone();
    let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, media_type);
    request
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
