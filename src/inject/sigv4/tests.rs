//! Amazon's published examples, a second implementation as judge, and what an agent may try.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
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

/// "Example: PUT object" in chunks, of the same reference: 64 KiB and 1 KiB of the letter a.
#[test]
fn the_chunks_of_the_s3_reference_come_out() {
    let signer = signer("s3", "us-east-1", None);
    let host = "s3.amazonaws.com";
    let headers = [
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
    ];
    let mut head = head("PUT", host, "/examplebucket/chunkObject.txt", &headers);
    let unsigned = signer.prepare(&mut head, host, false).unwrap();
    // The example signs two headers more; its chain is checked from the signature that it gives.
    let now = at("2013-05-24T00:00:00Z");
    drop(unsigned);
    let scoped = Scoped::new(&signer.keys.secret, now, "s3", "us-east-1");
    let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let framed = Framed {
        length: 66560,
        trailer: None,
        signed: true,
    };
    let mut chunks = Chunks::new(framed, Some(Chain::new(scoped, seed.into())));
    let zero = "0".repeat(64);
    let body = [
        format!("10000;chunk-signature={zero}\r\n{}\r\n", "a".repeat(65536)),
        format!("400;chunk-signature={zero}\r\n{}\r\n", "a".repeat(1024)),
        format!("0;chunk-signature={zero}\r\n\r\n"),
    ]
    .concat();
    assert_eq!(body.len(), 66824);
    let out = through(&mut chunks, body.as_bytes(), 1000).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.len(), 66824);
    for signature in [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ] {
        assert!(text.contains(&format!(";chunk-signature={signature}\r\n")));
    }
}

/// Pushes a body in pieces of `size`, and gathers what comes.
fn through(chunks: &mut Chunks, body: &[u8], size: usize) -> Result<Vec<u8>, BadChunks> {
    let mut out: Vec<Bytes> = Vec::new();
    for piece in body.chunks(size) {
        chunks.push(Bytes::copy_from_slice(piece), &mut out)?;
    }
    out.push(chunks.finish()?);
    Ok(out.concat())
}

fn framed(length: u64, trailer: Option<&str>, signed: bool) -> Chunks {
    let now = at("2013-05-24T00:00:00Z");
    let secret = Secret::from(SECRET.to_owned());
    let chain =
        signed.then(|| Chain::new(Scoped::new(&secret, now, "s3", "us-east-1"), "00".into()));
    let framed = Framed {
        length,
        trailer: trailer.map(|name| vec![name.to_owned()]),
        signed,
    };
    Chunks::new(framed, chain)
}

#[test]
fn unsigned_chunks_pass_as_they_are_at_any_cut() {
    let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
    for size in 1..body.len() {
        let mut chunks = framed(11, Some("x-amz-checksum-crc32"), false);
        assert_eq!(through(&mut chunks, body, size).unwrap(), body);
    }
}

#[test]
fn the_end_of_a_body_that_lies_never_comes() {
    let crc = Some("x-amz-checksum-crc32");
    for (name, length, trailer, body) in [
        (
            "a size too small",
            5,
            crc,
            "4\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "a size too large",
            5,
            crc,
            "6\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        ("no last chunk", 5, crc, "5\r\nhello\r\n"),
        ("no trailer", 5, crc, "5\r\nhello\r\n0\r\n\r\n"),
        (
            "half a trailer",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n",
        ),
        (
            "another length",
            6,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "a shorter length",
            4,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "more behind the end",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\nx",
        ),
        (
            "another field",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-acl:public\r\n\r\n",
        ),
        (
            "a field twice",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n\r\n",
        ),
        (
            "a trailer that was not said",
            5,
            None,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        ("bare line ends", 5, None, "5\nhello\n0\n\n"),
        ("an extension", 5, None, "5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("a sign", 5, None, "+5\r\nhello\r\n0\r\n\r\n"),
        ("no size", 5, None, "\r\nhello\r\n0\r\n\r\n"),
        ("a size past all", 5, None, "fffffffffffffffff\r\nhello\r\n"),
        (
            "the largest size",
            5,
            None,
            "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let mut chunks = framed(length, trailer, false);
        assert_eq!(
            through(&mut chunks, body.as_bytes(), 7),
            Err(BadChunks),
            "{name}"
        );
    }
}

#[test]
fn a_signed_chunk_bears_a_signature_and_is_bounded() {
    let zero = "0".repeat(64);
    let over = MAX_CHUNK + 1;
    for (length, body) in [
        (5, "5\r\nhello\r\n0\r\n\r\n".to_owned()),
        (
            5,
            format!("5;chunk-signature={}\r\nhello\r\n", "0".repeat(63)),
        ),
        (5, format!("5;chunk-signature={zero};x\r\nhello\r\n")),
        (over, format!("{over:x};chunk-signature={zero}\r\nhello")),
    ] {
        let mut chunks = framed(length, None, true);
        assert_eq!(
            through(&mut chunks, body.as_bytes(), 64),
            Err(BadChunks),
            "{body}"
        );
    }
}

#[test]
fn a_signed_trailer_is_signed_anew() {
    let (zero, crc) = ("0".repeat(64), Some("x-amz-checksum-crc32c"));
    let body = format!(
        "5;chunk-signature={zero}\r\nhello\r\n0;chunk-signature={zero}\r\n\
         x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{zero}\r\n\r\n"
    );
    let out = through(&mut framed(5, crc, true), body.as_bytes(), 9).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.len(), body.len());
    let before = |text: &str, name: &str| {
        let tail = text.rsplit(name).next().unwrap();
        tail.get(..64).unwrap().to_owned()
    };
    let last = before(
        text.split("x-amz-checksum").next().unwrap(),
        "chunk-signature=",
    );
    let signed = format!(
        "AWS4-HMAC-SHA256-TRAILER\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n{last}\n{}",
        sha256(b"x-amz-checksum-crc32c:sOO8/Q==\n")
    );
    let day = SystemTime::UNIX_EPOCH + Duration::from_hours(380_376);
    let key = v4::generate_signing_key(SECRET, day, "us-east-1", "s3");
    let judged = v4::calculate_signature(key, signed.as_bytes());
    assert_eq!(before(&text, "x-amz-trailer-signature:"), judged);
    assert!(!text.contains(&zero));
    // Its own signature alone, or none, is no trailer.
    for cut in [
        "x-amz-checksum-crc32c:sOO8/Q==\r\n",
        &format!("x-amz-trailer-signature:{zero}\r\n"),
    ] {
        let lame = body.replace(cut, "");
        assert_eq!(
            through(&mut framed(5, crc, true), lame.as_bytes(), 9),
            Err(BadChunks)
        );
    }
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
        ("x-amz-s3session-token", "dummy-token"),
        ("x-amz-region-set", "*"),
        ("x-evil", "1"),
    ];
    let head = head("GET", host, "/k", &headers);
    let (head, _) = signed(&signer, head, host, None, at("2013-05-24T00:00:00Z")).unwrap();
    let text = format!("{:?}", head.headers());
    for gone in [
        "AKIAOTHER",
        "eu-north-1",
        "iam",
        "20260101",
        "dummy",
        "region-set",
    ] {
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
