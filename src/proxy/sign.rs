//! A request that is signed: what its body has to do with it, and the signature as the last thing before it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use hyper::body::Body as _;

use super::body::Body;
use super::exchange::read_whole;
use super::record::Entry;
use super::refusal::Refusal;
use super::tunnel::Tunnel;
use super::upload::Upload;
use crate::head::{Framing, Head};
use crate::inject::Signer;

/// The largest body, in bytes, whose digest is taken here: it is read whole.
const MAX_DIGESTED_BODY: usize = 16 * 1024 * 1024;

/// Whether a body's chunks were not what they said.
#[derive(Debug, Clone, Default)]
pub(super) struct Lied(Arc<AtomicBool>);

impl Lied {
    pub(super) fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The refusal for such a body, whatever the upstream made of the part that it saw.
    pub(super) fn refuse(&self) -> Result<(), Refusal> {
        if self.0.load(Ordering::Acquire) {
            return Err(Refusal::Malformed(
                "The chunks of the body are not framed as its head says, or one that is signed is larger than 1 MiB. Send smaller ones, framed as aws-chunked.",
            ));
        }
        Ok(())
    }
}

/// Signs the head, and makes the body that goes with it.
pub(super) async fn outgoing(
    tunnel: &Tunnel,
    head: &mut Head,
    body: Upload,
    signer: &Signer,
    (record, lied): (&Entry, &Lied),
) -> Result<Body, Refusal> {
    let empty =
        matches!(head.framing(), Framing::None | Framing::Length(0)) || body.is_end_stream();
    let host = tunnel.target.host.to_string();
    let unsigned = signer.prepare(head, &host, empty)?;
    let authority = tunnel.host.to_str().map_err(|_| Refusal::BrokerRefused)?;
    if unsigned.needs_body() {
        let whole = read_whole(body, MAX_DIGESTED_BODY, record).await?;
        let now = tunnel.shared.clock.now().wall;
        unsigned.sign(head, authority, Some(&whole), now)?;
        return Ok(Body::full(whole));
    }
    let now = tunnel.shared.clock.now().wall;
    let chunks = unsigned.sign(head, authority, None, now)?;
    super::exchange::keep_zero(head);
    Ok(match chunks {
        _ if empty => Body::empty(),
        None => Body::up(body, record.up.clone()),
        Some(chunks) => Body::chunks(body, record.up.clone(), chunks, lied.clone()),
    })
}

/// Takes `aws-chunked` out of an answer's codings. It names how an upload was framed; servers that only speak like S3
/// keep it with the object and say it again, where nothing is coded so.
pub(super) fn forget_framing(headers: &mut HeaderMap) {
    let mut kept = Vec::new();
    let mut found = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in value.as_bytes().split(|b| *b == b',') {
            let coding = coding.trim_ascii();
            if coding.eq_ignore_ascii_case(b"aws-chunked") {
                found = true;
            } else {
                kept.extend(HeaderValue::from_bytes(coding));
            }
        }
    }
    if found {
        headers.remove(CONTENT_ENCODING);
        for coding in kept {
            headers.append(CONTENT_ENCODING, coding);
        }
    }
}

/// Signs a head that has no body.
pub(super) fn bodiless(tunnel: &Tunnel, head: &mut Head, signer: &Signer) -> Result<(), Refusal> {
    let host = tunnel.target.host.to_string();
    let unsigned = signer.prepare(head, &host, true)?;
    let authority = tunnel.host.to_str().map_err(|_| Refusal::BrokerRefused)?;
    let now = tunnel.shared.clock.now().wall;
    unsigned.sign(head, authority, None, now)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_of_an_upload_is_no_coding_of_an_answer() {
        for (given, kept) in [
            (&["aws-chunked"][..], &[][..]),
            (&["AWS-chunked,gzip"], &["gzip"]),
            (&["gzip, aws-chunked"], &["gzip"]),
            (&["gzip", "aws-chunked"], &["gzip"]),
            (&["gzip, br"], &["gzip, br"]),
            (&["x-aws-chunked"], &["x-aws-chunked"]),
            (&[], &[]),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            forget_framing(&mut headers);
            let left: Vec<&HeaderValue> = headers.get_all(CONTENT_ENCODING).iter().collect();
            assert_eq!(left, kept, "{given:?}");
        }
    }
}
