//! `[trust.NAME.aws]`: identity documents as EC2 signs them, and signed requests for `GetCallerIdentity`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use keyward::identity::{AttestError, TokenType};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::super::agent::request;
use super::super::harness::{BEARER, Setup};
use super::super::token::{EXCHANGE, Granted, JWT};
use super::super::upstream::{Upstream, full};
use super::Provider;
use super::mint::b64;

pub const DOCUMENT: &str = r#"{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "imageId" : "ami-0123456789abcdef0",
  "instanceId" : "i-0123456789abcdef0",
  "instanceType" : "t3.micro",
  "pendingTime" : "2026-11-20T10:00:00Z",
  "privateIp" : "10.0.0.7",
  "region" : "eu-central-1",
  "version" : "2017-09-30"
}"#;

const SIGNED_DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const CONTENT_TYPE: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
const MESSAGE_DIGEST: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
const SHA_256: &[u8] = &[0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// An element of definite length.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap();
    let mut bytes = vec![tag];
    if length < 128 {
        bytes.push(u8::try_from(length).unwrap());
    } else {
        bytes.push(0x82);
        bytes.extend(length.to_be_bytes());
    }
    bytes.extend(content);
    bytes
}

/// An element of indefinite length, as EC2's messages have them.
fn open(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80][..], &parts.concat(), &[0, 0]].concat()
}

/// A region's key and certificate.
pub struct Region {
    pub pem: String,
    key: RsaKeyPair,
    key_pem: String,
}

impl Region {
    pub fn new() -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let cert = CertificateParams::new(Vec::new())
            .unwrap()
            .self_signed(&key)
            .unwrap();
        Self {
            pem: cert.pem(),
            key: RsaKeyPair::from_pkcs8(&key.serialize_der()).unwrap(),
            key_pem: key.serialize_pem(),
        }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature)
            .unwrap();
        signature
    }

    /// PKCS #7 around `content`, whose signature is of `signed` in its place.
    pub fn message(&self, content: &[u8], signed: &[u8]) -> String {
        let sum = digest(&SHA256, signed);
        let attributes = [
            tlv(0x30, &[CONTENT_TYPE, &tlv(0x31, &[DATA])]),
            tlv(
                0x30,
                &[MESSAGE_DIGEST, &tlv(0x31, &[&tlv(4, &[sum.as_ref()])])],
            ),
        ]
        .concat();
        let signature = self.sign(&tlv(0x31, &[&attributes]));
        let name = tlv(0x30, &[&tlv(0x30, &[]), &tlv(2, &[&[1]])]);
        let algorithm = |oid: &[u8]| tlv(0x30, &[oid, &[5, 0]]);
        let signer = tlv(
            0x30,
            &[
                &tlv(2, &[&[1]]),
                &name,
                &algorithm(SHA_256),
                &tlv(0xa0, &[&attributes]),
                &algorithm(RSA),
                &tlv(4, &[&signature]),
            ],
        );
        let (first, second) = content.split_at(content.len() / 2);
        let pieces = open(0x24, &[&tlv(4, &[first]), &tlv(4, &[second])]);
        let held = open(0x30, &[DATA, &open(0xa0, &[&pieces])]);
        let data = open(
            0x30,
            &[
                &tlv(2, &[&[1]]),
                &tlv(0x31, &[&algorithm(SHA_256)]),
                &held,
                &tlv(0x31, &[&signer]),
            ],
        );
        let der = open(0x30, &[SIGNED_DATA, &open(0xa0, &[&data])]);
        STANDARD.encode(der)
    }
}

fn instances(region: &Region, rest: &str) -> Provider {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ec2.pem"), &region.pem).unwrap();
    let table = format!(
        "agent = {{ map = {{ \"arn:aws:ec2:eu-central-1:*:instance/i-0123456789abcdef0\" = \"a\" }} }}\n\
         aws = {{ accounts = [\"123456789012\"], identity-document = {{ certificates = [\"ec2.pem\"] }}{rest} }}\n"
    );
    Provider::within(&table, folder)
}

