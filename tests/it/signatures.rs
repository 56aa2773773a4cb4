//! An upstream's side of AWS Signature Version 4, written from its specification: it believes nothing that it has not
//! computed again, chunks and trailers included, and its refusals echo all that Amazon's echo.

use std::fmt::Write as _;

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use bytes::Bytes;
use http::{Response, StatusCode};

use super::canary::{CANARY, OTHER};
use super::upstream::{AnyBody, Seen, full, ok};

pub const ID: &str = "AKIAKEYWARDTEST0001";

/// What a request was signed for, and the object in it.
#[derive(Debug)]
pub struct Verified {
    pub scope: String,
    pub object: Vec<u8>,
}

/// Answers as a service does.
pub fn answer(seen: &Seen) -> Response<AnyBody> {
    match verify(seen) {
        Ok(verified) => ok(verified.object),
        Err(why) => {
            let mut answer = ok(format!(
                "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{ID}</AWSAccessKeyId>\
                 <Message>{why}</Message><Head>{:?}</Head></Error>",
                seen.headers
            ));
            *answer.status_mut() = StatusCode::FORBIDDEN;
            answer
        }
    }
}

/// The same, for a body that broke off.
pub fn broken() -> Response<AnyBody> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}

#[expect(
    clippy::too_many_lines,
    reason = "one specification, read from top to bottom"
)]
pub fn verify(seen: &Seen) -> Result<Verified, String> {
    let uri: http::Uri = seen.uri.parse().unwrap();
    let mut pairs: Vec<(String, String)> = form(uri.query().unwrap_or_default());
    let in_query = pairs.iter().any(|(name, _)| name == "X-Amz-Signature");
    let take = |pairs: &mut Vec<(String, String)>, name: &str| {
        let place = pairs.iter().position(|(other, _)| other == name);
        place.map(|place| pairs.remove(place).1).unwrap_or_default()
    };
    let look = |pairs: &[(String, String)], name: &str| {
        let found = pairs.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let (credential, names, signature, time) = if in_query {
        let signature = take(&mut pairs, "X-Amz-Signature");
        if seen.get("authorization").is_some() {
            return Err("two signatures".into());
        }
        let expires: u64 = look(&pairs, "X-Amz-Expires")
            .parse()
            .map_err(|_| "expires")?;
        if expires > 300 {
            return Err(format!("good for {expires} s"));
        }
        let names = look(&pairs, "X-Amz-SignedHeaders");
        let time = look(&pairs, "X-Amz-Date");
        (look(&pairs, "X-Amz-Credential"), names, signature, time)
    } else {
        let all = seen.all("authorization");
        let [one] = &all[..] else {
            return Err(format!("{} authorizations", all.len()));
        };
        let rest = one
            .strip_prefix("AWS4-HMAC-SHA256 ")
            .ok_or("another algorithm")?;
        let part = |name: &str| {
            let mut parts = rest.split(", ").filter_map(|part| part.strip_prefix(name));
            parts.next().unwrap_or_default().to_owned()
        };
        let time = seen.get("x-amz-date").unwrap_or_default();
        (
            part("Credential="),
            part("SignedHeaders="),
            part("Signature="),
            time,
        )
    };
    let [id, day, region, service, "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..]
    else {
        return Err(format!("credential {credential}"));
    };
    if id != ID || !time.starts_with(day) {
        return Err(format!("another key or day: {credential} at {time}"));
    }
    let token = if in_query {
        look(&pairs, "X-Amz-Security-Token")
    } else {
        seen.get("x-amz-security-token").unwrap_or_default()
    };
    if token != OTHER {
        return Err("another session token".into());
    }
    // All of Amazon's own fields are signed, and nothing is that the agent smuggled in.
    let signed: Vec<&str> = names.split(';').collect();
    for name in seen.headers.keys().map(http::HeaderName::as_str) {
        if name.starts_with("x-amz-") && !signed.contains(&name) {
            return Err(format!("{name} is not signed"));
        }
    }
    let known = |name: &&str| {
        name.starts_with("x-amz-") || ["host", "content-type", "content-md5"].contains(name)
    };
    if !signed.iter().all(known) || !signed.contains(&"host") {
        return Err(format!("signed: {names}"));
    }
    let host = seen
        .get("host")
        .or(uri.authority().map(ToString::to_string))
        .unwrap();
    let mut lines = String::new();
    for name in &signed {
        let value = if *name == "host" {
            host.clone()
        } else {
            seen.all(name).join(",")
        };
        let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
        writeln!(lines, "{name}:{}", words.join(" ")).unwrap();
    }
    let s3 = service == "s3";
    // S3 decodes what came and spells it anew; others spell what came once more.
    let path = if s3 {
        encode(&decode(uri.path(), false), true)
    } else {
        encode(uri.path().as_bytes(), true)
    };
    let mut spelled: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| {
            (
                encode(name.as_bytes(), false),
                encode(value.as_bytes(), false),
            )
        })
        .collect();
    spelled.sort();
    let query: Vec<String> = spelled
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let given = seen.get("x-amz-content-sha256");
    let payload = match (&given, in_query) {
        (Some(given), _) => given.clone(),
        (None, true) if s3 => "UNSIGNED-PAYLOAD".into(),
        (None, _) if s3 => return Err("S3 wants x-amz-content-sha256".into()),
        (None, _) => sha256(&seen.body),
    };
    let canonical = format!(
        "{}\n{path}\n{}\n{lines}\n{names}\n{payload}",
        seen.method,
        query.join("&")
    );
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let second = time_of(&time);
    let key = generate_signing_key(CANARY, second, region, service);
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        sha256(canonical.as_bytes())
    );
    if calculate_signature(&key, text.as_bytes()) != signature {
        return Err(format!("signature {signature} of {text} and {canonical}"));
    }
    let object = match &*payload {
        "UNSIGNED-PAYLOAD" => seen.body.to_vec(),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => unchunk(seen, None, key.as_ref(), &time, &scope)?,
        text if text.starts_with("STREAMING-AWS4-HMAC-SHA256-PAYLOAD") => {
            unchunk(seen, Some(signature), key.as_ref(), &time, &scope)?
        }
        digest if digest == sha256(&seen.body) => seen.body.to_vec(),
        _ => return Err("another digest".into()),
    };
    Ok(Verified {
        scope: format!("{region}/{service}"),
        object,
    })
}

