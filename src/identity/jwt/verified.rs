//! Tokens that were verified, by their SHA-256, until they end: a signature is checked once, not at each connection.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::key::Key;
use crate::identity::Attested;

/// A bounded number of them.
#[derive(Debug)]
pub(in crate::identity) struct Verified(Vec<Mutex<HashMap<[u8; 32], Entry>>>);

#[derive(Debug, Clone)]
struct Entry {
    attested: Attested,
    key: Option<Arc<Key>>,
    until: Timestamp,
}

impl Default for Verified {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Verified {
    /// What this token was worth, if its time is not over, and the key that verified it: withdrawn, the token holds no
    /// longer.
    pub(in crate::identity) fn get(
        &self,
        token: &[u8; 32],
        now: Timestamp,
    ) -> Option<(Attested, Option<Arc<Key>>)> {
        let mut shard = self.shard(token)?.lock();
        let entry = shard.get(token)?;
        if now >= entry.until {
            shard.remove(token);
            return None;
        }
        Some((entry.attested.clone(), entry.key.clone()))
    }

    /// Keeps it. Where there is no room, those that ended go, and at the worst all of a shard.
    pub(in crate::identity) fn put(
        &self,
        token: [u8; 32],
        attested: &Attested,
        (key, until, now): (Option<Arc<Key>>, Timestamp, Timestamp),
    ) {
        let Some(shard) = self.shard(&token) else {
            return;
        };
        let mut shard = shard.lock();
        if shard.len() >= MOST {
            shard.retain(|_, entry| now < entry.until);
        }
        if shard.len() >= MOST {
            shard.clear();
        }
        let attested = attested.clone();
        shard.insert(
            token,
            Entry {
                attested,
                key,
                until,
            },
        );
    }

    fn shard(&self, token: &[u8; 32]) -> Option<&Mutex<HashMap<[u8; 32], Entry>>> {
        self.0.get(usize::from(token.first()? % SHARDS))
    }
}

/// The SHA-256 of what the signer of a JWT signed: all before its last dot (RFC 7515 §5.1); of what has no dot, all.
///
/// This, and not the whole token, is what evidence is known by once it was revoked: whoever holds a token by ECDSA can
/// write its signature another way (`s` and `n − s` both hold), and what was signed stays the same.
pub(in crate::identity) fn stem(token: &[u8]) -> [u8; 32] {
    let end = memchr::memrchr(b'.', token).unwrap_or(token.len());
    sum(token.get(..end).unwrap_or(token))
}

/// The SHA-256 of a token.
pub(in crate::identity) fn sum(token: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token).as_ref());
    out
}

const SHARDS: u8 = 16;
/// The most of a shard.
const MOST: usize = 2048;