async fn show(provider: &Provider, message: &str) -> Result<Option<String>, AttestError> {
    let shown = provider
        .show_as(message, TokenType::AwsIdentityDocument)
        .await?;
    Ok(shown.map(|attested| attested.agent.to_string()))
}

#[tokio::test]
async fn an_instance_is_known_by_its_signed_document() {
    let region = Region::new();
    let provider = instances(&region, "");
    let good = region.message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes());
    assert_eq!(show(&provider, &good).await, Ok(Some("a".to_owned())));
    // In a proxy's header it is nothing, and neither is it a JWT.
    for other in [TokenType::Any, TokenType::Jwt] {
        assert_eq!(provider.show_as(&good, other).await, Ok(None));
    }
    let other = DOCUMENT.replace("123456789012", "999999999999");
    let elsewhere = DOCUMENT.replace("eu-central-1", "us-east-1");
    let injected = DOCUMENT.replace("eu-central-1", "eu-central-1:123456789012:x");
    let same = |text: &str| region.message(text.as_bytes(), text.as_bytes());
    for (what, message) in [
        (
            "another's key",
            Region::new().message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes()),
        ),
        (
            "another text",
            region.message(other.as_bytes(), DOCUMENT.as_bytes()),
        ),
        ("another account", same(&other)),
        ("an instance that no row names", same(&elsewhere)),
        ("a region that is none", same(&injected)),
        ("a list", same("[]")),
        ("a cut message", good[..good.len() - 40].to_owned()),
        ("rubbish", "AAAA".to_owned()),
        ("no base64", "!".to_owned()),
    ] {
        assert_eq!(
            show(&provider, &message).await,
            Err(AttestError::Bad),
            "{what}"
        );
    }
}

/// What stands beside the signature in a message makes no other evidence of it.
#[tokio::test]
async fn a_document_is_known_by_what_was_signed() {
    let region = Region::new();
    let provider = instances(&region, "");
    let evidence = async |message: &str| {
        let shown = provider.show_as(message, TokenType::AwsIdentityDocument);
        shown.await.unwrap().unwrap().evidence.unwrap()
    };
    let good = region.message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes());
    let known = evidence(&good).await;
    // The version of the message, which nothing reads.
    let der = STANDARD.decode(&good).unwrap();
    let version = memchr::memmem::find(&der, &[2, 1, 1]).unwrap();
    let mut other = der.clone();
    other[version + 2] = 3;
    assert_eq!(evidence(&STANDARD.encode(&other)).await, known);
    let text = DOCUMENT.replacen('{', "{ ", 1);
    let another = region.message(text.as_bytes(), text.as_bytes());
    assert_ne!(evidence(&another).await, known);
}

/// A message that another program signed, in its own encoding.
#[tokio::test]
async fn a_message_by_openssl_is_read_too() {
    let region = Region::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [
        ("document", DOCUMENT),
        ("cert.pem", &region.pem),
        ("key.pem", &region.key_pem),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    let signed = Command::new(Path::new("openssl"))
        .args([
            "cms",
            "-sign",
            "-binary",
            "-nodetach",
            "-md",
            "sha256",
            "-outform",
            "DER",
        ])
        .args([
            "-in", "document", "-signer", "cert.pem", "-inkey", "key.pem",
        ])
        .current_dir(folder.path())
        .output();
    let Ok(output) = signed else {
        assert!(std::env::var_os("CI").is_none(), "openssl is not installed");
        println!("skipped: openssl is not installed");
        return;
    };
    let message = STANDARD.encode(&output.stdout);
    let provider = instances(&region, "");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        show(&provider, &message).await,
        Ok(Some("a".to_owned())),
        "{why}"
    );
}

/// What STS answers, and all that it was sent.
struct Sts {
    server: Upstream,
    answer: Arc<Mutex<(u16, String)>>,
}

const ARN: &str = "arn:aws:sts::123456789012:assumed-role/agents/i-1";

fn identity(arn: &str, account: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Arn>{arn}</Arn><UserId>AROAEXAMPLE:i-1</UserId>\
         <Account>{account}</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
}

