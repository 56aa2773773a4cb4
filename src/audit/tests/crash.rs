//! Killed at full speed, again and again: every intent that was acknowledged is there, and the chain goes on.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::*;

const FILE: &str = "KEYWARD_TEST_AUDIT_FILE";
const DURABILITY: &str = "KEYWARD_TEST_AUDIT_DURABILITY";

/// The process that is killed: run by the tests below, never by itself.
#[test]
#[ignore = "the child of another test"]
fn child() {
    let path = PathBuf::from(std::env::var_os(FILE).unwrap());
    let disk = std::env::var_os(DURABILITY).unwrap() == "disk";
    let durability = if disk {
        Durability::Disk
    } else {
        Durability::Os
    };
    let settings = Settings {
        durability,
        rotate_at: 200 * 1024,
        ..at(&path)
    };
    let audit = Arc::new(Audit::open(settings, clock()).unwrap());
    let runtime = runtime(2);
    for task in 0..3 {
        let audit = Arc::clone(&audit);
        runtime.spawn(async move {
            for n in 0_u64.. {
                let id = format!("{}-{task}-{n}", std::process::id());
                exchange(&audit, &id).await.unwrap();
                // One write of a whole line, so that the parent sees the acknowledgement or nothing.
                let line = format!("ack {id}\n");
                rustix::io::write(io::stdout(), line.as_bytes()).unwrap();
            }
        });
    }
    std::thread::park();
}

fn kill_at_speed(durability: &str, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut acknowledged = HashSet::new();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "audit::tests::crash::child",
                "--ignored",
                "--nocapture",
            ])
            .env(FILE, &path)
            .env(DURABILITY, durability)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        // Killed after a number of acknowledgements that differs from round to round.
        let enough = 20 + (round * 37) % 400;
        let mut seen = 0;
        let mut take = |line: Vec<u8>| {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some((_, id)) = line.split_once("ack ") {
                acknowledged.insert(id.to_owned());
                seen += 1;
            }
            seen
        };
        while take(lines.next().unwrap().unwrap()) < enough {}
        child.kill().unwrap();
        for line in lines {
            take(line.unwrap());
        }
        child.wait().unwrap();
    }
    trail(&path, 1);
    let mut files: Vec<PathBuf> = sink::rotated(&path)
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    files.push(path);
    let report = verify(
        &files,
        &Options {
            whole: true,
            ..Options::default()
        },
    )
    .unwrap();
    assert!(report.ok, "{report:?}");
    let mut intents = HashSet::new();
    for file in &files {
        for line in std::fs::read(file).unwrap().split(|&b| b == b'\n') {
            // A torn line is no JSON, and its intent was not acknowledged.
            if let Ok(value) = serde_json::from_slice::<serde_json::Value>(line)
                && value["event"] == "intent"
            {
                intents.insert(value["request-id"].as_str().unwrap().to_owned());
            }
        }
    }
    assert!(acknowledged.len() as u64 >= 20 * rounds);
    let missing: Vec<_> = acknowledged.difference(&intents).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_acknowledged_intent_is_lost_to_a_kill() {
    kill_at_speed("os", 25);
}

#[test]
fn no_acknowledged_intent_is_lost_to_a_kill_with_group_commit() {
    kill_at_speed("disk", 10);
}
