//! The subcommands that answer a person: driven through the built program, with nothing in its environment.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const KEY: &str = "sk-canary-51d27f3a9c-51d27f3a9c";
const TOKEN: &str = "tok/canary@9c51d27f3a";

/// A folder with a configuration in it.
struct Place {
    dir: tempfile::TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn with(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("keyward.toml"), config).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `keyward WORDS… -c FILE` where the secrets can be read; what is said holds neither of them, but the token
    /// where `env` has to print it. The folder's name is taken out.
    fn say(&self, words: &[&str]) -> Said {
        let mut words = words.to_vec();
        let file = self.path("keyward.toml");
        words.extend(["-c", file.to_str().unwrap()]);
        let said = keyward(&words, &[("KEY", KEY), ("TOKEN", TOKEN)]);
        for text in [&said.out, &said.err] {
            assert!(!text.contains("canary-51d2"), "{text}");
            assert!(words[0] == "env" || !text.contains("canary@9c"), "{text}");
        }
        let dir = self.dir.path().to_str().unwrap();
        Said {
            code: said.code,
            out: said.out.replace(dir, "DIR"),
            err: said.err.replace(dir, "DIR"),
        }
    }

    fn json(&self, words: &[&str]) -> Value {
        let said = self.say(words);
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }
}

fn keyward(words: &[&str], environment: &[(&str, &str)]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(words)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

const OFFICE: &str = r#"
[proxy]
listen = ["127.0.0.1:8180"]

[ca]
dir = "ca"

[upstream]
connect-to = { "hooks.example.com:443" = "10.40.0.9:9443" }

[agent.calendar]
token = { env = "TOKEN" }

[agent.research]

[agent.gone]
status = "suspended"

[credential.calendar.static]
value = { env = "KEY" }

[credential.openai.static]
value = { command = ["/bin/cat", "sk-canary-51d27f3a9c-51d27f3a9c"] }

[credential.hook.static]
value = { file = "hook" }

[[route]]
name = "write"
hosts = ["calendar.example.com"]
methods = ["POST"]
agents = ["calendar"]
credential = "calendar"
inject = { header = "x-api-key" }
when = { hours = "08:00-18:00", days = ["mon", "tue"], zone = "Europe/Berlin" }
source = ["10.20.0.0/16"]

[[route]]
name = "read"
hosts = ["calendar.example.com", "10.1.2.3"]
methods = ["GET"]
paths = ["/v1/**"]
credential = "calendar"
inject = [{ header = "authorization", format = "token {}" }, { query = "key" }]

[[route]]
name = "llm"
preset = "openai"
credential = "openai"

[[route]]
name = "hook"
hosts = ["hooks.example.com"]
methods = ["POST"]
credential = "hook"
inject = { placeholder = "HOOK-TOKEN", in = "path" }

[[route]]
name = "docs"
hosts = ["docs.example.com"]
"#;

/// A Monday, 10:00 in Berlin.
const MONDAY: &str = "2026-11-23T09:00:00Z";

fn office(words: &[&str]) -> Said {
    let place = Place::with(OFFICE);
    let mut all = vec!["explain", "--agent", "calendar", "--at", MONDAY];
    all.extend(words);
    place.say(&all)
}

#[test]
fn explain_tells_a_person_what_would_happen_and_why() {
    let cases: [&[&str]; 13] = [
        &["GET", "https://calendar.example.com/v1/events?secret=1"],
        &["POST", "https://calendar.example.com/v1/events"],
        &[
            "POST",
            "https://calendar.example.com/v1/events",
            "--from",
            "10.99.0.1",
        ],
        &[
            "POST",
            "https://calendar.example.com/v1/events",
            "--at",
            "2026-11-25T09:00:00Z",
        ],
        &["DELETE", "https://calendar.example.com/other"],
        &["POST", "https://api.openai.com/v1/chat/completions"],
        &[
            "POST",
            "https://api.openai.com/v1/organization/admin_api_keys",
        ],
        &["POST", "https://hooks.example.com/HOOK-TOKEN"],
        &["GET", "https://docs.example.com"],
        &["GET", "https://elsewhere.example/"],
        &["GET", "http://calendar.example.com/v1/events"],
        &["GET", "https://calendar.example.com/v1/../admin"],
        &["GET", "https://10.1.2.3/v1/events"],
    ];
    let mut all = String::new();
    for words in cases {
        // The last `--at` is the one of the case.
        let words: Vec<&str> = words.to_vec();
        let said = if words.contains(&"--at") {
            let place = Place::with(OFFICE);
            place.say(&[&["explain", "--agent", "calendar"], &words[..]].concat())
        } else {
            office(&words)
        };
        assert_eq!(said.code, 0, "{}", said.err);
        all.push_str(&said.out);
        all.push('\n');
    }
    insta::assert_snapshot!("explain", all);
}

#[test]
fn explain_json_has_the_fixed_members_in_the_fixed_order() {
    let said = office(&["GET", "https://calendar.example.com/v1/events", "--json"]);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    let expected = serde_json::json!({
        "decision": "allow", "word": null, "route": "read", "rule": null, "agent": "calendar",
        "credential": "calendar", "source": "env KEY",
        "inject": ["header authorization: token {}", "query parameter key"],
        "approval": null, "limits": []
    });
    assert_eq!(answer, expected);
    let members: Vec<&String> = answer.as_object().unwrap().keys().collect();
    let fixed: Vec<&String> = expected.as_object().unwrap().keys().collect();
    assert_eq!(members, fixed);
}

#[test]
fn explain_gives_each_refusal_its_word_and_the_guard_that_is_not_met() {
    let place = Place::with(OFFICE);
    let word = |agent: &str, words: &[&str]| {
        let answer = place.json(&[&["explain", "--json", "--agent", agent], words].concat());
        let text = |name: &str| answer[name].as_str().unwrap_or("-").to_owned();
        assert_eq!(answer["inject"], serde_json::json!([]), "{answer}");
        assert!(
            answer["credential"].is_null() && answer["source"].is_null(),
            "{answer}"
        );
        [text("decision"), text("word"), text("route"), text("rule")].join(" ")
    };
    let events = "https://calendar.example.com/v1/events";
    let at = ["--at", MONDAY];
    let from = ["--from", "10.20.3.4"];
    let late = ["--at", "2026-11-23T17:00:00Z"];
    assert_eq!(word("nobody", &["GET", events]), "deny unregistered - -");
    assert_eq!(word("gone", &["GET", events]), "deny suspended - -");
    assert_eq!(word("research", &["POST", events]), "deny no-route - -");
    assert_eq!(
        word("calendar", &[&["POST", events][..], &late, &from].concat()),
        "deny condition write when"
    );
    assert_eq!(
        word(
            "calendar",
            &[&["POST", events][..], &at, &["--from", "10.21.0.1"]].concat()
        ),
        "deny condition write source"
    );
    let mint = "https://api.openai.com/v1/organization/admin_api_keys";
    assert_eq!(word("calendar", &["POST", mint]), "deny denied llm minting");
    assert_eq!(
        word(
            "calendar",
            &["GET", "https://calendar.example.com/v1/a%2Fb"]
        ),
        "deny bad-request read encoded-slash"
    );
    assert_eq!(
        word("calendar", &["GET", "http://calendar.example.com/"]),
        "deny cleartext - -"
    );
    assert_eq!(word("calendar", &["TRACE", events]), "deny method - -");
    assert_eq!(
        word("calendar", &["GET", "https://10.1.2.3/v1/x"]),
        "deny private-address - -"
    );
    assert_eq!(
        word("calendar", &["GET", "https://a.b.example/"]),
        "deny no-route - -"
    );
    assert_eq!(
        word("calendar", &["GET", "https://docs.example.com/"]),
        "allow - docs -"
    );
}

#[test]
fn explain_tunnels_what_no_route_names_and_never_a_host_with_a_credential() {
    let place = Place::with(&OFFICE.replace("[ca]", "unmatched = \"tunnel\"\n\n[ca]"));
    let decide = |agent: &str, url: &str| {
        let answer = place.json(&["explain", "--json", "--agent", agent, "GET", url]);
        format!("{} {}", answer["decision"], answer["word"])
    };
    assert_eq!(
        decide("calendar", "https://elsewhere.example/"),
        "\"tunnel\" null"
    );
    assert_eq!(
        decide("calendar", "http://elsewhere.example/"),
        "\"allow\" null"
    );
    assert_eq!(
        decide("calendar", "https://calendar.example.com:8443/"),
        "\"deny\" \"no-route\""
    );
    assert_eq!(
        decide("calendar", "https://metadata.google.internal/"),
        "\"deny\" \"private-address\""
    );
}

#[test]
fn explain_ends_with_64_for_no_question_and_78_for_no_file() {
    let place = Place::with(OFFICE);
    for words in [
        &["explain", "GET", "calendar.example.com"][..],
        &["explain", "GET", "ftp://calendar.example.com/"],
        &["explain", "GET", "https://user:pw@calendar.example.com/"],
        &["explain", "GET", "https://0x7f.1/"],
        &["explain", "G E T", "https://calendar.example.com/"],
        &["explain", "GET", "https://calendar.example.com/a b"],
        &[
            "explain",
            "--agent",
            "Not/A/Name",
            "GET",
            "https://calendar.example.com/",
        ],
        &["explain", "GET"],
    ] {
        assert_eq!(place.say(words).code, 64, "{words:?}");
    }
    let bad = Place::with("[proxy]\nlisten = 5\n");
    for words in [
        &["explain", "GET", "https://a.example/"][..],
        &["env"],
        &["ca", "path"],
    ] {
        assert_eq!(bad.say(words).code, 78, "{words:?}");
    }
}

#[test]
fn without_agents_in_the_file_the_agent_is_default() {
    let place = Place::with(
        "[proxy]\nidentify = \"open\"\n[credential.c.static]\nvalue = { env = \"KEY\" }\n\
         [[route]]\nhosts = [\"a.example\"]\ncredential = \"c\"\ninject = \"bearer\"\n",
    );
    let answer = place.json(&["explain", "--json", "GET", "https://a.example/"]);
    assert_eq!(answer["agent"], "default");
    assert_eq!(answer["decision"], "allow");
    let answer = place.json(&[
        "explain",
        "--json",
        "--agent",
        "x",
        "GET",
        "https://a.example/",
    ]);
    assert_eq!(answer["word"], "unregistered");
}

#[test]
fn env_points_an_agent_at_the_daemon_in_every_shells_own_way() {
    let place = Place::with(OFFICE);
    let said = place.say(&["env", "--agent", "calendar", "--shell", "bash"]);
    assert_eq!(said.code, 0, "{}", said.err);
    insta::assert_snapshot!("env_bash", said.out);
    assert!(said.err.contains("hold the proxy token of agent calendar"));
    let last = |shell: &str| {
        let said = place.say(&["env", "--agent", "calendar", "--shell", shell]);
        said.out.lines().last().unwrap().to_owned()
    };
    let key = "sk-keyward-0000000000000000000000000000000000000000";
    assert_eq!(last("fish"), format!("set -gx CODEX_API_KEY '{key}'"));
    assert_eq!(last("docker"), format!("CODEX_API_KEY={key}"));
    assert_eq!(last("kubernetes"), format!("  value: \"{key}\""));
    assert_eq!(last("zsh"), format!("export CODEX_API_KEY='{key}'"));
}

#[test]
fn a_shell_reads_back_what_env_prints() {
    let place = Place::with(OFFICE);
    let said = place.say(&["env", "--agent", "calendar"]);
    let script = format!("{}\nprintf %s \"$https_proxy $SSL_CERT_FILE\"", said.out);
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "http://calendar:tok%2Fcanary%409c51d27f3a@127.0.0.1:8180 DIR/ca/ca.pem"
    );
}

