//! What is asked of STS, and what it answers.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::super::{CredentialProvider as _, Holder, IssueError, Life, Scope, Source, Watcher};
use super::chain::{Chain, Found};
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

async fn found(variables: &[(&str, &str)]) -> Result<Found, IssueError> {
    let variables: Vec<(String, OsString)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let env = move |name: &str| {
        let mut named = variables.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.clone())
    };
    let chain = Chain::of(&env, network().client());
    chain.find(NOW.parse().unwrap()).await
}

fn keys(found: Result<Found, IssueError>) -> (String, Keys, Life) {
    let Ok(Found::Keys(issued)) = found else {
        panic!("no keys: {found:?}");
    };
    let Material::Aws(keys) = issued.material else {
        panic!("other material");
    };
    (keys.id.to_string(), keys, issued.life)
}

const GIVEN: &str = r#"{"Code":"Success","AccessKeyId":"ASIAHERE","SecretAccessKey":"secret","Token":"token","Expiration":"2026-11-22T03:20:00Z"}"#;
const NOT_HERE: (&str, &str) = ("HOME", "/nonexistent");

#[tokio::test]
async fn the_instance_is_asked_by_version_2_and_last() {
    let (url, asked) = service(|line| match line {
        "PUT /latest/api/token HTTP/1.1" => (200, "imds-token".into()),
        "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => (200, "role-of-it".into()),
        "GET /latest/meta-data/iam/security-credentials/role-of-it HTTP/1.1" => (200, GIVEN.into()),
        _ => (404, String::new()),
    });
    let endpoint = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url);
    let (id, pair, life) = keys(found(&[NOT_HERE, endpoint]).await);
    assert_eq!(
        (&*id, life),
        ("ASIAHERE", Life::For(std::time::Duration::from_mins(20)))
    );
    assert!(pair.token.unwrap().equals(b"token"));
    let asked = asked.lock().clone();
    assert!(asked[0].contains("x-aws-ec2-metadata-token-ttl-seconds: 60"));
    assert!(
        asked[1..]
            .iter()
            .all(|text| text.contains("x-aws-ec2-metadata-token: imds-token"))
    );
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let none = found(&[NOT_HERE, endpoint, off]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    // What stands before it in the chain is asked alone.
    let own = [
        ("AWS_ACCESS_KEY_ID", "AKIAOWN"),
        ("AWS_SECRET_ACCESS_KEY", "own"),
    ];
    let (id, _, life) = keys(found(&[NOT_HERE, endpoint, own[0], own[1]]).await);
    assert_eq!((&*id, life), ("AKIAOWN", Life::Endless));
}

#[tokio::test]
async fn a_role_name_that_is_a_path_is_not_followed() {
    let (url, asked) = service(|line| match line {
        "PUT /latest/api/token HTTP/1.1" => (200, "imds-token".into()),
        _ => (200, "../../dynamic/x".into()),
    });
    let endpoint = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url);
    let none = found(&[NOT_HERE, endpoint]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test]
async fn a_container_is_asked_with_its_token_and_nobody_after_it() {
    let (url, asked) = service(|line| match line {
        "GET /keys HTTP/1.1" => (200, GIVEN.into()),
        _ => (403, "{}".into()),
    });
    let (instance, not_asked) = service(|_| (200, GIVEN.into()));
    let instance = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*instance);
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token");
    let good = format!("{url}/keys");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*good);
    let (id, ..) = keys(found(&[NOT_HERE, full, token, instance]).await);
    assert_eq!(id, "ASIAHERE");
    assert!(asked.lock()[0].contains("authorization: container-token"));
    let bad = format!("{url}/others");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*bad);
    let none = found(&[NOT_HERE, full, token, instance]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    assert!(not_asked.lock().is_empty());
    // Cleartext goes to the machine itself only: another URL is none.
    let full = (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://198.51.100.7/keys",
    );
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    assert!(found(&[NOT_HERE, full, token, off]).await.is_err());
}

#[tokio::test]
async fn a_web_identity_of_the_environment_brings_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "header.payload.signature").unwrap();
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap());
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod");
    let Ok(Found::WebIdentity { role, token }) = found(&[NOT_HERE, file, role]).await else {
        panic!("no web identity");
    };
    assert_eq!(role.as_deref(), Some("arn:aws:iam::123456789012:role/pod"));
    assert!(token.equals(b"header.payload.signature"));
}

const ASSUMED: &str = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser><Arn>x</Arn></AssumedRoleUser>\
    <Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey><SessionToken>role-token==</SessionToken>\
    <Expiration>2026-11-22T03:10:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

async fn assumed(url: &str) -> Result<(Material, Life), IssueError> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW.parse().unwrap()));
    let watcher = Watcher::new(Arc::clone(&clock));
    let env = |name: &str| Some(OsString::from(name.to_lowercase().replace('_', "")));
    let spec = AwsSpec {
        source: AwsSource::Static {
            access_key_id: Source::Env("ID".into()),
            secret_access_key: Source::Env("SECRET".into()),
            session_token: None,
        },
        role: Some("arn:aws:iam::123456789012:role/agent".into()),
        region: "eu-central-1".into(),
        sts: url.parse().unwrap(),
        duration: std::time::Duration::from_mins(15),
        policy: None,
        tags: [("agent".into(), "{agent}".into())].into(),
    };
    let name = "s3".parse().unwrap();
    let provider = AwsProvider::open(&spec, &name, (&watcher, &env), &network(), clock).await;
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
