//! What a workload gets for itself from the SPIFFE Workload API: X.509-SVIDs as they are renewed, and JWT-SVIDs.

use std::path::PathBuf;
use std::str::FromStr;

use super::workload::{Messages, certificates, next};
use crate::secret::Secret;
use crate::tls::ClientIdentity;

/// The Workload API at a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi(PathBuf);

/// A text that names no unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Workload API is at a unix socket, such as unix:///run/spire/agent/public/api.sock")]
pub struct BadSocket;

/// X.509-SVIDs, each in the place of the one before.
pub struct Svids(Messages);

/// One X.509-SVID.
#[derive(Debug)]
pub struct Svid {
    /// Its SPIFFE ID.
    pub id: String,
    /// Chain and key.
    pub identity: ClientIdentity,
}

impl FromStr for WorkloadApi {
    type Err = BadSocket;

    /// Reads `unix:PATH` and `unix:///PATH` (SPIFFE Workload Endpoint §4).
    fn from_str(text: &str) -> Result<Self, BadSocket> {
        let path = text.strip_prefix("unix:").ok_or(BadSocket)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.starts_with('/') {
            Ok(Self(path.into()))
        } else {
            Err(BadSocket)
        }
    }
}

impl WorkloadApi {
    /// Asks for X.509-SVIDs from now on. The caller sets the deadline.
    ///
    /// # Errors
    /// What is wrong with the Workload API.
    pub async fn svids(&self) -> Result<Svids, &'static str> {
        let messages = Messages::open(&self.0, "FetchX509SVID", &[]).await;
        messages.map(Svids)
    }

    /// A JWT-SVID for this audience, fresh. The caller sets the deadline.
    ///
    /// # Errors
    /// What is wrong with the Workload API.
    pub async fn token(&self, audience: &str) -> Result<Secret, &'static str> {
        let length = u8::try_from(audience.len()).ok().filter(|n| *n < 0x80);
        let length = length.ok_or("an audience has at most 127 bytes")?;
        let request = [&[0x0a, length][..], audience.as_bytes()].concat();
        let mut messages = Messages::open(&self.0, "FetchJWTSVID", &request).await?;
        let message = messages.next().await?;
        let token = entry(&message).and_then(|entry| field(entry, 2));
        let token = token.ok_or("the Workload API has no JWT-SVID for this process")?;
        Ok(Secret::new(token.to_vec()))
    }
}

impl Svids {
    /// The first, and each that replaces it, once it comes. Of several the first is meant: it is the default one
    /// (SPIFFE Workload API §5.3).
    ///
    /// # Errors
    /// What is wrong with the Workload API; the stream is over.
    pub async fn next(&mut self) -> Result<Svid, &'static str> {
        const BAD: &str = "the Workload API's X.509-SVID cannot be used";
        let message = self.0.next().await?;
        let svid = entry(&message).ok_or("the Workload API has no X.509-SVID for this process")?;
        let id = field(svid, 1).and_then(|id| std::str::from_utf8(id).ok());
        let chain = field(svid, 2).and_then(certificates).ok_or(BAD)?;
        let key = Secret::new(field(svid, 3).ok_or(BAD)?.to_vec());
        let identity = ClientIdentity::from_der(chain, &key).map_err(|_| BAD)?;
        Ok(Svid {
            id: id.ok_or(BAD)?.to_owned(),
            identity,
        })
    }
}

impl std::fmt::Debug for Svids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Svids(..)")
    }
}

/// The first of the repeated field 1.
fn entry(message: &[u8]) -> Option<&[u8]> {
    field(message, 1)
}

/// The first value of this field.
fn field(mut rest: &[u8], wanted: u64) -> Option<&[u8]> {
    while !rest.is_empty() {
        let (number, value) = next(&mut rest)?;
        if number == wanted {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_written_in_either_way() {
        let read = |text: &str| text.parse::<WorkloadApi>().map(|api| api.0);
        assert_eq!(read("unix:///run/a.sock"), Ok("/run/a.sock".into()));
        assert_eq!(read("unix:/run/a.sock"), Ok("/run/a.sock".into()));
        for bad in [
            "tcp://127.0.0.1:8081",
            "/run/a.sock",
            "unix:a.sock",
            "unix:",
            "",
        ] {
            assert_eq!(read(bad), Err(BadSocket), "{bad}");
        }
    }
}
