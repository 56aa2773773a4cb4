//! Sealing: what stands in the store is AES-256-GCM under the operator's key, bound to its place.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::StoreError;
use crate::secret::Secret;

/// The operator's key. No `Debug` shows it.
pub(super) struct Key(LessSafeKey);

/// It cannot be opened: another key, another place, or changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsealable;

impl Key {
    /// Reads the key as `[store] key` gives it: 32 bytes in base64.
    pub(super) fn parse(text: &Secret) -> Result<Self, StoreError> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(text.expose())
                .map_err(|_| StoreError::BadKey)?,
        );
        Self::of(&bytes).ok_or(StoreError::BadKey)
    }

    /// A key that nobody else has, and that ends with the process.
    pub(super) fn random() -> Result<Self, StoreError> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| StoreError::BadKey)?;
        Self::of(&*bytes).ok_or(StoreError::BadKey)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// Seals `secret` for the record of this kind and id, under a random nonce, which comes first.
    ///
    /// Nonces of 96 bits chosen at random stay below a collision chance of 2⁻³² up to 2³² seals (NIST SP 800-38D §8.3).
    pub(super) fn seal(&self, kind: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Unsealable)?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + secret.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(secret);
        let Some((_, body)) = sealed.split_at_mut_checked(NONCE_LEN) else {
            return Err(Unsealable);
        };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, place(kind, id), body)
            .map_err(|_| Unsealable)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed for the record of this kind and id.
    pub(super) fn open(&self, kind: &str, id: &str, sealed: &[u8]) -> Result<Secret, Unsealable> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable)?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened = self
            .0
            .open_in_place(nonce, place(kind, id), &mut body)
            .map_err(|_| Unsealable)?;
        Ok(Secret::new(opened.to_vec()))
    }
}

/// What a record is bound to: one moved to another place does not open. The lengths keep kind and id apart.
fn place(kind: &str, id: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("keyward 1 {} {kind} {} {id}", kind.len(), id.len()).into_bytes())
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_with_its_key_alone() {
        let (key, other) = (Key::random().unwrap(), Key::random().unwrap());
        let sealed = key.seal("lease", "a", b"secret").unwrap();
        assert_eq!(key.open("lease", "a", &sealed).unwrap().expose(), b"secret");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealed, key.seal("lease", "a", b"secret").unwrap());
        assert!(other.open("lease", "a", &sealed).is_err());
        assert!(key.open("lease", "b", &sealed).is_err());
        assert!(key.open("secret", "a", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("lease", "a", &changed).is_err(), "{at}");
            assert!(key.open("lease", "a", &sealed[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_key_is_32_bytes_in_base64() {
        let key = |text: &str| Key::parse(&Secret::from(text.to_owned()));
        assert!(key(&STANDARD.encode([7; 32])).is_ok());
        for bad in [
            "",
            "hunter2",
            &STANDARD.encode([7; 31]),
            &STANDARD.encode([7; 33]),
        ] {
            let error = key(bad).unwrap_err();
            assert!(matches!(error, StoreError::BadKey));
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
    }
}
