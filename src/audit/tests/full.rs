//! A sink that fails: intents are refused, nothing is lost, and it goes on by itself.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getpid, prlimit};

use super::*;

const FOLDER: &str = "KEYWARD_TEST_AUDIT_FOLDER";

/// Calls `attempt` until it succeeds, for as long as a slow machine may need.
fn until(mut attempt: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !attempt() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "this did not come to pass"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fills the disk under the trail, then makes room.
fn fill_and_free(path: &Path, fill: impl FnOnce(), free: impl FnOnce()) {
    let audit = Audit::open(at(path), clock()).unwrap();
    let runtime = runtime(2);
    runtime.block_on(exchange(&audit, "before")).unwrap();
    fill();
    let mut tried = 0;
    until(|| {
        tried += 1;
        runtime
            .block_on(exchange(&audit, &format!("r-{tried}")))
            .is_err()
    });
    assert!(!audit.healthy());
    for n in 0..50 {
        assert!(runtime.block_on(exchange(&audit, "refused")).is_err());
        audit.append(&Record::config(if n % 2 == 0 {
            "loaded"
        } else {
            "rejected"
        }));
    }
    free();
    until(|| audit.healthy());
    runtime.block_on(exchange(&audit, "after")).unwrap();
    audit.close();
    let report = check(path);
    assert!(report.ok, "{report:?}");
    let lines = values(&std::fs::read(path).unwrap());
    let configs = lines
        .iter()
        .filter(|line| line["event"] == "config")
        .count();
    assert_eq!(configs, 50, "every outcome is there");
    let has = |id: &str| lines.iter().any(|line| line["request-id"] == id);
    assert!(has("before") && has("after") && !has("refused"));
}

/// Run by the test below, in a mount namespace of its own with a tmpfs of 64 KiB.
#[test]
#[ignore = "the child of another test"]
fn child_on_a_small_disk() {
    let dir = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let ballast = dir.join("ballast");
    let fill = || {
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    };
    let free = || std::fs::remove_file(&ballast).unwrap();
    fill_and_free(&dir.join("audit.jsonl"), fill, free);
}

#[test]
fn a_full_disk_refuses_intents_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=64k none "$0" && exec "$@""#;
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "audit::tests::full::child_on_a_small_disk",
            "--ignored",
        ])
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// Run by the test below, since a limit holds for the whole process.
#[test]
#[ignore = "the child of another test"]
fn child_under_a_file_size_limit() {
    let dir = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let own: Option<Pid> = Some(getpid());
    // The limit falls into the midst of a line.
    let limit = |bytes: Option<u64>| {
        prlimit(
            own,
            Resource::Fsize,
            Rlimit {
                current: bytes,
                maximum: None,
            },
        )
        .unwrap();
    };
    fill_and_free(
        &dir.join("audit.jsonl"),
        || limit(Some(3001)),
        || limit(None),
    );
}

#[test]
fn a_file_size_limit_kills_nothing_and_refuses_intents_until_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "audit::tests::full::child_under_a_file_size_limit",
            "--ignored",
        ])
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
fn more_outcomes_than_memory_holds_are_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let audit = Audit::open(at(&path), clock()).unwrap();
    std::fs::rename(&path, dir.path().join("moved.jsonl")).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(audit.reopen().is_err());
    let long = "x".repeat(64 * 1024);
    for _ in 0..300 {
        audit.append(&Record {
            reason: Some(&long),
            ..Record::config("rejected")
        });
    }
    assert!(!audit.healthy());
    std::fs::remove_dir(&path).unwrap();
    until(|| audit.healthy());
    audit.close();
    let lines = values(&std::fs::read(&path).unwrap());
    let kept = lines
        .iter()
        .filter(|line| line["event"] == "config")
        .count() as u64;
    let told: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    assert!(kept > 100 && told > 0);
    assert_eq!(kept + told, 300);
}

#[test]
fn a_stalled_sink_refuses_in_time_and_stalls_no_one_else() {
    let audit = Arc::new(Audit::open(Settings::new(Sink::Memory), clock()).unwrap());
    let runtime = runtime(2);
    // The sink's lock held is a write that does not return.
    let out = audit.shared.out.lock();
    let blocked = Arc::clone(&audit);
    let waiting = runtime.spawn(async move { exchange(&blocked, "r-1").await });
    let begun = Instant::now();
    audit.append(&Record::config("loaded"));
    runtime.block_on(runtime.spawn(async {})).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(!waiting.is_finished());
    drop(out);
    runtime.block_on(waiting).unwrap().unwrap();
}