impl Sts {
    async fn start() -> Self {
        let answer = Arc::new(Mutex::new((200, identity(ARN, "123456789012"))));
        let of = Arc::clone(&answer);
        let server = Upstream::service(&["http/1.1"], move |_| {
            let (status, text) = of.lock().clone();
            Box::pin(async move { Response::builder().status(status).body(full(text)).unwrap() })
        })
        .await;
        Self { server, answer }
    }

    fn host(&self) -> String {
        self.server.address.to_string()
    }

    fn provider(&self) -> Provider {
        Provider::new(&format!(
            "agent = {{ map = {{ \"arn:aws:sts::123456789012:assumed-role/agents/*\" = \"b\" }} }}\n\
             aws = {{ accounts = [\"123456789012\"], caller-identity = {{ audience = \"keyward.example.com\", sts-url = \"https://{}\" }} }}\n",
            self.host()
        ))
    }

    /// The request as an SDK signs it.
    fn request(&self) -> Value {
        self.request_at(super::NOW - 30)
    }

    fn request_at(&self, at: i64) -> Value {
        let at = jiff::Timestamp::from_second(at).unwrap();
        let date = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let signed = "content-type;host;x-amz-date;x-amz-security-token;x-keyward-audience";
        json!({
            "method": "POST",
            "url": format!("https://{}/", self.host()),
            "headers": {
                "Host": self.host(),
                "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
                "X-Amz-Date": date,
                "X-Amz-Security-Token": "token-of-a-session",
                "X-Keyward-Audience": "keyward.example.com",
                "Authorization": format!("AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20261118/us-east-1/sts/aws4_request, SignedHeaders={signed}, Signature={}", "0".repeat(64)),
                "User-Agent": "an sdk",
            },
            "body": "Action=GetCallerIdentity&Version=2011-06-15",
        })
    }
}

async fn call(provider: &Provider, request: &Value) -> Result<Option<String>, AttestError> {
    let token = b64(request.to_string());
    let shown = provider
        .show_as(&token, TokenType::AwsCallerIdentity)
        .await?;
    Ok(shown.map(|attested| attested.agent.to_string()))
}

/// JSON, case and headers that the signature does not cover make no other evidence of a signed request.
#[tokio::test]
async fn a_signed_request_is_known_by_its_signature() {
    let sts = Sts::start().await;
    let provider = sts.provider();
    let evidence = async |text: String| {
        let token = b64(text);
        let shown = provider.show_as(&token, TokenType::AwsCallerIdentity);
        shown.await.unwrap().unwrap().evidence.unwrap()
    };
    let mut request = sts.request();
    let signature = format!("Signature={}", "0a".repeat(32));
    let authorization = request["headers"]["Authorization"].as_str().unwrap();
    let authorization = authorization.replace(&format!("Signature={}", "0".repeat(64)), &signature);
    request["headers"]["Authorization"] = json!(authorization);
    let known = evidence(request.to_string()).await;
    let with = |name: &str, value: Value| {
        let mut other = request.clone();
        other["headers"][name] = value;
        other.to_string()
    };
    let date = request["headers"]["X-Amz-Date"].as_str().unwrap();
    for same in [
        format!(" {request}\n"),
        request.to_string().replace("\"url\"", "\"u\\u0072l\""),
        request.to_string().replace("X-Amz-Date", "x-AMZ-date"),
        with("X-Amz-Date", json!([date])),
        with("User-Agent", json!("another")),
        with("Content-Length", json!("43")),
        with("Authorization", json!(authorization.replace("=0a", "=0A"))),
        with("Authorization", json!(authorization.replace(", ", ","))),
    ] {
        assert_eq!(evidence(same.clone()).await, known, "{same}");
    }
    for bad in [
        authorization.replace(&signature, &format!("{signature}, {signature}")),
        authorization.replace(&signature, "Signature=0a"),
        authorization.replace(&format!(", {signature}"), ""),
    ] {
        let token = b64(with("Authorization", json!(bad)));
        let shown = provider.show_as(&token, TokenType::AwsCallerIdentity).await;
        assert_eq!(shown, Err(AttestError::Bad), "{bad}");
    }
    let another = with("Authorization", json!(authorization.replace("=0a", "=0b")));
    assert_ne!(evidence(another).await, known);
}

