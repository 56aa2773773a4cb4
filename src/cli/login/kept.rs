//! A sign-in that is kept for `run`: a file of mode 0600 in a folder of mode 0700, which `run` masks.
//!
//! What it says of the person is believed only as far as the ID token in it holds.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::app::Environment;
use crate::identity::Login;
use crate::login::{SignedIn, digest_of};
use crate::secret::Secret;

/// The file of one login, and of one provider and client: a file that names others finds nothing.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    folder: PathBuf,
    name: String,
}

/// Held by whoever reads and replaces it: two commands at once must not spend one refresh token twice.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, not read")] File);

/// What the file holds.
pub(crate) struct Content {
    /// What the provider called the person.
    pub(crate) user: String,
    /// When the ID token ends.
    pub(crate) expires: Timestamp,
    pub(crate) id_token: Secret,
    pub(crate) access_token: Option<Secret>,
    pub(crate) refresh_token: Option<Secret>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    version: u8,
    user: String,
    expires: String,
    id_token: String,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.id_token.zeroize();
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// `$XDG_STATE_HOME/keyward`, where a user's own state is (XDG Base Directory Specification: a relative path is as good
/// as none).
pub(crate) fn state(environment: &Environment) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = Path::new(environment.get(name)?);
        path.is_absolute().then(|| path.to_owned())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("keyward"))
}

impl Kept {
    /// The place of this login; `None` where the environment names no folder.
    pub(crate) fn of(login: &Login, environment: &Environment) -> Option<Self> {
        Self::at(
            login.name.as_str(),
            &[&login.issuer, &login.client_id],
            environment,
        )
    }

    /// The place of something that is told apart by these texts.
    pub(super) fn at(name: &str, of: &[&str], environment: &Environment) -> Option<Self> {
        let sum = digest_of(of.join("\n").as_bytes());
        let sum = u64::from_be_bytes(sum.first_chunk().copied().unwrap_or_default());
        Some(Self {
            folder: state(environment)?.join("login"),
            name: format!("{name}-{sum:016x}"),
        })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    /// Waits for its turn, for [`TURN`] at most.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::TimedOut`] where another command holds it for longer.
    pub(crate) fn lock(&self) -> io::Result<Lock> {
        self.lock_within(TURN)
    }

    fn lock_within(&self, patience: Duration) -> io::Result<Lock> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.folder.join(format!("{}.lock", self.name)))?;
        // The kernel gives a wait for the lock no end, so it is tried again and again.
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < patience => std::thread::sleep(TRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "another command holds it: end that one, or try again",
                    ));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether somebody is signed in there.
    pub(crate) fn is_there(&self) -> bool {
        self.path().exists()
    }

    /// The bytes of the file, if it is ours and nobody else's to read.
    pub(super) fn bytes(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own || found.mode() & 0o077 != 0 {
            return Err(io::Error::other(
                "it is not of mode 0600 and one's own: remove it, and sign in anew",
            ));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// What is kept.
    pub(crate) fn read(&self) -> io::Result<Option<Content>> {
        let Some(bytes) = self.bytes()? else {
            return Ok(None);
        };
        let unread = || io::Error::other("it cannot be read: remove it, and sign in anew");
        let written: Written = serde_json::from_slice(&bytes).map_err(|_| unread())?;
        if written.version != 1 {
            return Err(unread());
        }
        let secret = |text: &String| Secret::new(text.as_bytes().to_vec());
        Ok(Some(Content {
            user: written.user.clone(),
            expires: written.expires.parse().map_err(|_| unread())?,
            id_token: secret(&written.id_token),
            access_token: written.access_token.as_ref().map(secret),
            refresh_token: written.refresh_token.as_ref().map(secret),
        }))
    }

    /// Keeps this sign-in. Where the provider gave no new refresh token, the old one still holds (RFC 6749 §6).
    pub(crate) fn write(&self, signed_in: &SignedIn, old: Option<&Secret>) -> io::Result<()> {
        let text = |secret: &Secret| {
            let text = std::str::from_utf8(secret.expose());
            text.map(str::to_owned)
                .map_err(|_| io::Error::other("a token is no text"))
        };
        let refresh = signed_in.refresh_token.as_ref().or(old);
        let written = Written {
            version: 1,
            user: signed_in.user.name.to_string(),
            expires: signed_in.expires.to_string(),
            id_token: text(&signed_in.id_token)?,
            access_token: signed_in.access_token.as_ref().map(text).transpose()?,
            refresh_token: refresh.map(text).transpose()?,
        };
        self.put(&Zeroizing::new(serde_json::to_vec(&written)?))
    }

    /// Replaces the file whole: whoever reads finds the old or the new.
    pub(super) fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let fresh = self
            .folder
            .join(format!("{}.{}", self.name, super::super::run::random()));
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&fresh, self.path()));
        if written.is_err() {
            fs::remove_file(&fresh).ok();
        }
        written
    }

    /// Forgets it; whether there was one.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(self.path()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A longer file is none of ours.
const LONGEST: u64 = 1 << 20;
/// How long a command waits for another's renewal: longer than all calls of one take.
const TURN: Duration = Duration::from_secs(30);
/// How long it rests between two tries.
const TRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_nobody_gives_back_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let environment =
            Environment::new([("XDG_STATE_HOME".to_owned(), folder.path().into())].into());
        let kept = Kept::at("corp", &["https://id.example.com"], &environment).unwrap();
        let held = kept.lock().unwrap();
        let late = kept.lock_within(Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(held);
        assert!(kept.lock().is_ok());
    }
}
