//! `keyward audit verify|query`: reads the trail offline, and says whether it holds or what it holds.

use std::io::Write;
use std::path::{Path, PathBuf};

use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::operator::{self, AdminArgs};
use super::{CONFIG, NO, UNAVAILABLE, USAGE, complain, consult};
use crate::app::Environment;
use crate::audit::{self, AuditError, Filter, Options, Report, Sink};

/// The arguments of `keyward audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the hash chain and its signed checkpoints
    Verify(VerifyArgs),
    /// Print the records that match
    Query(QueryArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The files of one trail, in any order
    #[arg(required_unless_present = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// All files of the trail that this configuration names in [audit]
    #[arg(short = 'c', long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
    /// The checkpoint file [default: the one beside FILE]
    #[arg(long, value_name = "FILE")]
    checkpoints: Option<PathBuf>,
    /// Accept only checkpoints signed by this public key (hex)
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
    /// The trail must begin with record 1
    #[arg(long)]
    whole: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct QueryArgs {
    /// The files of one trail, in any order
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// All files of the trail that this configuration names in [audit]
    #[arg(short = 'c', long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
    /// A running keyward instead: its admin URL; the token stands in KEYWARD_ADMIN_TOKEN
    #[arg(long, value_name = "URL", conflicts_with_all = ["files", "config"])]
    admin: Option<String>,
    /// Only records of this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only records of this user
    #[arg(long)]
    user: Option<String>,
    /// Only records of this host
    #[arg(long)]
    host: Option<String>,
    /// Only records with this refusal word
    #[arg(long)]
    word: Option<String>,
    /// Not before this time (2026-11-21T08:00:00Z or 2026-11-21, UTC)
    #[arg(long, value_name = "TIME", value_parser = audit::moment)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = audit::moment)]
    until: Option<Timestamp>,
    /// Records are JSON already; accepted for symmetry
    #[arg(long, hide = true)]
    json: bool,
}

/// Runs the command; the exit code: 1 where the trail is broken.
pub fn run(args: &AuditArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let done = match &args.command {
        Command::Verify(args) => verify(args, out),
        Command::Query(args) => query(args, environment, out).map(|()| 0),
    };
    done.unwrap_or_else(|code| code)
}

fn verify(args: &VerifyArgs, out: &mut dyn Write) -> Result<u8, u8> {
    let options = Options {
        checkpoints: args.checkpoints.clone(),
        key: args.key.as_ref().map(|key| key.to_ascii_lowercase()),
        whole: args.whole,
    };
    let files = files(&args.files, args.config.as_deref())?;
    let report = audit::verify(&files, &options).map_err(|error| unread(&error))?;
    let print = if args.json { print_json } else { print_text };
    // A closed pipe is the reader's own choice; the code says all the same whether the trail holds.
    print(&report, out).ok();
    Ok(if report.ok { 0 } else { NO })
}

fn query(args: &QueryArgs, environment: &Environment, out: &mut dyn Write) -> Result<(), u8> {
    if let Some(url) = &args.admin {
        return ask(url, args, environment, out);
    }
    let filter = Filter {
        agent: args.agent.clone(),
        user: args.user.clone(),
        host: args.host.clone(),
        word: args.word.clone(),
        since: args.since,
        until: args.until,
        ..Filter::default()
    };
    let files = files(&args.files, args.config.as_deref())?;
    audit::query(&files, &filter, out).map_err(|error| unread(&error))?;
    Ok(())
}

/// Asks a running keyward, page after page.
fn ask(
    url: &str,
    args: &QueryArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), u8> {
    let admin = AdminArgs::at(url);
    let times = [("since", args.since), ("until", args.until)];
    let times = times.map(|(name, time)| (name, time.map(|time| time.to_string())));
    let texts = [
        ("agent", &args.agent),
        ("user", &args.user),
        ("host", &args.host),
        ("word", &args.word),
    ];
    let texts = texts.map(|(name, text)| (name, text.clone()));
    let mut after: Option<u64> = None;
    loop {
        let mut path = form_urlencoded::Serializer::new("audit?".to_owned());
        for (name, value) in texts.iter().chain(&times) {
            if let Some(value) = value {
                path.append_pair(name, value);
            }
        }
        if let Some(after) = after {
            path.append_pair("after", &after.to_string());
        }
        let answer = operator::call(&admin, environment, (Method::GET, &path.finish()), None)?;
        let items = answer.get("items").and_then(Value::as_array);
        for item in items.into_iter().flatten() {
            if writeln!(out, "{item}").is_err() {
                return Ok(());
            }
        }
        match answer.get("next").and_then(Value::as_u64) {
            Some(next) if after.is_none_or(|after| next > after) => after = Some(next),
            _ => return Ok(()),
        }
    }
}

/// The files that are named, or those of the trail that a configuration names.
fn files(named: &[PathBuf], config: Option<&Path>) -> Result<Vec<PathBuf>, u8> {
    let Some(config) = config else {
        if named.is_empty() {
            complain(&"name the trail's files, or -c FILE, or --admin URL");
            return Err(USAGE);
        }
        return Ok(named.to_vec());
    };
    if let Some(Sink::File(path)) = consult(config)?.audit.map(|settings| settings.sink) {
        return Ok(audit::files(&path));
    }
    complain(&"this configuration names no file in [audit]: records go to the standard output");
    Err(CONFIG)
}

fn unread(error: &AuditError) -> u8 {
    complain(error);
    UNAVAILABLE
}

fn print_json(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

fn print_text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for fault in &report.faults {
        let (file, line) = (fault.place.file.display(), fault.place.line);
        if line == 0 {
            writeln!(out, "{file}: {}", fault.detail)?;
        } else {
            writeln!(out, "{file}:{line}: {}", fault.detail)?;
        }
    }
    for place in &report.torn {
        let (file, line) = (place.file.display(), place.line);
        writeln!(
            out,
            "{file}:{line}: note: torn by a crash; the start that follows says so"
        )?;
    }
    let first = report.first.unwrap_or_default();
    if first > 1 {
        writeln!(
            out,
            "note: begins with record {first}; earlier records are in other files"
        )?;
    }
    for key in &report.keys {
        writeln!(out, "key {key}")?;
    }
    match report.covered {
        Some(covered) => writeln!(out, "signed up to record {covered}")?,
        None => writeln!(out, "note: no signed checkpoint: a cut end would not show")?,
    }
    let (records, last) = (report.records, report.last.unwrap_or_default());
    let verdict = if report.ok { "intact" } else { "BROKEN" };
    writeln!(out, "{verdict}: {records} records, {first} to {last}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;

    use super::*;
    use crate::audit::{Audit, Record, Settings};
    use crate::clock::SystemClock;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        audit: AuditArgs,
    }

    fn say(words: &[&str], file: &Path) -> (u8, String) {
        let words = ["audit"].iter().chain(words).map(PathBuf::from);
        let line = Line::try_parse_from(words.chain([file.to_owned()])).unwrap();
        let mut out = Vec::new();
        let code = run(&line.audit, &Environment::default(), &mut out);
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn verify_ends_with_one_where_the_trail_is_broken_and_query_prints_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let settings = Settings::new(Sink::File(file.clone()));
        let audit = Audit::open(settings, Arc::new(SystemClock)).unwrap();
        audit.append(&Record {
            word: Some("denied"),
            ..Record::config("rejected")
        });
        audit.close();
        let (code, text) = say(&["verify"], &file);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.ends_with("signed up to record 3\nintact: 3 records, 1 to 3\n"),
            "{text}"
        );
        let (code, text) = say(
            &["query", "--word", "denied", "--since", "2020-01-01"],
            &file,
        );
        assert_eq!((code, text.lines().count()), (0, 1), "{text}");
        let whole = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, whole.replace("rejected", "accepted")).unwrap();
        let (code, text) = say(&["verify"], &file);
        assert_eq!(code, 1);
        assert!(
            text.contains("audit.jsonl:2: this line is no record, or was changed"),
            "{text}"
        );
        let (code, text) = say(&["verify", "--json"], &file);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, report["ok"].as_bool()), (1, Some(false)));
        assert_eq!(report["faults"][0]["line"], 2);
    }
}
