//! `inject = "sigv4"`: the agent's dummy signature goes, and one that counts stands in its place (AWS Signature
//! Version 4).
//!
//! Two steps, for the body may have to be read between them: [`Signer::prepare`] takes out all that the agent's
//! signature left in the head and says how the body is covered; [`Unsigned::sign`] signs what is then there, as the
//! last thing that happens to a head. Nothing of the agent's signature is believed: not its service, region, date,
//! key or list of headers.

mod canonical;
mod chain;
mod chunk;
mod scope;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use jiff::Timestamp;

pub use chunk::{BadChunks, Chunks, MAX_CHUNK};
pub use scope::SigningScope;

use self::canonical::Pair;
use self::chain::{Chain, EMPTY, Scoped, sha256};
use self::chunk::Framed;
use crate::head::Head;
use crate::secret::Secret;

/// The longest that a presigned URL made here is good, in seconds: it is sent at once, and only once.
const LONGEST_PRESIGNED: u64 = 300;

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const DECODED_LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");

/// What belongs to a signature and so never goes upstream from an agent.
const OF_SIGNATURES: [HeaderName; 5] = [
    AUTHORIZATION,
    DATE,
    TOKEN,
    HeaderName::from_static("x-amz-s3session-token"),
    HeaderName::from_static("x-amz-region-set"),
];

/// The one algorithm that is made here.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What only signatures of other kinds bring: a session of S3 Express, and the regions of SigV4a.
const VARIANTS: [HeaderName; 2] = [
    HeaderName::from_static("x-amz-s3session-token"),
    HeaderName::from_static("x-amz-region-set"),
];

/// The same in a query, lower-case.
const IN_QUERY: [&str; 10] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-s3session-token",
    "x-amz-region-set",
];

/// A query signed by Version 2, which S3's libraries still make: it is answered by a signature in the header.
const VERSION_2: [&str; 3] = ["awsaccesskeyid", "signature", "expires"];

/// Keys, and the scope that the file names: what signs.
#[derive(Debug, Clone)]
pub struct Signer {
    keys: Keys,
    scope: SigningScope,
    also: &'static [&'static str],
}

/// AWS keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The access key's id, which is no secret: it stands in every signed request.
    pub id: Arc<str>,
    /// The secret access key.
    pub secret: Arc<Secret>,
    /// The session token of keys that end.
    pub token: Option<Arc<Secret>>,
}

/// A head without its agent's signature, not signed yet.
#[derive(Debug)]
pub struct Unsigned<'a> {
    keys: &'a Keys,
    service: &'a str,
    region: &'a str,
    pairs: Vec<Pair>,
    /// Where a presigned URL was asked for: how long it is good, in seconds.
    presigned: Option<u64>,
    payload: Payload,
    also: &'static [&'static str],
}

/// How the signature covers the body.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Payload {
    /// By this text: a digest that the agent gave, that of nothing, or `UNSIGNED-PAYLOAD`.
    Known(String),
    /// By the digest of the whole body, which has to be read.
    Whole,
    /// In chunks.
    Chunked(String, Framed),
}

/// The request cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsignable {
    /// Neither the host's name nor the file tells service and region.
    #[error("service and region of this host are not known")]
    Scope,
    /// More than one signature, or a part of one twice.
    #[error("there is more than one signature on the request")]
    Twice,
    /// The query holds an escape that is none, or that is not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Query,
    /// A header that is signed holds something else than visible ASCII.
    #[error("a header that is signed holds other characters than visible ASCII")]
    Header,
    /// Signed by SigV4a (`AWS4-ECDSA-P256-SHA256`), for a session of S3 Express, or by an algorithm that is not known.
    #[error("the request is signed by another algorithm than AWS4-HMAC-SHA256")]
    Variant,
    /// The body is signed in a way that is not known, or its head does not say what is in it.
    #[error("the body is covered in a way that cannot be signed again")]
    Payload,
}

