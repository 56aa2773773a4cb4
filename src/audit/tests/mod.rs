//! Tests of the room: through its door, and the files judged by `python3` as well.

mod crash;
mod damage;
mod full;
mod place;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::agent::AgentId;
use crate::clock::{ManualClock, SystemClock};

/// Bytes that stand for a secret in every place of a request that is not to be recorded.
const CANARY: &str = "kwcanary7Zq1Lw9XsecretPq4";

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn at(path: &Path) -> Settings {
    Settings::new(Sink::File(path.to_owned()))
}

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

fn who(id: &str) -> Who<'_> {
    Who {
        request_id: Some(id),
        session: Some("s-1"),
        agent: Some("calendar"),
        user: Some("alice@example.com"),
        chain: None,
    }
}

/// A request's two records.
async fn exchange(audit: &Audit, id: &str) -> Result<(), AuditError> {
    let target = ("api.example.com", 443);
    let intent = Record::intent(who(id), target, "GET", "/v1/contacts");
    audit.intent(&intent).await?;
    audit.append(&Record {
        status: Some(200),
        bytes_down: Some(1024),
        ..Record::request(who(id), target, "GET", "/v1/contacts")
    });
    Ok(())
}

/// A closed trail of `exchanges` requests.
fn trail(path: &Path, exchanges: usize) {
    let audit = Audit::open(at(path), clock()).unwrap();
    runtime(1).block_on(async {
        for n in 0..exchanges {
            exchange(&audit, &format!("r-{n}")).await.unwrap();
        }
    });
    audit.close();
}

fn check(path: &Path) -> Report {
    verify(&[path.to_owned()], &Options::default()).unwrap()
}

fn kinds(report: &Report) -> Vec<FaultKind> {
    report.faults.iter().map(|fault| fault.kind).collect()
}