#[tokio::test]
async fn sts_says_whose_a_signed_request_was() {
    let sts = Sts::start().await;
    let provider = sts.provider();
    let request = sts.request();
    assert_eq!(call(&provider, &request).await, Ok(Some("b".to_owned())));
    assert_eq!(call(&provider, &request).await, Ok(Some("b".to_owned())));
    let seen = sts.server.requests();
    assert_eq!(seen.len(), 1, "STS is asked once");
    assert_eq!((&*seen[0].method, &*seen[0].uri), ("POST", "/"));
    assert_eq!(
        &*seen[0].body,
        b"Action=GetCallerIdentity&Version=2011-06-15"
    );
    assert_eq!(
        seen[0].all("authorization"),
        [request["headers"]["Authorization"].as_str().unwrap()]
    );
    assert_eq!(seen[0].all("x-keyward-audience"), ["keyward.example.com"]);
    assert_eq!(seen[0].get("user-agent"), None, "only what must travels");

    // What STS says decides: another account, another role, a bad signature, no answer.
    for (status, text, expected) in [
        (200, identity(ARN, "999999999999"), AttestError::Bad),
        (
            200,
            identity(
                "arn:aws:sts::123456789012:assumed-role/other/x",
                "123456789012",
            ),
            AttestError::Bad,
        ),
        (403, "<ErrorResponse/>".to_owned(), AttestError::Bad),
        (200, "<html>".to_owned(), AttestError::Unavailable),
        (503, String::new(), AttestError::Unavailable),
        (302, String::new(), AttestError::Unavailable),
    ] {
        *sts.answer.lock() = (status, text.clone());
        assert_eq!(
            call(&sts.provider(), &request).await,
            Err(expected),
            "{status} {text}"
        );
    }
}

/// The agent has no say in where the request goes, what it asks, or for whom it was signed.
#[tokio::test]
async fn only_the_one_request_is_sent_on() {
    let (sts, enemy) = (Sts::start().await, Sts::start().await);
    let provider = sts.provider();
    let with = |path: &str, value: Value| {
        let mut request = sts.request();
        *request.pointer_mut(path).unwrap() = value;
        request
    };
    let authorization = sts.request()["headers"]["Authorization"]
        .as_str()
        .unwrap()
        .to_owned();
    let unsigned = authorization.replace(";x-keyward-audience", "");
    let more = authorization.replace("host;", "host;x-other;");
    for (what, request) in [
        (
            "another host",
            with("/url", json!(format!("https://{}/", enemy.host()))),
        ),
        (
            "another host below",
            with(
                "/url",
                json!(format!("https://{}@{}/", sts.host(), enemy.host())),
            ),
        ),
        (
            "another scheme",
            with("/url", json!(format!("http://{}/", sts.host()))),
        ),
        (
            "a path",
            with("/url", json!(format!("https://{}/x", sts.host()))),
        ),
        (
            "a query",
            with(
                "/url",
                json!(format!("https://{}/?Action=AssumeRole", sts.host())),
            ),
        ),
        ("GET", with("/method", json!("GET"))),
        (
            "another action",
            with("/body", json!("Action=AssumeRole&Version=2011-06-15")),
        ),
        (
            "two actions",
            with(
                "/body",
                json!("Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole"),
            ),
        ),
        (
            "another audience",
            with("/headers/X-Keyward-Audience", json!("other.example.com")),
        ),
        (
            "an audience that is not signed",
            with("/headers/Authorization", json!(unsigned)),
        ),
        (
            "a signed header that does not travel",
            with("/headers/Authorization", json!(more)),
        ),
        ("another Host", with("/headers/Host", json!(enemy.host()))),
        (
            "an old date",
            with("/headers/X-Amz-Date", json!("20250101T000000Z")),
        ),
        (
            "a date to come",
            with("/headers/X-Amz-Date", json!("20990101T000000Z")),
        ),
        ("two values", with("/headers/X-Amz-Date", json!(["a", "b"]))),
        (
            "a line end",
            with("/headers/X-Amz-Security-Token", json!("a\r\nx: y")),
        ),
        (
            "another scheme of signatures",
            with("/headers/Authorization", json!("Bearer x")),
        ),
    ] {
        assert_eq!(
            call(&provider, &request).await,
            Err(AttestError::Bad),
            "{what}"
        );
    }
    assert_eq!(
        sts.server.requests().len() + enemy.server.requests().len(),
        0,
        "nobody was called"
    );
}

