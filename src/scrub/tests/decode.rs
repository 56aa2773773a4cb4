use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;
use crate::scrub::{DecodeError, Decoder};

/// Three times `data: hello brotli`, as another implementation encodes it.
const BROTLI: [u8; 31] = [
    27, 59, 0, 248, 29, 137, 113, 44, 202, 186, 180, 71, 188, 20, 35, 147, 75, 5, 29, 186, 76, 99,
    123, 75, 65, 22, 241, 39, 45, 24, 129,
];
const BROTLI_END: [u8; 6] = [29, 234, 231, 195, 31, 10];
/// Eight mebibytes of zeros.
const BROTLI_BOMB: [u8; 14] = [
    155, 255, 255, 127, 248, 39, 0, 226, 177, 64, 32, 247, 254, 15,
];

fn decode(names: &[&str], chunks: &[&[u8]]) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(names.iter().copied())?.expect("a coding");
    let mut out = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        drain(&mut decoder, &mut out)?;
    }
    decoder.finish();
    drain(&mut decoder, &mut out)?;
    Ok(out)
}

fn drain(decoder: &mut Decoder, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    while let Some(piece) = decoder.pull()? {
        assert!(!piece.is_empty() && piece.len() <= 64 * 1024);
        out.extend(piece);
    }
    Ok(())
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

fn text() -> Vec<u8> {
    (0..30_000)
        .flat_map(|n| format!("line {}\n", n * 7).into_bytes())
        .collect()
}

#[test]
fn every_coding_is_undone_whole_and_byte_by_byte() {
    let text = text();
    let brotli = [&BROTLI[..], &BROTLI_END].concat();
    for (name, encoded, plain) in [
        ("gzip", gzip(&text), text.clone()),
        ("X-GZip", gzip(&text), text.clone()),
        ("deflate", zlib(&text), text.clone()),
        ("deflate", raw_deflate(&text), text.clone()),
        ("zstd", zstandard(&text), text.clone()),
        ("br", brotli, b"data: hello brotli\n\n".repeat(3)),
    ] {
        assert_eq!(decode(&[name], &[&encoded]).as_ref(), Ok(&plain), "{name}");
        let bytes: Vec<&[u8]> = encoded.chunks(1).collect();
        assert_eq!(decode(&[name], &bytes), Ok(plain), "{name} byte by byte");
        let cut = &encoded[..encoded.len() - 3];
        assert_eq!(
            decode(&[name], &[cut]),
            Err(DecodeError::Corrupt),
            "{name} cut"
        );
        assert_eq!(decode(&[name], &[]), Ok(vec![]), "{name} empty");
    }
}

#[test]
fn members_and_frames_follow_one_another() {
    let two = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(decode(&["gzip"], &[&two]), Ok(b"one two".to_vec()));
    let padded = [two, vec![0; 20]].concat();
    assert_eq!(decode(&["gzip"], &[&padded]), Ok(b"one two".to_vec()));
    let two = [zstandard(b"one "), zstandard(b"two")].concat();
    assert_eq!(decode(&["zstd"], &[&two]), Ok(b"one two".to_vec()));
    let behind = [zlib(b"one"), b"sk-secret".to_vec()].concat();
    assert_eq!(decode(&["deflate"], &[&behind]), Err(DecodeError::Corrupt));
}

#[test]
fn codings_are_undone_last_first() {
    let text = text();
    let stacked = zstandard(&gzip(&zlib(&text)));
    assert_eq!(
        decode(&["deflate, gzip", "zstd"], &[&stacked]).as_ref(),
        Ok(&text)
    );
    let bytes: Vec<&[u8]> = stacked.chunks(7).collect();
    assert_eq!(decode(&["deflate,gzip, identity ,zstd"], &bytes), Ok(text));
}

#[test]
fn what_is_not_known_is_refused() {
    assert!(matches!(
        Decoder::new(["compress"]),
        Err(DecodeError::Unknown)
    ));
    assert!(matches!(
        Decoder::new(["gzip,gzip,gzip,gzip"]),
        Err(DecodeError::Unknown)
    ));
    assert!(matches!(Decoder::new(["identity", ""]), Ok(None)));
    for name in ["gzip", "zstd", "br", "deflate"] {
        assert_eq!(
            decode(&[name], &[b"\x5bnot at all that"]),
            Err(DecodeError::Corrupt),
            "{name}"
        );
    }
}

#[test]
fn a_bomb_is_defused_in_bounded_memory() {
    let zeros = vec![0; 64 << 20];
    for (name, bomb) in [
        ("gzip", gzip(&zeros)),
        ("zstd", zstandard(&zeros)),
        ("br", BROTLI_BOMB.to_vec()),
        ("gzip, gzip", gzip(&gzip(&zeros))),
    ] {
        assert_eq!(decode(&[name], &[&bomb]), Err(DecodeError::Bomb), "{name}");
    }
}

#[test]
fn a_zstd_window_over_eight_mebibytes_is_refused() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder
        .set_parameter(zstd::stream::raw::CParameter::WindowLog(24))
        .unwrap();
    encoder.write_all(&text().repeat(90)).unwrap();
    assert_eq!(
        decode(&["zstd"], &[&encoder.finish().unwrap()]),
        Err(DecodeError::Corrupt)
    );
}

#[test]
fn an_event_that_the_server_flushed_comes_out_at_once() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut zstandard = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    let mut decoders = ["gzip", "zstd"].map(|name| Decoder::new([name]).unwrap().unwrap());
    for n in 0..20 {
        let event = format!("data: {n}\n\n").into_bytes();
        gzip.write_all(&event).unwrap();
        gzip.flush().unwrap();
        zstandard.write_all(&event).unwrap();
        zstandard.flush().unwrap();
        let chunks = [
            std::mem::take(gzip.get_mut()),
            std::mem::take(zstandard.get_mut()),
        ];
        for (decoder, chunk) in decoders.iter_mut().zip(chunks) {
            decoder.push(chunk.into());
            let mut out = Vec::new();
            drain(decoder, &mut out).unwrap();
            assert_eq!(out, event);
        }
    }
    let mut brotli = Decoder::new(["br"]).unwrap().unwrap();
    brotli.push(Bytes::from_static(&[
        11, 5, 128, 100, 97, 116, 97, 58, 32, 111, 110, 101, 10, 10,
    ]));
    assert_eq!(brotli.pull().unwrap().unwrap(), "data: one\n\n");
}
