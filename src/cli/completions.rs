//! `keyward completions SHELL`: what a shell needs to complete commands and options.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::Cli;

/// The arguments of `keyward completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell that reads the script
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, out: &mut dyn Write) {
    // It panics where it cannot write, and a closed pipe is the reader's own choice.
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "keyward", &mut script);
    out.write_all(&script).ok();
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_is_told_of_every_subcommand() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            run(&CompletionsArgs { shell: *shell }, &mut out);
            let script = String::from_utf8(out).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(
                    script.contains(command.get_name()),
                    "{shell}: {}",
                    command.get_name()
                );
            }
            assert!(script.contains("isolate"), "{shell}");
        }
    }
}
