//! What lies between running and not running: rotations with open tunnels, restarts, what is left behind, and an agent of
//! SPIFFE that does not answer as it should.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::svid::Domain;
use super::world::{Mood, Workload, World, curl};
use super::{MESH, RELAY, copy, get, hosts, take_roots};

const CERTIFICATE: [&str; 4] = ["--cert", "svid.pem", "--key", "svid.key"];

/// A tunnel belongs to the certificate that it was opened with, and lives on after the next is in place.
#[tokio::test]
async fn a_tunnel_outlives_the_certificate_that_it_was_opened_with() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    let workload = Workload::start(&domain, RELAY, &domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let relay = world.start_relay(&[], &[("SPIFFE_ENDPOINT_SOCKET", &workload.socket)]);
    relay.says("the gateway is there").await;
    take_roots(&world, &relay).await;
    let (host, port) = relay.address.split_once(':').unwrap();
    let script = format!(
        "import http.client, os, ssl, time\n\
         c = http.client.HTTPSConnection('{host}', {port}, context=ssl.create_default_context(cafile='roots.pem'), timeout=20)\n\
         c.set_tunnel('api.test', 443)\n\
         def ask():\n\
         \x20   c.request('GET', '/')\n\
         \x20   r = c.getresponse()\n\
         \x20   r.read()\n\
         \x20   print(r.status, c.sock.getsockname()[1], flush=True)\n\
         ask()\n\
         open('asked', 'w').close()\n\
         while not os.path.exists('rotated'):\n\
         \x20   time.sleep(0.01)\n\
         c.auto_open = False\n\
         ask()\n"
    );
    let child = tokio::process::Command::new("python3")
        .args(["-c", &script])
        .current_dir(world.folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !world.path("asked").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    workload.rotate(&domain, RELAY, &domain.svid(&[RELAY]));
    relay.says("X.509-SVID renewed").await;
    world.write("rotated", "");
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}{why}");
    assert!(
        lines[0].starts_with("200 ") && lines[0] == lines[1],
        "{text}"
    );
}

/// What the Workload API says or does not say: where it is only not heard the certificate serves for as long as it lives;
/// where it says that there is none, there is none.
#[tokio::test]
async fn a_certificate_is_used_until_its_end_or_its_withdrawal() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    let svid = domain.svid(&[RELAY]);
    let workload = Workload::start(&domain, RELAY, &svid);
    let _gateway = world.start_gateway();
    let relay = world.start_relay(&[], &[("SPIFFE_ENDPOINT_SOCKET", &workload.socket)]);
    relay.says("certificate in place").await;
    let ask = async || world.curl(&curl(), &relay.proxy(), &[]).await;
    for (mood, why) in [
        (Mood::Away, "no X.509-SVID; trying again"),
        (Mood::Huge, "no X.509-SVID; trying again"),
    ] {
        let before = relay.said().matches("certificate in place").count();
        workload.becomes(mood);
        relay.says(why).await;
        assert_eq!(ask().await, "200 200", "{mood:?}");
        workload.becomes(Mood::Good);
        while relay.said().matches("certificate in place").count() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ask().await, "200 200", "{mood:?}");
    }
    for mood in [Mood::Denies, Mood::Empty] {
        workload.becomes(mood);
        refused(&ask).await;
        relay.says("withdrawn the certificate").await;
        workload.becomes(Mood::Good);
        while ask().await != "200 200" {}
    }

    // One that ends in a few seconds, and no other comes.
    let short = domain.svid_with(&[RELAY], |params| {
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let (year, month, day) = (now.year(), now.month(), now.day());
        let midnight = rcgen::date_time_ymd(
            year.into(),
            month.try_into().unwrap(),
            day.try_into().unwrap(),
        );
        let today = now.timestamp().as_second() % (24 * 3600) + 6;
        params.not_after = midnight + Duration::from_secs(today.try_into().unwrap());
    });
    let before = relay.said().matches("certificate in place").count();
    workload.rotate(&domain, RELAY, &short);
    while relay.said().matches("certificate in place").count() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    workload.becomes(Mood::Away);
    refused(&ask).await;
    let health = get(&relay, "/healthz").await;
    assert!(
        health.contains("keyward-refusal: identity-unavailable"),
        "{health}"
    );
    relay.says("the certificate ended at").await;
}

/// Asks until the relay refuses by itself: that is not the gateway's to do, but of the one request that was under way when
/// the certificate went.
async fn refused(ask: &impl AsyncFn() -> String) {
    let mut others = Vec::new();
    loop {
        match ask().await.as_str() {
            "200 200" => assert!(others.is_empty(), "{others:?}"),
            "503 000" => return,
            other => others.push(other.to_owned()),
        }
        assert!(others.len() < 2, "{others:?}");
    }
}

