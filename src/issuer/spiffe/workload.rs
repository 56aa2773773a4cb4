//! The SPIFFE Workload API: what the agent on this machine issues and publishes, over gRPC on a unix socket.
//!
//! Four calls of it are needed, each a stream of answers to a question of one field or none, so the few bytes of protobuf
//! are read and written here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Certificates in DER.
pub type Certificates = Vec<Box<[u8]>>;

/// An X.509-SVID that was issued to this process.
#[derive(Debug)]
pub struct Issued {
    /// The SPIFFE ID.
    pub id: String,
    /// The SVID itself, and what stands between it and a root.
    pub chain: Certificates,
    /// Its key: PKCS#8 in DER.
    pub key: Secret,
    /// The roots of its trust domain.
    pub roots: Certificates,
}

/// One message of the stream: all that is good now. What an earlier one named and this does not is withdrawn.
#[derive(Debug, Default)]
pub struct Issuance {
    /// The SVIDs, the default first.
    pub svids: Vec<Issued>,
    /// The roots of other trust domains, by their names.
    pub federated: BTreeMap<String, Certificates>,
}

/// The Workload API at a unix socket, as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(PathBuf);

/// A text that names no unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Workload API is at a unix socket, such as unix:///run/spire/agent/public/api.sock")]
pub struct BadAddress;

/// Why nothing is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It says that this process has no identity (`PermissionDenied`; SPIFFE Workload API §6.1).
    #[error("the Workload API refuses; is this process registered there?")]
    Denied,
    /// It is out of reach, broke off, or said what cannot be used.
    #[error("{0}")]
    Down(&'static str),
}

/// The stream of the X.509-SVIDs that are issued to this process.
#[derive(Debug)]
pub struct Svids(Stream);

/// A stream of answers. The connection is moved along while one is waited for.
struct Stream {
    body: Incoming,
    buffer: Zeroizing<Vec<u8>>,
    connection: Pin<Box<Connection>>,
    /// Without it the connection would be taken to be over.
    _sender: http2::SendRequest<Full<Bytes>>,
}

type Connection = http2::Connection<TokioIo<UnixStream>, Full<Bytes>, TokioExecutor>;

/// The roots of this trust domain.
///
/// # Errors
/// What is wrong, for the operator's log.
pub async fn roots(socket: &Path, domain: &str) -> Result<Certificates, &'static str> {
    let message = first(socket, "FetchX509Bundles").await?;
    let chain =
        bundle(&message, 2, domain).ok_or("the Workload API has no bundle of the domain")?;
    certificates(chain).ok_or("the Workload API's bundle is not made of certificates")
}

/// The JWK set of this trust domain.
///
/// # Errors
/// What is wrong, for the operator's log.
pub async fn tokens(socket: &Path, domain: &str) -> Result<Vec<u8>, &'static str> {
    let message = first(socket, "FetchJWTBundles").await?;
    let set = bundle(&message, 1, domain);
    Ok(set
        .ok_or("the Workload API has no keys of the domain")?
        .to_vec())
}

/// A JWT-SVID of this process for this audience, fresh. The caller sets the deadline.
///
/// # Errors
/// What is wrong, for the operator's log.
pub async fn token(socket: &Path, audience: &str) -> Result<Secret, &'static str> {
    let length = u8::try_from(audience.len()).ok().filter(|n| *n < 0x80);
    let length = length.ok_or("an audience has at most 127 bytes")?;
    let question = [&[0x0a, length][..], audience.as_bytes()].concat();
    let stream = Stream::open(socket, "FetchJWTSVID", &question);
    let mut stream = stream.await.map_err(Fault::text)?;
    let message = stream.next().await.map_err(Fault::text)?;
    let token = field(&message, 1).and_then(|svid| field(svid, 2));
    let token = token.ok_or("the Workload API has no JWT-SVID for this process")?;
    Ok(Secret::new(token.to_vec()))
}

/// The first message of a stream of answers.
async fn first(socket: &Path, method: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let stream = Stream::open(socket, method, &[]);
    let mut stream = stream.await.map_err(Fault::text)?;
    stream.next().await.map_err(Fault::text)
}

