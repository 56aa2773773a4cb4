//! `keyward check`: every fault of the file at once.

use std::io::Write;

use super::{CONFIG, FileArg};
use crate::config::{self, Loaded};
use crate::preset::Presets;

/// The arguments of `keyward check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    file: FileArg,
    /// Print faults and warnings as JSON
    #[arg(long)]
    json: bool,
}

/// Checks a file; the exit code. Warnings alone are no fault.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> u8 {
    let path = &args.file.config;
    let (report, code) = match config::load(path, &**Presets::shipped()) {
        Ok(Loaded { warnings, .. }) => (warnings, 0),
        Err(report) => (report, CONFIG),
    };
    let shown = if args.json {
        writeln!(out, "{}", report.to_json())
    } else if report.is_empty() {
        writeln!(out, "{}: no faults", path.display())
    } else {
        write!(out, "{report}")
    };
    // A closed pipe is the reader's own choice.
    shown.ok();
    code
}