/// A relay that was killed leaves its socket, which the next takes over; one that lives keeps it.
#[tokio::test]
async fn the_socket_of_a_killed_relay_is_taken_over_and_that_of_a_live_one_is_not() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let path = world.path("relay.sock");
    let socket = format!("unix:{}", path.display());
    let words = [&CERTIFICATE[..], &["--listen", &socket]].concat();
    let healthy = async || {
        let asked = tokio::process::Command::new(curl())
            .args(["-s", "--max-time", "20", "--unix-socket"])
            .arg(&path)
            .arg("http://relay/healthz")
            .env_clear()
            .output();
        String::from_utf8(asked.await.unwrap().stdout).unwrap()
    };
    let mut first = world.start_relay(&words, &[]);
    assert_eq!(healthy().await, "ok\n");
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    assert!(path.exists(), "it had no time to clean up");
    let second = world.start_relay(&words, &[]);
    assert_eq!(healthy().await, "ok\n");
    let third = world.relay(&words, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert_eq!(third.status.code(), Some(69), "{said}");
    assert!(said.contains("cannot listen on unix:"), "{said}");
    assert_eq!(healthy().await, "ok\n", "the second still has it");
    // What is no socket is nobody's to remove.
    drop(second);
    std::fs::remove_file(&path).ok();
    std::fs::write(&path, "a file").unwrap();
    let fourth = world.relay(&words, &[]).output().unwrap();
    assert_eq!(fourth.status.code(), Some(69));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

/// The gateway's place is taken by somebody with another certificate: nothing is sent, and the right one is known again.
#[tokio::test]
async fn a_gateway_that_a_stranger_took_the_place_of_gets_nothing() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let gateway = world.start_gateway();
    let relay = world.start_relay(&CERTIFICATE, &[]);
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    drop(gateway);
    let own = std::fs::read_to_string(world.path("gw.pem")).unwrap();
    let own_key = std::fs::read_to_string(world.path("gw.key")).unwrap();
    let other = rcgen::generate_simple_self_signed(["gw.test".to_owned()]).unwrap();
    world.write("gw.pem", &other.cert.pem());
    world.write("gw.key", &other.signing_key.serialize_pem());
    let (seen, records) = (world.upstream.requests().len(), world.audit(|_| true).len());
    let stranger = world.start_gateway();
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "502 000");
    let health = get(&relay, "/healthz").await;
    assert!(
        health.contains("keyward-refusal: upstream-untrusted"),
        "{health}"
    );
    drop(stranger);
    assert_eq!(world.upstream.requests().len(), seen);
    let new = world.audit(|record| record["event"] == "connect").len();
    assert!(new <= records, "no request reached it");
    world.write("gw.pem", &own);
    world.write("gw.key", &own_key);
    let _gateway = world.start_gateway();
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
}

/// The gateway is told what it is to look at, and nothing else: what is not told matches nothing.
#[tokio::test]
async fn no_more_is_told_of_a_process_than_was_asked_for() {
    let world = World::new("").await;
    let mine = copy(&world, "mine");
    let text = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    let group = rustix::process::getegid().as_raw();
    let content = std::fs::read(&mine).unwrap();
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
    let sum: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.filter(|group| group.len() > 1).map(str::to_owned);
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let mut cases = vec![
        (format!("gids = [{group}]\n"), "group"),
        (format!("sha256 = [\"{sum}\"]\n"), "sha256"),
    ];
    cases.extend(own.map(|own| (format!("cgroups = [\"{own}\"]\n"), "cgroups")));
    for (line, name) in cases {
        let table = hosts(&mine, &mine.with_extension("other"));
        world.write("gateway.toml", &format!("{text}{table}{line}"));
        let _gateway = world.start_gateway();
        let ask = async |told: &str| {
            let words = [&CERTIFICATE[..], &[told]].concat();
            let relay = world.start_relay(&words, &[]);
            world.curl(&mine, &relay.proxy(), &[]).await
        };
        assert_eq!(ask("--tell-process").await, "403 000", "{name}");
        let told = format!("--tell-process=executable,{name}");
        assert_eq!(ask(&told).await, "200 200", "{name}");
        let told = format!("--tell-process={name}");
        assert_eq!(ask(&told).await, "403 000", "the executable counts: {name}");
    }
}

/// A tunnel keeps the place of its connection for as long as it is open.
#[tokio::test]
async fn tunnels_count_among_the_connections() {
    let world = World::new(MESH).await;
    let domain = Domain::new("prod.example");
    world.write("prod.pem", &domain.pem);
    world.write_svid(&domain.svid(&[RELAY]));
    let _gateway = world.start_gateway();
    let words = [&CERTIFICATE[..], &["--max-connections", "2"]].concat();
    let relay = world.start_relay(&words, &[]);
    let ask = async || {
        let address = &relay.address;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream
    };
    let mut start = [0; 12];
    let mut first = ask().await;
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut second = ask().await;
    second.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut third = ask().await;
    let early = third.read_exact(&mut start);
    let early = tokio::time::timeout(Duration::from_secs(1), early).await;
    assert!(early.is_err(), "there are two places");
    drop(first);
    third.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
}
