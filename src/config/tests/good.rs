//! What a file that holds becomes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{files, read, root};
use crate::audit::{Durability, Sink};
use crate::config::{Config, Note, load, parse};
use crate::credential::{Kind, OnFailure, Share, Source};
use crate::inject::{Placement, Slot};
use crate::proxy::{Identify, Limits, ListenAddr, Unmatched, UpstreamSettings};

fn config(text: &str) -> Config {
    match read(text) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn every_shipped_file_and_every_block_of_the_docs_loads() {
    let shipped = files("config", "toml");
    assert!(shipped.len() >= 3);
    for path in shipped {
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = read(&text).unwrap_or_else(|report| panic!("{}:\n{report}", path.display()));
        assert!(
            loaded.warnings.is_empty(),
            "{}:\n{}",
            path.display(),
            loaded.warnings
        );
    }
    let mut pages = files("docs", "md");
    pages.push(root().join("README.md"));
    let mut blocks = 0;
    for page in pages {
        let Ok(text) = std::fs::read_to_string(&page) else {
            continue;
        };
        for block in toml_blocks(&text) {
            blocks += 1;
            let presets = &**crate::preset::Presets::shipped();
            parse(&block, "block.toml", Path::new("/etc/keyward"), presets)
                .unwrap_or_else(|report| panic!("{}:\n{block}\n{report}", page.display()));
        }
    }
    assert!(blocks > 3, "{blocks}");
}

/// The fenced blocks whose language is `toml`.
fn toml_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match &mut open {
            None if line.trim() == "```toml" => open = Some(String::new()),
            None => {}
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

#[test]
fn an_empty_file_is_safe() {
    let config = config("");
    let listener = &config.listeners[0];
    assert_eq!(
        listener.listen,
        [ListenAddr::Tcp("127.0.0.1:8180".parse().unwrap())]
    );
    assert_eq!(listener.unmatched, Unmatched::Refuse);
    assert_eq!(listener.identify, Identify::Required);
    assert!(config.admin.listen.is_none() && config.admin.socket.is_none());
    assert_eq!(config.audit, None);
    assert_eq!(config.drain, Duration::from_secs(30));
}

#[test]
fn the_defaults_of_the_docs_are_the_defaults_of_the_rooms() {
    let config = config("[proxy]\n[upstream]\n[audit]\n");
    assert_eq!(config.listeners[0].limits, Limits::default());
    assert_eq!(config.upstream, UpstreamSettings::default());
    let audit = config.audit.unwrap();
    assert_eq!(
        (audit.sink, audit.durability),
        (Sink::Stdout, Durability::Os)
    );
}

/// One of everything.
const FULL: &str = r#"
drain = "5s"
[proxy]
listen = ["unix:run/proxy.sock", "systemd", "systemd:web", "[::1]:0"]
unmatched = "tunnel"
max-connections = 0x10
header-timeout = "500ms"
[listener.open]
listen = ["127.0.0.1:8280"]
identify = "open"
[admin]
listen = "127.0.0.1:8181"
public-url = "https://keyward.example.com/"
tokens = { bob = { file = "bob" }, alice = { env = "ALICE" } }
[ca]
dir = "ca"
[audit]
file = "/var/log/keyward/audit.jsonl"
durability = "disk"
[upstream]
trust = ["corp.pem"]
allow-private = ["10.20.0.0/16", "127.0.0.1"]
connect-to = { "api.openai.com:443" = "127.0.0.1:9443" }
via = "http://proxy.corp.example:3128"
[agent.calendar]
token = { command = ["./token", "calendar"], deadline = "2s" }
created = "2026-11-01"
last-audit = 2026-11-20
permissions = ["route:read"]
[credential.crm]
share = "all"
on-failure = "stale"
max-life = "15m"
[credential.crm.static]
value = { keyring = "crm/api/bot" }
[[route]]
name = "read"
hosts = ["api.crm.example.com", "*.crm.example.net:8443"]
methods = ["GET"]
agents = ["calendar"]
credential = "crm"
inject = ["bearer", { header = "x-key", format = "k {}" }]
when = { hours = "22:00-24:00", days = ["fri"], zone = "Europe/Berlin" }
source = ["10.0.0.0/8"]
[[route]]
hosts = ["api.crm.example.com"]
credential = "crm"
inject = { placeholder = "KEYWARD-PLACEHOLDER", in = { json = "auth.token" } }
websocket = false
[[route]]
hosts = ["other.example.com"]
credential = "crm"
inject = ["bearer", { header = "x-key", format = "k {}" }]
"#;

#[test]
fn listeners_and_upstream_arrive_as_written() {
    let config = config(FULL);
    let base = Path::new("/etc/keyward");
    let [proxy, open] = &*config.listeners else {
        panic!("two listeners");
    };
    assert_eq!(
        proxy.listen[0],
        ListenAddr::Unix(base.join("run/proxy.sock"))
    );
    assert_eq!(
        proxy.listen[1..3],
        [
            ListenAddr::Systemd(None),
            ListenAddr::Systemd(Some("web".into()))
        ]
    );
    assert_eq!(
        (proxy.unmatched, open.identify),
        (Unmatched::Tunnel, Identify::Open)
    );
    assert_eq!(proxy.limits.max_connections, 16);
    assert_eq!(proxy.limits.header_timeout, Duration::from_millis(500));
    assert_eq!(
        config.admin.public_url.as_deref(),
        Some("https://keyward.example.com")
    );
    assert_eq!(config.admin.tokens[0].0.as_str(), "bob", "the file's order");
    assert_eq!(config.ca.dir, Some(base.join("ca")));
    assert_eq!(config.upstream.trust.pem, [base.join("corp.pem")]);
    assert!(!config.upstream.trust.system);
    assert_eq!(
        config.upstream.via.as_ref().unwrap().to_string(),
        "proxy.corp.example:3128"
    );
    assert_eq!(config.upstream.connect_to.len(), 1);
}

#[test]
fn agents_credentials_and_routes_arrive_as_written() {
    let config = config(FULL);
    let (agent, token) = &config.agents[0];
    assert_eq!(agent.last_audit.unwrap().to_string(), "2026-11-20");
    let Some(Source::Command {
        argv,
        deadline,
        ttl,
        ..
    }) = token
    else {
        panic!("a command");
    };
    assert_eq!(
        (&*argv[0], *deadline, *ttl),
        (
            "/etc/keyward/./token",
            Duration::from_secs(2),
            Duration::from_mins(5)
        )
    );
    let crm = &config.credentials[0];
    assert_eq!((crm.share, crm.on_failure), (Share::All, OnFailure::Stale));
    let Kind::Static { value } = &crm.kind else {
        panic!("{:?}", crm.kind)
    };
    let (service, user) = ("crm/api".to_owned(), "bot".to_owned());
    assert_eq!(*value, Source::Keyring { service, user });
    assert_eq!(crm.slots.len(), 2, "equal lists share a slot");
    let slots: Vec<usize> = config.routes.iter().map(|route| route.slot).collect();
    assert_eq!(slots, [0, 1, 0]);
    assert_eq!(
        config.routes[1].placements,
        [Placement::Substitute {
            placeholder: "KEYWARD-PLACEHOLDER".into(),
            slot: Slot::Json("auth.token".into())
        }]
    );
    assert_eq!(&*config.routes[1].name, "route-2");
    assert!(!config.routes[1].websocket && config.routes[0].websocket);
    assert!(!config.conditions[0].is_empty() && config.conditions[1].is_empty());
    assert_eq!(config.env_names(), ["ALICE"]);
    assert_eq!(config.drain, Duration::from_secs(5));
}

#[test]
fn a_preset_gives_hosts_and_placement_and_yields_to_what_is_written() {
    let config = config(
        r#"
[credential.openai.static]
value = { env = "OPENAI_API_KEY" }
[[route]]
preset = "openai"
credential = "openai"
[[route]]
preset = "openai"
credential = "openai"
hosts = ["llm.corp.example"]
inject = { header = "api-key" }
encoded-slash = false
"#,
    );
    assert_eq!(config.routes[0].hosts, ["api.openai.com".parse().unwrap()]);
    assert_eq!(config.routes[0].placements, [Placement::Bearer]);
    assert_eq!(config.routes[0].paths, ["/v1/**".parse().unwrap()]);
    assert!(config.routes[0].encoded_slash && !config.routes[1].encoded_slash);
    assert_eq!(
        config.routes[1].hosts,
        ["llm.corp.example".parse().unwrap()]
    );
    assert_eq!(config.credentials[0].slots.len(), 2);
}

#[test]
fn the_environment_is_named_once_for_each_variable() {
    let config = config(
        r#"
[agent.a]
token = { env = "B" }
[credential.x.static]
value = { env = "A" }
[credential.y.static]
value = { env = "B" }
"#,
    );
    assert_eq!(config.env_names(), ["A", "B"]);
}

#[test]
fn a_file_is_read_from_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("keyward.toml");
    std::fs::write(&path, "[ca]\ndir = \"ca\"\n").unwrap();
    let loaded = load(&path, &super::TestPresets).unwrap();
    assert_eq!(loaded.config.ca.dir, Some(folder.path().join("ca")));
}

/// The shipped services, as a route names them; those that lack a host, a user or the choice of a secret say so.
#[test]
fn every_shipped_preset_makes_a_route_or_says_what_it_lacks() {
    let shipped = crate::preset::Presets::shipped();
    let lacks = [
        "names no hosts",
        "where its credential goes",
        "needs a user name",
    ];
    let mut whole = 0;
    for preset in shipped.iter() {
        let text = format!(
            "[credential.x.static]\nvalue = {{ env = \"X\" }}\n[[route]]\npreset = \"{}\"\ncredential = \"x\"\n",
            preset.name
        );
        match parse(&text, "test.toml", Path::new("."), &**shipped) {
            Ok(loaded) => {
                whole += 1;
                assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
                assert_eq!(loaded.config.routes[0].paths, preset.paths);
                assert!(!loaded.config.routes[0].hosts.is_empty());
            }
            Err(report) => {
                let known = |note: &Note| lacks.iter().any(|part| note.message.contains(part));
                assert!(
                    report.notes().iter().all(known),
                    "{}:\n{report}",
                    preset.name
                );
            }
        }
    }
    assert!(whole > 40, "{whole}");
}

#[test]
fn the_same_file_resolves_to_the_same_text() {
    let entries: Vec<String> = (0..8)
        .map(|n| format!("\"host-{n}.test:443\" = \"127.0.0.1:{}\"", 9000 + n))
        .collect();
    let text = format!("[upstream]\nconnect-to = {{ {} }}\n", entries.join(", "));
    let debug = |text: &str| format!("{:?}", config(text).upstream);
    assert_eq!(debug(&text), debug(&text));
}
