//! A PostgreSQL server of the test's own, in a folder of its own, on a socket in it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server; it ends with this.
pub(super) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    pub(super) url: String,
}

/// PostgreSQL does not run as root: then it runs as nobody.
const NOBODY: u32 = 65534;

impl Server {
    /// Starts one; `None`, said aloud, where none is installed. In CI one is.
    pub(super) fn start() -> Option<Self> {
        let Some(bin) = binaries() else {
            assert!(std::env::var_os("CI").is_none(), "CI has a PostgreSQL");
            writeln!(
                std::io::stderr(),
                "SKIPPED: no PostgreSQL is installed here"
            )
            .unwrap();
            return None;
        };
        let folder = tempfile::Builder::new().prefix("kwpg").tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = command(&bin.join("initdb"), folder.path());
        initdb
            .args(["-A", "trust", "-U", "keyward", "-N", "-D"])
            .arg(folder.path().join("data"));
        assert!(initdb.status().unwrap().success(), "initdb");
        let child = launch(&bin, folder.path());
        let host = folder.path().to_str().unwrap().replace('/', "%2F");
        let server = Self {
            child,
            url: format!("postgres://keyward@{host}/postgres"),
            folder,
        };
        Some(server)
    }

    /// Ends the server and keeps what it has.
    #[cfg_attr(
        test,
        allow(dead_code, reason = "not every test that starts one stops it")
    )]
    pub(super) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // A fast shutdown: connections are closed, and nothing is lost.
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a stopped one again.
    #[cfg_attr(
        test,
        allow(dead_code, reason = "not every test that starts one stops it")
    )]
    pub(super) fn start_again(&mut self) {
        self.child = launch(&binaries().unwrap(), self.folder.path());
    }
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C");
    command.current_dir(folder);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Runs the server, and waits until it answers.
fn launch(bin: &Path, folder: &Path) -> Child {
    let data = folder.join("data");
    let mut postgres = command(&bin.join("postgres"), folder);
    postgres.arg("-D").arg(&data).arg("-k").arg(folder);
    postgres.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
    let child = postgres.spawn().unwrap();
    // It listens before it can answer: the last line of its own file says when it does.
    let status = data.join("postmaster.pid");
    let is_ready = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.lines()
            .last()
            .is_some_and(|line| line.trim_end() == "ready")
    };
    for _ in 0..600 {
        if is_ready() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_ready(), "the server is ready within 30 s");
    child
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.map(|entry| entry.unwrap().path().join("bin")));
    }
    let has = |folder: &Path| folder.join("initdb").exists() && folder.join("postgres").exists();
    folders.into_iter().find(|folder| has(folder))
}