fn values(bytes: &[u8]) -> Vec<serde_json::Value> {
    bytes
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// The chain by another hand: docs/audit.md prints this very program.
fn python_says(files: &[&Path]) -> String {
    let document = include_str!("../../../docs/audit.md");
    let program = document
        .split("```python\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let output = Command::new("python3")
        .arg("-c")
        .arg(program)
        .args(files)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_independent_program_finds_the_chain_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    trail(&path, 50);
    assert_eq!(python_says(&[&path]), "intact: 102 records\n");
    let report = check(&path);
    assert!(report.ok, "{report:?}");
    assert_eq!(
        (report.records, report.first, report.covered),
        (102, Some(1), Some(102))
    );
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(python_says(&[&path]).contains("broken"));
}

#[test]
fn the_chain_goes_on_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    for _ in 0..3 {
        trail(&path, 2);
    }
    let report = check(&path);
    assert!(report.ok, "{report:?}");
    assert_eq!((report.last, report.keys.len()), (Some(18), 1));
    let lines = values(&std::fs::read(&path).unwrap());
    assert_eq!(lines[0]["prev"], "0".repeat(64));
    assert_eq!(lines[6]["prev"], lines[5]["hash"]);
    assert_ne!(lines[0]["writer"], lines[6]["writer"]);
}

#[test]
fn hostile_text_stays_one_line_and_reads_back_equal() {
    let audit = Audit::open(Settings::new(Sink::Memory), clock()).unwrap();
    let hostile = [
        "a\nb\r\n{\"event\":\"intent\"}",
        "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m",
        "\u{2028}\u{2029}\u{85}\u{0}\u{7f}",
        "\",\"allow\":true,\"x\":\"\\",
        "\u{202e}gnp.exe\u{2066}\u{feff}",
        "naïve 日本語 😀",
    ];
    for text in hostile {
        audit.append(&Record {
            agent: Some(text),
            path: Some(text),
            ..Record::new(Event::Request, Who::default())
        });
    }
    let bytes = audit.lines().unwrap();
    let lines = values(&bytes);
    assert_eq!(lines.len(), hostile.len() + 1);
    for (line, text) in lines[1..].iter().zip(hostile) {
        assert_eq!(line["agent"], text);
        assert_eq!(line["path"], text);
    }
    let shown = String::from_utf8(bytes).unwrap();
    assert!(!shown.chars().any(|c| c != '\n' && c.is_control()));
    assert!(!shown.contains(['\u{2028}', '\u{202e}', '\u{feff}']));
}

proptest! {
    #[test]
    fn any_text_reads_back_equal(text in any::<String>(), code in any::<String>()) {
        let mut line = Vec::new();
        let record = Record { code: Some(&code), reason: Some(&text), ..Record::config("loaded") };
        record.write(jiff::Timestamp::UNIX_EPOCH, "w", &mut line);
        line.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(value["reason"].as_str(), Some(text.as_str()));
        prop_assert_eq!(value["code"].as_str(), Some(code.as_str()));
    }

    #[test]
    fn numbers_are_json_numbers(up in any::<u64>(), cost in 0.0..1e9_f64, ms in any::<u32>()) {
        let mut line = Vec::new();
        let record = Record {
            bytes_up: Some(up),
            cost: Some(cost),
            duration: Some(std::time::Duration::from_millis(u64::from(ms))),
            ..Record::config("loaded")
        };
        record.write(jiff::Timestamp::UNIX_EPOCH, "w", &mut line);
        line.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(value["bytes-up"].as_u64(), Some(up));
        // The reader's own parser rounds the last bit; the text is exact.
        let text = String::from_utf8(line).unwrap();
        let written = text.split("\"cost\":").nth(1).unwrap().split(',').next().unwrap();
        prop_assert_eq!(written.parse(), Ok(cost));
        prop_assert_eq!(value["duration-ms"].as_u64(), Some(u64::from(ms)));
    }
}

#[test]
fn members_stand_in_one_order_and_the_hash_last() {
    let audit = Audit::open(
        Settings::new(Sink::Memory),
        Arc::new(ManualClock::new("2026-11-21T08:00:00.5Z".parse().unwrap())),
    )
    .unwrap();
    let chain: [AgentId; 2] = ["planner".parse().unwrap(), "calendar".parse().unwrap()];
    audit.append(&Record {
        decision: Some("allow"),
        credential: Some("crm"),
        status: Some(200),
        ..Record::request(
            Who {
                chain: Some(&chain),
                ..who("r-1")
            },
            ("a.example", 443),
            "GET",
            "/a?b=c",
        )
    });
    let bytes = audit.lines().unwrap();
    let lines = values(&bytes);
    let keys: Vec<&str> = lines[1]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "time",
            "event",
            "request-id",
            "session",
            "agent",
            "user",
            "chain",
            "host",
            "port",
            "method",
            "path",
            "decision",
            "credential",
            "status",
            "writer",
            "seq",
            "prev",
            "hash"
        ]
    );
    assert_eq!(lines[1]["time"], "2026-11-21T08:00:00.500Z");
    assert_eq!(
        lines[1]["chain"],
        serde_json::json!(["planner", "calendar"])
    );
    assert_eq!(lines[1]["path"], "/a");
}

#[test]
fn no_query_is_recorded_whoever_passes_it() {
    let audit = Audit::open(Settings::new(Sink::Memory), clock()).unwrap();
    let path = format!("/v1/x?key={CANARY}");
    let runtime = runtime(1);
    let target = ("api.example.com", 443);
    runtime
        .block_on(audit.intent(&Record::intent(who("r-1"), target, "GET", &path)))
        .unwrap();
    audit.append(&Record::request(
        who("r-1"),
        target,
        "GET",
        &format!("/v1/x#{CANARY}"),
    ));
    let written = String::from_utf8(audit.lines().unwrap()).unwrap();
    assert!(written.contains("\"path\":\"/v1/x\"") && !written.contains(CANARY));
}

