//! What issuers do wrong, and what the agent is told of it: a word, and nothing of the issuer's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, StatusCode};
use serde_json::json;

use super::{records, setup};
use crate::upstream::{Upstream, full};

/// An answer of a token endpoint.
#[derive(Clone)]
struct Answer {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: String,
}

fn answer(status: u16, body: impl Into<String>) -> Answer {
    Answer {
        status,
        fields: vec![("content-type", "application/json".to_owned())],
        body: body.into(),
    }
}

fn token(more: &str) -> Answer {
    answer(
        200,
        format!("{{\"access_token\":\"tok-0123456789abcdef\",\"token_type\":\"Bearer\"{more}}}"),
    )
}

impl Answer {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    fn make(&self) -> Response<crate::upstream::AnyBody> {
        let mut response = Response::new(full(self.body.clone()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in &self.fields {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        response
    }
}

const LOUD: &str = "loud-words-of-the-issuer";

/// What is tried, what is answered, what comes of it: status and word, and `Retry-After`.
type Case = (&'static str, Answer, Due, Option<&'static str>);
type Due = Option<(u16, &'static str)>;

/// An answer of 200 with this token and type.
fn made(token: &str, kind: &str) -> Answer {
    let body = format!("{{\"access_token\":\"{token}\",\"token_type\":\"{kind}\"}}");
    answer(200, body)
}

fn unusable() -> Vec<Case> {
    let refused: Due = Some((502, "broker-refused"));
    let long = "x".repeat(16 * 1024 + 1);
    let cases = [
        ("expires_in 0", token(",\"expires_in\":0")),
        ("expires_in below 0", token(",\"expires_in\":-5")),
        ("expires_in as text", token(",\"expires_in\":\"0\"")),
        ("expires_in null", token(",\"expires_in\":null")),
        (
            "no token_type",
            answer(200, "{\"access_token\":\"tok-0123456789abcdef\"}"),
        ),
        ("another token_type", made("tok-0123456789abcdef", "mac")),
        ("DPoP without a key", made("tok-0123456789abcdef", "DPoP")),
        (
            "CR and LF",
            made("tok-0123456789abcdef\\r\\nx: y", "Bearer"),
        ),
        ("NUL", made("tok-0123456789abcdef\\u0000", "Bearer")),
        ("not ASCII", made("tök-0123456789abcdef", "Bearer")),
        ("too long a token", made(&long, "Bearer")),
    ];
    cases
        .map(|(name, answer)| (name, answer, refused, None))
        .into()
}

fn said(away: &str) -> Vec<Case> {
    let refused: Due = Some((502, "broker-refused"));
    let unavailable: Due = Some((503, "broker-unavailable"));
    let no = |code: &str| format!("{{\"error\":\"{code}\",\"error_description\":\"{LOUD}\"}}");
    let html = answer(200, format!("<html>{LOUD}</html>")).with("content-type", "text/html");
    let late = |status, wait| answer(status, LOUD).with("retry-after", wait);
    vec![
        ("a token", token(",\"expires_in\":60"), None, None),
        ("no expires_in", token(""), None, None),
        (
            "any case",
            made("tok-0123456789abcdef", "bEARER"),
            None,
            None,
        ),
        ("an error", answer(400, no("invalid_client")), refused, None),
        (
            "an error with 200",
            answer(200, no("invalid_grant")),
            refused,
            None,
        ),
        ("401", answer(401, LOUD), refused, None),
        ("404", answer(404, LOUD), refused, None),
        ("HTML", html, refused, None),
        ("rubbish", answer(200, "\u{0}\u{1}"), refused, None),
        ("nothing", answer(200, ""), refused, None),
        (
            "302",
            answer(302, LOUD).with("location", away),
            refused,
            None,
        ),
        (
            "307",
            answer(307, LOUD).with("location", away),
            refused,
            None,
        ),
        (
            "more than 1 MiB",
            answer(200, " ".repeat((1 << 20) + 1)),
            refused,
            None,
        ),
        ("500", answer(500, LOUD), unavailable, None),
        ("503", late(503, "7"), unavailable, Some("7")),
        ("429", late(429, "30"), unavailable, Some("30")),
        ("429 for long", late(429, "86400"), unavailable, Some("300")),
    ]
}

#[tokio::test]
async fn every_fault_of_an_issuer_has_its_word() {
    let elsewhere = Upstream::plain(|_| Box::pin(async { token("").make() })).await;
    let away = format!("http://{}/token", elsewhere.address);
    for (name, given, due, wait) in unusable().into_iter().chain(said(&away)) {
        let issuer = Upstream::plain(move |_| {
            let given = given.make();
            Box::pin(async { given })
        })
        .await;
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let kind = format!(
            "[credential.crm.oauth-client-credentials]\ntoken-url = \"http://{}/token\"\nclient-id = \"agents\"\n\
             client-secret = {{ env = \"CANARY\" }}\n",
            issuer.address
        );
        let harness = setup(&kind, &upstream).start().await;
        let answer = harness.agent().get("api.test:443", "/").await;
        match due {
            None => assert_eq!(
                (answer.status, upstream.requests().len()),
                (200, 1),
                "{name}"
            ),
            Some(due) => {
                assert_eq!((answer.status, answer.word()), due, "{name}");
                assert_eq!(upstream.requests().len(), 0, "{name}: nothing was sent");
                let failed = ("failed".to_owned(), Some(due.1.to_owned()));
                assert!(records(&harness, "issue").contains(&failed), "{name}");
            }
        }
        if let Some(wait) = wait {
            assert_eq!(answer.get("retry-after"), Some(wait), "{name}");
        }
        assert!(!format!("{answer:?}").contains(LOUD), "{name}: {answer:?}");
        let audit = format!("{:?}", harness.audit());
        assert!(!audit.contains(LOUD), "{name}");
        harness.finish().await;
    }
    assert_eq!(elsewhere.requests().len(), 0, "no redirect was followed");
}

#[tokio::test]
async fn an_issuer_that_is_not_there_or_says_nothing_is_told_apart() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let kind = |at: &str| {
        format!(
            "[credential.crm.oauth-client-credentials]\ntoken-url = \"http://{at}/token\"\nclient-id = \"agents\"\n\
             client-secret = {{ env = \"CANARY\" }}\n"
        )
    };
    let harness = setup(&kind("127.0.0.1:1"), &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (503, "broker-unavailable"));
    assert!(answer.get("retry-after").is_some());
    harness.finish().await;

    let silent = Upstream::tcp(|stream| async move {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        drop(stream);
    })
    .await;
    let mut setup = setup(&kind(&silent.address.to_string()), &upstream);
    setup = setup.clone().routes(
        &format!(
            "[credential.crm]\ndeadline = \"300ms\"\n{}\n[[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n",
            kind(&silent.address.to_string())
        ),
    );
    let harness = setup.start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (504, "broker-timeout"));
    harness.finish().await;
}

/// A token that nobody waits for any more is taken back when it comes; one that is lost on the way is told of.
#[tokio::test]
async fn an_answer_that_is_late_or_lost_leaves_no_token_behind_unknown() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let open = Arc::clone(&gate);
    let issuer = Upstream::plain(move |seen| {
        let open = Arc::clone(&open);
        Box::pin(async move {
            if seen.uri == "/revoke" {
                return answer(200, "").make();
            }
            open.notified().await;
            token(",\"expires_in\":600").make()
        })
    })
    .await;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let kind = |at: &std::net::SocketAddr| {
        format!(
            "[credential.crm]\ndeadline = \"500ms\"\n[credential.crm.oauth-client-credentials]\n\
             token-url = \"http://{at}/token\"\nrevocation-url = \"http://{at}/revoke\"\nclient-id = \"agents\"\n\
             client-secret = {{ env = \"CANARY\" }}\n[[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\n\
             inject = \"bearer\"\n"
        )
    };
    let blank = setup("", &upstream);
    let harness = blank.clone().routes(&kind(&issuer.address)).start().await;
    let late = harness.agent().get("api.test:443", "/").await;
    assert_eq!((late.status, late.word()), (504, "broker-timeout"));
    gate.notify_one();
    let taken_back = || {
        let requests = issuer.requests();
        let mut revocations = requests.iter().filter(|seen| seen.uri == "/revoke");
        revocations.any(|seen| memchr::memmem::find(&seen.body, b"tok-0123456789abcdef").is_some())
    };
    for _ in 0..100 {
        if taken_back() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(taken_back());
    let told = ("unknown".to_owned(), None);
    assert!(!records(&harness, "issue").contains(&told));
    harness.finish().await;

    let rude = Upstream::tcp(|mut stream| async move {
        use tokio::io::AsyncReadExt as _;
        let mut read = Vec::new();
        // The whole form, and then the connection ends.
        while memchr::memmem::find(&read, b"grant_type=client_credentials").is_none() {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
    })
    .await;
    let harness = blank.routes(&kind(&rude.address)).start().await;
    let lost = harness.agent().get("api.test:443", "/").await;
    assert_eq!((lost.status, lost.word()), (503, "broker-unavailable"));
    assert!(records(&harness, "issue").contains(&told));
    harness.finish().await;
}

/// An issuer whose metadata these are; how often each place was asked.
async fn published(
    make: impl Fn(&str) -> serde_json::Value + Send + Sync + 'static,
) -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let issuer = Upstream::plain(move |seen| {
        let base = format!("http://{}", seen.get("host").unwrap());
        let answer = match &*seen.uri {
            "/.well-known/oauth-authorization-server" => {
                count.fetch_add(1, Ordering::SeqCst);
                answer(200, make(&base).to_string())
            }
            "/token" => token(",\"expires_in\":60"),
            _ => answer(404, ""),
        };
        let answer = answer.make();
        Box::pin(async move {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            answer
        })
    })
    .await;
    (issuer, asked)
}

fn by_issuer(issuer: &Upstream) -> String {
    format!(
        "[credential.crm.oauth-client-credentials]\nissuer = \"http://{}\"\nclient-id = \"agents\"\n\
         client-secret = {{ env = \"CANARY\" }}\n",
        issuer.address
    )
}

#[tokio::test]
async fn metadata_of_another_issuer_send_no_secret_anywhere() {
    // The mix-up: the issuer that is asked hands out itself under another's name.
    for (name, issuer) in [
        ("another", "https://login.example.com"),
        ("a slash more", "/"),
        ("none", ""),
    ] {
        let (lying, _) = published(move |base| {
            let said = match issuer {
                "/" => format!("{base}/"),
                other => other.to_owned(),
            };
            json!({ "issuer": said, "token_endpoint": format!("{base}/token") })
        })
        .await;
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let harness = setup(&by_issuer(&lying), &upstream).start().await;
        let answer = harness.agent().get("api.test:443", "/").await;
        assert_eq!(
            (answer.status, answer.word()),
            (502, "broker-refused"),
            "{name}"
        );
        assert!(
            lying.requests().iter().all(|seen| seen.uri != "/token"),
            "{name}"
        );
        harness.finish().await;
    }
}

#[tokio::test]
async fn metadata_name_no_endpoint_in_the_clear_and_are_asked_for_once() {
    let (clear, _) = published(
        |base| json!({ "issuer": base, "token_endpoint": "http://login.example.com/token" }),
    )
    .await;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = setup(&by_issuer(&clear), &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (502, "broker-refused"));
    harness.finish().await;

    let (good, asked) =
        published(|base| json!({ "issuer": base, "token_endpoint": format!("{base}/token") }))
            .await;
    let harness = setup(&by_issuer(&good), &upstream).start().await;
    let (one, two) = (
        harness.agent(),
        harness.agent_with(Some(crate::harness::TOKEN_B)),
    );
    let (one, two) = tokio::join!(one.get("api.test:443", "/"), two.get("api.test:443", "/"));
    assert_eq!((one.status, two.status), (200, 200));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "two agents, one look-up");
    harness.finish().await;
}

#[tokio::test]
async fn a_new_secret_is_used_without_a_restart() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("secret");
    std::fs::write(&path, "first-secret-of-the-client").unwrap();
    let issuer = Upstream::plain(|_| Box::pin(async { token(",\"expires_in\":2").make() })).await;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\ntoken-url = \"http://{}/token\"\nclient-id = \"agents\"\n\
         client-secret = {{ file = \"{}\" }}\nclient-auth = \"client-secret-post\"\n",
        issuer.address,
        path.display()
    );
    let harness = setup(&kind, &upstream).start().await;
    assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
    std::fs::write(&path, "second-secret-of-the-client").unwrap();
    for _ in 0..60 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
        let sent = |secret: &str| {
            let requests = issuer.requests();
            requests
                .iter()
                .any(|seen| memchr::memmem::find(&seen.body, secret.as_bytes()).is_some())
        };
        if sent("second-secret") {
            assert!(sent("first-secret"));
            harness.finish().await;
            return;
        }
    }
    panic!("the new secret was never used");
}