/// Two spellings of one header, and what is no base64url.
#[tokio::test]
async fn a_request_with_two_readings_is_not_sent_on() {
    let sts = Sts::start().await;
    let provider = sts.provider();
    let mut twice = sts.request();
    twice["headers"]["x-amz-date"] = json!("20990101T000000Z");
    assert_eq!(
        call(&provider, &twice).await,
        Err(AttestError::Bad),
        "a header in two spellings"
    );
    let shown = provider.show_as("!!!", TokenType::AwsCallerIdentity).await;
    assert_eq!(shown, Err(AttestError::Bad));
    assert_eq!(sts.server.requests().len(), 0);
}

const DOCUMENT_TYPE: &str = "urn:keyward:token-type:aws-identity-document";
const CALLER_TYPE: &str = "urn:keyward:token-type:aws-caller-identity";

/// The whole way: both proofs open sessions at `/token`, and neither opens anything under another name.
#[tokio::test]
async fn proofs_of_aws_become_session_tokens() {
    let (region, sts) = (Region::new(), Sts::start().await);
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("ec2.pem");
    std::fs::write(&pem, &region.pem).unwrap();
    let trust = format!(
        "{BEARER}[trust.ec2]\nagent = {{ map = {{ \"arn:aws:ec2:*\" = \"a\", \"arn:aws:sts::*\" = \"b\" }} }}\n\
         aws = {{ accounts = [\"123456789012\"], identity-document = {{ certificates = [\"{}\"] }}, \
         caller-identity = {{ audience = \"keyward.example.com\", sts-url = \"https://{}\" }} }}\n",
        pem.display(),
        sts.host(),
    );
    let harness = Setup::new(&trust)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let ask = async |token: &str, kind: &str| -> Granted {
        let parameters = [
            ("grant_type", EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", kind),
        ];
        harness.agent().form("/token", "", &parameters).await
    };
    let now = jiff::Timestamp::now().as_second();
    let message = region.message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes());
    // In lines, as the metadata service gives it.
    let lines: Vec<&str> = message
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    // Signed ten minutes ago: a third of its quarter of an hour is left.
    let signed = b64(sts.request_at(now - 600).to_string());
    for (agent, token, kind) in [
        ("a", &lines.join("\n"), DOCUMENT_TYPE),
        ("b", &signed, CALLER_TYPE),
    ] {
        let granted = ask(token, kind).await;
        let mine = harness.agent().with_token(granted.token());
        let mut sender = mine.h1("api.test:443").await;
        let answer = mine.ask(&mut sender, request("GET", "/", "api.test")).await;
        assert_eq!(answer.status, 200);
        let picks = |r: &Value| r["event"] == "session-start" && r["agent"] == agent;
        assert_eq!(harness.record(picks).await["trust"], "ec2");
        // A session does not outlive its evidence.
        let left = granted.json["expires_in"].as_i64().unwrap();
        let most = if agent == "b" { 300 } else { 900 };
        assert!((most - 20..=most).contains(&left), "{agent}: {left}");
    }
    let stale = b64(sts.request_at(now - 3600).to_string());
    let forged = Region::new().message(DOCUMENT.as_bytes(), DOCUMENT.as_bytes());
    for (what, token, kind) in [
        ("a document as a JWT", &message, JWT),
        ("a document as a request", &message, CALLER_TYPE),
        ("a request as a document", &signed, DOCUMENT_TYPE),
        ("an old request", &stale, CALLER_TYPE),
        ("another's signature", &forged, DOCUMENT_TYPE),
    ] {
        let refused = ask(token, kind).await;
        assert_eq!(refused.error(), (400, "invalid_request"), "{what}");
    }
    let in_header = harness.agent_with(Some(&message));
    let (answer, _) = in_header.connect("api.test:443").await;
    assert_eq!(answer.status(), 407, "only at /token");
    harness.finish().await;
}
