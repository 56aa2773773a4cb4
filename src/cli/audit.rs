//! `keyward audit verify|query`: reads the trail offline, and says whether it holds or what it holds.

use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::audit::{self, AuditError, Filter, Options, Report};

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
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
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
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
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
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Records are JSON already; accepted for symmetry
    #[arg(long, hide = true)]
    json: bool,
}

/// Runs the command; the answer goes to `out`. Returns the exit code: 1 where the trail is broken.
pub fn run(args: &AuditArgs, out: &mut dyn Write) -> Result<u8, AuditError> {
    match &args.command {
        Command::Verify(args) => {
            let options = Options {
                checkpoints: args.checkpoints.clone(),
                key: args.key.as_ref().map(|key| key.to_ascii_lowercase()),
                whole: args.whole,
            };
            let report = audit::verify(&args.files, &options)?;
            let print = if args.json { print_json } else { print_text };
            print(&report, out).map_err(stdout)?;
            Ok(u8::from(!report.ok))
        }
        Command::Query(args) => {
            let filter = Filter {
                agent: args.agent.clone(),
                user: args.user.clone(),
                host: args.host.clone(),
                word: args.word.clone(),
                since: args.since,
                until: args.until,
            };
            audit::query(&args.files, &filter, out)?;
            out.flush().map_err(stdout)?;
            Ok(0)
        }
    }
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

fn stdout(source: std::io::Error) -> AuditError {
    AuditError::Open {
        path: PathBuf::from("stdout"),
        source,
    }
}

/// A moment in RFC 3339, or a day, which begins at midnight UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(day) = text.parse::<jiff::civil::Date>()
        && !text.contains(['T', 't', ' '])
    {
        return day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|start| start.timestamp())
            .map_err(|error| error.to_string());
    }
    text.parse()
        .map_err(|_| "write a time as 2026-11-21T08:00:00Z or 2026-11-21".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use clap::Parser;

    use super::*;
    use crate::audit::{Audit, Record, Settings, Sink};
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
        let code = run(&line.audit, &mut out).unwrap();
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
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, report["ok"].as_bool()), (1, Some(false)));
        assert_eq!(report["faults"][0]["line"], 2);
    }
}
