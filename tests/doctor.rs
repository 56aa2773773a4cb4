//! `keyward doctor` with each fault provoked: what it finds, and what it says against it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use tempfile::TempDir;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// 32 bytes in base64.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// An issuer on loopback: the status and the body of each path, 404 for others, and a clock that is off.
fn issuer(pages: &[(&'static str, u16, String)], off: i64) -> u16 {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let pages: HashMap<&str, (u16, String)> = pages
        .iter()
        .map(|(path, status, body)| (*path, (*status, body.replace("PORT", &port.to_string()))))
        .collect();
    std::thread::spawn(move || {
        for stream in door.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            for line in lines {
                if line.unwrap().is_empty() {
                    break;
                }
            }
            let path = first.split(' ').nth(1).unwrap();
            let (status, body) = pages.get(path).cloned().unwrap_or((404, String::new()));
            let now = Timestamp::now().as_second() + off;
            let date = Timestamp::from_second(now).unwrap();
            let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ndate: {date}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .unwrap();
        }
    });
    port
}

/// A port at which nobody listens.
fn nobody() -> u16 {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    door.local_addr().unwrap().port()
}

/// What was found: check, state, message, help.
type Found = Vec<(String, String, String, String)>;

/// `keyward doctor` of this file, after these words of a shell; and its exit code.
fn doctor(folder: &Path, text: &str, before: &str) -> (Found, i32) {
    fs::write(folder.join("keyward.toml"), text).unwrap();
    let program = env!("CARGO_BIN_EXE_keyward");
    let script = format!("{before} exec {program} doctor -c keyward.toml --json");
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", folder)
        .env("SECRET", "a-secret-of-an-issuer")
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| {
        panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
    });
    let text = |one: &serde_json::Value, name: &str| one[name].as_str().unwrap_or("").to_owned();
    let found = found.as_array().unwrap().iter().map(|one| {
        let state = text(one, "state");
        let help = text(one, "help");
        assert!(state == "ok" || !help.is_empty(), "no help: {one}");
        (text(one, "check"), state, text(one, "message"), help)
    });
    assert!(!said.contains("a-secret-of-an-issuer"), "{said}");
    (found.collect(), output.status.code().unwrap())
}

/// The one finding of this check whose message holds this.
fn the<'f>(found: &'f Found, check: &str, holds: &str) -> (&'f str, &'f str) {
    let mut fitting = (found.iter()).filter(|(c, _, m, _)| c == check && m.contains(holds));
    let one = fitting
        .next()
        .unwrap_or_else(|| panic!("{check} {holds}: {found:#?}"));
    (&one.1, &one.3)
}

