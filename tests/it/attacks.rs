//! The attacks that are bytes: each is thrown, and whatever comes of it, no secret, no second host, no second request.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::answers::{self, Message};
use super::canary::CANARY;
use super::h2raw::{Raw, block};
use super::harness::{Harness, Setup};
use super::upstream::Upstream;

static ATTACKS: LazyLock<Vec<Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("attacks.json")).unwrap());

/// A route that allows GET and POST of anything, but DELETE of nothing.
const ROUTE: &str = "[[route]]\nhosts = [\"api.test\"]\nmethods = [\"GET\", \"POST\"]\ncredential = \"c\"\ninject = \"bearer\"\n";

/// keyward before a strict upstream, and a trap that nobody may dial.
struct Range {
    harness: Harness,
    upstream: Upstream,
    trap: Upstream,
}

impl Range {
    async fn open(unmatched: &str) -> Self {
        let upstream = Upstream::script(async |mut script| script.answer_all("ok").await).await;
        let trap = Upstream::tcp(async |_| {}).await;
        let mut setup = Setup::new(ROUTE)
            .open()
            .proxy(&format!("unmatched = \"{unmatched}\""))
            .to("api.test:443", &upstream);
        for elsewhere in ["evil.test:443", "evil.test:80", "api.test:80"] {
            setup = setup.to(elsewhere, &trap);
        }
        Self {
            harness: setup.start().await,
            upstream,
            trap,
        }
    }

    /// What the upstream read since the last look, as strictly parsed requests.
    fn taken(&self) -> Vec<Message> {
        let bytes = self.upstream.bytes();
        self.upstream.read.lock().clear();
        let (requests, rest) = answers::messages(&bytes)
            .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&bytes)));
        assert!(
            rest.is_empty(),
            "half a request: {}",
            String::from_utf8_lossy(&rest)
        );
        for request in &requests {
            assert!(!request.start.contains("admin"), "{request:?}");
            assert!(request.start.ends_with(" HTTP/1.1"), "{request:?}");
            assert_eq!(request.all("host"), ["api.test"], "{request:?}");
            assert_eq!(
                request.all("authorization"),
                [format!("Bearer {CANARY}")],
                "{request:?}"
            );
            for (name, value) in &request.fields {
                assert!(!value.contains("evil"), "{request:?}");
                assert!(
                    ![
                        "proxy-authorization",
                        "upgrade",
                        "http2-settings",
                        "trailer",
                        "te"
                    ]
                    .contains(&name.to_ascii_lowercase().as_str()),
                    "{request:?}"
                );
            }
        }
        requests
    }

    async fn close(self) {
        assert_eq!(self.trap.dialled(), 0, "another host was dialled");
        self.harness.finish().await;
    }
}

