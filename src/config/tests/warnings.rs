//! What holds, and is still told.

use std::os::unix::fs::PermissionsExt;

use super::{TestPresets, read};
use crate::config::load;

fn warnings(text: &str) -> Vec<String> {
    let loaded = read(text).unwrap_or_else(|report| panic!("{report}"));
    loaded
        .warnings
        .notes()
        .iter()
        .map(|note| format!("{}: {}", note.line, note.message))
        .collect()
}

/// Two routes, one below the other; whether the second is told to be dead.
fn is_shadowed(first: &str, second: &str) -> bool {
    let text = format!(
        "[agent.a]\ntoken = {{ env = \"A\" }}\n[agent.b]\ntoken = {{ env = \"B\" }}\n[[route]]\n{first}\n[[route]]\n{second}\n"
    );
    warnings(&text)
        .iter()
        .any(|w| w.ends_with("the route \"route-2\" can never match"))
}

#[test]
fn a_route_below_a_wider_one_is_told() {
    for (first, second) in [
        ("hosts = ['a.x.example']", "hosts = ['a.x.example']"),
        ("hosts = ['*.x.example']", "hosts = ['a.x.example']"),
        (
            "hosts = ['*.x.example', 'b.example']",
            "hosts = ['b.example', 'a.x.example']",
        ),
        (
            "hosts = ['b.example']",
            "hosts = ['b.example']\nmethods = ['GET']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/v1/**']",
            "hosts = ['b.example']\npaths = ['/v1/a', '/v1/*/b']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/v1/*']",
            "hosts = ['b.example']\npaths = ['/v1/a']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/**']",
            "hosts = ['b.example']",
        ),
        (
            "hosts = ['b.example']",
            "hosts = ['b.example']\nagents = ['a']",
        ),
        (
            "hosts = ['b.example']\nagents = ['a', 'b']",
            "hosts = ['b.example']\nagents = ['a']",
        ),
        (
            "hosts = ['b.example']\nwhen = { days = ['mon'] }",
            "hosts = ['b.example']",
        ),
    ] {
        assert!(is_shadowed(first, second), "{first} / {second}");
    }
}

#[test]
fn a_route_that_still_matches_something_is_not() {
    for (first, second) in [
        ("hosts = ['a.x.example']", "hosts = ['*.x.example']"),
        ("hosts = ['*.x.example']", "hosts = ['a.b.x.example']"),
        ("hosts = ['*.x.example']", "hosts = ['a.x.example:8443']"),
        (
            "hosts = ['a.example']",
            "hosts = ['a.example', 'b.example']",
        ),
        (
            "hosts = ['b.example']\nmethods = ['GET']",
            "hosts = ['b.example']",
        ),
        (
            "hosts = ['b.example']",
            "hosts = ['b.example']\nmethods = ['PROPFIND']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/v1/**']",
            "hosts = ['b.example']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/v1/**']",
            "hosts = ['b.example']\npaths = ['/v10/a']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/v1/*']",
            "hosts = ['b.example']\npaths = ['/v1/**']",
        ),
        (
            "hosts = ['b.example']\npaths = ['/*/**']",
            "hosts = ['b.example']\npaths = ['/**']",
        ),
        (
            "hosts = ['b.example']\nagents = ['a']",
            "hosts = ['b.example']",
        ),
        (
            "hosts = ['b.example']\nagents = ['a']",
            "hosts = ['b.example']\nagents = ['a', 'b']",
        ),
    ] {
        assert!(!is_shadowed(first, second), "{first} / {second}");
    }
}

#[test]
fn what_nobody_uses_and_whom_nobody_can_be_is_told() {
    assert_eq!(
        warnings(
            "[proxy]\n[agent.a]\n[agent.off]\nstatus = \"suspended\"\n[credential.x.static]\nvalue = { env = \"X\" }\n[admin]\n"
        ),
        [
            "2: nobody can authenticate as \"a\": it has no token",
            "5: no route uses the credential \"x\"",
            "7: [admin] listens nowhere",
        ]
    );
    assert_eq!(
        warnings("[proxy]\n"),
        ["1: nobody can authenticate here: the file has no [agent.ID]"]
    );
    assert!(warnings("[proxy]\nidentify = \"open\"\n[agent.a]\n").is_empty());
    assert!(warnings("[agent.a]\ntoken = { env = \"A\" }\n").is_empty());
}

#[test]
fn a_wildcard_over_strangers_is_told_without_a_credential_too() {
    assert_eq!(
        warnings("[[route]]\nhosts = [\"*.github.io\"]\n"),
        ["2: anybody can own a name under \"github.io\" (the public suffix list)"]
    );
    assert!(warnings("[[route]]\nhosts = [\"*.corp\", \"*.example.github.io\"]\n").is_empty());
}

#[test]
fn what_this_machine_lacks_or_shows_to_others_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, mode) in [("wide", 0o644), ("tight", 0o600)] {
        std::fs::write(at(name), "secret").unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let text = r#"[credential.a.static]
value = { file = "wide" }
[credential.b.static]
value = { file = "tight" }
[credential.c.static]
value = { file = "none" }
[credential.d.static]
value = { env = "KEYWARD_TEST_THAT_NOBODY_SETS" }
[credential.e.static]
value = { command = ["./none"] }
[credential.f.static]
value = { file = "." }
[upstream]
trust = ["none.pem"]
"#;
    let path = at("keyward.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let loaded = load(&path, &TestPresets).unwrap();
    let told: Vec<String> = loaded
        .warnings
        .notes()
        .iter()
        .filter(|note| !note.message.starts_with("no route uses"))
        .map(|note| format!("{}:{}: {}", note.line, note.column, note.message))
        .collect();
    assert_eq!(
        told,
        [
            "1:1: everybody can write this file (mode 0666)",
            "2:18: others can use this secret file (mode 0644)",
            "6:18: this file cannot be read here: it does not exist",
            "8:17: the environment variable KEYWARD_TEST_THAT_NOBODY_SETS is not set here",
            "10:21: this file cannot be read here: it does not exist",
            "12:18: this is a folder, not a file",
            "14:10: this file cannot be read here: it does not exist",
        ]
    );
}
