//! A client certificate: it goes into the TLS handshake and nowhere else.

use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;

/// A certificate chain and its key, in PEM.
pub struct Certificate {
    chain: Box<[u8]>,
    key: Secret,
    /// The lines of the key that are long enough to be told from chance.
    lines: Box<[Arc<Secret>]>,
}

impl Certificate {
    /// The client's own certificate stands first in `chain`.
    pub fn new(chain: Vec<u8>, key: Secret) -> Self {
        let lines = key
            .expose()
            .split(|byte| matches!(byte, b'\n' | b'\r'))
            .map(<[u8]>::trim_ascii)
            .filter(|line| line.len() >= TELLING && !line.starts_with(b"-----"))
            .map(|line| Arc::new(Secret::new(line.to_vec())))
            .collect();
        Self {
            chain: chain.into(),
            lines,
            key,
        }
    }

    /// The chain in PEM; it is no secret.
    pub fn chain(&self) -> &[u8] {
        &self.chain
    }

    /// The key in PEM.
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// What answers are searched for: each line of the key. The handshake proves the key and never sends it, so only
    /// an upstream that has it from elsewhere could; line by line it is found however the PEM was wrapped around it.
    pub fn lines(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.lines.iter()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

/// A shorter line could stand in an answer by chance.
const TELLING: usize = 16;
