//! `keyward relay` beside real clients, before a real gateway: all three are programs of their own.

mod aws;
mod desk;
mod person;
mod states;
mod world;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::TOKEN_A;
use super::svid::{Domain, Svid};
use super::trust::issuer::Issuer;
use super::trust::mint::Pair;
use super::upstream::CA;
use world::{Running, Workload, World, curl};

const RELAY: &str = "spiffe://prod.example/relay/one";

/// The gateway believes SVIDs of prod.example: each is agent a.
const MESH: &str = "[trust.mesh]\nagent = { id = \"a\" }\n\
    spiffe = { trust-domain = \"prod.example\", bundle = { file = \"prod.pem\" }, audience = [\"keyward\"] }\n";

fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// A copy of curl at this path: another executable to the kernel, with the same content.
fn copy(world: &World, name: &str) -> PathBuf {
    let to = world.path(name);
    std::fs::copy(curl(), &to).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&to, mode).unwrap();
    to.canonicalize().unwrap()
}

/// Python's requests, `count` times with this proxy URL and nothing else, each on a connection of its own; the statuses.
async fn requests(world: &World, proxy: &str, (count, pause): (u32, f64)) -> Vec<String> {
    let script = format!(
        "import requests, time\n\
         proxies = {{'https': '{proxy}'}}\n\
         for _ in range({count}):\n\
         \x20   try:\n\
         \x20       print(requests.get('https://api.test/', proxies=proxies, verify='roots.pem', timeout=20).status_code, flush=True)\n\
         \x20   except Exception as error:\n\
         \x20       print(repr(error), flush=True)\n\
         \x20   time.sleep({pause})\n"
    );
    let mut command = tokio::process::Command::new("python3");
    command
        .args(["-c", &script])
        .current_dir(world.folder.path());
    let output = command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = output.stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        !text.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines().map(str::to_owned).collect()
}

/// Asks the relay for something in origin form.
async fn get(relay: &Running, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(&relay.address)
        .await
        .unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        relay.address
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The gateway's CA by way of the relay, as a client's set-up takes it.
async fn take_roots(world: &World, relay: &Running) {
    let text = get(relay, "/ca.pem").await;
    let (head, pem) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    world.write("roots.pem", pem);
}

fn has(record: &Value, event: &str, agent: &str) -> bool {
    record["event"] == event && record["agent"] == agent
}

/// The proxy URL stays; the X.509-SVID is another several times in the middle of the traffic, and no request fails.
#[tokio::test]
async fn a_client_keeps_its_proxy_url_while_certificates_rotate() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    let workload = Workload::start(&domain, RELAY, &domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let relay = world.start_relay(&[], &[("SPIFFE_ENDPOINT_SOCKET", &workload.socket)]);
    relay.says("the gateway is there").await;
    take_roots(&world, &relay).await;
    assert!(get(&relay, "/healthz").await.starts_with("HTTP/1.1 200"));

    let proxy = relay.proxy();
    let asking = requests(&world, &proxy, (60, 0.05));
    let rotating = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            workload.rotate(&domain, RELAY, &domain.svid(&[RELAY]));
        }
    };
    let statuses = tokio::select! {
        statuses = asking => statuses,
        () = rotating => unreachable!(),
    };
    assert_eq!(statuses, vec!["200"; 60]);
    let mut bound: Vec<Value> = (world.audit(|r| has(r, "session-start", "a")).iter())
        .map(|record| record["bound"].clone())
        .collect();
    bound.sort_by_key(ToString::to_string);
    bound.dedup();
    assert!(bound.len() >= 3, "the certificates were in use: {bound:?}");
    // What a process sends to prove itself is taken out.
    let user = proxy.replace("http://", &format!("http://x:{TOKEN_A}-not@"));
    assert_eq!(world.curl(&curl(), &user, &[]).await, "200 200");
}