impl Signer {
    /// Signs with these keys.
    pub fn new(keys: Keys, scope: SigningScope) -> Self {
        Self {
            keys,
            scope,
            also: &[],
        }
    }

    /// Covers these fields too, where they stand in a head: lower-case names.
    #[must_use]
    pub fn covering(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    /// Takes the agent's signature out of a head for `host`; `empty` says that there is no body.
    ///
    /// # Errors
    /// [`Unsignable`]; the head must not be sent then.
    pub fn prepare<'a>(
        &'a self,
        head: &mut Head,
        host: &'a str,
        empty: bool,
    ) -> Result<Unsigned<'a>, Unsignable> {
        let (service, region) = self.scope.settle(host).ok_or(Unsignable::Scope)?;
        let mut pairs = canonical::query(head.query().unwrap_or_default())?;
        let signed_head = head.headers().contains_key(AUTHORIZATION);
        let presigned = unsign_query(&mut pairs)?;
        if signed_head && presigned != Signed::No
            || head.headers().get_all(AUTHORIZATION).iter().count() > 1
        {
            return Err(Unsignable::Twice);
        }
        if is_variant(head.headers(), presigned) {
            return Err(Unsignable::Variant);
        }
        for name in &OF_SIGNATURES {
            head.headers_mut().remove(name);
        }
        let presigned = match presigned {
            Signed::For(seconds) => Some(seconds.clamp(1, LONGEST_PRESIGNED)),
            Signed::ByVersion2 | Signed::ByVariant | Signed::No => None,
        };
        let payload = payload(head.headers(), (service, presigned.is_some()), empty)?;
        Ok(Unsigned {
            keys: &self.keys,
            service,
            region,
            pairs,
            presigned,
            payload,
            also: self.also,
        })
    }
}

/// Whether the agent's library made a signature of a kind that is not made here: one of the common kind in its place
/// would be another request than the one it meant (every region, a session of its own).
fn is_variant(headers: &HeaderMap, query: Signed) -> bool {
    let own = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let algorithm = own.and_then(|value| value.split(|b| *b == b' ').next());
    let unknown = algorithm.is_some_and(|word| {
        let named = word
            .get(..4)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"AWS4"));
        named && !word.eq_ignore_ascii_case(ALGORITHM.as_bytes())
    });
    unknown || query == Signed::ByVariant || VARIANTS.iter().any(|name| headers.contains_key(name))
}

/// Whether a query was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signed {
    No,
    /// By Version 4, for so many seconds.
    For(u64),
    ByVersion2,
    /// By something of Version 4 that is not made here.
    ByVariant,
}

/// Takes a signature out of a query.
fn unsign_query(pairs: &mut Vec<Pair>) -> Result<Signed, Unsignable> {
    let version_2 = pairs
        .iter()
        .any(|pair| pair.name.eq_ignore_ascii_case("AWSAccessKeyId"));
    let mut found: Vec<(String, String)> = Vec::new();
    pairs.retain(|pair| {
        let name = pair.name.to_ascii_lowercase();
        let takes = IN_QUERY.contains(&&*name) || version_2 && VERSION_2.contains(&&*name);
        if takes {
            found.push((name, pair.value.clone()));
        }
        !takes
    });
    found.sort();
    if found
        .windows(2)
        .any(|two| matches!(two, [(a, _), (b, _)] if a == b))
    {
        return Err(Unsignable::Twice);
    }
    let value = |name: &str| {
        let pair = found.iter().find(|(other, _)| other == name);
        pair.map(|(_, value)| value.as_str())
    };
    let algorithm = value("x-amz-algorithm").unwrap_or(ALGORITHM);
    if !algorithm.eq_ignore_ascii_case(ALGORITHM)
        || VARIANTS.iter().any(|name| value(name.as_str()).is_some())
    {
        return Ok(Signed::ByVariant);
    }
    let version_4 = ["x-amz-algorithm", "x-amz-credential", "x-amz-signature"];
    if version_4.iter().any(|name| value(name).is_some()) {
        if version_2 {
            return Err(Unsignable::Twice);
        }
        let seconds = value("x-amz-expires").and_then(|text| text.parse().ok());
        return Ok(Signed::For(seconds.unwrap_or(LONGEST_PRESIGNED)));
    }
    Ok(if version_2 {
        Signed::ByVersion2
    } else {
        Signed::No
    })
}

