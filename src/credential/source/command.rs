//! A secret from a command's standard output, within a deadline and a length, with nothing of keyward's environment.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Env, SourceError, trimmed};
use crate::secret::Secret;

/// What a command gets of keyward's environment: `PATH`, and `HOME` where such programs keep their settings. All else
/// may hold secrets; what a command needs beside can be set with `env NAME=VALUE PROGRAM`.
#[derive(Debug, Clone)]
pub(super) struct Surroundings(Vec<(&'static str, OsString)>);

impl Surroundings {
    pub(super) fn of(env: Env<'_>) -> Self {
        let kept = ["PATH", "HOME"];
        Self(
            kept.into_iter()
                .filter_map(|name| env(name).map(|value| (name, value)))
                .collect(),
        )
    }
}

/// Runs the command and takes its standard output. At the deadline, at too much output, and when the future is
/// dropped, its whole process group is killed.
pub(super) async fn run(
    argv: &[String],
    deadline: Duration,
    max_output: usize,
    surroundings: &Surroundings,
) -> Result<Secret, SourceError> {
    let not_started = |error: std::io::Error| SourceError::NotStarted(error.kind());
    let [program, arguments @ ..] = argv else {
        return Err(SourceError::NotStarted(std::io::ErrorKind::InvalidInput));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(surroundings.0.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(not_started)?;
    let mut group = Group::of(&child);
    let answer = timeout(deadline, output(&mut child, max_output)).await;
    let secret = answer.map_err(|_| SourceError::TimedOut(deadline))??;
    group.0 = None;
    Ok(secret)
}

async fn output(child: &mut Child, max_output: usize) -> Result<Secret, SourceError> {
    let stdout = child.stdout.take().ok_or(SourceError::Failed)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(max_output.saturating_add(1)));
    // To the end of the output first, then wait: until then the child's process id cannot become another's.
    let limit = (max_output as u64).saturating_add(1);
    stdout
        .take(limit)
        .read_to_end(&mut buffer)
        .await
        .map_err(|_| SourceError::Failed)?;
    if buffer.len() > max_output {
        return Err(SourceError::TooLong(max_output));
    }
    let status = child.wait().await.map_err(|_| SourceError::Failed)?;
    if !status.success() {
        return Err(SourceError::Failed);
    }
    trimmed(&buffer)
}

/// The process group of a command that has not ended well; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // ESRCH: nobody is left in it.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}
