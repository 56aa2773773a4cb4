//! Evidence by AWS: moto verifies the signatures, and a metadata service as EC2 has it stands on loopback.

use std::process::Stdio;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::json;

use super::super::oauth::peer::{cache, call};
use super::super::trust::aws::{DOCUMENT, Region};
use super::super::upstream::{AnyBody, Upstream, full, ok};
use super::world::{World, curl};
use super::{get, has};

/// STS and IAM, and a user's keys there.
struct Moto {
    _process: tokio::process::Child,
    url: String,
    id: String,
    secret: String,
}

impl Moto {
    /// `None`, told aloud: it is not installed, and this is not CI.
    async fn start() -> Option<Self> {
        let bin = cache().join("moto/bin");
        if !bin.join("moto_server").exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "tests/peers/install.sh was not run"
            );
            #[expect(clippy::print_stderr, reason = "a test that is left out says so aloud")]
            {
                eprintln!("SKIPPED: moto is not installed: tests/peers/install.sh");
            }
            return None;
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = tokio::process::Command::new(bin.join("python"))
            .arg(bin.join("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            // What is asked below, unsigned.
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let url = format!("http://{address}");
        let iam = async |form: &str| {
            let by = "authorization: AWS4-HMAC-SHA256 Credential=x/20261122/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
            let (status, body) = call(&url, "POST /", &[by], form).await;
            let text = String::from_utf8(body).unwrap();
            assert_eq!(status, 200, "{text}");
            text
        };
        let user = "Version=2010-05-08&UserName=keyward";
        iam(&format!("Action=CreateUser&{user}")).await;
        let allow = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
        let allow: String = form_urlencoded::byte_serialize(allow.as_bytes()).collect();
        iam(&format!(
            "Action=PutUserPolicy&{user}&PolicyName=all&PolicyDocument={allow}"
        ))
        .await;
        let key = iam(&format!("Action=CreateAccessKey&{user}")).await;
        let part = |name: &str| {
            let (_, rest) = key.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        Some(Self {
            _process: process,
            id: part("AccessKeyId"),
            secret: part("SecretAccessKey"),
            url,
        })
    }

    /// The gateway's lines: this user is agent b, an instance agent a.
    fn lines(&self) -> String {
        format!(
            "[trust.ec2]\nagent = {{ map = {{ \"arn:aws:iam::123456789012:user/keyward\" = \"b\", \"arn:aws:ec2:eu-central-1:123456789012:instance/*\" = \"a\" }} }}\n\
             aws = {{ accounts = [\"123456789012\"], identity-document = {{ certificates = [\"ec2.pem\"] }}, caller-identity = {{ audience = \"gw.test\", sts-url = \"{}\" }} }}\n\
             [session]\nttl = \"6s\"\n",
            self.url
        )
    }
}

/// Keys in variables are enough: the call is signed anew for each session, and sessions follow one another.
#[tokio::test]
async fn a_relay_with_aws_keys_needs_nothing_else() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    let world = World::new(&moto.lines()).await;
    world.write("ec2.pem", &Region::new().pem);
    let _gateway = world.start_gateway();
    let keys = |secret| {
        [
            ("AWS_ACCESS_KEY_ID", moto.id.as_str()),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_ENDPOINT_URL_STS", moto.url.as_str()),
        ]
    };
    let relay = world.start_relay(&[], &keys(&moto.secret));
    relay.says("signed for gw.test").await;
    let sessions = || world.audit(|r| has(r, "session-start", "b"));
    while sessions().len() < 3 {
        assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "200 200");
    }
    for session in sessions() {
        assert_eq!(session["trust"], "ec2");
        let bound = session["bound"].as_str().unwrap();
        assert!(bound.starts_with("x5t#S256:"), "{bound}");
    }
    assert!(!relay.said().contains(&moto.secret));

    // STS knows the key's id, and not who signed.
    let other = world.start_relay(&[], &keys("another-secret-of-nobody"));
    assert_eq!(world.curl(&curl(), &other.proxy(), &[]).await, "403 000");
    other.says("does not take the evidence").await;
    // Signed for somebody else.
    let words = ["--audience", "other.example"];
    let elsewhere = world.start_relay(&words, &keys(&moto.secret));
    let refused = world.curl(&curl(), &elsewhere.proxy(), &[]).await;
    assert_eq!(refused, "403 000");
    // Half of a pair is no pair.
    let half = world.start_relay(&[], &[("AWS_ACCESS_KEY_ID", &*moto.id)]);
    assert_eq!(world.curl(&curl(), &half.proxy(), &[]).await, "503 000");
    half.says("no AWS keys are found").await;
}

/// An instance shows its document, or signs with the keys of its role: both by version 2 of the metadata service.
#[tokio::test]
async fn an_instance_proves_itself_by_its_metadata_service() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    let region = Region::new();
    let world = World::new(&moto.lines()).await;
    world.write("ec2.pem", &region.pem);
    let _gateway = world.start_gateway();
    let message = region.message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes());
    let lines: Vec<&str> = message
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let document = lines.join("\n");
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let keys = json!({
        "Code": "Success", "AccessKeyId": moto.id, "SecretAccessKey": moto.secret, "Expiration": end.to_string(),
    });
    let service = Upstream::plain(move |seen| {
        let (document, keys) = (document.clone(), keys.to_string());
        Box::pin(async move {
            let known = seen.get("x-aws-ec2-metadata-token").as_deref() == Some("imds-token");
            let folder = "/latest/meta-data/iam/security-credentials/";
            match (&*seen.method, &*seen.uri) {
                ("PUT", "/latest/api/token") => ok("imds-token"),
                ("GET", _) if !known => status(StatusCode::UNAUTHORIZED),
                ("GET", "/latest/dynamic/instance-identity/rsa2048") => ok(document),
                ("GET", path) if path == folder => ok("agents"),
                ("GET", path) if path == format!("{folder}agents") => ok(keys),
                _ => status(StatusCode::NOT_FOUND),
            }
        })
    })
    .await;
    let metadata = format!("http://{}", service.address);
    let variables = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()),
        ("HOME", "/nonexistent"),
    ];
    for (proof, agent) in [("identity-document", "a"), ("caller-identity", "b")] {
        let words = ["--aws", proof, "--sts-url", &moto.url];
        let relay = world.start_relay(&words, &variables);
        let said = world.curl(&curl(), &relay.proxy(), &[]).await;
        assert_eq!(said, "200 200", "{proof}");
        let started = world.record(|r| has(r, "session-start", agent)).await;
        assert_eq!(started["trust"], "ec2");
        assert!(get(&relay, "/healthz").await.starts_with("HTTP/1.1 200"));
    }
    // A machine without the service.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody.as_str())];
    let relay = world.start_relay(&["--aws", "identity-document"], &variables);
    assert_eq!(world.curl(&curl(), &relay.proxy(), &[]).await, "503 000");
    relay.says("gives no identity document").await;
}

fn status(status: StatusCode) -> Response<AnyBody> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}