const TICKETS: &str = r#"
[preset.tickets]
title = "Our tickets"
hosts = ["tickets.corp.example"]
minting = [{ method = "POST", path = "/api/tokens" }]
[[preset.tickets.key]]
inject = { header = "x-tickets-key" }
env = ["TICKETS_KEY"]
placeholder = "tickets-keyward-00000000"

[preset.openai]
title = "Our gateway"
hosts = ["ai.corp.example"]
[[preset.openai.key]]
inject = "bearer"
env = ["OPENAI_API_KEY"]
placeholder = "sk-keyward-of-our-gateway"
"#;

#[test]
fn presets_of_the_file_are_shown_beside_the_built_in_ones_and_in_their_place() {
    let place = Place::with(TICKETS);
    let own = place.say(&["preset", "show", "tickets"]);
    assert_eq!(own.code, 0, "{}", own.err);
    for text in [
        "tickets (Our tickets)",
        "tickets.corp.example",
        "TICKETS_KEY",
        "minting, refused unless granted: POST /api/tokens",
    ] {
        assert!(own.out.contains(text), "{text}: {}", own.out);
    }
    let replaced = place.json(&["preset", "show", "openai", "--json"]);
    assert_eq!(replaced["hosts"], serde_json::json!(["ai.corp.example"]));
    let built_in = keyward(&["preset", "list"], &[]).out;
    let all = place.say(&["preset", "list"]).out;
    assert!(
        all.contains("\ntickets ") && all.contains("ai.corp.example"),
        "{all}"
    );
    assert_eq!(all.lines().count(), built_in.lines().count() + 1);
    assert!(!built_in.contains("tickets.corp"));
    let near = place.say(&["preset", "show", "tickts"]);
    assert_eq!(near.code, 1);
    assert!(
        near.err.contains("did you mean \"tickets\""),
        "{}",
        near.err
    );
    let bad = Place::with("[preset.x]\nhost = 1\n").say(&["preset", "list"]);
    assert_eq!(bad.code, 78, "{}", bad.err);
}