/// Reads the chunks, and checks the chain of their signatures and that of the trailer.
fn unchunk(
    seen: &Seen,
    before: Option<String>,
    key: &[u8],
    time: &str,
    scope: &str,
) -> Result<Vec<u8>, String> {
    let mut rest = &seen.body[..];
    let mut object = Vec::new();
    let mut before = before;
    let line = |rest: &mut &[u8]| -> Result<String, String> {
        let end = memchr::memmem::find(rest, b"\r\n").ok_or("a line without end")?;
        let text = String::from_utf8(rest[..end].to_vec()).unwrap();
        *rest = &rest[end + 2..];
        Ok(text)
    };
    loop {
        let head = line(&mut rest)?;
        let (size, given) = head.split_once(";chunk-signature=").unwrap_or((&head, ""));
        let size = usize::from_str_radix(size, 16).map_err(|_| "no size")?;
        if rest.len() < size {
            return Err("a short chunk".into());
        }
        let (data, after) = rest.split_at(size);
        if let Some(last) = &mut before {
            let text = format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{last}\n{}\n{}",
                sha256(b""),
                sha256(data)
            );
            *last = calculate_signature(key, text.as_bytes());
            if last != given {
                return Err("a chunk's signature".into());
            }
        }
        rest = after;
        object.extend_from_slice(data);
        if size == 0 {
            break;
        }
        if !line(&mut rest)?.is_empty() {
            return Err("a chunk's end".into());
        }
    }
    let mut fields = String::new();
    loop {
        let field = line(&mut rest)?;
        if field.is_empty() {
            break;
        }
        if let Some(given) = field.strip_prefix("x-amz-trailer-signature:") {
            let last = before.as_ref().ok_or("a signature on what is not signed")?;
            let text = format!(
                "AWS4-HMAC-SHA256-TRAILER\n{time}\n{scope}\n{last}\n{}",
                sha256(fields.as_bytes())
            );
            if calculate_signature(key, text.as_bytes()) != given {
                return Err("the trailer's signature".into());
            }
        } else {
            fields.push_str(&field);
            fields.push('\n');
        }
    }
    let length = seen.get("x-amz-decoded-content-length").unwrap_or_default();
    if !rest.is_empty() || length != object.len().to_string() {
        return Err(format!("{length} is not {}", object.len()));
    }
    Ok(object)
}

fn time_of(text: &str) -> std::time::SystemTime {
    let now = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).unwrap();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    assert!(
        (now.as_second() - jiff::Timestamp::now().as_second()).abs() < 60,
        "{text} is not now"
    );
    now.into()
}

fn form(query: &str) -> Vec<(String, String)> {
    let text = |part: &str| String::from_utf8(decode(part, true)).unwrap();
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn decode(text: &str, plus: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let hex = std::str::from_utf8(&after[..2]).unwrap();
                out.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &after[2..];
            }
            b'+' if plus => out.push(b' '),
            other => out.push(*other),
        }
    }
    out
}

fn encode(bytes: &[u8], slashes: bool) -> String {
    let mut out = String::new();
    for byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
        if plain || slashes && *byte == b'/' {
            out.push(char::from(*byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
    }
    out
}

pub fn sha256(bytes: &[u8]) -> String {
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    sum.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