fn home() -> TempDir {
    let home = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(home.path().join("secret"), "x-0123456789abcdef").unwrap();
    fs::set_permissions(
        home.path().join("secret"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    home
}

fn client(name: &str, place: &str) -> String {
    format!(
        "[credential.{name}.oauth-client-credentials]\n{place}\nclient-id = \"x\"\nclient-secret = {{ env = \"SECRET\" }}\n"
    )
}

fn vault(name: &str, url: &str) -> String {
    format!(
        "[credential.{name}.vault]\nurl = \"{url}\"\nlogin = {{ token = {{ file = \"secret\" }} }}\n\
         kv = {{ mount = \"secret\", path = \"x\", field = \"y\" }}\n"
    )
}

fn trust(name: &str, kind: &str, table: &str) -> String {
    format!("[trust.{name}]\nagent = {{ id = \"a\" }}\n[trust.{name}.{kind}]\n{table}\n")
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one row for each kind of issuer and of fault"
)]
fn every_issuer_of_the_file_is_asked_and_each_fault_told_with_what_mends_it() {
    let home = home();
    let metadata = |issuer: &str, member: &str| {
        format!(
            "{{\"issuer\":\"http://127.0.0.1:PORT{issuer}\",\"{member}\":\"http://127.0.0.1:PORT/x\"}}"
        )
    };
    let port = issuer(
        &[
            (
                "/.well-known/oauth-authorization-server/good",
                200,
                metadata("/good", "token_endpoint"),
            ),
            (
                "/oidc/.well-known/openid-configuration",
                200,
                metadata("/oidc", "token_endpoint"),
            ),
            (
                "/.well-known/oauth-authorization-server/other",
                200,
                metadata("/good", "token_endpoint"),
            ),
            (
                "/id/.well-known/openid-configuration",
                200,
                metadata("/id", "jwks_uri"),
            ),
            (
                "/slash/.well-known/openid-configuration",
                200,
                metadata("/slash/", "jwks_uri"),
            ),
            ("/keys", 200, "{\"keys\":[{\"kty\":\"EC\"}]}".to_owned()),
            ("/nokeys", 200, "{\"keys\":[]}".to_owned()),
            ("/page", 200, "<html>".to_owned()),
            ("/token", 405, String::new()),
            ("/down", 502, String::new()),
            ("/open/v1/sys/health", 200, "{}".to_owned()),
            ("/sealed/v1/sys/health", 503, "{}".to_owned()),
            ("/new/v1/sys/health", 501, "{}".to_owned()),
        ],
        0,
    );
    let (base, gone) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", nobody()),
    );
    let socket = home.path().join("agent.sock");
    let _listens = UnixListener::bind(&socket).unwrap();
    let jwt = |keys: &str| format!("audience = [\"keyward\"]\nalgorithms = [\"ES256\"]\n{keys}");
    let spiffe = |bundle: &str| format!("trust-domain = \"a.example\"\nbundle = {bundle}");
    let mut text = "[agent.a]\n".to_owned();
    for part in [
        client("good", &format!("issuer = \"{base}/good\"")),
        client("oidc", &format!("issuer = \"{base}/oidc\"")),
        client("other", &format!("issuer = \"{base}/other\"")),
        client("none", &format!("issuer = \"{base}/none\"")),
        client("url", &format!("token-url = \"{base}/token\"")),
        client("down", &format!("token-url = \"{base}/down\"")),
        client("gone", &format!("token-url = \"{gone}/token\"")),
        vault("open", &format!("{base}/open")),
        vault("sealed", &format!("{base}/sealed")),
        vault("new", &format!("{base}/new")),
        vault("page", &format!("{base}/page")),
        format!(
            "[credential.hub.github-app]\napp-id = \"1\"\ninstallation-id = 2\nprivate-key = {{ file = \"secret\" }}\napi-url = \"{gone}\"\n"
        ),
        format!(
            "[credential.entra.azure]\ntenant = \"a.example\"\nclient-id = \"x\"\nlogin = {{ client-secret = {{ env = \"SECRET\" }} }}\nscopes = [\"https://graph.microsoft.com/.default\"]\nauthority = \"{base}\"\n"
        ),
        format!(
            "[credential.role.aws]\nregion = \"eu-central-1\"\nrole-arn = \"arn:aws:iam::123456789012:role/x\"\nsts-url = \"{gone}\"\n"
        ),
        "[credential.own.command]\nrun = [\"/nowhere/broker\"]\n".to_owned(),
        trust("id", "jwt", &jwt(&format!("issuer = \"{base}/id\""))),
        trust("slash", "jwt", &jwt(&format!("issuer = \"{base}/slash\""))),
        trust(
            "keys",
            "jwt",
            &jwt(&format!("issuer = \"{base}\"\njwks-url = \"{base}/keys\"")),
        ),
        trust(
            "nokeys",
            "jwt",
            &jwt(&format!(
                "issuer = \"{base}\"\njwks-url = \"{base}/nokeys\""
            )),
        ),
        trust(
            "page",
            "jwt",
            &jwt(&format!("issuer = \"{base}\"\njwks-url = \"{base}/page\"")),
        ),
        trust(
            "mesh",
            "spiffe",
            &spiffe(&format!(
                "{{ workload-api = \"unix://{}\" }}",
                socket.display()
            )),
        ),
        trust(
            "dead",
            "spiffe",
            &spiffe("{ workload-api = \"unix:///nowhere/agent.sock\" }"),
        ),
        trust(
            "web",
            "spiffe",
            &spiffe(&format!("{{ endpoint = \"{base}/keys\" }}")),
        ),
        format!("[login.corp.oidc]\nissuer = \"{base}/slash\"\nclient-id = \"x\"\n"),
    ] {
        text.push_str(&part);
    }
    let (found, code) = doctor(home.path(), &text, "");
    assert_eq!(code, 1, "{found:#?}");
    for (whose, holds, state, help) in [
        ("[credential.good]", "with token_endpoint", "ok", ""),
        ("[credential.oidc]", "with token_endpoint", "ok", ""),
        (
            "[credential.other]",
            "is the metadata of",
            "fail",
            "as it stands there",
        ),
        (
            "[credential.none]",
            "no metadata (status 404)",
            "fail",
            "token-url",
        ),
        ("[credential.url]", "answers", "ok", ""),
        ("[credential.down]", "answers 502", "fail", "try again"),
        ("[credential.gone]", "cannot be reached", "fail", "firewall"),
        ("[credential.open]", "is unsealed", "ok", ""),
        (
            "[credential.sealed]",
            "is sealed",
            "fail",
            "operator unseal",
        ),
        (
            "[credential.new]",
            "not initialized",
            "fail",
            "operator init",
        ),
        (
            "[credential.page]",
            "which no Vault does",
            "fail",
            "without /v1",
        ),
        ("[credential.hub]", "cannot be reached", "fail", "firewall"),
        ("[credential.entra]", "answers", "ok", ""),
        ("[credential.role]", "cannot be reached", "fail", "firewall"),
        (
            "[credential.own]",
            "no program that can be run",
            "fail",
            "whole path",
        ),
        ("[trust.id]", "with jwks_uri", "ok", ""),
        ("[trust.slash]", "is the metadata of", "fail", "slash"),
        ("[trust.keys]", "has 1 keys", "ok", ""),
        ("[trust.nokeys]", "without keys", "fail", "nobody"),
        ("[trust.page]", "no JWK set", "fail", "of the keys"),
        ("[trust.mesh]", "somebody listens", "ok", ""),
        (
            "[trust.dead]",
            "nobody can be reached",
            "fail",
            "SPIFFE agent",
        ),
        ("[trust.web]", "has 1 keys", "ok", ""),
        ("[login.corp]", "is the metadata of", "fail", "slash"),
    ] {
        let (was, said) = the(&found, "issuer", &format!("{whose}: "));
        assert_eq!(was, state, "{whose}: {found:#?}");
        assert!(said.contains(help), "{whose}: {said}");
        the(&found, "issuer", holds);
    }
    assert_eq!(the(&found, "clock", "within 30 s").0, "ok");
}

