//! HTTP/2 frames by hand, for what no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::{Agent, Tunnel};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    #[expect(dead_code, reason = "what Debug shows of a frame")]
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One connection, after its preface.
pub struct Raw(pub Tunnel);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A field block: literals without indexing, without Huffman (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                out.push(u8::try_from(length).unwrap());
            } else {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push(u8::try_from(length % 128).unwrap() | 128);
                    length /= 128;
                }
                out.push(u8::try_from(length).unwrap());
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// A plain GET.
pub fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", path),
    ])
}

impl Raw {
    pub async fn open(agent: &Agent) -> Self {
        let mut tunnel = agent.tunnel("api.test:443", &["h2"]).await;
        tunnel
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut raw = Self(tunnel);
        // SETTINGS_HEADER_TABLE_SIZE of 0: what is answered refers to nothing that was said before.
        raw.send(&frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])).await;
        raw.send(&frame(SETTINGS, 1, 0, &[])).await;
        raw
    }

    /// Whether the bytes could be written.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    pub async fn headers(&mut self, stream: u32, block: &[u8]) {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, block))
            .await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self, patience: Duration) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
                payload,
            })
        };
        tokio::time::timeout(patience, read).await.ok().flatten()
    }

    /// What becomes of this stream: `RST`, `GOAWAY`, `closed`, or the status of its answer.
    pub async fn fate(&mut self, stream: u32) -> String {
        while let Some(frame) = self.next(Duration::from_secs(3)).await {
            match frame.kind {
                RST_STREAM if frame.stream == stream => return "RST".to_owned(),
                GOAWAY => return "GOAWAY".to_owned(),
                HEADERS if frame.stream == stream => return status(&frame.payload),
                _ => {}
            }
        }
        "closed".to_owned()
    }
}

/// The status that begins a field block, in the ways that an encoder may write it (RFC 7541 appendix A).
pub fn status(block: &[u8]) -> String {
    let mut block = block;
    // Dynamic table size updates stand first.
    while block.first().is_some_and(|b| b & 0xe0 == 0x20) {
        block = &block[1..];
    }
    match block {
        [0x88, ..] => "200".to_owned(),
        [0x89, ..] => "204".to_owned(),
        [0x8b, ..] => "304".to_owned(),
        [0x8c, ..] => "400".to_owned(),
        [0x8d, ..] => "404".to_owned(),
        [0x8e, ..] => "500".to_owned(),
        [0x08 | 0x48 | 0x18, length, rest @ ..] => {
            let text = &rest[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 {
                String::from_utf8_lossy(text).into_owned()
            } else {
                digits(text)
            }
        }
        other => format!("unread {other:?}"),
    }
}

/// Digits in the Huffman code of RFC 7541 appendix B.
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |n| b >> n & 1))
        .collect();
    let (mut at, mut out) = (0, String::new());
    while at + 5 <= bits.len() {
        let take = |n: usize| bits[at..at + n].iter().fold(0_u8, |v, b| v << 1 | b);
        let five = take(5);
        if five <= 2 {
            out.push(char::from(b'0' + five));
            at += 5;
        } else if at + 6 <= bits.len() && (0x19..=0x1f).contains(&take(6)) {
            out.push(char::from(b'3' + take(6) - 0x19));
            at += 6;
        } else {
            break;
        }
    }
    out
}

#[test]
fn statuses_are_read_from_either_spelling() {
    assert_eq!(status(&[0x48, 3, b'4', b'0', b'3']), "403");
    // RFC 7541 C.6.1: 302.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), "302");
    assert_eq!(status(&[0x20, 0x88]), "200");
}