/// Token and certificate lie in files, and are both others in the middle of the traffic. The tokens live for seconds.
#[tokio::test]
async fn a_client_keeps_its_proxy_url_while_tokens_and_files_rotate() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let lines = format!(
        "[trust.ci]\nagent = {{ id = \"a\" }}\n[trust.ci.jwt]\nissuer = \"{0}\"\njwks-url = \"{0}/jwks\"\naudience = [\"keyward\"]\nalgorithms = [\"ES256\"]\n",
        issuer.url
    );
    let world = World::new(&lines).await;
    let token = || {
        let now = unix_now();
        let claims = json!({"iss": issuer.url, "sub": "pod", "aud": "keyward", "iat": now, "exp": now + 15, "jti": rand()});
        pair.token(&json!({"alg": "ES256", "kid": "k1", "typ": "JWT"}), &claims)
    };
    let domain = Domain::new("prod.example");
    world.write_svid(&domain.svid(&[RELAY]));
    world.write("token", &token());
    let _gateway = world.start_gateway();
    let words = [
        "--token-file",
        "token",
        "--cert",
        "svid.pem",
        "--key",
        "svid.key",
    ];
    let relay = world.start_relay(&words, &[]);
    relay.says("the gateway is there").await;
    take_roots(&world, &relay).await;

    let proxy = relay.proxy();
    let asking = requests(&world, &proxy, (80, 0.1));
    let rotating = async {
        for turn in 0.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.write("token", &token());
            if turn % 3 == 1 {
                world.write_svid(&domain.svid(&[RELAY]));
            }
        }
    };
    let statuses = tokio::select! {
        statuses = asking => statuses,
        () = rotating => unreachable!(),
    };
    assert_eq!(statuses, vec!["200"; 80]);
    let sessions = world.audit(|r| has(r, "session-start", "a"));
    assert!(sessions.len() >= 3, "{sessions:?}");
    let is_bound = |r: &Value| {
        r["bound"]
            .as_str()
            .is_some_and(|b| b.starts_with("x5t#S256:"))
    };
    assert!(sessions.iter().all(is_bound), "{sessions:?}");
}

fn rand() -> String {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    format!("{:x}", u64::from_be_bytes(bytes))
}

/// What the gateway gives for a token is bound to the certificate that was shown with it, whoever issued that one: it is
/// nothing without the key.
#[tokio::test]
async fn a_token_that_a_relay_got_is_nothing_without_its_key() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let lines = format!(
        "[trust.ci]\nagent = {{ id = \"a\" }}\n[trust.ci.jwt]\nissuer = \"{0}\"\njwks-url = \"{0}/jwks\"\naudience = [\"keyward\"]\nalgorithms = [\"ES256\"]\n",
        issuer.url
    );
    let world = World::new(&lines).await;
    let _gateway = world.start_gateway();
    let nobody = Domain::new("nobody.example");
    for (name, svid) in [
        ("own", nobody.svid(&[RELAY])),
        ("thief", nobody.svid(&[RELAY])),
    ] {
        world.write(&format!("{name}.pem"), &svid.pem);
        world.write(&format!("{name}.key"), &svid.key);
    }
    let now = unix_now();
    let claims =
        json!({"iss": issuer.url, "sub": "pod", "aud": "keyward", "iat": now, "exp": now + 300});
    let jwt = pair.token(&json!({"alg": "ES256", "kid": "k1", "typ": "JWT"}), &claims);
    let path = |name: &str| world.path(name).display().to_string();
    let asked = tokio::process::Command::new(curl())
        .args([
            "-s",
            "--cacert",
            &path("ca.pem"),
            "--cert",
            &path("own.pem"),
            "--key",
            &path("own.key"),
        ])
        .args([
            "-d",
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
        ])
        .args([
            "-d",
            "subject_token_type=urn:ietf:params:oauth:token-type:jwt",
        ])
        .args(["-d", &format!("subject_token={jwt}")])
        .arg(format!("https://{}/token", world.gateway))
        .env_clear()
        .output();
    let granted: Value = serde_json::from_slice(&asked.await.unwrap().stdout).unwrap();
    let stolen = granted["access_token"].as_str().expect("a token");
    let proxy = format!("https://x:{stolen}@{}", world.gateway);
    let ca = path("ca.pem");
    let with = |name: &str| -> Vec<String> {
        [
            "--proxy-cacert",
            &ca,
            "--proxy-cert",
            &path(&format!("{name}.pem")),
            "--proxy-key",
            &path(&format!("{name}.key")),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let ask = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        world.curl(&curl(), &proxy, &words).await
    };
    assert_eq!(ask(with("own")).await, "200 200");
    assert_eq!(ask(with("thief")).await, "407 000");
    assert_eq!(
        ask(vec!["--proxy-cacert".to_owned(), ca.clone()]).await,
        "407 000"
    );
    world
        .record(|r| r["event"] == "connect" && r["word"] == "wrong-peer")
        .await;
}

