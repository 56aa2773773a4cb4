//! The keys that session tokens are signed with: P-256, rotated, and published without their private half.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::clock::Now;
use crate::secret::Secret;

/// How long a key signs.
pub const SIGNS_FOR: Duration = Duration::from_hours(24);
/// How long a key verifies at least after it signed its last token; no `ttl` is longer.
const VERIFIES_FOR: Duration = Duration::from_hours(24);

/// One signing key.
pub struct Key {
    id: Box<str>,
    pair: EcdsaKeyPair,
    x: String,
    y: String,
    made_ms: i64,
    /// The latest end of a token that it signed, in Unix milliseconds.
    needed_until: AtomicI64,
}

/// Every key of this process; the first one signs.
#[derive(Debug)]
pub struct Keys(ArcSwap<Vec<Arc<Key>>>);

/// A key that cannot be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signing key cannot be used")]
pub struct BadKey;

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// [`BadKey`] where the generator fails.
    pub fn generate(now: &Now) -> Result<Self, BadKey> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| BadKey)?;
        Self::of(pair, now.unix_ms())
    }

    /// One that was kept: PKCS#8, and when it was made in Unix milliseconds.
    ///
    /// # Errors
    /// [`BadKey`] where the bytes are no P-256 key.
    pub fn restore(pkcs8: &Secret, made_ms: i64) -> Result<Self, BadKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose());
        Self::of(pair.map_err(|_| BadKey)?, made_ms)
    }

    fn of(pair: EcdsaKeyPair, made_ms: i64) -> Result<Self, BadKey> {
        // SEC 1 §2.3.3: an uncompressed point is 04, X and Y.
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err(BadKey);
        };
        let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
        // RFC 7638 §3.2: the required members in lexical order.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = BASE64URL.encode(digest(&SHA256, canonical.as_bytes()));
        Ok(Self {
            id: id.into(),
            pair,
            x,
            y,
            made_ms,
            needed_until: AtomicI64::new(0),
        })
    }

    /// `kid`: the RFC 7638 thumbprint.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was made, in Unix milliseconds.
    pub fn made_ms(&self) -> i64 {
        self.made_ms
    }

    /// As PKCS#8, to be kept encrypted.
    ///
    /// # Errors
    /// [`BadKey`] where it cannot be written.
    pub fn to_pkcs8(&self) -> Result<Secret, BadKey> {
        let document = self.pair.to_pkcs8v1().map_err(|_| BadKey)?;
        Ok(Secret::new(document.as_ref().to_vec()))
    }

    /// Signs (RFC 7518 §3.4: R and S, 32 bytes each) a token that ends then.
    pub(super) fn sign(&self, message: &[u8], until_ms: i64) -> Result<Vec<u8>, BadKey> {
        self.needed_until.fetch_max(until_ms, Ordering::Relaxed);
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| BadKey)
    }

    /// Whether it signed this.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = self.pair.public_key().as_ref();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        signature.len() == 64 && key.verify(message, signature).is_ok()
    }

    fn is_stale(&self, now_ms: i64) -> bool {
        now_ms - self.made_ms >= millis(SIGNS_FOR)
    }

    fn is_past(&self, now_ms: i64) -> bool {
        let last = self.made_ms + millis(SIGNS_FOR) + millis(VERIFIES_FOR);
        now_ms > last.max(self.needed_until.load(Ordering::Relaxed))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Keys {
    /// With one new key.
    ///
    /// # Errors
    /// [`BadKey`] where none can be made.
    pub fn new(now: &Now) -> Result<Self, BadKey> {
        Ok(Self::with(vec![Arc::new(Key::generate(now)?)]))
    }

    /// With these; the first one signs.
    pub fn with(keys: Vec<Arc<Key>>) -> Self {
        Self(ArcSwap::from_pointee(keys))
    }

    /// Puts another set in place: another replica may have rotated.
    pub fn replace(&self, mut keys: Vec<Arc<Key>>, now: &Now) {
        keys.sort_by_key(|key| std::cmp::Reverse(key.made_ms));
        let now = now.unix_ms();
        // The newest one signs, however old it is.
        let mut first = true;
        keys.retain(|key| std::mem::take(&mut first) || !key.is_past(now));
        self.0.store(Arc::new(keys));
    }

    /// All keys, the one that signs first.
    pub fn all(&self) -> Arc<Vec<Arc<Key>>> {
        self.0.load_full()
    }

    /// Whether it is time for a new key.
    pub fn is_due(&self, now: &Now) -> bool {
        let keys = self.0.load();
        keys.first().is_none_or(|key| key.is_stale(now.unix_ms()))
    }

    /// Puts a new key first; the old ones verify until their last token is past.
    pub fn add(&self, key: Arc<Key>, now: &Now) {
        let mut keys: Vec<Arc<Key>> = self.0.load().iter().cloned().collect();
        if keys.iter().all(|known| known.id != key.id) {
            keys.push(key);
        }
        self.replace(keys, now);
    }

    pub(super) fn signing(&self) -> Option<Arc<Key>> {
        self.0.load().first().cloned()
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Key>> {
        self.0.load().iter().find(|key| *key.id == *id).cloned()
    }

    /// The JWK set (RFC 7517 §5).
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = (self.0.load().iter())
            .map(|key| {
                json!({
                    "kty": "EC", "crv": "P-256", "x": key.x, "y": key.y,
                    "kid": key.id, "use": "sig", "alg": "ES256",
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn an_old_key_verifies_until_its_last_token_is_past() {
        let clock = ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
        let keys = Keys::new(&clock.now()).unwrap();
        let old = keys.signing().unwrap();
        let signature = old.sign(b"message", clock.now().unix_ms()).unwrap();
        assert!(!keys.is_due(&clock.now()));
        clock.advance(SIGNS_FOR);
        assert!(keys.is_due(&clock.now()));
        keys.add(Arc::new(Key::generate(&clock.now()).unwrap()), &clock.now());
        assert_ne!(keys.signing().unwrap().id(), old.id());
        assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 2);
        assert!(
            keys.find(old.id())
                .unwrap()
                .verifies(b"message", &signature)
        );

        clock.advance(VERIFIES_FOR + Duration::from_secs(1));
        keys.replace(keys.all().to_vec(), &clock.now());
        assert!(keys.find(old.id()).is_none());
        assert!(keys.signing().is_some(), "one always signs");
    }

    #[test]
    fn a_kept_key_is_the_same_key() {
        let clock = ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
        let key = Key::generate(&clock.now()).unwrap();
        let again = Key::restore(&key.to_pkcs8().unwrap(), key.made_ms()).unwrap();
        assert_eq!(again.id(), key.id());
        assert!(again.verifies(b"m", &key.sign(b"m", 0).unwrap()));
        assert!(!again.verifies(b"n", &key.sign(b"m", 0).unwrap()));
        assert!(Key::restore(&Secret::new(vec![0; 80]), 0).is_err());
        let shown = format!("{key:?}");
        assert!(shown.len() < 60, "{shown}");
    }
}
