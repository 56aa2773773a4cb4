//! The arithmetic of AWS Signature Version 4: keys, digests, and the chain of a body that is signed chunk by chunk.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::canonical::hex;
use crate::secret::Secret;

/// What a signature is good for: a day, a region and a service, and the key that belongs to them.
#[derive(Debug)]
pub(super) struct Scoped {
    key: hmac::Key,
    /// `20130524T000000Z`
    pub(super) time: String,
    /// `20130524/us-east-1/s3/aws4_request`
    pub(super) scope: String,
}

impl Scoped {
    pub(super) fn new(secret: &Secret, now: Timestamp, service: &str, region: &str) -> Self {
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = time.get(..8).unwrap_or_default();
        let first = Zeroizing::new([b"AWS4", secret.expose()].concat());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
        for part in [day, region, service, "aws4_request"] {
            let next = hmac::sign(&key, part.as_bytes());
            key = hmac::Key::new(hmac::HMAC_SHA256, next.as_ref());
        }
        let scope = format!("{day}/{region}/{service}/aws4_request");
        Self { key, time, scope }
    }

    /// The signature of a canonical request.
    pub(super) fn sign(&self, canonical: &str) -> String {
        let sum = sha256(canonical.as_bytes());
        self.of(&format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{sum}",
            self.time, self.scope
        ))
    }

    fn of(&self, text: &str) -> String {
        hex(hmac::sign(&self.key, text.as_bytes()).as_ref())
    }
}

/// Each chunk's signature holds the one before it; the first, that of the head.
#[derive(Debug)]
pub(super) struct Chain {
    scoped: Scoped,
    before: String,
}

impl Chain {
    pub(super) fn new(scoped: Scoped, head: String) -> Self {
        let before = head;
        Self { scoped, before }
    }

    /// Signs the next chunk's data; the last chunk has none.
    pub(super) fn chunk(&mut self, data: &[u8]) -> &str {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{EMPTY}\n{}",
            self.scoped.time,
            self.scoped.scope,
            self.before,
            sha256(data)
        );
        self.before = self.scoped.of(&text);
        &self.before
    }

    /// Signs the trailer, each field as `name:value\n`.
    pub(super) fn trailer(&mut self, fields: &str) -> &str {
        let text = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}\n{}",
            self.scoped.time,
            self.scoped.scope,
            self.before,
            sha256(fields.as_bytes())
        );
        self.before = self.scoped.of(&text);
        &self.before
    }
}

/// The digest of nothing.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}