impl Svids {
    /// Subscribes.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn open(socket: &Path) -> Result<Self, Fault> {
        Ok(Self(Stream::open(socket, "FetchX509SVID", &[]).await?))
    }

    /// Waits for the next message: the first comes at once, each later one with a rotation.
    ///
    /// # Errors
    /// [`Fault`]: the stream is over.
    pub async fn next(&mut self) -> Result<Issuance, Fault> {
        let message = self.0.next().await?;
        let rubbish = Fault::Down("the Workload API's answer is not what was expected");
        issuance(&message).ok_or(rubbish)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    /// Reads `unix:PATH` and `unix:///PATH` (SPIFFE Workload Endpoint §4).
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let path = text.strip_prefix("unix:").ok_or(BadAddress)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.starts_with('/') {
            Ok(Self(path.into()))
        } else {
            Err(BadAddress)
        }
    }
}

impl Address {
    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.0
    }
}

impl Fault {
    /// What is wrong, for the operator's log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Denied => "the Workload API refuses; is this process registered there?",
            Self::Down(why) => why,
        }
    }

    /// Of the status with which a call ended, if it ended badly.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let status = headers.get("grpc-status")?;
        match status.as_bytes() {
            b"0" => None,
            b"7" => Some(Self::Denied),
            _ => Some(Self::Down("the Workload API answers with an error")),
        }
    }
}

impl Stream {
    async fn open(socket: &Path, method: &str, question: &[u8]) -> Result<Self, Fault> {
        let down = Fault::Down("the Workload API is out of reach");
        let stream = UnixStream::connect(socket).await.map_err(|_| down)?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| down)?;
        let mut connection = Box::pin(connection);
        // Not compressed, and its length. The header keeps requests out that a browser was made to send.
        let length = u32::try_from(question.len()).map_err(|_| down)?;
        let framed = [&[0][..], &length.to_be_bytes(), question].concat();
        let request = Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, HeaderValue::from_static("trailers"))
            .header("workload.spiffe.io", "true")
            .body(Full::new(Bytes::from(framed)))
            .map_err(|_| down)?;
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer,
            _ = &mut connection => return Err(down),
        };
        let answer = answer.map_err(|_| Fault::Down("the Workload API does not answer"))?;
        if let Some(fault) = Fault::of(answer.headers()) {
            return Err(fault);
        }
        if answer.status() != StatusCode::OK {
            return Err(Fault::Down("the Workload API's answer is not 200"));
        }
        Ok(Self {
            body: answer.into_body(),
            buffer: Zeroizing::default(),
            connection,
            _sender: sender,
        })
    }

    async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        loop {
            if let Some(message) = message(&self.buffer).map_err(Fault::Down)? {
                let message = Zeroizing::new(message.to_vec());
                let rest = self.buffer.get(message.len() + 5..).unwrap_or_default();
                self.buffer = Zeroizing::new(rest.to_vec());
                return Ok(message);
            }
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                _ = &mut self.connection => None,
            };
            let frame = frame.ok_or(Fault::Down("the Workload API broke off"))?;
            let frame = frame.map_err(|_| Fault::Down("the Workload API broke off"))?;
            if let Some(data) = frame.data_ref() {
                if self.buffer.len() + data.len() > MOST {
                    return Err(Fault::Down("the Workload API's answer is too long"));
                }
                // Not `extend`: what a vector leaves behind when it grows is not wiped.
                let grown = [&self.buffer[..], data].concat();
                self.buffer = Zeroizing::new(grown);
            } else if let Some(fault) = frame.trailers_ref().and_then(Fault::of) {
                return Err(fault);
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream(..)")
    }
}

/// `X509SVIDResponse` of the Workload API's protobuf.
fn issuance(message: &[u8]) -> Option<Issuance> {
    let (mut rest, mut issuance) = (message, Issuance::default());
    while !rest.is_empty() {
        match next(&mut rest)? {
            (1, svid) => issuance.svids.push(issued(svid)?),
            (3, entry) => {
                let (name, roots) = pair(entry)?;
                let name = std::str::from_utf8(name).ok()?;
                let domain = name.strip_prefix("spiffe://").unwrap_or(name);
                let roots = certificates(roots)?;
                issuance.federated.insert(domain.to_owned(), roots);
            }
            _ => {}
        }
    }
    Some(issuance)
}