/// Who is served is decided by user and executable; whoever is not gets words, and the gateway hears nothing of it.
#[tokio::test]
async fn a_process_that_is_not_allowed_is_refused_here() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let (first, second) = (copy(&world, "first"), copy(&world, "second"));
    let evidence = ["--cert", "svid.pem", "--key", "svid.key"];
    let allowed = first.display().to_string();
    let socket = world.path("relay.sock").display().to_string();
    let only = [&evidence[..], &["--allow-executable", &allowed]].concat();
    let relay = world.start_relay(&only, &[]);
    assert_eq!(world.curl(&first, &relay.proxy(), &[]).await, "200 200");
    assert_eq!(world.curl(&second, &relay.proxy(), &[]).await, "403 000");

    // Another user, on loopback and on a unix socket.
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "only root can be somebody else"
        );
        println!("skipped: only root can be somebody else");
        return;
    }
    let listen = format!("unix:{socket}");
    let words = [
        &evidence[..],
        &["--listen", "127.0.0.1:0", "--listen", &listen],
    ]
    .concat();
    let relay = world.start_relay(&words, &[]);
    let proxy = format!("http://{}", relay.address.split(' ').next().unwrap());
    let script = "import json, os, socket, sys\n\
        os.setgroups([]); os.setgid(65534); os.setuid(int(sys.argv[2]))\n\
        kind, where = (socket.AF_UNIX, sys.argv[1]) if '/' in sys.argv[1] else (socket.AF_INET, (sys.argv[1].split(':')[0], int(sys.argv[1].split(':')[1])))\n\
        s = socket.socket(kind); s.connect(where)\n\
        s.sendall(b'CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\n\\r\\n')\n\
        print(s.recv(4096).decode())\n";
    let as_user = async |place: &str, uid: &str| {
        let mut command = tokio::process::Command::new("/usr/bin/env");
        command.args(["python3", "-c", script, place, uid]);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for place in [proxy.trim_start_matches("http://"), &socket] {
        let own = as_user(place, "0").await;
        assert!(own.starts_with("HTTP/1.1 200"), "{place}: {own}");
        let other = as_user(place, "65534").await;
        assert!(other.starts_with("HTTP/1.1 403"), "{place}: {other}");
        assert!(other.contains("keyward-refusal: denied"), "{other}");
        let (line, _) = other.split_once("\r\n").unwrap();
        assert!(
            line.contains("This process may not use the relay"),
            "{line}"
        );
        assert!(other.contains("application/problem+json"), "{other}");
    }
    let words = [&words[..], &["--allow-uid", "65534"]].concat();
    drop(relay);
    let relay = world.start_relay(&words, &[]);
    let place = relay.address.split(' ').next().unwrap();
    let other = as_user(place, "65534").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    let own = as_user(place, "0").await;
    assert!(own.starts_with("HTTP/1.1 403"), "{own}");
}

/// The gateway's table for processes behind relays of one name.
fn hosts(first: &Path, second: &Path) -> String {
    format!(
        "[trust.hosts]\nagent = {{ map = {{ \"{}\" = \"a\", \"{}\" = \"b\" }} }}\n[trust.hosts.relay]\n\
         trust-domain = \"prod.example\"\nbundle = {{ file = \"prod.pem\" }}\nrelays = [\"spiffe://prod.example/relay/*\"]\nuids = [{}]\n",
        first.display(),
        second.display(),
        rustix::process::geteuid().as_raw()
    )
}

