//! Scrubbing what a server says over a WebSocket (RFC 6455): the payloads change, not one byte of the framing.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::stream::Scrubber;
use super::watch::Watch;

/// Scrubs the bytes that follow the 101, from the server to the agent.
///
/// A secret is found over the fragments of a message. While the end of a fragment may be the beginning of a secret, it
/// and what comes after it on the wire wait; with the message's end all of it is released. The extensions were taken
/// out of the handshake, so a frame with a reserved bit is an error. After an error, close the connection.
#[derive(Debug)]
pub struct WebSocketScrubber {
    message: Scrubber,
    state: State,
    /// A text or binary message is begun and its last frame has not come.
    fragmented: bool,
    closed: bool,
    /// What waits, in the order of the wire.
    queue: VecDeque<Part>,
    altered: bool,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// A reserved bit or opcode: an extension that was not agreed.
    #[error("a websocket frame uses an extension")]
    Extension,
    /// What no frame may be.
    #[error("a websocket frame is malformed")]
    Malformed,
    /// Too many frames within what may be the beginning of a secret.
    #[error("a websocket message has too many fragments")]
    Fragments,
}

#[derive(Debug)]
enum State {
    /// So much of a header is read.
    Header(BytesMut),
    Data {
        left: u64,
        last: bool,
        mask: Mask,
    },
    Control {
        opcode: u8,
        left: usize,
        mask: Mask,
        payload: BytesMut,
    },
}

/// A frame's masking key, and how far it is turned. All zeros where a frame is not masked.
#[derive(Debug, Clone, Copy, Default)]
struct Mask {
    key: [u8; 4],
}

#[derive(Debug)]
enum Part {
    /// Goes as it is.
    Wire(Bytes),
    /// So many bytes of the message, which the scrubber has not released.
    Payload { left: usize, mask: Mask },
}

/// A frame's header.
struct Header {
    last: bool,
    opcode: u8,
    left: u64,
    mask: Mask,
}

const CLOSE: u8 = 8;
const CONTINUATION: u8 = 0;
/// RFC 6455 §5.5.
const MOST_CONTROL: u64 = 125;
/// The most parts that wait. The scrubber bounds what waits of a message; this is for the frames without any of it.
const MOST_PARTS: usize = 1024;

impl WebSocketScrubber {
    /// A scrubber for the bytes behind the head of the 101.
    pub fn new(watch: impl Into<Watch>) -> Self {
        Self {
            message: Scrubber::new(watch),
            state: State::Header(BytesMut::new()),
            fragmented: false,
            closed: false,
            queue: VecDeque::new(),
            altered: false,
        }
    }

