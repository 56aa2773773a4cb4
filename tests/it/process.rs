//! The process as its neighbours on the host find it: its memory, its files, its limits, and what it is started with.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::daemon::{Daemon, Place};

/// An uid that is nobody's here, and its gid.
const NOBODY: u32 = 65534;

/// A command as the daemon's own user: not as root, who may read anything.
fn as_the_same_user(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn owned_by_the_daemon(place: &Place) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let own = |path: &std::path::Path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    };
    own(&place.path(""));
    for entry in std::fs::read_dir(place.path("")).unwrap() {
        own(&entry.unwrap().path());
    }
}

fn start_unprivileged(place: &Place) -> Daemon {
    // The build may lie where that user may not look.
    let program = place.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_keyward"), &program).unwrap();
    owned_by_the_daemon(place);
    let mut command = as_the_same_user(program.to_str().unwrap());
    command.current_dir(place.path(""));
    Daemon::start(command)
}

fn limit_files(daemon: &Daemon, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(Pid::from_child(&daemon.child)), Resource::Fsize, limit).unwrap();
}

/// LEAK-31: an agent of the same user reads neither the memory nor the environment of the keyward that serves it.
#[tokio::test]
async fn the_same_user_reads_nothing_of_the_process() {
    let place = Place::new().await;
    let daemon = start_unprivileged(&place);
    assert_eq!(daemon.get().await, 200, "the secret is in its memory now");
    let pid = daemon.child.id();
    for file in ["environ", "mem", "maps", "fd/0", "stack"] {
        let path = format!("/proc/{pid}/{file}");
        let read = as_the_same_user("/bin/sh")
            .args(["-c", &format!("exec head -c 64 {path}")])
            .output()
            .unwrap();
        assert!(
            !read.status.success() && read.stdout.is_empty(),
            "{path} can be read"
        );
    }
    // The same look works on a process of that user that is not hardened: the test can fail.
    let mut other = as_the_same_user("/bin/sleep").arg("60").spawn().unwrap();
    let path = format!("/proc/{}/environ", other.id());
    let read = as_the_same_user("/usr/bin/head")
        .args(["-c", "64", &path])
        .output()
        .unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(read.status.success(), "the look itself does not work here");
    assert_eq!(daemon.stop(), 0);
}

/// LEAK-33: a crash leaves no image of the memory.
#[tokio::test]
async fn a_crash_leaves_no_core() {
    let place = Place::new().await;
    let daemon = place.start();
    assert_eq!(daemon.get().await, 200);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words.get(4..6), Some(&["0", "0"][..]), "{core}");
    daemon.signal(Signal::ABORT);
    let ended = daemon.wait();
    let status = std::os::unix::process::ExitStatusExt::core_dumped(&ended);
    assert!(!ended.success() && !status, "{ended:?}");
    place.search();
    let left = std::fs::read_dir(place.path("")).unwrap();
    for entry in left {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with("core"), "{name:?}");
    }
}

/// LEAK-40: a debugger's variable does not make TLS write its keys.
#[tokio::test]
async fn no_key_log_is_written() {
    let place = Place::new().await;
    let log = place.path("keys.log");
    let mut command = place.keyward();
    command.env("SSLKEYLOGFILE", &log);
    let daemon = Daemon::start(command);
    assert_eq!(daemon.get().await, 200);
    assert_eq!(daemon.stop(), 0);
    assert!(!log.exists());
}

/// AUD-03: without room for a record no request with a credential leaves, the process lives, and goes on with the room.
#[tokio::test]
async fn a_full_disk_stops_requests_and_not_the_process() {
    let place = Place::new().await;
    let text = std::fs::read_to_string(place.path("keyward.toml")).unwrap();
    let (before, rest) = text.split_once("[store]").unwrap();
    let (_, after) = rest.split_once("[upstream]").unwrap();
    std::fs::write(
        place.path("keyward.toml"),
        format!("{before}[upstream]{after}"),
    )
    .unwrap();
    let daemon = place.start();
    assert_eq!(daemon.get().await, 200);
    place
        .record("request", |record| record["status"] == 200)
        .await;
    let served = place.upstream.requests().len();
    let size = std::fs::metadata(place.path("audit.jsonl")).unwrap().len();
    limit_files(&daemon, Some(size));
    assert_eq!(daemon.get().await, 503);
    assert_eq!(
        place.upstream.requests().len(),
        served,
        "nothing left without its record"
    );
    limit_files(&daemon, None);
    let mut status = 0;
    for _ in 0..100 {
        status = daemon.get().await;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status, 200, "it goes on once there is room");
    assert_eq!(daemon.stop(), 0);
    let verified = place.operate(&["audit", "verify", "audit.jsonl"], None);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

/// AUD-06: a trail that is renamed away and begun again loses nothing; a link in its place is not followed.
#[tokio::test]
async fn a_rotated_trail_is_whole_and_a_link_is_not_followed() {
    let place = Place::new().await;
    let daemon = place.start();
    assert_eq!(daemon.get().await, 200);
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.jsonl.1")).unwrap();
    daemon.signal(Signal::HUP);
    place.appears("audit.jsonl").await;
    assert_eq!(daemon.get().await, 200);
    place
        .record("request", |record| record["status"] == 200)
        .await;
    // Somebody puts a link to a file of theirs where the next trail should be.
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.jsonl.2")).unwrap();
    std::fs::write(place.path("victim"), "victim\n").unwrap();
    std::os::unix::fs::symlink(place.path("victim"), place.path("audit.jsonl")).unwrap();
    daemon.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.get().await;
    assert_eq!(
        std::fs::read_to_string(place.path("victim")).unwrap(),
        "victim\n"
    );
    std::fs::remove_file(place.path("audit.jsonl")).unwrap();
    daemon.signal(Signal::HUP);
    place.appears("audit.jsonl").await;
    assert_eq!(daemon.get().await, 200);
    assert_eq!(daemon.stop(), 0);
    let files = ["audit.jsonl.1", "audit.jsonl.2", "audit.jsonl"];
    let verified = place.operate(&["audit", "verify", files[0], files[1], files[2]], None);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let mode = std::fs::metadata(place.path("audit.jsonl"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

/// ID-18: who the agent is follows from its evidence, whatever it or a balancer before it writes.
#[tokio::test]
async fn fields_and_preambles_name_nobody() {
    let place = Place::new().await;
    let daemon = place.start();
    let mut stream = std::net::TcpStream::connect(daemon.proxy).unwrap();
    stream
        .write_all(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nCONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
        .unwrap();
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut said).unwrap();
    assert!(
        said.starts_with(b"HTTP/1.1 400"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    let mut stream = std::net::TcpStream::connect(daemon.proxy).unwrap();
    stream
        .write_all(
            b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nX-Agent-Id: a\r\nX-Forwarded-User: a\r\n\
              Forwarded: for=127.0.0.1\r\nX-Forwarded-Client-Cert: URI=spiffe://prod.example/a\r\nX-Real-IP: 127.0.0.1\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut said).unwrap();
    assert!(
        said.starts_with(b"HTTP/1.1 407"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    assert_eq!(daemon.stop(), 0);
}