#[test]
fn many_writers_share_one_chain_and_each_keeps_its_order() {
    for durability in [Durability::Os, Durability::Disk] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Arc::new(
            Audit::open(
                Settings {
                    durability,
                    ..at(&path)
                },
                clock(),
            )
            .unwrap(),
        );
        let runtime = runtime(4);
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let audit = Arc::clone(&audit);
                runtime.spawn(async move {
                    for n in 0..100 {
                        exchange(&audit, &format!("{task}-{n:04}")).await.unwrap();
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        audit.close();
        let report = check(&path);
        assert!(report.ok, "{report:?}");
        assert_eq!(report.records, 1602);
        let lines = values(&std::fs::read(&path).unwrap());
        for task in 0..8 {
            let own = format!("{task}-");
            let ids: Vec<&str> = lines
                .iter()
                .filter_map(|line| line["request-id"].as_str())
                .filter(|id| id.starts_with(&own))
                .collect();
            assert_eq!(ids.len(), 200);
            assert!(ids.is_sorted(), "task {task}");
        }
    }
}

#[test]
fn an_outcome_is_in_the_file_before_long_without_another_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let audit = Audit::open(at(&path), clock()).unwrap();
    audit.append(&Record::config("loaded"));
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&path).unwrap().contains("loaded") {
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        std::thread::yield_now();
    }
    audit.close();
}

#[test]
fn a_checkpoint_is_signed_as_time_goes_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let hand = Arc::new(ManualClock::new("2026-11-21T08:00:00Z".parse().unwrap()));
    let audit = Audit::open(at(&path), Arc::clone(&hand) as Arc<dyn Clock>).unwrap();
    hand.advance(std::time::Duration::from_secs(11));
    audit.append(&Record::config("loaded"));
    let begun = std::time::Instant::now();
    while check(&path).covered != Some(2) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        std::thread::yield_now();
    }
    audit.close();
}

#[test]
fn a_query_prints_the_raw_lines_that_match() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let hand = Arc::new(ManualClock::new("2026-11-21T08:00:00Z".parse().unwrap()));
    let audit = Audit::open(at(&path), Arc::clone(&hand) as Arc<dyn Clock>).unwrap();
    for (agent, host) in [("a", "x.example"), ("b", "x.example"), ("a", "y.example")] {
        let who = Who {
            agent: Some(agent),
            ..Who::default()
        };
        let word = (host == "y.example").then_some("no-route");
        audit.append(&Record {
            word,
            ..Record::request(who, (host, 443), "GET", "/")
        });
        hand.advance(std::time::Duration::from_mins(1));
    }
    audit.close();
    let count = |filter: Filter| {
        let mut out = Vec::new();
        let passed = query(std::slice::from_ref(&path), &filter, &mut out).unwrap();
        assert_eq!(values(&out).len() as u64, passed);
        passed
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        count(Filter {
            agent: text("a"),
            ..Filter::default()
        }),
        2
    );
    assert_eq!(
        count(Filter {
            agent: text("a"),
            host: text("x.example"),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        count(Filter {
            word: text("no-route"),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        count(Filter {
            user: text("a"),
            ..Filter::default()
        }),
        0
    );
    let since = Some("2026-11-21T08:01:00Z".parse().unwrap());
    let until = Some("2026-11-21T08:02:00Z".parse().unwrap());
    assert_eq!(
        count(Filter {
            since,
            until,
            ..Filter::default()
        }),
        1
    );
    assert_eq!(count(Filter::default()), 5);
}

#[test]
fn records_and_failures_are_counted() {
    let audit = Audit::open(Settings::new(Sink::Memory), clock()).unwrap();
    audit.append(&Record::config("loaded"));
    let mut registry = prometheus_client::registry::Registry::default();
    audit.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("keyward_audit_records_total{event=\"config\"} 1"),
        "{text}"
    );
    assert!(text.contains("keyward_audit_failures_total 0"), "{text}");
}
