//! An operator's command: its output within a length, in a process group of its own that does not outlive it.
//!
//! It gets nothing of keyward's environment but what is named, and what it prints is taken to be secret.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// keyward's environment as `main` captured it, before it took the secrets out of its own.
pub type Env<'a> = &'a (dyn Fn(&str) -> Option<OsString> + Send + Sync);

/// What a command gets of keyward's environment. All else may hold secrets.
#[derive(Debug, Clone)]
pub struct Surroundings(Vec<(Box<str>, OsString)>);

/// What a command gave, whole.
#[expect(missing_debug_implementations, reason = "a secret stands in it")]
pub struct Output {
    /// Its standard output.
    pub stdout: Zeroizing<Vec<u8>>,
    /// How it ended.
    pub status: ExitStatus,
    /// How much it wrote to its standard error, as far as it was read, in bytes. What it wrote is not kept.
    pub complained: u64,
}

/// Why there is no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// There is no such program, or it may not be run.
    #[error("the command cannot be started: {0}")]
    NotStarted(io::ErrorKind),
    /// It printed more than it may.
    #[error("the command printed too much")]
    TooLong,
    /// Its output broke off.
    #[error("the command's output cannot be read")]
    Unread,
}

impl Surroundings {
    /// Those of `names` that are set.
    pub fn keeping<'n>(env: Env<'_>, names: impl IntoIterator<Item = &'n str>) -> Self {
        let set = |name: &'n str| env(name).map(|value| (name.into(), value));
        Self(names.into_iter().filter_map(set).collect())
    }
}

/// Runs a command, writes `input` to it, and takes its standard output. When it ends, at too much output, and when the
/// future is dropped, what is left of its process group is killed; the caller sets the deadline. A process that made itself
/// a session of its own, as an agent of keys does, is not in the group.
///
/// # Errors
/// [`Broken`]. A command that ends badly is no error here.
///
/// A child of the command that keeps the output open is waited for: what it may yet print belongs to the answer.
pub async fn run(
    argv: &[String],
    input: &[u8],
    max_output: usize,
    surroundings: &Surroundings,
) -> Result<Output, Broken> {
    let not_started = |error: io::Error| Broken::NotStarted(error.kind());
    let [program, arguments @ ..] = argv else {
        return Err(Broken::NotStarted(io::ErrorKind::InvalidInput));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(surroundings.0.iter().map(|(name, value)| (&**name, value)))
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(not_started)?;
    let group = Group::of(&child);
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut complaints = Complaints {
        from: child.stderr.take(),
        count: 0,
    };
    let stdout = stdout.ok_or(Broken::Unread)?;
    let answer = async {
        // To the end of the output first, then wait: until then the child's process id cannot become another's.
        let ((), stdout) = tokio::join!(tell(stdin, input), read(stdout, max_output));
        let stdout = stdout?;
        // What it left in the background ends with it, however well it ended. While it is not waited for its number, which
        // is its group's, cannot become another's.
        if ended(&child).await.is_ok() {
            drop(group);
        }
        let status = child.wait().await.map_err(|_| Broken::Unread)?;
        Ok((stdout, status))
    };
    let (stdout, status) = tokio::select! {
        answer = answer => answer?,
        never = complaints.listen() => match never {},
    };
    // What it wrote last may still be on its way here.
    tokio::time::timeout(LAST_WORDS, complaints.listen())
        .await
        .ok();
    Ok(Output {
        stdout,
        status,
        complained: complaints.count,
    })
}

/// Writes the input. A command that does not read it is judged by what it answers.
async fn tell(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(input).await.ok();
        stdin.shutdown().await.ok();
    }
}

async fn read(stdout: ChildStdout, max_output: usize) -> Result<Zeroizing<Vec<u8>>, Broken> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(max_output.saturating_add(1)));
    let limit = (max_output as u64).saturating_add(1);
    stdout
        .take(limit)
        .read_to_end(&mut buffer)
        .await
        .map_err(|_| Broken::Unread)?;
    if buffer.len() > max_output {
        return Err(Broken::TooLong);
    }
    Ok(buffer)
}

/// The standard error, read so that the command does not stall on it, and thrown away: secrets stand in such texts.
struct Complaints {
    from: Option<ChildStderr>,
    count: u64,
}

impl Complaints {
    async fn listen(&mut self) -> std::convert::Infallible {
        let mut piece = Zeroizing::new([0; 4096]);
        while let Some(from) = &mut self.from {
            match from.read(&mut *piece).await {
                Ok(0) | Err(_) => self.from = None,
                Ok(length) => self.count += length as u64,
            }
        }
        std::future::pending().await
    }
}

/// Waits until a child has ended, and leaves it to be waited for.
async fn ended(child: &Child) -> io::Result<()> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = id.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    // Listened for before the first look, so that no end is missed.
    let mut children = signal(SignalKind::child())?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), look)?.is_none() {
        children.recv().await;
    }
    Ok(())
}

/// The process group of a command; killed when dropped.
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

/// How long the standard error of a command that has ended is still read.
const LAST_WORDS: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a process is gone, or waits for nothing but its parent's look.
    fn is_over(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_a_command_leaves_in_the_background_ends_with_it() {
        for end in ["true", "exit 3", "kill -9 $$"] {
            // Its output is closed: nothing but the process itself is left.
            let script = format!("sleep 1000 >/dev/null 2>&1 </dev/null & echo $!; {end}");
            let argv = ["/bin/sh", "-c", &script].map(str::to_owned);
            let around = Surroundings::keeping(&|_| None, []);
            let output = run(&argv, b"", 64, &around).await.unwrap();
            assert_eq!(output.status.success(), end == "true");
            let pid = std::str::from_utf8(&output.stdout).unwrap().trim();
            let gone = async {
                while !is_over(pid) {
                    tokio::task::yield_now().await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(10), gone).await;
            assert!(waited.is_ok(), "{end}: {pid} lives on");
        }
    }
}
