//! The chain: each record holds the hash of the one before, so that no line can be changed, taken out or moved unseen.

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::json::Value as _;

/// A SHA-256 as 64 lower-case hex digits.
pub(super) type Hex = [u8; 64];

/// What stands as `prev` in the first record of a chain.
pub(super) const GENESIS: Hex = [b'0'; 64];

/// The end of the chain, and the lines that wait to be written.
#[derive(Debug)]
pub(super) struct Chain {
    /// The number of the last record.
    pub(super) seq: u64,
    /// The hash of the last record.
    pub(super) prev: Hex,
    /// Whole lines, in order.
    pub(super) queue: Vec<u8>,
    /// Records that the full queue did not take, not yet told.
    pub(super) lost: u64,
}

/// Memory for lines that a failing sink does not take: some 16,000 records.
pub(super) const BOUND: usize = 8 * 1024 * 1024;

impl Chain {
    /// Goes on after record `seq` with the hash `prev`.
    pub(super) fn after(seq: u64, prev: Hex) -> Self {
        Self {
            seq,
            prev,
            queue: Vec::with_capacity(64 * 1024),
            lost: 0,
        }
    }

    /// Appends a line whose beginning `hashed` has already taken; `None` where the queue is full.
    pub(super) fn push(&mut self, begun: &[u8], mut hashed: Context) -> Option<u64> {
        if self.queue.len() + begun.len() > BOUND {
            return None;
        }
        self.seq += 1;
        self.queue.extend_from_slice(begun);
        let own = self.queue.len();
        self.queue.extend_from_slice(b",\"seq\":");
        self.seq.write(&mut self.queue);
        self.queue.extend_from_slice(b",\"prev\":\"");
        self.queue.extend_from_slice(&self.prev);
        self.queue.push(b'"');
        hashed.update(self.queue.get(own..).unwrap_or_default());
        self.prev = hex(hashed.finish().as_ref());
        self.queue.extend_from_slice(SEAL);
        self.queue.extend_from_slice(&self.prev);
        self.queue.extend_from_slice(b"\"}\n");
        Some(self.seq)
    }
}

const SEAL: &[u8] = b",\"hash\":\"";

/// A line whose own hash is right.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) seq: u64,
    pub(super) prev: Hex,
    pub(super) hash: Hex,
    /// The torn bytes that a `start` answers for: how many, and their digest.
    pub(super) torn: Option<(u64, Hex)>,
}

/// The members that a reader of the chain needs.
#[derive(serde::Deserialize)]
struct Links<'a> {
    event: &'a str,
    seq: u64,
    prev: &'a str,
    outcome: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "torn-bytes")]
    torn_bytes: Option<u64>,
    digest: Option<std::borrow::Cow<'a, str>>,
}

impl Sealed {
    /// Reads a line without its newline; `None` where it is no whole, unchanged record.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let body = line.strip_suffix(b"\"}")?;
        let (body, hash) = body.split_last_chunk::<64>()?;
        let body = body.strip_suffix(SEAL)?;
        if hex(digest(&SHA256, body).as_ref()) != *hash {
            return None;
        }
        let links: Links<'_> = serde_json::from_slice(line).ok()?;
        let torn = match (links.event, links.outcome.as_deref(), links.torn_bytes) {
            ("start", Some("torn"), Some(bytes)) => {
                Some((bytes, links.digest?.as_bytes().try_into().ok()?))
            }
            _ => None,
        };
        let prev = links.prev.as_bytes().try_into().ok()?;
        Some(Self {
            seq: links.seq,
            prev,
            hash: *hash,
            torn,
        })
    }
}

/// Lower-case hex of a 32-byte digest.
pub(super) fn hex(bytes: &[u8]) -> Hex {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = GENESIS;
    let digits = |byte: u8| {
        [byte >> 4, byte & 15].map(|d| DIGITS.get(usize::from(d)).copied().unwrap_or(b'0'))
    };
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&digits(*byte));
    }
    text
}

/// A digest as text.
pub(super) fn text(hex: &Hex) -> &str {
    std::str::from_utf8(hex).unwrap_or_default()
}
