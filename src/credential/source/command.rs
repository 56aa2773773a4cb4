//! A secret from a command's standard output, within a deadline and a length, with nothing of keyward's environment.

use std::time::Duration;

use tokio::time::timeout;

use super::{Env, SourceError, trimmed};
use crate::process::{self, Broken};
use crate::secret::Secret;

pub(super) use crate::process::Surroundings;

/// `PATH`, and `HOME` where such programs keep their settings. What a command needs beside can be set with
/// `env NAME=VALUE PROGRAM`.
pub(super) fn surroundings(env: Env<'_>) -> Surroundings {
    Surroundings::keeping(env, ["PATH", "HOME"])
}

/// Runs the command and takes its standard output. At the deadline, at too much output, and when the future is
/// dropped, its whole process group is killed.
pub(super) async fn run(
    argv: &[String],
    deadline: Duration,
    max_output: usize,
    surroundings: &Surroundings,
) -> Result<Secret, SourceError> {
    let answer = timeout(deadline, process::run(argv, b"", max_output, surroundings)).await;
    let output = answer
        .map_err(|_| SourceError::TimedOut(deadline))?
        .map_err(|broken| match broken {
            Broken::NotStarted(kind) => SourceError::NotStarted(kind),
            Broken::TooLong => SourceError::TooLong(max_output),
            Broken::Unread => SourceError::Failed,
        })?;
    if !output.status.success() {
        return Err(SourceError::Failed);
    }
    trimmed(&output.stdout)
}
