//! Bodies in chunks: the published example, and chunks that lie.

use std::time::{Duration, SystemTime};

use aws_sigv4::sign::v4;
use bytes::Bytes;

use super::super::chain::{Chain, Scoped, sha256};
use super::super::chunk::Framed;
use super::super::{BadChunks, Chunks, MAX_CHUNK};
use super::{SECRET, at, head, signer};
use crate::secret::Secret;

/// "Example: PUT object" in chunks, of the same reference: 64 KiB and 1 KiB of the letter a.
#[test]
fn the_chunks_of_the_s3_reference_come_out() {
    let signer = signer("s3", "us-east-1", None);
    let host = "s3.amazonaws.com";
    let headers = [
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
    ];
    let mut head = head("PUT", host, "/examplebucket/chunkObject.txt", &headers);
    let unsigned = signer.prepare(&mut head, host, false).unwrap();
    // The example signs two headers more; its chain is checked from the signature that it gives.
    let now = at("2013-05-24T00:00:00Z");
    drop(unsigned);
    let scoped = Scoped::new(&signer.keys.secret, now, "s3", "us-east-1");
    let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let framed = Framed {
        length: 66560,
        trailer: None,
        signed: true,
    };
    let mut chunks = Chunks::new(framed, Some(Chain::new(scoped, seed.into())));
    let zero = "0".repeat(64);
    let body = [
        format!("10000;chunk-signature={zero}\r\n{}\r\n", "a".repeat(65536)),
        format!("400;chunk-signature={zero}\r\n{}\r\n", "a".repeat(1024)),
        format!("0;chunk-signature={zero}\r\n\r\n"),
    ]
    .concat();
    assert_eq!(body.len(), 66824);
    let out = through(&mut chunks, body.as_bytes(), 1000).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.len(), 66824);
    for signature in [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ] {
        assert!(text.contains(&format!(";chunk-signature={signature}\r\n")));
    }
}

/// Pushes a body in pieces of `size`, and gathers what comes.
fn through(chunks: &mut Chunks, body: &[u8], size: usize) -> Result<Vec<u8>, BadChunks> {
    let mut out: Vec<Bytes> = Vec::new();
    for piece in body.chunks(size) {
        chunks.push(Bytes::copy_from_slice(piece), &mut out)?;
    }
    out.push(chunks.finish()?);
    Ok(out.concat())
}

fn framed(length: u64, trailer: Option<&str>, signed: bool) -> Chunks {
    let now = at("2013-05-24T00:00:00Z");
    let secret = Secret::from(SECRET.to_owned());
    let chain =
        signed.then(|| Chain::new(Scoped::new(&secret, now, "s3", "us-east-1"), "00".into()));
    let framed = Framed {
        length,
        trailer: trailer.map(|name| vec![name.to_owned()]),
        signed,
    };
    Chunks::new(framed, chain)
}

#[test]
fn unsigned_chunks_pass_as_they_are_at_any_cut() {
    let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
    for size in 1..body.len() {
        let mut chunks = framed(11, Some("x-amz-checksum-crc32"), false);
        assert_eq!(through(&mut chunks, body, size).unwrap(), body);
    }
}

#[test]
fn the_end_of_a_body_that_lies_never_comes() {
    let crc = Some("x-amz-checksum-crc32");
    for (name, length, trailer, body) in [
        (
            "a size too small",
            5,
            crc,
            "4\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "a size too large",
            5,
            crc,
            "6\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        ("no last chunk", 5, crc, "5\r\nhello\r\n"),
        ("no trailer", 5, crc, "5\r\nhello\r\n0\r\n\r\n"),
        (
            "half a trailer",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n",
        ),
        (
            "another length",
            6,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "a shorter length",
            4,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        (
            "more behind the end",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\nx",
        ),
        (
            "another field",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-acl:public\r\n\r\n",
        ),
        (
            "a field twice",
            5,
            crc,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n\r\n",
        ),
        (
            "a trailer that was not said",
            5,
            None,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n",
        ),
        ("bare line ends", 5, None, "5\nhello\n0\n\n"),
        ("an extension", 5, None, "5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("a sign", 5, None, "+5\r\nhello\r\n0\r\n\r\n"),
        ("no size", 5, None, "\r\nhello\r\n0\r\n\r\n"),
        ("a size past all", 5, None, "fffffffffffffffff\r\nhello\r\n"),
        (
            "the largest size",
            5,
            None,
            "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let mut chunks = framed(length, trailer, false);
        assert_eq!(
            through(&mut chunks, body.as_bytes(), 7),
            Err(BadChunks),
            "{name}"
        );
    }
}

#[test]
fn a_signed_chunk_bears_a_signature_and_is_bounded() {
    let zero = "0".repeat(64);
    let over = MAX_CHUNK + 1;
    for (length, body) in [
        (5, "5\r\nhello\r\n0\r\n\r\n".to_owned()),
        (
            5,
            format!("5;chunk-signature={}\r\nhello\r\n", "0".repeat(63)),
        ),
        (5, format!("5;chunk-signature={zero};x\r\nhello\r\n")),
        (over, format!("{over:x};chunk-signature={zero}\r\nhello")),
    ] {
        let mut chunks = framed(length, None, true);
        assert_eq!(
            through(&mut chunks, body.as_bytes(), 64),
            Err(BadChunks),
            "{body}"
        );
    }
}

#[test]
fn a_signed_trailer_is_signed_anew() {
    let (zero, crc) = ("0".repeat(64), Some("x-amz-checksum-crc32c"));
    let body = format!(
        "5;chunk-signature={zero}\r\nhello\r\n0;chunk-signature={zero}\r\n\
         x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{zero}\r\n\r\n"
    );
    let out = through(&mut framed(5, crc, true), body.as_bytes(), 9).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.len(), body.len());
    let before = |text: &str, name: &str| {
        let tail = text.rsplit(name).next().unwrap();
        tail.get(..64).unwrap().to_owned()
    };
    let last = before(
        text.split("x-amz-checksum").next().unwrap(),
        "chunk-signature=",
    );
    let signed = format!(
        "AWS4-HMAC-SHA256-TRAILER\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n{last}\n{}",
        sha256(b"x-amz-checksum-crc32c:sOO8/Q==\n")
    );
    let day = SystemTime::UNIX_EPOCH + Duration::from_hours(380_376);
    let key = v4::generate_signing_key(SECRET, day, "us-east-1", "s3");
    let judged = v4::calculate_signature(key, signed.as_bytes());
    assert_eq!(before(&text, "x-amz-trailer-signature:"), judged);
    assert!(!text.contains(&zero));
    // Its own signature alone, or none, is no trailer.
    for cut in [
        "x-amz-checksum-crc32c:sOO8/Q==\r\n",
        &format!("x-amz-trailer-signature:{zero}\r\n"),
    ] {
        let lame = body.replace(cut, "");
        assert_eq!(
            through(&mut framed(5, crc, true), lame.as_bytes(), 9),
            Err(BadChunks)
        );
    }
}