#[test]
fn a_clock_that_is_behind_its_issuers_is_told() {
    let home = home();
    let port = issuer(&[("/token", 405, String::new())], 7200);
    let text = client(
        "c",
        &format!("token-url = \"http://127.0.0.1:{port}/token\""),
    );
    let (found, code) = doctor(home.path(), &text, "");
    let (state, help) = the(&found, "clock", "s behind the services' own");
    assert_eq!((state, code), ("fail", 1));
    assert!(help.contains("NTP"), "{help}");
}

#[test]
fn a_limit_that_max_connections_can_reach_is_told() {
    let home = home();
    let text = "[proxy]\nmax-connections = 400\n";
    let (found, _) = doctor(home.path(), text, "ulimit -n 512; ");
    let (state, help) = the(
        &found,
        "limits",
        "512 files at most, and max-connections can take 864",
    );
    assert_eq!(state, "warn");
    assert!(help.contains("LimitNOFILE=864"), "{help}");
    let (found, _) = doctor(home.path(), text, "ulimit -n 1024; ");
    assert_eq!(the(&found, "limits", "1024 files").0, "ok");
}

#[test]
fn a_store_is_tried_and_nothing_is_made_by_looking() {
    let home = home();
    fs::write(home.path().join("key"), KEY).unwrap();
    fs::set_permissions(home.path().join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let store = |place: &str| format!("[store]\n{place}\nkey = {{ file = \"key\" }}\n");
    let (found, code) = doctor(home.path(), &store("sqlite = \"keyward.db\""), "");
    assert_eq!(the(&found, "store", "can be reached").0, "ok");
    assert_eq!(code, 0, "{found:#?}");
    assert!(!home.path().join("keyward.db").exists());
    fs::write(home.path().join("keyward.db"), "").unwrap();
    fs::set_permissions(
        home.path().join("keyward.db"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let (found, code) = doctor(home.path(), &store("sqlite = \"keyward.db\""), "");
    let (state, help) = the(&found, "modes", "keyward.db has mode 0644");
    assert_eq!((state, code), ("fail", 1));
    assert!(help.contains("chmod 0600"), "{help}");
    let (found, _) = doctor(home.path(), &store("sqlite = \"/nowhere/keyward.db\""), "");
    let (state, help) = the(&found, "store", "cannot be used");
    assert_eq!(state, "fail");
    assert!(help.contains("make its folder"), "{help}");
    fs::write(
        home.path().join("url"),
        format!("postgres://a:hidden-word@127.0.0.1:{}/x", nobody()),
    )
    .unwrap();
    fs::set_permissions(home.path().join("url"), fs::Permissions::from_mode(0o600)).unwrap();
    let (found, code) = doctor(home.path(), &store("postgres = { file = \"url\" }"), "");
    let (state, help) = the(&found, "store", "the database cannot be used");
    assert_eq!((state, code), ("fail", 1));
    assert!(help.contains("host, port, user"), "{help}");
    assert!(!format!("{found:?}").contains("hidden-word"));
}

#[test]
fn a_secret_file_that_others_can_read_is_told() {
    let home = home();
    fs::set_permissions(
        home.path().join("secret"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let text = "[credential.k.static]\nvalue = { file = \"secret\" }\n";
    let (found, _) = doctor(home.path(), text, "");
    let (state, help) = the(
        &found,
        "file",
        "others can use this secret file (mode 0644)",
    );
    assert_eq!(state, "warn");
    assert!(help.contains("chmod 600"), "{help}");
}

#[test]
fn a_java_that_does_not_trust_the_root_is_told() {
    if !Path::new("/usr/bin/keytool").exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "tests/peers/install.sh was not run"
        );
        eprintln!("SKIPPED: keytool is not installed (tests/peers/install.sh)");
        return;
    }
    let home = home();
    let text = "[ca]\ndir = \"ca\"\n[[route]]\nhosts = [\"api.test\"]\n[upstream]\nconnect-to = { \"api.test:443\" = \"127.0.0.1:1\" }\n";
    fs::write(home.path().join("keyward.toml"), text).unwrap();
    let issued = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["ca", "issue", "-c", "keyward.toml"])
        .current_dir(home.path())
        .status();
    assert!(issued.unwrap().success());
    let (found, _) = doctor(home.path(), text, "");
    let (state, help) = the(&found, "trust", "Java does not trust the CA");
    assert_eq!(state, "warn");
    assert!(help.contains("keytool -importcert"), "{help}");
    let import = "keytool -importcert -noprompt -alias k -file ca/ca.pem -keystore t.p12 -storetype PKCS12 -storepass changeit 2>/dev/null; \
                  export HTTPS_PROXY=http://a:b@127.0.0.1:8180 \
                  JAVA_TOOL_OPTIONS='-Djavax.net.ssl.trustStore=t.p12 -Djavax.net.ssl.trustStorePassword=changeit';";
    let (found, _) = doctor(home.path(), text, import);
    assert_eq!(the(&found, "trust", "Java trusts the CA").0, "ok");
}
