//! Systems without namespaces: the command runs, and what it can see is said.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use super::{Exit, Plan, SandboxError, Weaker};

/// A command that runs.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    weaker: Vec<Weaker>,
}

impl Child {
    /// What this system did not give, to be said once.
    pub fn weaker(&self) -> &[Weaker] {
        &self.weaker
    }

    /// There is no isolation here, so no listener.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        None
    }

    /// Waits for the command's end.
    pub async fn wait(mut self) -> Result<Exit, SandboxError> {
        let status = tokio::task::spawn_blocking(move || self.child.wait())
            .await
            .map_err(|error| SandboxError::Helper(error.into()))?
            .map_err(SandboxError::Helper)?;
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(byte(code)),
            (None, signal) => Exit::Signal(byte(signal.unwrap_or_default())),
        })
    }
}

/// Starts the command as it is.
pub fn spawn(plan: &Plan) -> Result<Child, SandboxError> {
    if plan.isolate.is_some() {
        return Err(SandboxError::NoIsolation("Linux only".to_owned()));
    }
    let mut argv = plan.argv.iter();
    let program = argv
        .next()
        .ok_or_else(|| SandboxError::Command(std::io::ErrorKind::InvalidInput.into()))?;
    let child = Command::new(program)
        .args(argv)
        .env_clear()
        .envs(plan.env.iter().map(|(name, value)| (name, value)))
        .spawn()
        .map_err(SandboxError::Command)?;
    let mut weaker = vec![Weaker(
        "this system has no namespaces: the command can read the environments of this user's other processes"
            .to_owned(),
    )];
    weaker.extend(
        plan.masks
            .iter()
            .filter(|mask| mask.path.exists())
            .map(|mask| Weaker(format!("the command can open {}", mask.path.display()))),
    );
    Ok(Child { child, weaker })
}

/// There are no helpers here.
pub fn helper_main() -> Option<ExitCode> {
    None
}