/// Whether this service is S3, which signs its paths as they are sent and wants each request's digest in a header.
fn is_s3(service: &str) -> bool {
    matches!(service, "s3" | "s3-outposts" | "s3-object-lambda")
}

fn payload(
    headers: &HeaderMap,
    (service, presigned): (&str, bool),
    empty: bool,
) -> Result<Payload, Unsignable> {
    let known = |text: &str| Ok(Payload::Known(text.to_owned()));
    let Some(given) = one(headers, &CONTENT_SHA256)? else {
        return match (is_s3(service), empty) {
            (true, _) if presigned => known("UNSIGNED-PAYLOAD"),
            (_, true) => known(EMPTY),
            (true, false) => known("UNSIGNED-PAYLOAD"),
            (false, false) => Ok(Payload::Whole),
        };
    };
    let is_digest = given.len() == 64
        && given
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if given == "UNSIGNED-PAYLOAD" || is_digest {
        return known(given);
    }
    let (signed, trailer) = match given {
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => (true, false),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => (true, true),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => (false, true),
        _ => return Err(Unsignable::Payload),
    };
    let length = one(headers, &DECODED_LENGTH)?.and_then(|text| text.parse().ok());
    let names = one(headers, &TRAILER)?.map(|names| {
        let names = names.split(',').map(str::trim);
        names.map(str::to_ascii_lowercase).collect()
    });
    let (false, false, Some(length)) = (empty, presigned, length) else {
        return Err(Unsignable::Payload);
    };
    let framed = Framed {
        length,
        trailer: if trailer {
            Some(names.ok_or(Unsignable::Payload)?)
        } else {
            None
        },
        signed,
    };
    Ok(Payload::Chunked(given.to_owned(), framed))
}

/// The one value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Unsignable> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Unsignable::Payload);
    }
    let text = first.map(|value| value.to_str().map_err(|_| Unsignable::Header));
    text.transpose()
}