    /// Takes what came, and gives what may go on. What holds no secret, while nothing waits, is given back as it is.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, WebSocketError> {
        // One that begins without secrets cannot get any: its frames were not followed.
        if self.message.watch().is_empty() {
            return Ok(chunk);
        }
        self.message.look();
        let waited = !self.queue.is_empty() || self.is_within_kept();
        let before = std::mem::replace(&mut self.altered, false);
        let mut out = Vec::new();
        let mut rest = chunk.clone();
        while !rest.is_empty() {
            self.step(&mut rest, &mut out)?;
            if self.queue.len() > MOST_PARTS {
                return Err(WebSocketError::Fragments);
            }
        }
        let same = !waited && !self.altered && self.queue.is_empty() && !self.is_within_kept();
        self.altered |= before;
        Ok(if same { chunk } else { out.concat().into() })
    }

    /// The end of the connection: gives what waits. Of a frame that did not come whole, what was understood.
    pub fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        let released = self.message.finish();
        self.release(released, &mut out);
        out.concat().into()
    }

    /// Whether anything was masked.
    pub fn altered(&self) -> bool {
        self.altered
    }

    /// Whether part of a header or of a control frame is kept until the rest is there.
    fn is_within_kept(&self) -> bool {
        match &self.state {
            State::Header(header) => !header.is_empty(),
            State::Control { .. } => true,
            State::Data { .. } => false,
        }
    }

    fn step(&mut self, rest: &mut Bytes, out: &mut Vec<Bytes>) -> Result<(), WebSocketError> {
        match &mut self.state {
            State::Header(header) => {
                header.extend_from_slice(&rest.split_to(1));
                if let Some(read) = Header::read(header)? {
                    let wire = std::mem::take(header).freeze();
                    self.begin(&read, wire, out)?;
                }
            }
            State::Data { left, last, mask } => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                let (piece, last, used) = (rest.split_to(take), *last, *mask);
                *left -= take as u64;
                mask.turn(take);
                let done = *left == 0;
                self.data(piece, used, out);
                if done {
                    self.end_of_frame(last, out);
                }
            }
            State::Control { left, payload, .. } => {
                let piece = rest.split_to((*left).min(rest.len()));
                *left -= piece.len();
                payload.extend_from_slice(&piece);
                if *left == 0 {
                    self.end_of_control(out);
                }
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        header: &Header,
        wire: Bytes,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WebSocketError> {
        if self.closed {
            return Err(WebSocketError::Malformed);
        }
        self.wire(wire, out);
        let mask = header.mask;
        if header.opcode >= CLOSE {
            self.state = State::Control {
                opcode: header.opcode,
                left: usize::try_from(header.left).map_err(|_| WebSocketError::Malformed)?,
                mask,
                payload: BytesMut::new(),
            };
            if header.left == 0 {
                self.end_of_control(out);
            }
            return Ok(());
        }
        // RFC 6455 §5.4: a message's fragments follow each other, the first with its opcode, the others with none.
        if self.fragmented != (header.opcode == CONTINUATION) {
            return Err(WebSocketError::Malformed);
        }
        self.fragmented = !header.last;
        self.state = State::Data {
            left: header.left,
            last: header.last,
            mask,
        };
        if header.left == 0 {
            self.end_of_frame(header.last, out);
        }
        Ok(())
    }

    fn data(&mut self, piece: Bytes, mask: Mask, out: &mut Vec<Bytes>) {
        // Only within a frame do two of these stand beside one another: they are one, however the frame was cut.
        if let Some(Part::Payload { left, .. }) = self.queue.back_mut() {
            *left += piece.len();
        } else {
            self.queue.push_back(Part::Payload {
                left: piece.len(),
                mask,
            });
        }
        let released = self.message.push(mask.applied(piece));
        self.release(released, out);
    }

    fn end_of_frame(&mut self, last: bool, out: &mut Vec<Bytes>) {
        self.state = State::Header(BytesMut::new());
        if last {
            let released = self.message.finish();
            self.release(released, out);
        }
    }

    fn end_of_control(&mut self, out: &mut Vec<Bytes>) {
        let State::Control {
            opcode,
            mask,
            payload,
            ..
        } = std::mem::replace(&mut self.state, State::Header(BytesMut::new()))
        else {
            return;
        };
        let mut payload = mask.applied(payload.freeze());
        // The status code of a close frame (§5.5.1) is searched too: it may be the beginning of a secret, no status.
        self.closed |= opcode == CLOSE;
        if let Some(clean) = self.message.watch().scrub_value(&payload) {
            payload = clean.into();
            self.altered = true;
        }
        self.wire(mask.applied(payload), out);
    }

    /// Sends `bytes` on, behind what waits.
    fn wire(&mut self, bytes: Bytes, out: &mut Vec<Bytes>) {
        if self.queue.is_empty() {
            out.push(bytes);
        } else {
            self.queue.push_back(Part::Wire(bytes));
        }
    }

    /// Puts what the scrubber released of the message where it belongs among what waits.
    fn release(&mut self, mut released: Bytes, out: &mut Vec<Bytes>) {
        self.altered |= self.message.altered();
        while let Some(part) = self.queue.front_mut() {
            match part {
                Part::Wire(bytes) => out.push(std::mem::take(bytes)),
                Part::Payload { left, mask } => {
                    let piece = released.split_to((*left).min(released.len()));
                    *left -= piece.len();
                    let used = *mask;
                    mask.turn(piece.len());
                    let waits = *left > 0;
                    out.push(used.applied(piece));
                    if waits {
                        return;
                    }
                }
            }
            self.queue.pop_front();
        }
    }
}

impl Header {
    /// Reads a header of which `bytes` are there; `None` while some are missing.
    fn read(bytes: &[u8]) -> Result<Option<Self>, WebSocketError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let mut rest = rest;
        let opcode = first & 0x0f;
        if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return Err(WebSocketError::Extension);
        }
        let (width, least) = match second & 0x7f {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        let masked = second & 0x80 != 0;
        if rest.len() < width + if masked { 4 } else { 0 } {
            return Ok(None);
        }
        let left = match width {
            0 => u64::from(second & 0x7f),
            _ => rest.get_uint(width),
        };
        let whole = first & 0x80 != 0;
        // §5.2: the shortest length only, and no 64th bit; §5.5: a control frame is short and whole.
        let long = opcode >= CLOSE && (left > MOST_CONTROL || !whole);
        if left < least || left >> 63 != 0 || long {
            return Err(WebSocketError::Malformed);
        }
        let key = match rest.first_chunk() {
            Some(key) if masked => *key,
            _ => [0; 4],
        };
        Ok(Some(Self {
            last: whole,
            opcode,
            left,
            mask: Mask { key },
        }))
    }
}

impl Mask {
    /// `bytes` masked, or unmasked, which is the same.
    fn applied(self, bytes: Bytes) -> Bytes {
        if self.key == [0; 4] {
            return bytes;
        }
        let mut bytes = BytesMut::from(bytes);
        for (byte, key) in bytes.iter_mut().zip(self.key.iter().cycle()) {
            *byte ^= key;
        }
        bytes.freeze()
    }

    /// Goes on by `len` bytes.
    fn turn(&mut self, len: usize) {
        self.key.rotate_left(len % 4);
    }
}
