use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;

const OLD: &[u8] = b"old-secret-0123456789";
const NEW: &[u8] = b"new-secret-0123456789";

fn no_env(_: &str) -> Option<OsString> {
    None
}

/// The test's own PATH, so that a command is found.
fn path_env(name: &str) -> Option<OsString> {
    (name == "PATH").then(|| "/usr/local/bin:/usr/bin:/bin".into())
}

fn sh(script: &str) -> Source {
    Source::Command {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        deadline: Duration::from_secs(10),
        max_output: 64 * 1024,
        ttl: Duration::from_mins(5),
    }
}

struct Folder {
    dir: TempDir,
    clock: Arc<ManualClock>,
    watcher: Watcher,
}

impl Folder {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()));
        Self {
            dir: TempDir::new().unwrap(),
            watcher: Watcher::idle(clock.clone()),
            clock,
        }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn watch(&self, name: &str) -> Watched {
        self.watcher
            .watch(&Source::File(self.at(name)), &no_env)
            .await
    }

    async fn look(&self, times: usize) {
        for _ in 0..times {
            self.clock.advance(Duration::from_millis(500));
            self.watcher.0.look().await;
        }
    }
}

fn says(watched: &Watched, bytes: &[u8]) -> bool {
    watched.current().is_ok_and(|secret| secret.equals(bytes))
}

#[tokio::test]
async fn trailing_line_ends_go_and_nothing_else() {
    let env = |_: &str| Some(OsString::from(" a\r\nb \r\n\n"));
    let secret = Source::Env("X".into()).read(&env).await.unwrap();
    assert!(secret.equals(b" a\r\nb "));
    let env = |_: &str| Some(OsString::from("\r\n"));
    assert_eq!(
        Source::Env("X".into()).read(&env).await.unwrap_err(),
        SourceError::Empty
    );
    let unset = Source::Env("X".into()).read(&no_env).await.unwrap_err();
    assert_eq!(unset.to_string(), "the environment variable X is not set");
}