impl Unsigned<'_> {
    /// Whether [`Unsigned::sign`] wants the whole body.
    pub fn needs_body(&self) -> bool {
        self.payload == Payload::Whole
    }

    /// Signs the head, which is sent as it then is. `authority` is the `Host` that goes upstream, `body` the whole
    /// body where it is needed. What comes back is for the body's chunks, where it has such.
    ///
    /// # Errors
    /// [`Unsignable`]; the head must not be sent then.
    pub fn sign(
        mut self,
        head: &mut Head,
        authority: &str,
        body: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Option<Chunks>, Unsignable> {
        let payload = match &self.payload {
            Payload::Known(text) | Payload::Chunked(text, _) => text.clone(),
            Payload::Whole => sha256(body.ok_or(Unsignable::Payload)?),
        };
        let scoped = Scoped::new(&self.keys.secret, now, self.service, self.region);
        if self.presigned.is_none() {
            self.add_headers(head.headers_mut(), &scoped, &payload)?;
        }
        let headers = canonical_headers(head.headers(), authority, self.also)?;
        let credential = format!("{}/{}", self.keys.id, scoped.scope);
        if let Some(seconds) = self.presigned {
            self.add_parameters(&scoped, &credential, &headers.names, seconds)?;
        }
        let path = canonical::path(head.path());
        let signed_path = if is_s3(self.service) {
            path.clone()
        } else {
            canonical::twice(&path)
        };
        let signature = scoped.sign(&format!(
            "{}\n{signed_path}\n{}\n{}\n{}\n{payload}",
            head.method(),
            canonical::canonical_query(&self.pairs),
            headers.lines,
            headers.names
        ));
        if self.presigned.is_some() {
            self.pairs.push(Pair::new("X-Amz-Signature", &signature));
        } else {
            let text = format!(
                "{ALGORITHM} Credential={credential}, SignedHeaders={}, Signature={signature}",
                headers.names
            );
            head.headers_mut().insert(AUTHORIZATION, value(&text)?);
        }
        head.set_path_and_query(self.spelled(path)?);
        Ok(match self.payload {
            Payload::Chunked(_, framed) => {
                let chain = framed.signed.then(|| Chain::new(scoped, signature));
                Some(Chunks::new(framed, chain))
            }
            Payload::Known(_) | Payload::Whole => None,
        })
    }

    fn add_headers(
        &self,
        headers: &mut HeaderMap,
        scoped: &Scoped,
        payload: &str,
    ) -> Result<(), Unsignable> {
        headers.insert(DATE, value(&scoped.time)?);
        if is_s3(self.service) {
            headers.insert(CONTENT_SHA256, value(payload)?);
        }
        if let Some(token) = &self.keys.token {
            let token = HeaderValue::from_bytes(token.expose());
            let mut token = token.map_err(|_| Unsignable::Header)?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        Ok(())
    }

    fn add_parameters(
        &mut self,
        scoped: &Scoped,
        credential: &str,
        names: &str,
        seconds: u64,
    ) -> Result<(), Unsignable> {
        for (name, value) in [
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", &*scoped.time),
            ("X-Amz-Expires", &*seconds.to_string()),
            ("X-Amz-SignedHeaders", names),
        ] {
            self.pairs.push(Pair::new(name, value));
        }
        if let Some(token) = &self.keys.token {
            let token = std::str::from_utf8(token.expose()).map_err(|_| Unsignable::Header)?;
            self.pairs.push(Pair::new("X-Amz-Security-Token", token));
        }
        Ok(())
    }

    fn spelled(&self, mut path: String) -> Result<PathAndQuery, Unsignable> {
        for (place, pair) in self.pairs.iter().enumerate() {
            path.push(if place == 0 { '?' } else { '&' });
            path.push_str(&pair.sent);
        }
        PathAndQuery::from_maybe_shared(path).map_err(|_| Unsignable::Query)
    }
}

/// A head's signed fields: `name:value\n` each, and the names.
struct Fields {
    lines: String,
    names: String,
}

/// Signed are `Host`, `Content-Type`, `Content-MD5` and all of Amazon's own. What else stands in a head may be changed
/// on its way, and no server asks for more.
fn canonical_headers(
    headers: &HeaderMap,
    authority: &str,
    also: &[&str],
) -> Result<Fields, Unsignable> {
    let mut names: Vec<&str> = headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| {
            let of_signatures = name.starts_with("x-amz-")
                || *name == CONTENT_TYPE.as_str()
                || *name == "content-md5";
            of_signatures || also.contains(name)
        })
        .collect();
    names.push(HOST.as_str());
    names.sort_unstable();
    names.dedup();
    let mut lines = String::new();
    for name in &names {
        lines.push_str(name);
        lines.push(':');
        if *name == HOST.as_str() {
            lines.push_str(authority);
        } else {
            for (place, value) in headers.get_all(*name).iter().enumerate() {
                let value = value.to_str().map_err(|_| Unsignable::Header)?;
                if place > 0 {
                    lines.push(',');
                }
                squeeze(value, &mut lines);
            }
        }
        writeln!(lines).map_err(|_| Unsignable::Header)?;
    }
    let names = names.join(";");
    Ok(Fields { lines, names })
}

/// A value without blanks at its ends, and with one for each run of them.
fn squeeze(value: &str, out: &mut String) {
    for (place, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
        if place > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
}

fn value(text: &str) -> Result<HeaderValue, Unsignable> {
    HeaderValue::from_str(text).map_err(|_| Unsignable::Header)
}