/// `X509SVID`.
fn issued(message: &[u8]) -> Option<Issued> {
    let (mut rest, mut fields) = (message, [&[][..]; 5]);
    while !rest.is_empty() {
        let (number, value) = next(&mut rest)?;
        if let Some(field) = usize::try_from(number).ok().and_then(|n| fields.get_mut(n)) {
            *field = value;
        }
    }
    let [_, id, chain, key, roots] = fields;
    Some(Issued {
        id: std::str::from_utf8(id).ok()?.to_owned(),
        chain: certificates(chain).filter(|chain| !chain.is_empty())?,
        key: Secret::new(key.to_vec()),
        roots: certificates(roots)?,
    })
}

/// Certificates in DER, one after the other.
fn certificates(chain: &[u8]) -> Option<Certificates> {
    let (mut rest, mut found) = (chain, Vec::new());
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).ok()?;
        found.push(rest.get(..rest.len() - after.len())?.into());
        rest = after;
    }
    Some(found)
}

/// A message, once it is whole: a flag, four bytes of length, the bytes.
fn message(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    let Some((head, rest)) = bytes.split_at_checked(5) else {
        return Ok(None);
    };
    let [flag, length @ ..] = head else {
        return Ok(None);
    };
    if *flag != 0 {
        return Err("the Workload API compresses, which nobody asked for");
    }
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    Ok(rest.get(..length))
}

/// The value of `spiffe://DOMAIN` in the map that is this field.
fn bundle<'m>(message: &'m [u8], field: u64, domain: &str) -> Option<&'m [u8]> {
    let wanted = format!("spiffe://{domain}");
    let mut rest = message;
    while !rest.is_empty() {
        let (number, value) = next(&mut rest)?;
        if number != field {
            continue;
        }
        let (key, held) = pair(value)?;
        if key == wanted.as_bytes() {
            return Some(held);
        }
    }
    None
}

/// An entry of a map.
fn pair(mut entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut key, mut held) = (&[][..], &[][..]);
    while !entry.is_empty() {
        match next(&mut entry)? {
            (1, name) => key = name,
            (2, value) => held = value,
            _ => {}
        }
    }
    Some((key, held))
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

/// A field of protobuf: its number, and its bytes where it has such.
fn next<'m>(rest: &mut &'m [u8]) -> Option<(u64, &'m [u8])> {
    let tag = varint(rest)?;
    let length = match tag & 7 {
        0 => {
            varint(rest)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The longest answer, in bytes.
const MOST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_written_in_either_way() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.0);
        assert_eq!(read("unix:///run/a.sock"), Ok("/run/a.sock".into()));
        assert_eq!(read("unix:/run/a.sock"), Ok("/run/a.sock".into()));
        for bad in [
            "tcp://127.0.0.1:8081",
            "/run/a.sock",
            "unix:a.sock",
            "unix:",
            "",
        ] {
            assert_eq!(read(bad), Err(BadAddress), "{bad}");
        }
    }

    #[test]
    fn the_bundle_of_the_domain_is_found_and_no_other() {
        let entry = |name: &str, value: &[u8]| {
            let name = name.as_bytes();
            let lengths = |n: usize| u8::try_from(n).unwrap();
            let inner = [
                &[0x0a, lengths(name.len())][..],
                name,
                &[0x12, lengths(value.len())],
                value,
            ]
            .concat();
            [&[0x12, lengths(inner.len())][..], &inner].concat()
        };
        let message = [
            [0x0a, 1, 7].to_vec(),
            entry("spiffe://prod.example.evil", b"evil"),
            entry("spiffe://prod.example", b"good"),
        ]
        .concat();
        assert_eq!(bundle(&message, 2, "prod.example"), Some(&b"good"[..]));
        assert_eq!(bundle(&message, 2, "test.example"), None);
        assert_eq!(bundle(&message, 1, "prod.example"), None);
        for end in 0..message.len() {
            assert_ne!(
                bundle(&message[..end], 2, "prod.example"),
                Some(&b"good"[..])
            );
        }
        assert_eq!(bundle(&[0xff; 20], 2, "prod.example"), None);
        assert_eq!(
            bundle(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f], 2, "prod.example"),
            None
        );
    }
}
