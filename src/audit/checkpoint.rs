//! Signed checkpoints in a second file: whoever cuts the trail's end, or writes the chain anew, cannot sign for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rustix::fs::OFlags;

use super::AuditError;
use super::chain::{Hex, hex, text};
use super::json::Value as _;
use super::sink::flags;

/// The pen that signs checkpoints, and the file that they go to.
pub(super) struct Signer {
    key: Ed25519KeyPair,
    public: Hex,
    file: File,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("public", &text(&self.public))
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Opens the checkpoints of the log at `log`; the key is made where there is none.
    pub(super) fn open(log: &Path) -> Result<Self, AuditError> {
        let path = beside(log, "key");
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| AuditError::Open { path, source }
        };
        let key = load_or_make(&path).map_err(fault(&path))?;
        let path = beside(log, "checkpoints");
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK))
            .open(&path)
            .map_err(fault(&path))?;
        end_torn_line(&mut file).map_err(fault(&path))?;
        let public = hex(key.public_key().as_ref());
        Ok(Self { key, public, file })
    }

    /// The public key in hex.
    pub(super) fn public(&self) -> &str {
        text(&self.public)
    }

    /// Signs that record `seq` has the hash `hash`.
    pub(super) fn sign(
        &mut self,
        time: Timestamp,
        writer: &str,
        seq: u64,
        hash: &Hex,
    ) -> io::Result<()> {
        let mut line = Vec::with_capacity(384);
        line.extend_from_slice(b"{\"time\":");
        time.write(&mut line);
        line.extend_from_slice(b",\"writer\":");
        writer.write(&mut line);
        line.extend_from_slice(b",\"seq\":");
        seq.write(&mut line);
        line.extend_from_slice(b",\"hash\":");
        text(hash).write(&mut line);
        line.extend_from_slice(b",\"key\":");
        self.public().write(&mut line);
        let signature = self.key.sign(&line);
        line.extend_from_slice(SEAL);
        line.extend_from_slice(BASE64.encode(signature.as_ref()).as_bytes());
        line.extend_from_slice(b"\"}\n");
        self.file.write_all(&line)
    }
}

const SEAL: &[u8] = b",\"signature\":\"";

/// A checkpoint whose signature is right.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) key: String,
}

#[derive(serde::Deserialize)]
struct Written {
    seq: u64,
    hash: String,
    key: String,
    signature: String,
}

impl Checkpoint {
    /// Reads a line without its newline. `Ok(None)`: the beginning of a line that a crash cut off.
    pub(super) fn read(line: &[u8]) -> Result<Option<Self>, &'static str> {
        let Some(signed) = line
            .len()
            .checked_sub(SEAL.len() + 88 + 2)
            .and_then(|at| line.split_at_checked(at))
            .and_then(|(body, rest)| rest.starts_with(SEAL).then_some(body))
        else {
            return if line.ends_with(b"}") {
                Err("this is no checkpoint")
            } else {
                Ok(None)
            };
        };
        let written: Written = serde_json::from_slice(line).map_err(|_| "this is no checkpoint")?;
        let signature = BASE64
            .decode(&written.signature)
            .map_err(|_| "the signature is no base64")?;
        let key = unhex(&written.key).ok_or("the key is no hex")?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(signed, &signature)
            .map_err(|_| "the signature is wrong")?;
        Ok(Some(Self {
            seq: written.seq,
            hash: written.hash,
            key: written.key,
        }))
    }

    /// The last checkpoint of the log at `log`, where there is one.
    pub(super) fn last(log: &Path) -> Option<Self> {
        let file = File::open(beside(log, "checkpoints")).ok()?;
        let length = file.metadata().ok()?.len();
        let mut end = vec![0; usize::try_from(length.min(4096)).ok()?];
        file.read_exact_at(&mut end, length.saturating_sub(4096))
            .ok()?;
        end.rsplit(|&b| b == b'\n')
            .find_map(|line| Self::read(line).ok().flatten())
    }
}

/// `audit.jsonl` has `audit.checkpoints` and `audit.key` beside it.
pub(super) fn beside(log: &Path, extension: &str) -> PathBuf {
    let stem = log.extension().is_some_and(|e| e == "jsonl");
    if stem {
        return log.with_extension(extension);
    }
    let mut name = log.to_owned().into_os_string();
    name.push(".");
    name.push(extension);
    name.into()
}

fn load_or_make(path: &Path) -> io::Result<Ed25519KeyPair> {
    let unfit = |_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "this is no Ed25519 key in PKCS#8",
        )
    };
    let nofollow = flags(OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK);
    match OpenOptions::new()
        .read(true)
        .custom_flags(nofollow)
        .open(path)
    {
        Ok(file) => {
            if file.metadata()?.mode() & 0o077 != 0 {
                return Err(io::Error::other("others may read this key: chmod 600"));
            }
            let mut document = zeroize::Zeroizing::new(Vec::with_capacity(256));
            file.take(4096).read_to_end(&mut document)?;
            return Ed25519KeyPair::from_pkcs8(&document).map_err(unfit);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let made = Ed25519KeyPair::generate().map_err(|_| io::Error::other("no key could be made"))?;
    let document = made
        .to_pkcs8()
        .map_err(|_| io::Error::other("no key could be made"))?;
    // Written whole under another name, then linked: a crash leaves either no key or a good one.
    let draft = path.with_extension(format!("key-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(&draft)?;
    let linked = file
        .write_all(document.as_ref())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&draft, path));
    std::fs::remove_file(&draft)?;
    linked?;
    Ok(made)
}

fn end_torn_line(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == [b'\n'] {
        Ok(())
    } else {
        file.write_all(b"\n")
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