#[test]
fn env_says_what_it_cannot_know() {
    let open = "[proxy]\nidentify = \"open\"\nlisten = [\"127.0.0.1:0\"]\n[ca]\ndir = \"ca\"\n";
    let said = Place::with(open).say(&["env"]);
    assert_eq!(said.code, 69);
    assert!(said.err.contains("port 0"), "{}", said.err);
    let memory = Place::with("[proxy]\nidentify = \"open\"\n");
    let said = memory.say(&["env"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("/ca.pem"), "{}", said.err);
    let said = memory.say(&["env", "--ca", "/etc/keyward.pem"]);
    assert_eq!(said.code, 0);
    assert!(
        said.out.contains("SSL_CERT_FILE='/etc/keyward.pem'"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("HTTPS_PROXY='http://127.0.0.1:8180'"),
        "{}",
        said.out
    );
    assert_eq!(
        Place::with(OFFICE).say(&["env", "--agent", "nobody"]).code,
        1
    );
    let place = Place::with(OFFICE);
    let file = place.path("keyward.toml");
    let unset = keyward(
        &["env", "--agent", "calendar", "-c", file.to_str().unwrap()],
        &[],
    );
    assert_eq!((unset.code, &*unset.out), (69, ""));
    assert!(unset.err.contains("TOKEN is not set"), "{}", unset.err);
}

#[test]
fn env_writes_a_bundle_of_both_where_it_is_asked_to() {
    let place = Place::with(OFFICE);
    assert_eq!(place.say(&["ca", "issue"]).code, 0);
    let bundle = place.path("bundle.pem");
    let said = place.say(&[
        "env",
        "--agent",
        "research",
        "--bundle",
        bundle.to_str().unwrap(),
    ]);
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        return;
    }
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("SSL_CERT_FILE='DIR/bundle.pem'"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("NODE_EXTRA_CA_CERTS='DIR/ca/ca.pem'"),
        "{}",
        said.out
    );
    let count = |path: &Path| {
        fs::read_to_string(path)
            .unwrap()
            .matches("BEGIN CERT")
            .count()
    };
    let system = count(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    assert_eq!(count(&bundle), system + 1);
}

#[test]
fn ca_path_is_one_line_before_the_first_start_and_without_any_secret() {
    let place = Place::with(OFFICE);
    let file = place.path("keyward.toml");
    let said = keyward(&["ca", "path", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(said.code, 0);
    assert_eq!(said.out, format!("{}\n", place.path("ca/ca.pem").display()));
    assert!(said.err.contains("not there yet"), "{}", said.err);
    assert!(!place.path("ca").exists(), "`path` makes nothing");
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["ca", "path", "-c", "keyward.toml"])
        .current_dir(place.dir.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        said.out,
        "absolute, wherever it is asked"
    );
}

#[test]
fn ca_show_issue_and_rotate_tell_what_is_there() {
    let place = Place::with(OFFICE);
    let said = place.say(&["ca", "show"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no CA in DIR/ca"), "{}", said.err);
    assert_eq!(place.say(&["ca", "rotate"]).code, 1);
    let said = place.say(&["ca", "issue"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("issues for"), "{}", said.out);
    let first = place.json(&["ca", "show", "--json"]);
    let roles = |facts: &Value| -> Vec<String> {
        let facts = facts.as_array().unwrap();
        facts
            .iter()
            .map(|fact| fact["role"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(roles(&first), ["root", "intermediate"]);
    let permitted = first[1]["permitted"].to_string();
    assert!(permitted.contains("calendar.example.com"), "{permitted}");
    place.say(&["ca", "issue"]);
    let second = place.json(&["ca", "show", "--json"]);
    assert_eq!(first[0], second[0], "the root stays");
    assert_ne!(first[1]["serial"], second[1]["serial"]);
    assert_eq!(place.say(&["ca", "rotate"]).code, 0);
    let third = place.json(&["ca", "show", "--json"]);
    assert_eq!(roles(&third), ["root", "previous-root", "intermediate"]);
    assert_eq!(third[1]["fingerprint"], first[0]["fingerprint"]);
    assert_eq!(place.say(&["ca", "rotate", "--drop-old"]).code, 0);
    let fourth = place.json(&["ca", "show", "--json"]);
    assert_eq!(roles(&fourth), ["root", "intermediate"]);
    assert_ne!(fourth[0]["fingerprint"], third[0]["fingerprint"]);
}

#[test]
fn a_ca_in_memory_has_no_file_and_says_so() {
    let place = Place::with("[proxy]\nidentify = \"open\"\n");
    for what in ["path", "show", "issue", "rotate"] {
        let said = place.say(&["ca", what]);
        assert_eq!((said.code, &*said.out), (1, ""), "{what}");
        assert!(said.err.contains("[ca] dir"), "{}", said.err);
    }
}

/// Ids, ports, times and durations are others in each run. Records are sorted: the end of one request and the beginning
/// of the next are two tasks' work.
fn redacted(text: &str) -> String {
    let mut out = String::new();
    let mut records: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Ok(mut record) = serde_json::from_str::<Value>(line) {
            let members = record.as_object_mut().unwrap();
            for (name, value) in members.iter_mut() {
                if matches!(
                    name.as_str(),
                    "time"
                        | "request-id"
                        | "session"
                        | "lease"
                        | "writer"
                        | "seq"
                        | "prev"
                        | "hash"
                        | "digest"
                        | "duration-ms"
                        | "expires"
                        | "version"
                ) {
                    *value = Value::from("…");
                }
            }
            records.push(record.to_string());
        } else {
            let line = line.split("SSL_CERT_FILE=").next().map_or(line, |before| {
                if before.len() < line.len() {
                    "           SSL_CERT_FILE=…"
                } else {
                    line
                }
            });
            let words: Vec<String> = line.split(' ').map(redacted_word).collect();
            out.push_str(&words.join(" "));
            out.push('\n');
        }
    }
    records.sort();
    out + &records.join("\n")
}

fn redacted_word(word: &str) -> String {
    match word.split_once("127.0.0.1:") {
        Some((before, _)) => format!("{before}127.0.0.1:PORT"),
        None => match word.split_once("sk-demo-…") {
            Some((before, _)) => format!("{before}sk-demo-…TAIL"),
            None => word.to_owned(),
        },
    }
}

#[test]
fn demo_shows_the_whole_path_in_a_screenful_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let said = keyward(&["demo"], &[("TMPDIR", temp.path().to_str().unwrap())]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.err, "");
    assert!(said.out.lines().count() <= 60, "{}", said.out);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    insta::assert_snapshot!("demo", redacted(&said.out));
    // The records stand there as written: their chain holds.
    let records: Vec<&str> = said
        .out
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    let trail = temp.path().join("audit.jsonl");
    fs::write(&trail, records.join("\n") + "\n").unwrap();
    let verified = keyward(&["audit", "verify", trail.to_str().unwrap()], &[]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
}

#[test]
fn demo_needs_nothing_of_its_surroundings() {
    let proxied = [
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nowhere"),
        ("RUST_LOG", "trace"),
    ];
    let said = keyward(&["demo"], &proxied);
    assert_eq!(said.code, 0, "{}", said.err);
    // The lines of the log may be there; no key in them: what is shown of it are four characters.
    let key = said.out.split("sk-demo-").nth(1).unwrap();
    assert!(key.starts_with('…'));
    assert!(!said.err.contains("sk-demo-"), "{}", said.err);
}

#[test]
fn every_command_says_what_it_is_for() {
    for words in [
        &["--help"][..],
        &["explain", "--help"],
        &["env", "--help"],
        &["demo", "--help"],
        &["ca", "--help"],
        &["ca", "rotate", "--help"],
    ] {
        let said = keyward(words, &[]);
        assert_eq!(said.code, 0, "{words:?}");
        assert!(said.out.contains("Usage: keyward"), "{}", said.out);
        assert!(!said.out.contains("as-agent"), "{}", said.out);
    }
    insta::assert_snapshot!("help", keyward(&["--help"], &[]).out);
}
