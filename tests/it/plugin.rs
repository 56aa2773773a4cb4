//! The `command` provider end to end: the examples of the docs, and commands that behave badly.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::canary::CANARY;
use super::harness::Setup;
use super::upstream::Upstream;

/// A route of api.test whose credential is a command.
fn routes(command: &str, more: &str) -> String {
    format!(
        "[credential.own]\n{more}\n[credential.own.command]\n{command}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"own\"\ninject = \"bearer\"\n"
    )
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// The examples of docs/credentials.md, by name.
fn examples() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/credentials.md");
    let text = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    for part in text.split("<!-- example: ").skip(1) {
        let (name, rest) = part.split_once(" -->").unwrap();
        let (_, rest) = rest.split_once("```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let (code, _) = rest.split_once("```").unwrap();
        found.push((name.to_owned(), code.to_owned()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_docs_issue_and_revoke() {
    let folder = tempfile::tempdir().unwrap();
    let examples = examples();
    assert_eq!(examples.len(), 2);
    for (name, code) in examples {
        let path = script(folder.path(), &name, &code);
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let run = format!("run = [\"{}\"]", path.display());
        let mut harness = Setup::new(&routes(&run, ""))
            .to("api.test:443", &upstream)
            .start()
            .await;
        let answer = harness.agent().get("api.test:443", "/").await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let seen = upstream.requests().remove(0).get("authorization").unwrap();
        let secret = seen.strip_prefix("Bearer ").unwrap();
        assert!(secret.len() > 20, "{name}: {seen}");
        assert!(
            !answer.text().contains(secret),
            "{name}: the echo is masked"
        );
        let issue = harness.record(|r| r["event"] == "issue").await;
        assert_eq!(issue["provider"], "command");
        assert_eq!(issue["outcome"], "issued");
        let app = harness.take_app();
        let audit = std::sync::Arc::clone(app.audit());
        app.shut_down(std::time::Duration::from_secs(5), "test")
            .await;
        let trail = String::from_utf8(audit.lines().unwrap()).unwrap();
        let revoked = trail
            .lines()
            .any(|line| line.contains("\"revoke\"") && line.contains("\"revoked\""));
        assert!(revoked, "{name}: {trail}");
        assert!(!trail.contains(secret), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_misbehaves_is_a_refusal_and_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let ok = "'{\"secret\":\"0123456789abcdef\"}'";
    let bad = [
        (
            "fails",
            format!("echo {CANARY} >&2; exit 3"),
            "broker-refused",
        ),
        ("rubbish", format!("echo {CANARY}"), "broker-refused"),
        (
            "error",
            format!("echo '{{\"error\":\"{CANARY}\",\"retry-after\":5}}'"),
            "broker-refused",
        ),
        (
            "header",
            "printf '{\"secret\":\"0123456789ab\\\\r\\\\nx: y\"}'".to_owned(),
            "broker-refused",
        ),
        (
            "short-lived",
            "echo '{\"secret\":\"0123456789abcdef\",\"expires-in\":0}'".to_owned(),
            "broker-refused",
        ),
        ("endless", "yes".to_owned(), "broker-refused"),
        (
            "deaf",
            format!("trap '' TERM; sleep 60 & echo {ok}; wait"),
            "broker-timeout",
        ),
        (
            "curious",
            format!("test -z \"$CANARY$TOKEN_A\" && exit 3; echo {ok}"),
            "broker-refused",
        ),
    ];
    for (name, text, word) in bad {
        let path = script(folder.path(), name, &format!("#!/bin/sh\n{text}\n"));
        let run = format!("run = [\"{}\"]", path.display());
        let harness = Setup::new(&routes(&run, "deadline = \"600ms\""))
            .to("api.test:443", &upstream)
            .start()
            .await;
        let answer = harness.agent().get("api.test:443", "/").await;
        assert_eq!(answer.word(), word, "{name}");
        // Beside it stands one of outcome `unknown` where the command was cut off.
        let issue = harness
            .record(|r| r["event"] == "issue" && r["outcome"] == "failed")
            .await;
        assert_eq!(issue["word"], word, "{name}");
        harness.finish().await;
    }
    assert_eq!(upstream.dialled(), 0);
}