/// Two processes behind one relay, told apart at the gateway by their executables; a third is nobody.
#[tokio::test]
async fn a_gateway_tells_the_processes_behind_a_relay_apart() {
    let world = World::new("").await;
    let (first, second) = (copy(&world, "first"), copy(&world, "second"));
    let text = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    world.write("gateway.toml", &(text + &hosts(&first, &second) + MESH));
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let words = ["--cert", "svid.pem", "--key", "svid.key", "--tell-process"];
    let relay = world.start_relay(&words, &[]);
    assert_eq!(world.curl(&first, &relay.proxy(), &[]).await, "200 200");
    assert_eq!(world.curl(&second, &relay.proxy(), &[]).await, "200 200");
    for agent in ["a", "b"] {
        let started = world.record(|r| has(r, "session-start", agent)).await;
        assert_eq!(started["trust"], "hosts");
    }
    take_roots(&world, &relay).await;
    let asked = tokio::process::Command::new(&first)
        .args(["-s", "-d", "grant_type=client_credentials"])
        .arg(format!("{}/token", relay.proxy()))
        .env_clear()
        .output();
    let refused = String::from_utf8(asked.await.unwrap().stdout).unwrap();
    assert!(
        refused.contains("has its session by its connection"),
        "{refused}"
    );
    // The relay's own rights, which [trust.mesh] gives, are not a stranger's.
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "403 000");
    // What a process says of itself is taken out.
    let forged = "Keyward-Process: eyJ1aWQiOjB9";
    let lying = world
        .curl(&curl(), &relay.proxy(), &["--proxy-header", forged])
        .await;
    assert_eq!(lying, "403 000");
    assert_eq!(
        world
            .curl(&first, &relay.proxy(), &["--proxy-header", forged])
            .await,
        "200 200"
    );
}

