//! What is asked of STS, and what it answers.

mod chain;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::super::{
    CredentialProvider as _, Env, Holder, IssueError, Life, Scope, Source, Watcher,
};
use super::sts::{compact, session_name, tag};
use super::{AwsProvider, AwsSource, AwsSpec};
use crate::clock::{Clock, ManualClock};
use crate::inject::{Keys, Material};
use crate::issuer::Network;
use crate::tls::{Connector, TrustSettings};

const NOW: &str = "2026-11-22T03:00:00Z";

fn network() -> Network {
    let trust = TrustSettings {
        system: true,
        pem: Vec::new(),
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW.parse().unwrap()));
    Network::new(Connector::new(&trust, None, clock).unwrap(), [].into())
}

/// A service on loopback that answers by the request's first line; its URL, and what it was asked.
fn service(
    answer: impl Fn(&str) -> (u16, String) + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            let mut buffer = [0; 16 * 1024];
            loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break;
                }
            }
            let (status, body) = answer(text.lines().next().unwrap());
            log.lock().push(text);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}", body.len());
            let answer = format!("{head}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, asked)
}

const ASSUMED: &str = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser><Arn>x</Arn></AssumedRoleUser>\
    <Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey><SessionToken>role-token==</SessionToken>\
    <Expiration>2026-11-22T03:10:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

async fn assumed(url: &str) -> Result<(Material, Life), IssueError> {
    let env = |name: &str| Some(OsString::from(name.to_lowercase().replace('_', "")));
    let source = AwsSource::Static {
        access_key_id: Source::Env("ID".into()),
        secret_access_key: Source::Env("SECRET".into()),
        session_token: None,
    };
    let role = "arn:aws:iam::123456789012:role/agent";
    issue(source, url, Some(role), &env).await
}

/// What a credential of this source gives agent `calendar`, by the STS at this URL.
async fn issue(
    source: AwsSource,
    url: &str,
    role: Option<&str>,
    env: Env<'_>,
) -> Result<(Material, Life), IssueError> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW.parse().unwrap()));
    let watcher = Watcher::new(Arc::clone(&clock));
    let tags = role.map(|_| ("agent".into(), "{agent}".into()));
    let spec = AwsSpec {
        source,
        role: role.map(Into::into),
        region: "eu-central-1".into(),
        sts: url.parse().unwrap(),
        duration: std::time::Duration::from_mins(15),
        policy: None,
        tags: tags.into_iter().collect(),
    };
    let name = "s3".parse().unwrap();
    let provider = AwsProvider::open(&spec, &name, (&watcher, env), &network(), clock).await;
    let scope = Scope {
        credential: name,
        holder: holder("calendar", "s1"),
        person: None,
        narrow: Arc::default(),
    };
    let issued = provider.issue(&scope).await?;
    assert!(issued.handle.is_none(), "STS's keys cannot be revoked");
    Ok((issued.material, issued.life))
}

#[tokio::test]
async fn a_role_is_assumed_for_the_session_and_no_longer_than_sts_says() {
    let (url, asked) = service(|_| (200, ASSUMED.into()));
    let (material, life) = assumed(&url).await.unwrap();
    // Ten minutes, though fifteen were asked for.
    assert_eq!(life, Life::For(std::time::Duration::from_mins(10)));
    let Material::Aws(keys) = material else {
        panic!("other material");
    };
    assert_eq!(&*keys.id, "ASIAROLE");
    assert!(keys.secret.equals(b"role-secret") && keys.token.unwrap().equals(b"role-token=="));
    let asked = asked.lock()[0].clone();
    for part in [
        "Credential=id/20261122/eu-central-1/sts/aws4_request",
        "Action=AssumeRole&",
        "RoleSessionName=keyward-calendar-s1&",
        "DurationSeconds=900",
        "Tags.member.1.Key=agent&Tags.member.1.Value=calendar",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(!asked.contains("secret"));
}

#[tokio::test]
async fn what_sts_says_is_a_refusal_unless_waiting_helps() {
    let error = |code: &str| {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>"
        )
    };
    let away = IssueError::Unavailable { retry_after: None };
    let past = ASSUMED.replace("2026-11-22T03:10:00Z", "2026-11-22T02:10:00Z");
    let header = ASSUMED.replace("role-token==", "a&#10;b");
    for (status, body, expected) in [
        (403, error("AccessDenied"), IssueError::Refused),
        (400, error("ExpiredTokenException"), IssueError::Refused),
        (400, error("Throttling"), away),
        (503, error("ServiceUnavailable"), away),
        (500, "<html>oops</html>".into(), away),
        (200, "<html>hello</html>".into(), IssueError::Refused),
        (200, String::new(), IssueError::Refused),
        (200, "{}".into(), IssueError::Refused),
        (200, header, IssueError::Refused),
    ] {
        let (url, _) = service(move |_| (status, body.clone()));
        assert_eq!(assumed(&url).await.unwrap_err(), expected, "{status}");
    }
    // An end that is past: a life of nothing, which the broker refuses.
    let (url, _) = service(move |_| (200, past.clone()));
    let (_, life) = assumed(&url).await.unwrap();
    assert!(
        life.from(ManualClock::new(NOW.parse::<Timestamp>().unwrap()).now())
            .is_err()
    );
}

fn holder(agent: &str, session: &str) -> Holder {
    Holder::Session {
        agent: agent.parse().unwrap(),
        session: Arc::from(session),
    }
}

#[test]
fn a_session_is_named_after_agent_and_session() {
    let id = "0123456789abcdef0123456789abcdef";
    let name = session_name(&holder("calendar", id));
    assert_eq!(name, format!("keyward-calendar-{id}"));
    let long = session_name(&holder(&"a".repeat(64), id));
    assert_eq!(long, format!("keyward-{}", "a".repeat(56)));
    assert_eq!(session_name(&Holder::All), "keyward");
    let odd = session_name(&holder("a", "s/1:2 \u{fc}"));
    assert_eq!(odd, "keyward-a-s_1_2__");
}

#[test]
fn a_tag_names_who_is_there_or_nobody() {
    let tag = |template: &str, user| tag(template, Some("calendar"), user);
    assert_eq!(tag("{agent}", None).as_deref(), Some("calendar"));
    let both = tag("{agent}/{user}", Some("alice@example.com"));
    assert_eq!(both.as_deref(), Some("calendar/alice@example.com"));
    assert_eq!(tag("{user}", None), None);
    // A name is not bent until it fits, and is no template itself.
    let long = "a".repeat(257);
    for user in ["a;b", "{agent}", "a\nb", &*long] {
        assert_eq!(tag("{user}", Some(user)), None, "{user}");
    }
    assert_eq!(tag("team a", None).as_deref(), Some("team a"));
}

#[test]
fn a_policy_is_an_object_and_short() {
    let given = "{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": []\n}";
    let sent = compact(given).unwrap();
    assert_eq!(sent, "{\"Version\":\"2012-10-17\",\"Statement\":[]}");
    assert_eq!(compact("[]"), None);
    assert_eq!(compact("{"), None);
    assert_eq!(
        compact(&format!("{{\"a\":\"{}\"}}", "x".repeat(2048))),
        None
    );
}
