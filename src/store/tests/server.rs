//! A PostgreSQL server of the test's own, in a folder of its own, on a socket in it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server; it ends with this.
pub(super) struct Server {
    child: Child,
    _folder: tempfile::TempDir,
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
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("LC_ALL", "C");
            command.current_dir(folder.path());
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        let data = folder.path().join("data");
        let mut initdb = command("initdb");
        initdb
            .args(["-A", "trust", "-U", "keyward", "-N", "-D"])
            .arg(&data);
        assert!(initdb.status().unwrap().success(), "initdb");
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(&data).arg("-k").arg(folder.path());
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let child = postgres.spawn().unwrap();
        let socket = folder.path().join(".s.PGSQL.5432");
        for _ in 0..600 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let host = folder.path().to_str().unwrap().replace('/', "%2F");
        let server = Self {
            child,
            url: format!("postgres://keyward@{host}/postgres"),
            _folder: folder,
        };
        Some(server)
    }
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
