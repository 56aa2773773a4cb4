//! What issuers give, looked at before it is used: a secret's bytes, and how long it is good.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{IssueError, Life};
use crate::secret::Secret;

/// No token or password is longer, in bytes.
const LONGEST: usize = 16 * 1024;

/// A secret that can stand in a request: visible ASCII and blanks, 16 KiB at most, not empty.
///
/// # Errors
/// [`IssueError::Refused`] for all else: a line end in it would be a second header.
pub(super) fn usable(secret: Secret) -> Result<Arc<Secret>, IssueError> {
    let clean = |b: &u8| (0x20..0x7f).contains(b);
    if secret.is_empty() || secret.len() > LONGEST || !secret.expose().iter().all(clean) {
        return Err(IssueError::Refused);
    }
    Ok(Arc::new(secret))
}

/// A life in seconds; where the issuer says nothing, [`Life::UNSTATED`].
///
/// # Errors
/// [`IssueError::Refused`] where it is not above zero.
pub(super) fn life(seconds: Option<f64>) -> Result<Life, IssueError> {
    match seconds {
        None => Ok(Life::UNSTATED),
        Some(seconds) if seconds > 0.0 => {
            // More than any clock can hold is as long as any clock can hold.
            let life = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Ok(Life::For(life))
        }
        Some(_) => Err(IssueError::Refused),
    }
}

/// For a member that may be missing, but not `null`: what is there is read as it must be.
pub(super) fn present<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

/// A text that is wiped.
#[derive(Debug)]
pub(super) struct Wiped(pub(super) Secret);

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_could_write_a_second_header_is_refused() {
        for bad in ["", "a\r\nx: y", "a\n", "a\0", "ä", "a\u{7f}"] {
            assert!(usable(bad.to_owned().into()).is_err(), "{bad:?}");
        }
        assert!(usable("x".repeat(LONGEST + 1).into()).is_err());
        assert!(usable("x".repeat(LONGEST).into()).is_ok());
    }

    #[test]
    fn a_life_is_above_zero_or_none() {
        assert_eq!(life(None), Ok(Life::UNSTATED));
        assert_eq!(life(Some(1.5)), Ok(Life::For(Duration::from_millis(1500))));
        assert_eq!(life(Some(1e300)), Ok(Life::For(Duration::MAX)));
        for bad in [0.0, -1.0, f64::NAN] {
            assert_eq!(life(Some(bad)), Err(IssueError::Refused), "{bad}");
        }
    }
}