#[tokio::test]
async fn a_file_is_regular_readable_and_not_too_long() {
    let folder = Folder::new();
    let read = async |name: &str| Source::File(folder.at(name)).read(&no_env).await;
    fs::write(folder.at("long"), vec![b'x'; 64 * 1024 + 1]).unwrap();
    assert_eq!(
        read("long").await.unwrap_err(),
        SourceError::TooLong(64 * 1024)
    );
    fs::write(folder.at("just"), vec![b'x'; 64 * 1024]).unwrap();
    assert_eq!(read("just").await.unwrap().len(), 64 * 1024);
    fs::create_dir(folder.at("dir")).unwrap();
    assert_eq!(read("dir").await.unwrap_err(), SourceError::NotAFile);
    assert!(
        Command::new("mkfifo")
            .arg(folder.at("pipe"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(read("pipe").await.unwrap_err(), SourceError::NotAFile);
    assert!(matches!(
        read("none").await,
        Err(SourceError::Unreadable(io::ErrorKind::NotFound))
    ));
}

#[tokio::test]
async fn a_swap_of_links_as_kubernetes_does_it_is_followed() {
    let folder = Folder::new();
    for (version, value) in [("..1", OLD), ("..2", NEW)] {
        fs::create_dir(folder.at(version)).unwrap();
        fs::write(folder.at(version).join("token"), value).unwrap();
    }
    symlink("..1", folder.at("..data")).unwrap();
    symlink("..data/token", folder.at("token")).unwrap();
    let watched = folder.watch("token").await;
    let before = watched.reading();
    folder.look(2).await;
    assert!(says(&watched, OLD) && !before.superseded.is_raised());
    symlink("..2", folder.at("..data_tmp")).unwrap();
    fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
    fs::remove_dir_all(folder.at("..1")).unwrap();
    folder.look(2).await;
    assert!(says(&watched, NEW) && before.superseded.is_raised());
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read_half() {
    let folder = Folder::new();
    fs::write(folder.at("token"), OLD).unwrap();
    let watched = folder.watch("token").await;
    for part in ["new-secret", "new-secret-012345"] {
        fs::write(folder.at("token"), part).unwrap();
        folder.look(1).await;
        assert!(says(&watched, OLD), "{part}");
    }
    fs::write(folder.at("token"), NEW).unwrap();
    folder.look(2).await;
    assert!(says(&watched, NEW));
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_keeps_its_value_for_two_seconds_only() {
    let folder = Folder::new();
    for gone in [true, false] {
        fs::write(folder.at("token"), OLD).unwrap();
        let watched = folder.watch("token").await;
        let withdraw = |path: &Path| {
            if gone {
                fs::remove_file(path)
            } else {
                fs::write(path, "\n")
            }
        };
        withdraw(&folder.at("token")).unwrap();
        folder.look(3).await;
        assert!(says(&watched, OLD));
        folder.look(4).await;
        assert!(watched.current().is_err());
        fs::write(folder.at("token"), NEW).unwrap();
        folder.look(2).await;
        assert!(says(&watched, NEW));
    }
}

#[tokio::test]
async fn a_rewrite_of_the_same_value_disturbs_nobody() {
    let folder = Folder::new();
    fs::write(folder.at("token"), OLD).unwrap();
    let watched = folder.watch("token").await;
    let before = watched.reading();
    fs::write(folder.at("token2"), [OLD, b"\n"].concat()).unwrap();
    fs::rename(folder.at("token2"), folder.at("token")).unwrap();
    folder.look(3).await;
    assert!(Arc::ptr_eq(&before, &watched.reading()));
}

#[tokio::test]
async fn a_command_prints_the_secret_and_sees_no_environment() {
    let secret = sh("env; cat").read(&path_env).await.unwrap();
    let text = String::from_utf8(secret.expose().to_vec()).unwrap();
    let foreign: Vec<&str> = text
        .lines()
        // The shell makes these itself.
        .filter(|line| {
            !["PWD=", "SHLVL=", "_=", "OLDPWD="]
                .iter()
                .any(|own| line.starts_with(own))
        })
        .collect();
    assert_eq!(foreign, ["PATH=/usr/local/bin:/usr/bin:/bin"]);
    assert_eq!(
        sh("echo x; exit 3").read(&path_env).await.unwrap_err(),
        SourceError::Failed
    );
    assert_eq!(
        sh("echo x >&2").read(&path_env).await.unwrap_err(),
        SourceError::Empty
    );
}

#[tokio::test]
async fn a_command_that_prints_without_end_is_stopped() {
    let began = Instant::now();
    let outcome = sh("while :; do echo xxxxxxxxxxxxxxxx; done")
        .read(&path_env)
        .await;
    assert_eq!(outcome.unwrap_err(), SourceError::TooLong(64 * 1024));
    assert!(began.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_command_at_its_deadline_is_killed_with_its_children() {
    let dir = TempDir::new().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; sleep 300", pid_file.display());
    let Source::Command {
        argv,
        max_output,
        ttl,
        ..
    } = sh(&script)
    else {
        unreachable!()
    };
    let deadline = Duration::from_millis(500);
    let source = Source::Command {
        argv,
        deadline,
        max_output,
        ttl,
    };
    assert_eq!(
        source.read(&path_env).await.unwrap_err(),
        SourceError::TimedOut(deadline)
    );
    let pid = fs::read_to_string(&pid_file).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    // Dead, or a zombie where init does not reap at once.
    let dead = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let began = Instant::now();
    while !dead() {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "the grandchild lives"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_commands_answer_is_used_for_its_time_and_asked_for_ahead() {
    let folder = Folder::new();
    let file = folder.at("value");
    fs::write(&file, OLD).unwrap();
    let source = sh(&format!("cat {}", file.display()));
    let watched = folder.watcher.watch(&source, &path_env).await;
    assert!(says(&watched, OLD));
    fs::write(&file, NEW).unwrap();
    let look = async |seconds| {
        folder.clock.advance(Duration::from_secs(seconds));
        folder.watcher.0.look().await;
        folder.watcher.0.tracker.close();
        folder.watcher.0.tracker.wait().await;
    };
    look(239).await;
    assert!(says(&watched, OLD));
    look(1).await;
    assert!(says(&watched, NEW), "at 80 % of 300 s");
    fs::remove_file(&file).unwrap();
    look(299).await;
    assert!(says(&watched, NEW), "within its life");
    look(1).await;
    assert_eq!(watched.current().unwrap_err(), SourceError::Failed);
    fs::write(&file, OLD).unwrap();
    look(5).await;
    assert!(says(&watched, OLD));
}

#[tokio::test]
async fn a_static_lease_follows_its_file() {
    use super::super::{CredentialProvider as _, Holder, IssueError, Scope, StaticProvider};
    let folder = Folder::new();
    fs::write(folder.at("token"), OLD).unwrap();
    let provider = StaticProvider::new(folder.watch("token").await);
    let scope = Scope {
        credential: "crm".parse().unwrap(),
        holder: Holder::All,
        person: None,
        narrow: Arc::default(),
    };
    let first = provider.issue(&scope).await.unwrap();
    let superseded = first.superseded.unwrap();
    assert!(first.material.secrets().all(|secret| secret.equals(OLD)));
    fs::write(folder.at("token"), NEW).unwrap();
    folder.look(2).await;
    assert!(superseded.is_raised());
    let second = provider.issue(&scope).await.unwrap();
    assert!(second.material.secrets().all(|secret| secret.equals(NEW)));
    fs::remove_file(folder.at("token")).unwrap();
    folder.look(6).await;
    let gone = provider.issue(&scope).await.unwrap_err();
    assert!(matches!(gone, IssueError::Unavailable { .. }));
    let text = format!("{provider:?} {:?} {second:?}", folder.watcher);
    assert!(!text.contains("secret-0123"), "{text}");
}

/// Runs itself once more inside a D-Bus session of its own, with a keyring in a folder of its own.
#[cfg(feature = "keyring")]
#[tokio::test]
async fn a_keyring_entry_is_read_from_a_real_secret_service() {
    let source = |user: &str| Source::Keyring {
        service: "keyward-test".into(),
        user: user.into(),
    };
    let inside = std::env::var_os("KEYWARD_TEST_KEYRING");
    if inside.as_ref().is_some_and(|value| value == "no-bus") {
        assert_eq!(
            source("alice").read(&no_env).await.unwrap_err(),
            SourceError::NoKeyring
        );
        return;
    }
    if inside.is_some() {
        let secret = source("alice").read(&no_env).await.unwrap();
        assert!(secret.equals(NEW));
        assert_eq!(
            source("bob").read(&no_env).await.unwrap_err(),
            SourceError::NoEntry
        );
        return;
    }
    let there = |program: &str| Path::new("/usr/bin").join(program).exists();
    if !["dbus-run-session", "gnome-keyring-daemon", "secret-tool"]
        .into_iter()
        .all(there)
    {
        eprintln!("SKIPPED: needs dbus-run-session, gnome-keyring-daemon and secret-tool");
        return;
    }
    let home = TempDir::new().unwrap();
    let again = format!(
        "exec {} --exact credential::source::tests::a_keyring_entry_is_read_from_a_real_secret_service --nocapture",
        std::env::current_exe().unwrap().display(),
    );
    let store = format!(
        "printf pw | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1 && \
         printf {} | secret-tool store --label=t service keyward-test username alice && {again}",
        String::from_utf8_lossy(NEW),
    );
    let with_bus = ["dbus-run-session", "--", "sh", "-c", &store];
    let without = ["sh", "-c", &again];
    for (argv, mode) in [(&with_bus[..], "bus"), (&without[..], "no-bus")] {
        let output = Command::new(argv[0])
            .args(&argv[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .env("KEYWARD_TEST_KEYRING", mode)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let passed = output.status.success() && text.contains("1 passed");
        assert!(passed, "{mode}: {output:?}");
    }
}