/// The payloads of these attacks at this layer, with the statuses that are allowed.
fn payloads(classes: &[&str], layer: &str) -> Vec<(String, Value, Vec<Value>)> {
    let mut found = Vec::new();
    for attack in ATTACKS.iter() {
        let id = attack["id"].as_str().unwrap();
        if !classes.iter().any(|class| id.starts_with(class)) {
            continue;
        }
        for (n, payload) in attack["payloads"].as_array().unwrap().iter().enumerate() {
            if payload["layer"] == layer {
                let allowed = attack["ok_status"].as_array().unwrap().clone();
                found.push((format!("{id} payload {n}"), payload.clone(), allowed));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn raw(payload: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(payload["raw_b64"].as_str().unwrap())
        .unwrap()
}

fn statuses(bytes: &[u8]) -> Vec<u16> {
    let (answers, rest) = answers::messages(bytes)
        .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(bytes)));
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(bytes));
    answers.iter().map(Message::status).collect()
}

async fn inside(classes: &[&str]) {
    let range = Range::open("refuse").await;
    let agent = range.harness.agent();
    for (name, payload, allowed) in payloads(classes, "h1-in-tunnel") {
        let answer = agent.throw("api.test:443", &raw(&payload)).await;
        let got = statuses(&answer);
        let requests = range.taken();
        if allowed == ["200,403"] {
            assert_eq!(got, [200, 403], "{name}");
            assert_eq!(requests.len(), 1, "{name}");
            continue;
        }
        let first = got.first().copied().unwrap_or(0);
        assert!(allowed.iter().any(|one| *one == first), "{name}: {got:?}");
        // What follows an answered request may only be a refusal.
        assert!(
            got.iter().skip(1).all(|status| *status >= 400),
            "{name}: {got:?}"
        );
        if first == 200 {
            assert_eq!(requests.len(), 1, "{name}: {requests:?}");
        } else {
            // A body that turns out malformed is noticed after its head was sent: then no request is whole.
            assert!(requests.is_empty(), "{name}: {requests:?}");
        }
    }
    range.close().await;
}

/// HOST-05, HOST-06, HOST-35, HOST-36.
#[tokio::test]
async fn requests_for_another_host_or_in_another_form_are_refused() {
    inside(&["HOST-"]).await;
}

/// LEAK-30, SMUG-16, SMUG-20, SMUG-26, SMUG-28, SMUG-30.
#[tokio::test]
async fn hop_by_hop_fields_neither_travel_nor_unhook_the_injection() {
    inside(&["LEAK-30", "SMUG-16", "SMUG-2", "SMUG-30"]).await;
}

/// SMUG-01, SMUG-03, SMUG-10.
#[tokio::test]
async fn ambiguous_framing_and_versions_are_refused() {
    inside(&["SMUG-01", "SMUG-03", "SMUG-10"]).await;
}

/// SMUG-06, SMUG-08.
#[tokio::test]
async fn bare_line_ends_and_folds_are_refused() {
    inside(&["SMUG-06", "SMUG-08"]).await;
}

/// SMUG-05: the head is whole and may have been sent, its body never becomes a whole request.
#[tokio::test]
async fn malformed_chunks_never_make_a_whole_request() {
    let range = Range::open("refuse").await;
    let agent = range.harness.agent();
    for (name, payload, allowed) in payloads(&["SMUG-05"], "h1-in-tunnel") {
        let answer = agent.throw("api.test:443", &raw(&payload)).await;
        let got = statuses(&answer);
        assert!(got.len() <= 1, "{name}: {got:?}");
        let first = got.first().copied().unwrap_or(0);
        assert!(allowed.iter().any(|one| *one == first), "{name}: {got:?}");
        let bytes = range.upstream.bytes();
        range.upstream.read.lock().clear();
        let (whole, _) = answers::messages(&bytes).unwrap();
        assert!(whole.is_empty(), "{name}: {whole:?}");
    }
    range.close().await;
}

/// LEAK-03, SMUG-23, SSRF-13. `CONNECT … HTTP/1.0` is served: Python's http.client opens tunnels so up to 3.11.
#[tokio::test]
async fn malformed_requests_to_the_proxy_itself_are_refused() {
    let range = Range::open("refuse").await;
    let agent = range.harness.agent();
    for (name, payload, allowed) in payloads(&["LEAK-03", "SMUG-23", "SSRF-13"], "h1-outer") {
        let bytes = raw(&payload);
        let mut stream = agent.tcp().await;
        stream.write_all(&bytes).await.unwrap();
        let answer = stream.until_quiet().await;
        let got = statuses(&answer);
        let first = got.first().copied().unwrap_or(0);
        if bytes.ends_with(b"HTTP/1.0\r\n\r\n") {
            assert_eq!(first, 200, "{name}");
            continue;
        }
        assert!(allowed.iter().any(|one| *one == first), "{name}: {got:?}");
        let echoed = String::from_utf8_lossy(&answer).to_lowercase();
        for reflected in ["max-forwards", "evil", "passwd"] {
            assert!(!echoed.contains(reflected), "{name}: {echoed}");
        }
    }
    assert!(range.taken().is_empty());
    range.close().await;
}

/// HOST-08, HOST-10, HOST-11, HOST-15, HOST-16, SSRF-01, SSRF-03: refused before the 200, whether unmatched hosts are
/// refused or tunnelled; nothing is dialled.
#[tokio::test]
async fn odd_and_private_authorities_are_refused_before_the_200() {
    for unmatched in ["refuse", "tunnel"] {
        let range = Range::open(unmatched).await;
        let agent = range.harness.agent();
        for (name, payload, allowed) in payloads(&["HOST-", "SSRF-"], "connect-authority") {
            let authority = payload["authority"].as_str().unwrap();
            // Names that are merely unknown would be looked up.
            if unmatched == "tunnel" && name.starts_with("HOST-11") && authority.starts_with("xn--")
            {
                continue;
            }
            let mut stream = agent.tcp().await;
            stream
                .write_all(&agent.connect_head(authority))
                .await
                .unwrap();
            let got = statuses(&stream.until_quiet().await);
            let first = got.first().copied().unwrap_or(0);
            assert!(
                allowed.iter().any(|one| *one == first),
                "{name} {authority}: {got:?}"
            );
            let is_the_target = authority == "api.test.:443";
            assert!(first != 200 || is_the_target, "{name} {authority}: {got:?}");
        }
        assert_eq!(range.upstream.dialled(), 0);
        range.close().await;
    }
}

/// HOST-03, HOST-41, SMUG-11, SMUG-13, SMUG-15: over HTTP/2.
#[tokio::test]
async fn malformed_http2_fields_are_stream_errors_or_refused() {
    let range = Range::open("refuse").await;
    let agent = range.harness.agent();
    for (name, payload, allowed) in payloads(&["HOST-", "SMUG-"], "h2-headers") {
        let fields: Vec<(&str, &str)> = payload["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
            .collect();
        let mut raw = Raw::open(&agent).await;
        raw.headers(1, &block(&fields)).await;
        let fate = raw.fate(1).await;
        let fits = |one: &Value| {
            one.as_str() == Some(&fate) || one.as_u64().is_some_and(|code| fate.parse() == Ok(code))
        };
        assert!(
            allowed.iter().any(fits) || fate == "closed",
            "{name}: {fate} {fields:?}"
        );
        assert!(range.taken().is_empty(), "{name}");
    }
    // The same writer with a good request: what was refused above was not refused for how it is written.
    let mut raw = Raw::open(&agent).await;
    raw.headers(1, &super::h2raw::get("/x")).await;
    assert_eq!(raw.fate(1).await, "200");
    assert_eq!(range.taken().len(), 1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    range.close().await;
}
