//! The broker between agents and a token endpoint: one call for a thousand, a refresh that nobody waits for, a lease
//! for each narrowing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::agent::request;
use super::channel::channel_body;
use super::harness::{Harness, Setup, TOKEN_B};
use super::upstream::{Seen, Upstream, full, ok};
use super::vault_server::Postgres;

/// A token endpoint that takes its time, counts, and gives each token another name.
async fn issuer(wait: Duration, life: u64) -> (Upstream, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let issuer = Upstream::plain(move |_: Seen| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let body = format!(
                "{{\"access_token\":\"token-of-the-test-{number:08}\",\"token_type\":\"Bearer\",\"expires_in\":{life}}}"
            );
            let mut response = Response::new(full(body));
            let json = "application/json".parse().unwrap();
            response.headers_mut().insert("content-type", json);
            response
        })
    })
    .await;
    (issuer, calls)
}

async fn start(issuer: &Upstream, upstream: &Upstream, share: &str, routes: &str) -> Harness {
    let text = format!(
        "[credential.crm]\nshare = \"{share}\"\n[credential.crm.oauth-client-credentials]\n\
         token-url = \"http://{}/token\"\nclient-id = \"agents\"\nclient-secret = {{ env = \"OTHER\" }}\n\
         scopes = [\"read\", \"write\"]\n{routes}",
        issuer.address
    );
    Setup::new(&text).to("api.test:443", upstream).start().await
}

const ROUTE: &str =
    "[[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_first_requests_make_one_call() {
    let upstream = Upstream::echo(&["h2"]).await;
    let (issuer, calls) = issuer(Duration::from_millis(1500), 600).await;
    let harness = start(&issuer, &upstream, "all", ROUTE).await;
    let agent = Arc::new(harness.agent());
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let sender = agent.h2("api.test:443").await;
        for _ in 0..50 {
            let (mut sender, agent) = (sender.clone(), Arc::clone(&agent));
            asking.spawn(async move {
                let asked = request("GET", "/x", "api.test");
                agent.ask_h2(&mut sender, asked).await.status
            });
        }
    }
    let mut served = 0;
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200);
        served += 1;
    }
    assert_eq!((served, calls.load(Ordering::SeqCst)), (1000, 1));
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_under_load_costs_no_request() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    // Refreshed at half its life of four seconds; the issuer takes a tenth of what is left then.
    let (issuer, calls) = issuer(Duration::from_millis(200), 4).await;
    let harness = start(&issuer, &upstream, "session", ROUTE).await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let began = Instant::now();
    let mut requests = 0;
    while began.elapsed() < Duration::from_secs(7) {
        let answer = agent
            .ask(&mut sender, request("GET", "/x", "api.test"))
            .await;
        assert_eq!(answer.status, 200);
        requests += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls >= 3, "it was refreshed: {calls} calls");
    let metrics = harness.metrics().await;
    let value = |name: &str| {
        let name = format!("{name}{{credential=\"crm\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&*name));
        line.unwrap_or("0").parse::<u64>().unwrap()
    };
    assert_eq!(
        value("keyward_lease_waits_total"),
        1,
        "the first one alone waited"
    );
    assert_eq!(value("keyward_lease_hits_total"), requests - 1);
    harness.finish().await;
}