/// Whoever says what a relay says, and is none, is refused: without a certificate, with another's, with a relay's name
/// from another authority, beside a token, and at `/token`.
#[tokio::test]
async fn what_only_relays_may_say_is_refused_from_everybody_else() {
    let world = World::new("").await;
    let text = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    let hosts = hosts(&curl(), Path::new("/none"));
    world.write("gateway.toml", &(text + &hosts + MESH));
    let (domain, evil) = (Domain::new("prod.example"), Domain::new("prod.example"));
    world.write("prod.pem", &domain.pem);
    let _gateway = world.start_gateway();
    let path = |name: &str| world.path(name).display().to_string();
    let said = super::trust::mint::b64(
        json!({"uid": rustix::process::geteuid().as_raw(), "executable": curl()}).to_string(),
    );
    let header = format!("Keyward-Process: {said}");
    let ca = path("ca.pem");
    let say = async |svid: Option<Svid>, user: &str| {
        let mut words = vec!["--proxy-cacert", &ca, "--proxy-header", &header];
        let files = (path("svid.pem"), path("svid.key"));
        if let Some(svid) = &svid {
            world.write_svid(svid);
            words.extend(["--proxy-cert", &files.0, "--proxy-key", &files.1]);
        }
        let proxy = format!("https://{user}{}", world.gateway);
        world.curl(&curl(), &proxy, &words).await
    };
    assert_eq!(say(None, "").await, "407 000", "no certificate");
    let workload = domain.svid(&["spiffe://prod.example/sa/agent"]);
    assert_eq!(say(Some(workload), "").await, "407 000", "no relay");
    assert_eq!(
        say(Some(evil.svid(&[RELAY])), "").await,
        "407 000",
        "another authority"
    );
    let foreign = Domain::new("test.example").svid(&["spiffe://test.example/relay/one"]);
    assert_eq!(say(Some(foreign), "").await, "407 000", "another domain");
    let user = format!("x:{TOKEN_A}@");
    assert_eq!(say(None, &user).await, "400 000", "beside a token");
    assert_eq!(
        say(Some(domain.svid(&[RELAY])), &user).await,
        "400 000",
        "beside a token"
    );
    // A relay itself is heard, and for /token it speaks in its own name.
    assert_eq!(say(Some(domain.svid(&[RELAY])), "").await, "200 200");
    let asked = tokio::process::Command::new(curl())
        .args([
            "-s",
            "-d",
            "grant_type=client_credentials",
            "--cacert",
            &ca,
            "-H",
            &header,
        ])
        .args(["--cert", &path("svid.pem"), "--key", &path("svid.key")])
        .args(["-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("https://{}/token", world.gateway))
        .env_clear()
        .output();
    assert_eq!(asked.await.unwrap().stdout, b"400");
    assert!(world.upstream.requests().len() == 1, "one was let through");
}

/// A gateway that is gone, one that is somebody else's, and one that is back again.
#[tokio::test]
async fn a_relay_fails_closed_and_comes_back_with_its_gateway() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let lines = format!(
        "[trust.ci]\nagent = {{ id = \"a\" }}\n[trust.ci.jwt]\nissuer = \"{0}\"\njwks-url = \"{0}/jwks\"\naudience = [\"keyward\"]\nalgorithms = [\"ES256\"]\n",
        issuer.url
    );
    let world = World::new(&lines).await;
    let now = unix_now();
    let claims =
        json!({"iss": issuer.url, "sub": "pod", "aud": "keyward", "iat": now, "exp": now + 300});
    world.write(
        "token",
        &pair.token(&json!({"alg": "ES256", "kid": "k1", "typ": "JWT"}), &claims),
    );
    let relay = world.start_relay(&["--token-file", "token"], &[]);
    // Nobody listens there yet.
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "502 000");
    assert!(
        get(&relay, "/healthz")
            .await
            .contains("keyward-refusal: upstream-unreachable")
    );
    let gateway = world.start_gateway();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    // Killed and started again, it knows no session any more: the next request renews.
    drop(gateway);
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "502 000");
    let _gateway = world.start_gateway();
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    // An operator ends the session: the evidence is still good, and another begins.
    let started = world.audit(|r| has(r, "session-start", "a")).pop().unwrap();
    let said = world.operate(&["session", "end", started["session"].as_str().unwrap()]);
    assert!(said.contains("ended"), "{said}");
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    assert!(world.audit(|r| has(r, "session-start", "a")).len() >= 3);

    // Another root than the one behind the gateway's certificate.
    let other = Domain::new("other.example");
    world.write("other.pem", &other.pem);
    let seen = world.upstream.requests().len();
    let stranger = world.start_relay(&["--token-file", "token", "--trust", "other.pem"], &[]);
    assert_eq!(world.curl(&curl(), &stranger.proxy(), &[]).await, "502 000");
    assert!(
        get(&stranger, "/healthz")
            .await
            .contains("keyward-refusal: upstream-untrusted")
    );
    stranger.says("--trust names the PEM file").await;
    // The right root is put into the same file.
    world.write("other.pem", &CA.pem);
    stranger.says("roots in place").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.curl(&curl(), &stranger.proxy(), &[]).await, "200 200");
    assert_eq!(world.upstream.requests().len(), seen + 1);
    // Evidence that the gateway does not take.
    world.write("bad", "eyJhbGciOiJub25lIn0.e30.AA");
    let nobody = world.start_relay(&["--token-file", "bad"], &[]);
    assert_eq!(world.curl(&curl(), &nobody.proxy(), &[]).await, "403 000");
    nobody
        .says("[trust.NAME] table of the gateway must know the evidence")
        .await;
}

