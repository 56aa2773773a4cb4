//! The SPIFFE Workload API: what the agent of SPIFFE on this machine says, over gRPC on a unix socket.
//!
//! Few calls of it are needed, with one field or none to send, so the few bytes of protobuf are read and written here.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

/// The roots of this trust domain, in DER.
pub(super) async fn roots(socket: &Path, domain: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let message = first(socket, "FetchX509Bundles").await?;
    let chain =
        bundle(&message, 2, domain).ok_or("the Workload API has no bundle of the domain")?;
    certificates(chain).ok_or("the Workload API's bundle is not made of certificates")
}

/// Certificates in DER that stand one behind the other.
pub(super) fn certificates(mut rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).ok()?;
        let length = rest.len() - after.len();
        found.push(rest.get(..length)?.to_vec());
        rest = after;
    }
    Some(found)
}

/// The JWK set of this trust domain.
pub(super) async fn tokens(socket: &Path, domain: &str) -> Result<Vec<u8>, &'static str> {
    let message = first(socket, "FetchJWTBundles").await?;
    let set = bundle(&message, 1, domain);
    Ok(set
        .ok_or("the Workload API has no keys of the domain")?
        .to_vec())
}

/// The first message of a stream of answers.
async fn first(socket: &Path, method: &str) -> Result<Vec<u8>, &'static str> {
    let message = Messages::open(socket, method, &[]).await?.next().await?;
    Ok(message.to_vec())
}

/// A stream of answers.
pub(super) struct Messages {
    /// Ends where the connection does; it makes the body go on.
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    _sender: http2::SendRequest<Full<Bytes>>,
    body: Incoming,
    /// What has come and is no whole message yet. It may hold a key.
    bytes: Zeroizing<Vec<u8>>,
}

impl Messages {
    /// Calls a method with this message. The caller sets the deadline.
    pub(super) async fn open(
        socket: &Path,
        method: &str,
        message: &[u8],
    ) -> Result<Self, &'static str> {
        let stream = UnixStream::connect(socket).await.map_err(|_| DOWN)?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| DOWN)?;
        let mut connection: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            connection.await.ok();
        });
        // Not compressed, and its length. The header keeps requests out that a browser was made to send.
        let length = u32::try_from(message.len()).map_err(|_| "the call is too long")?;
        let framed = [&[0][..], &length.to_be_bytes(), message].concat();
        let request = Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header("workload.spiffe.io", "true")
            .body(Full::new(Bytes::from(framed)));
        let answer = tokio::select! {
            answer = sender.send_request(request.map_err(|_| "no request")?) => answer,
            () = &mut connection => return Err(DOWN),
        };
        let answer = answer.map_err(|_| "the Workload API does not answer")?;
        let status = answer.headers().get("grpc-status");
        let good = HeaderValue::from_static("0");
        if answer.status() != StatusCode::OK || status.is_some_and(|status| *status != good) {
            return Err("the Workload API refuses; is this process registered there?");
        }
        Ok(Self {
            connection,
            _sender: sender,
            body: answer.into_body(),
            bytes: Zeroizing::default(),
        })
    }

    /// The next message, once it comes.
    pub(super) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        loop {
            if let Some(whole) = message(&self.bytes)? {
                let whole = Zeroizing::new(whole.to_vec());
                let rest = self.bytes.get(5 + whole.len()..).unwrap_or_default();
                self.bytes = Zeroizing::new(rest.to_vec());
                return Ok(whole);
            }
            if self.bytes.len() > MOST {
                return Err("the Workload API's answer is too long");
            }
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = &mut self.connection => return Err("the Workload API broke off"),
            };
            let frame = frame.ok_or("the Workload API said nothing")?;
            let frame = frame.map_err(|_| "the Workload API broke off")?;
            if let Some(data) = frame.data_ref() {
                // Made anew, so that no outgrown piece of a key is left behind.
                self.bytes = Zeroizing::new([&self.bytes, &**data].concat());
            }
        }
    }
}

const DOWN: &str = "the Workload API is out of reach";

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
        let (mut entry, mut key, mut held) = (value, None, None);
        while !entry.is_empty() {
            match next(&mut entry)? {
                (1, name) => key = Some(name),
                (2, bundle) => held = Some(bundle),
                _ => {}
            }
        }
        if key == Some(wanted.as_bytes()) {
            return held;
        }
    }
    None
}

/// A field of protobuf: its number, and its bytes where it has such.
pub(super) fn next<'m>(rest: &mut &'m [u8]) -> Option<(u64, &'m [u8])> {
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