/// A stream that outlives the lease that it was asked for with shows neither that lease's secret nor the next one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_is_scrubbed_of_what_is_issued_while_it_lasts() {
    let (events, body) = channel_body();
    let (body, latest) = (Mutex::new(Some(body)), Arc::new(Mutex::new(String::new())));
    let heard = Arc::clone(&latest);
    let upstream = Upstream::service(&["http/1.1"], move |seen: Seen| {
        *heard.lock() = seen.get("authorization").unwrap();
        let stream = body.lock().take().filter(|_| seen.uri == "/events");
        Box::pin(async move {
            let Some(stream) = stream else {
                return ok("fine");
            };
            let mut response = Response::new(stream);
            let kind = "text/event-stream".parse().unwrap();
            response.headers_mut().insert("content-type", kind);
            response
        })
    })
    .await;
    // Refreshed at half its life of four seconds.
    let (issuer, _) = issuer(Duration::ZERO, 4).await;
    let harness = start(&issuer, &upstream, "session", ROUTE).await;
    let agent = harness.agent();
    let mut open = agent.h1("api.test:443").await;
    let asked = request("GET", "/events", "api.test");
    let answer = open.send_request(asked).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let first = latest.lock().clone();
    let mut second = first.clone();
    let mut sender = agent.h1("api.test:443").await;
    while second == first {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asked = request("GET", "/x", "api.test");
        assert_eq!(agent.ask(&mut sender, asked).await.status, 200);
        second = latest.lock().clone();
    }
    let token = |field: &str| field.strip_prefix("Bearer ").unwrap().to_owned();
    let (first, second) = (token(&first), token(&second));
    let (begin, end) = second.split_at(9);
    let pieces = [format!("data: {first} {begin}"), format!("{end}\n\n")];
    for piece in &pieces {
        let frame = Frame::data(piece.clone().into());
        events.send(Ok(frame)).await.unwrap();
    }
    drop(events);
    let mut shown = Vec::new();
    while let Some(frame) = body.frame().await {
        shown.extend(frame.unwrap().into_data().unwrap());
    }
    let stars = "*".repeat(first.len());
    assert_eq!(
        String::from_utf8(shown).unwrap(),
        format!("data: {stars} {stars}\n\n")
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_read_route_and_a_write_route_ask_for_what_they_need() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let (issuer, calls) = issuer(Duration::ZERO, 600).await;
    let route = |method: &str, scope: &str| {
        format!("{ROUTE}methods = [\"{method}\"]\nscopes = [\"{scope}\"]\n")
    };
    let routes = route("GET", "read") + &route("POST", "write");
    let harness = start(&issuer, &upstream, "session", &routes).await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    for method in ["GET", "POST", "GET", "POST"] {
        let answer = agent
            .ask(&mut sender, request(method, "/x", "api.test"))
            .await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let asked: Vec<String> = issuer
        .requests()
        .iter()
        .map(|seen| String::from_utf8_lossy(&seen.body).into_owned())
        .collect();
    assert!(
        asked[0].contains("scope=read") && !asked[0].contains("write"),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("scope=write") && !asked[1].contains("read"),
        "{asked:?}"
    );
    let sent: Vec<String> = upstream
        .requests()
        .iter()
        .map(|seen| seen.get("authorization").unwrap())
        .collect();
    assert_eq!((&sent[0], &sent[1]), (&sent[2], &sent[3]));
    assert_ne!(sent[0], sent[1]);
    let issues: Vec<_> = harness
        .audit()
        .into_iter()
        .filter(|record| record["event"] == "issue")
        .map(|record| record["scopes"].clone())
        .collect();
    assert_eq!(
        issues,
        [serde_json::json!(["read"]), serde_json::json!(["write"])]
    );
    harness.finish().await;
}

/// The server of the store stands still, as a machine does that is out of memory: what is in the cache serves on, what
/// needs the store is refused within its deadline, and all is well when the server goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_still_holds_nobody_up() {
    use base64::Engine as _;

    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let (issuer, calls) = issuer(Duration::ZERO, 600).await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().display();
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    std::fs::write(files.path().join("key"), key).unwrap();
    std::fs::write(files.path().join("url"), postgres.url()).unwrap();
    let text = format!(
        "[store]\npostgres = {{ file = \"{path}/url\" }}\nkey = {{ file = \"{path}/key\" }}\n\
         [credential.crm]\ndeadline = \"1s\"\nfailure-ttl = \"0s\"\n\
         oauth-client-credentials = {{ token-url = \"http://{0}/token\", revocation-url = \"http://{0}/revoke\", \
         client-id = \"agents\", client-secret = {{ env = \"OTHER\" }} }}\n{ROUTE}",
        issuer.address
    );
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let (known, new) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
    assert_eq!(known.get("api.test:443", "/").await.status, 200);
    let notes = || {
        let sql = "select count(*) from keyward_lease";
        postgres.query_as_admin(sql).unwrap()
    };
    assert_eq!((notes(), calls.load(Ordering::SeqCst)), ("1".into(), 1));
    {
        let _still = postgres.stand_still();
        let began = Instant::now();
        let refused = new.get("api.test:443", "/").await;
        assert_eq!((refused.status, refused.word()), (503, "store-unavailable"));
        // Without a deadline it would be until the server goes on; a busy machine is slow.
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(known.get("api.test:443", "/").await.status, 200);
        assert_eq!(
            calls.load(Ordering::SeqCst),
            1,
            "nothing is issued unwritten"
        );
    }
    let mut answer = new.get("api.test:443", "/").await;
    for _ in 0..100 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = new.get("api.test:443", "/").await;
    }
    assert_eq!((answer.status, answer.word()), (200, ""));
    // The note of what was never asked for is taken out, whenever it was put in.
    for _ in 0..200 {
        if notes() == "2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(notes(), "2");
    harness.finish().await;
    assert_eq!(notes(), "0", "all are revoked");
}