/// By certificate alone the evidence is the connection: a session that is ended stays ended until another certificate
/// comes.
#[tokio::test]
async fn a_session_ended_by_order_is_not_opened_again_by_the_same_certificate() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    let svid = domain.svid(&[RELAY]);
    let workload = Workload::start(&domain, RELAY, &svid);
    let _gateway = world.start_gateway();
    let relay = world.start_relay(&["--workload-api", &workload.socket], &[]);
    relay.says("the gateway is there").await;
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    let started = world.record(|r| has(r, "session-start", "a")).await;
    let said = world.operate(&["session", "end", started["session"].as_str().unwrap()]);
    assert!(said.contains("ended"), "{said}");
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "403 000");
    // Nor can it be exchanged.
    world.write_svid(&svid);
    let path = |name: &str| world.path(name).display().to_string();
    let ask = async || {
        let asked = tokio::process::Command::new(curl())
            .args([
                "-s",
                "-d",
                "grant_type=client_credentials",
                "--cacert",
                &path("ca.pem"),
            ])
            .args(["--cert", &path("svid.pem"), "--key", &path("svid.key")])
            .arg(format!("https://{}/token", world.gateway))
            .env_clear()
            .output();
        String::from_utf8(asked.await.unwrap().stdout).unwrap()
    };
    let refused = ask().await;
    assert!(refused.contains("The evidence was revoked"), "{refused}");
    let fresh = domain.svid(&[RELAY]);
    world.write_svid(&fresh);
    assert!(ask().await.contains("access_token"));
    workload.rotate(&domain, RELAY, &fresh);
    relay.says("X.509-SVID renewed").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
}

/// A JWT-SVID beside the certificate is exchanged, and its session bound to that certificate.
#[tokio::test]
async fn a_jwt_svid_is_exchanged_for_a_bound_session() {
    let pair = Pair::p256();
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    let mut key = pair.jwk("j1");
    key["use"] = json!("jwt-svid");
    let root = json!({"use": "x509-svid", "kty": "EC", "crv": "P-256", "x": "", "y": "",
        "x5c": [base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &domain.der)]});
    world.write("prod.pem", &json!({"keys": [root, key]}).to_string());
    let svid = domain.svid(&[RELAY]);
    let workload = Workload::start(&domain, RELAY, &svid);
    let claims = json!({"sub": RELAY, "aud": ["keyward"], "exp": unix_now() + 300});
    workload.set_token(pair.token(&json!({"alg": "ES256", "kid": "j1"}), &claims));
    let _gateway = world.start_gateway();
    let words = ["--audience", "keyward"];
    let relay = world.start_relay(&words, &[("SPIFFE_ENDPOINT_SOCKET", &workload.socket)]);
    relay.says("the gateway is there").await;
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    let started = world.record(|r| has(r, "session-start", "a")).await;
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &svid.der);
    let thumbprint = super::trust::mint::b64(sum.as_ref());
    assert_eq!(started["bound"], format!("x5t#S256:{thumbprint}"));
}

/// A tunnel that is open goes on after SIGTERM, nothing new is taken, and the end of the tunnel is the end.
#[tokio::test]
async fn a_relay_drains_and_then_ends() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let evidence = ["--cert", "svid.pem", "--key", "svid.key"];
    for (grace, closes) in [("20", true), ("1", false)] {
        let words = [&evidence[..], &["--drain", grace]].concat();
        let mut relay = world.start_relay(&words, &[]);
        take_roots(&world, &relay).await;
        let pem = std::fs::read_to_string(world.path("roots.pem")).unwrap();
        let place = relay.address.parse().unwrap();
        let agent =
            super::agent::Agent::new(place, None, &pem, super::agent::Transcript::default());
        let mut sender = agent.h1("api.test:443").await;
        let request = || super::agent::request("GET", "/x", "api.test");
        assert_eq!(agent.ask(&mut sender, request()).await.status, 200);
        relay.signal(Signal::TERM);
        relay.says("draining").await;
        assert!(
            tokio::net::TcpStream::connect(&relay.address)
                .await
                .is_err()
                || {
                    let answer = get_quietly(&relay).await;
                    !answer.contains("200")
                }
        );
        assert_eq!(
            agent.ask(&mut sender, request()).await.status,
            200,
            "the tunnel goes on"
        );
        assert_eq!(relay.ended(Duration::from_millis(200)).await, None);
        if closes {
            drop(sender);
        }
        assert_eq!(
            relay.ended(Duration::from_secs(5)).await,
            Some(0),
            "{grace}"
        );
    }
}

