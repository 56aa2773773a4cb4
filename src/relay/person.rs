//! The person for whom the relay's processes act: whoever is signed in on this machine, for as long as they are.

use std::fmt::Debug;

use async_trait::async_trait;

use super::fault::Fault;
use crate::agent::User;
use crate::secret::Secret;

/// A sign-in that somebody else keeps, and may end or replace at any time.
#[async_trait]
pub trait SignIn: Debug + Send + Sync {
    /// Who is signed in now, with an ID token that holds: renewed where it is about to end. It is never broken off: what
    /// a provider gives is given once.
    ///
    /// # Errors
    /// [`Absent`].
    async fn current(&self) -> Result<Proved, Absent>;

    /// What has become of this proof. Asks nobody elsewhere.
    async fn look(&self, proved: &Proved) -> Kept;
}

/// A person, and what proves it.
#[derive(Debug)]
pub struct Proved {
    /// Who it is.
    pub user: User,
    /// An ID token of theirs.
    pub id_token: Secret,
}

/// What has become of a person's proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is the one that is kept.
    Same,
    /// The same person has another.
    Renewed,
    /// Nobody is signed in any more, or somebody else is.
    Gone,
}

/// Why there is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Nobody is signed in, or not any more.
    SignedOut(&'static str),
    /// It cannot be found out now, and may be later.
    Unknown,
}

impl From<Absent> for Fault {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::SignedOut(why) => Self::SignedOut(why),
            Absent::Unknown => {
                Self::NoEvidence("the person's sign-in cannot be renewed now".to_owned())
            }
        }
    }
}
