//! A secret: bytes that are wiped when dropped, and that no formatter, serializer or comparison shows.
//!
//! [`Secret::expose`] is the only way out. It is called in `inject`, `scrub` and the requests of credential
//! providers; a reviewer greps for it.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that must not be seen. There is no `Display`, `Serialize`, `Deref` or `Clone`; share one with an `Arc`.
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes ownership of `bytes`. The vector's spare capacity is not copied around: it is wiped here.
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Zeroizing::new(bytes.as_slice().into()))
    }

    /// The bytes themselves. Every call is a place where a secret could leave: keep them few.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The length in bytes, which is not held to be secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in time that depends on the lengths only.
    pub fn equals(&self, other: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, other).is_ok()
    }
}

/// In time that depends on the lengths only.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.equals(&other.0)
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Secret::from("hunter2hunter2".to_owned())),
            "Secret(..)"
        );
    }

    #[test]
    fn equality_is_of_the_whole() {
        let secret = Secret::from("abc".to_owned());
        assert!(secret.equals(b"abc"));
        assert!(!secret.equals(b"abd"));
        assert!(!secret.equals(b"ab"));
    }
}