async fn get_quietly(relay: &Running) -> String {
    let Ok(mut stream) = tokio::net::TcpStream::connect(&relay.address).await else {
        return String::new();
    };
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .ok();
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(1), read)
        .await
        .ok();
    text
}

/// What a process sends is passed on where the relay is told so, and only there.
#[tokio::test]
async fn credentials_of_a_process_are_passed_on_only_where_that_is_asked_for() {
    let world = World::new("").await;
    let _gateway = world.start_gateway();
    let relay = world.start_relay(&["--pass-credentials"], &[]);
    let user = relay
        .proxy()
        .replace("http://", &format!("http://x:{TOKEN_A}@"));
    assert_eq!(world.curl(&curl(), &user, &[]).await, "200 200");
    let wrong = relay.proxy().replace("http://", "http://x:wrong@");
    assert_eq!(world.curl(&curl(), &wrong, &[]).await, "407 000");
    // A static token of the relay's own, which is no JWT, goes as it is.
    world.write("token", &format!("{TOKEN_A}\n"));
    let relay = world.start_relay(&["--token-file", "token"], &[]);
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    let wrong = relay.proxy().replace("http://", "http://x:wrong@");
    assert_eq!(
        world.curl(&curl(), &wrong, &[]).await,
        "200 200",
        "it is taken out"
    );
    assert!(!relay.said().contains(TOKEN_A));
}

/// Arguments that cannot hold are refused with the next step.
#[tokio::test]
async fn what_cannot_hold_is_refused_at_the_start() {
    let world = World::new("").await;
    world.write("token", "x");
    for (words, code, says) in [
        (&[][..], 64, "SPIFFE_ENDPOINT_SOCKET is not set"),
        (
            &["--token-file", "token", "--listen", "0.0.0.0:0"],
            64,
            "--allow-anyone",
        ),
        (
            &["--token-file", "token", "--tell-process"],
            64,
            "cannot be used with",
        ),
        (
            &["--pass-credentials", "--audience", "x"],
            64,
            "--workload-api",
        ),
        (&["--cert", "none.pem", "--key", "none.key"], 78, "none.pem"),
        (
            &["--token-file", "token", "--trust", "none.pem"],
            78,
            "none.pem",
        ),
    ] {
        let output = world.relay(words, &[]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(says), "{words:?}: {text}");
    }
}

/// A stranger that opens as many connections as there may be, and asks nothing, keeps nobody out: on both kinds of
/// sockets.
#[tokio::test]
async fn a_stranger_does_not_use_up_the_places_of_those_that_are_allowed() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let mine = copy(&world, "mine");
    let socket = format!("unix:{}", world.path("relay.sock").display());
    let words = [
        "--cert",
        "svid.pem",
        "--key",
        "svid.key",
        "--allow-executable",
        mine.to_str().unwrap(),
        "--max-connections",
        "2",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &socket,
    ];
    let relay = world.start_relay(&words, &[]);
    let proxy = relay.proxy();
    // This process is a stranger to it: it runs another file.
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(
            tokio::net::TcpStream::connect(&relay.address)
                .await
                .unwrap(),
        );
    }
    assert_eq!(world.curl(&mine, &proxy, &[]).await, "200 200");
    let mut local = Vec::new();
    for _ in 0..40 {
        let path = world.path("relay.sock");
        local.push(tokio::net::UnixStream::connect(path).await.unwrap());
    }
    assert_eq!(world.curl(&mine, &proxy, &[]).await, "200 200");
    // What they ask is refused as ever, as soon as there is a place for strangers.
    held.clear();
    local.clear();
    let refused = loop {
        let text = world.curl(&curl(), &proxy, &[]).await;
        if text != "000 000" {
            break text;
        }
    };
    assert_eq!(refused, "403 000");
}
