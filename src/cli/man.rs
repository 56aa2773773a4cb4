//! `keyward man FOLDER`: a page of the manual for each subcommand, from what the command line knows of itself.

use std::io::Write;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::{Cli, UNAVAILABLE, complain};

/// The arguments of `keyward man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Where the pages go, such as /usr/local/share/man/man1; it must be there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages and prints their names; the exit code.
pub fn run(args: &ManArgs, out: &mut dyn Write) -> u8 {
    match clap_mangen::generate_to(Cli::command(), &args.folder) {
        Ok(()) => {
            writeln!(out, "{}", args.folder.join("keyward.1").display()).ok();
            0
        }
        Err(error) => {
            complain(&format_args!("{}: {error}", args.folder.display()));
            UNAVAILABLE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs {
            folder: folder.path().to_owned(),
        };
        assert_eq!(run(&args, &mut Vec::new()), 0);
        for command in Cli::command().get_subcommands() {
            let page = folder
                .path()
                .join(format!("keyward-{}.1", command.get_name()));
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{}", page.display());
        }
        let page = std::fs::read_to_string(folder.path().join("keyward-run.1")).unwrap();
        assert!(page.contains("isolate"));
        let nowhere = ManArgs {
            folder: folder.path().join("nowhere"),
        };
        assert_eq!(run(&nowhere, &mut Vec::new()), UNAVAILABLE);
    }
}
