//! Amazon's published examples, a second implementation as judge, and what an agent may try.

mod chunks;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::Request;
use proptest::prelude::*;

use super::*;
use crate::host::{Scheme, Target};

const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn signer(service: &str, region: &str, token: Option<&str>) -> Signer {
    let keys = Keys {
        id: ID.into(),
        secret: Arc::new(Secret::from(SECRET.to_owned())),
        token: token.map(|token| Arc::new(Secret::from(token.to_owned()))),
    };
    let scope = SigningScope {
        service: Some(service.into()),
        region: Some(region.into()),
    };
    Signer::new(keys, scope)
}

fn head(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Head {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let target = Target::from_authority(Scheme::Https, &format!("{host}:443")).unwrap();
    Head::clean(request.body(()).unwrap().into_parts().0, &target).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Signs, and gives the head and what is for its chunks.
fn signed(
    signer: &Signer,
    mut head: Head,
    host: &str,
    body: Option<&[u8]>,
    now: Timestamp,
) -> Result<(Head, Option<Chunks>), Unsignable> {
    let unsigned = signer.prepare(&mut head, host, body.is_none())?;
    let body = body.filter(|_| unsigned.needs_body());
    let chunks = unsigned.sign(&mut head, host, body, now)?;
    Ok((head, chunks))
}

fn field<'a>(head: &'a Head, name: &str) -> &'a str {
    head.headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// "Signature Calculations for the Authorization Header", GET Bucket Lifecycle and GET Bucket (List Objects).
#[test]
fn the_examples_of_the_s3_reference_come_out() {
    let signer = signer("s3", "us-east-1", None);
    let host = "examplebucket.s3.amazonaws.com";
    for (path, signature) in [
        (
            "/?lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let head = head("GET", host, path, &[("x-amz-content-sha256", EMPTY)]);
        let (head, _) = signed(&signer, head, host, None, at("2013-05-24T00:00:00Z")).unwrap();
        assert_eq!(
            field(&head, "authorization"),
            format!(
                "AWS4-HMAC-SHA256 Credential={ID}/20130524/us-east-1/s3/aws4_request, \
                 SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
            )
        );
    }
}

/// "Authenticating Requests: Using Query Parameters", with the 300 s that keyward allows in place of a day: the
/// signature is that of the second implementation below; the parameters are those of the example.
#[test]
fn a_presigned_url_is_signed_in_its_query_and_for_minutes() {
    let signer = signer("s3", "us-east-1", None);
    let host = "examplebucket.s3.amazonaws.com";
    let path = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAkeyward%2F20200101%2Fmars%2Fiam%2Faws4_request\
        &X-Amz-Date=20200101T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Security-Token=dummy&X-Amz-Signature=00";
    let head = head("GET", host, path, &[]);
    let (head, _) = signed(&signer, head, host, None, at("2013-05-24T00:00:00Z")).unwrap();
    let query = head.query().unwrap();
    assert!(
        query.starts_with(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host&X-Amz-Signature="
        ),
        "{query}"
    );
    assert!(!query.contains("dummy") && !query.contains("mars"));
    assert_eq!(field(&head, "authorization"), "");
}

/// The signature that Amazon's own library makes of what was sent.
fn judged(head: &Head, host: &str, scope: (&'static str, &'static str), payload: &str) -> String {
    let sent = field(head, "authorization");
    let (_, names) = sent.split_once("SignedHeaders=").unwrap();
    let names = names.split(',').next().unwrap();
    let own = ["host", "x-amz-date", "x-amz-security-token"];
    let mut headers: Vec<(&str, &str)> = Vec::new();
    for name in names.split(';').filter(|name| !own.contains(name)) {
        for value in head.headers().get_all(name) {
            headers.push((name, value.to_str().unwrap()));
        }
    }
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::Headers;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.percent_encoding_mode = if scope.0 == "s3" {
        PercentEncodingMode::Single
    } else {
        PercentEncodingMode::Double
    };
    let time = field(head, "x-amz-date");
    let now = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).unwrap();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let since = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap();
    let token = head.headers().get("x-amz-security-token");
    let token = token.map(|token| token.to_str().unwrap().to_owned());
    let identity = Credentials::new(ID, SECRET, token, None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.1)
        .name(scope.0)
        .time(SystemTime::UNIX_EPOCH + since)
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let uri = format!("https://{host}{}", head.path_and_query());
    let body = SignableBody::Precomputed(payload.to_owned());
    let request = SignableRequest::new(head.method().as_str(), uri, headers.into_iter(), body);
    sign(request.unwrap(), &params).unwrap().into_parts().1
}

proptest! {
    #[test]
    fn amazons_own_library_makes_the_same_signature(
        s3: bool,
        segments in proptest::collection::vec("[a-zA-Z0-9+:@$&'()*,;=!~ äß€]{1,8}", 0..4),
        query in proptest::collection::vec(("[a-zA-Z0-9+ /:?@$'()*,;!~äß€-]{1,8}", "[a-zA-Z0-9+ /:?@$'()*,;!~äß€-]{0,8}"), 0..5),
        meta in "[a-z]([a-z  ]{0,12}[a-z])?",
        token: bool,
        body in proptest::option::of("[a-z]{1,20}"),
    ) {
        // `&` and `=` within names and values are escaped by every client; half of the rest is, half is not.
        let escape = |text: &str| -> String {
            text.char_indices().map(|(place, c)| {
                let plain = c.is_ascii() && c != ' ' && c != '+' && place % 2 == 0;
                if plain { c.to_string() } else {
                    let mut bytes = [0; 4];
                    let escaped = c.encode_utf8(&mut bytes).bytes().map(|b| format!("%{b:02X}"));
                    escaped.collect::<Vec<_>>().concat()
                }
            }).collect()
        };
        let parts: Vec<String> = segments.iter().map(|segment| format!("/{}", escape(segment))).collect();
        let mut path = parts.concat();
        if path.is_empty() { path.push('/'); }
        let text: Vec<String> = query.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        if !text.is_empty() { path = format!("{path}?{}", text.join("&")); }
        let (service, host) = if s3 { ("s3", "b.s3.eu-west-1.amazonaws.com") } else { ("dynamodb", "dynamodb.eu-west-1.amazonaws.com") };
        let given = head("POST", host, &path, &[("x-amz-meta-a", &meta), ("x-amz-meta-a", "2"), ("content-type", "a/b"), ("x-other", "1")]);
        let signer = signer(service, "eu-west-1", token.then_some("a/token+of=keys"));
        let now = at("2026-11-22T02:03:04Z");
        let (head, _) = signed(&signer, given, host, body.as_deref().map(str::as_bytes), now).unwrap();
        let payload = match (s3, &body) {
            (_, None) => EMPTY.to_owned(),
            (true, Some(_)) => "UNSIGNED-PAYLOAD".to_owned(),
            (false, Some(body)) => sha256(body.as_bytes()),
        };
        let signature = judged(&head, host, (service, "eu-west-1"), &payload);
        let made = field(&head, "authorization").rsplit('=').next().unwrap();
        prop_assert_eq!(made, signature);
    }
}

#[test]
fn what_the_agent_signed_with_is_gone() {
    let signer = signer("s3", "us-east-1", Some("the-real-session-token"));
    let host = "b.s3.amazonaws.com";
    let headers = [
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAOTHER/20260101/eu-north-1/iam/aws4_request, SignedHeaders=host;x-evil, Signature=00",
        ),
        ("x-amz-date", "20260101T000000Z"),
        ("x-amz-security-token", "dummy-token"),
        ("x-evil", "1"),
    ];
    let head = head("GET", host, "/k", &headers);
    let (head, _) = signed(&signer, head, host, None, at("2013-05-24T00:00:00Z")).unwrap();
    let text = format!("{:?}", head.headers());
    for gone in ["AKIAOTHER", "eu-north-1", "iam", "20260101", "dummy"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    assert!(!field(&head, "authorization").contains("x-evil"));
    assert!(
        !text.contains("the-real-session-token"),
        "a token is sensitive"
    );
    assert_eq!(
        field(&head, "x-amz-security-token"),
        "the-real-session-token"
    );
}

#[test]
fn two_signatures_are_none() {
    let signer = signer("s3", "us-east-1", None);
    let host = "b.s3.amazonaws.com";
    let query = "/k?X-Amz-Signature=0&X-Amz-Algorithm=a";
    let dummy = ("authorization", "AWS4-HMAC-SHA256 x");
    for (path, headers) in [
        ("/k", vec![dummy, dummy]),
        (query, vec![dummy]),
        ("/k?X-Amz-Signature=0&X-Amz-Signature=1", vec![]),
        ("/k?X-Amz-Signature=0&x-amz-signature=1", vec![]),
        ("/k?X-Amz-Signature=0&X%2DAmz%2DSignature=1", vec![]),
        ("/k?X-Amz-Signature=0&AWSAccessKeyId=1", vec![]),
        ("/k?AWSAccessKeyId=1&Signature=2", vec![dummy]),
    ] {
        let mut head = head("GET", host, path, &headers);
        let error = signer.prepare(&mut head, host, true).unwrap_err();
        assert_eq!(error, Unsignable::Twice, "{path}");
    }
}

#[test]
fn a_query_of_version_2_is_signed_in_the_header() {
    let signer = signer("s3", "us-east-1", None);
    let host = "b.s3.amazonaws.com";
    let head = head(
        "GET",
        host,
        "/k?AWSAccessKeyId=a&Signature=b%3D&Expires=1&versionId=3",
        &[],
    );
    let (head, _) = signed(&signer, head, host, None, at("2013-05-24T00:00:00Z")).unwrap();
    assert_eq!(head.query(), Some("versionId=3"));
    assert!(field(&head, "authorization").contains("/us-east-1/s3/aws4_request"));
}

#[test]
fn a_payload_that_cannot_be_signed_again_is_refused() {
    let signer = signer("s3", "us-east-1", None);
    let host = "b.s3.amazonaws.com";
    let kind = "x-amz-content-sha256";
    let length = ("x-amz-decoded-content-length", "5");
    for headers in [
        vec![(kind, "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), length],
        vec![(kind, "STREAMING-AWS4-HMAC-SHA256-EVENTS"), length],
        vec![(kind, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
        vec![(kind, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), length],
        vec![
            (kind, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            length,
            ("x-amz-decoded-content-length", "6"),
        ],
        vec![(kind, EMPTY), (kind, "UNSIGNED-PAYLOAD")],
        vec![(kind, "abc")],
    ] {
        let mut head = head("PUT", host, "/k", &headers);
        let error = signer.prepare(&mut head, host, false).unwrap_err();
        assert_eq!(error, Unsignable::Payload, "{headers:?}");
    }
}

#[test]
fn keys_show_no_secret() {
    let shown = format!(
        "{:?}",
        signer("s3", "us-east-1", Some("the-real-session-token"))
    );
    assert!(
        !shown.contains("wJalr") && !shown.contains("the-real"),
        "{shown}"
    );
}
