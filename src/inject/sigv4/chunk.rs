//! Bodies in S3's chunked form (`aws-chunked`): checked, and where their chunks are signed, signed anew one by one.
//!
//! ```text
//! SIZE;chunk-signature=SIGNATURE\r\n  data \r\n  …  0;chunk-signature=SIGNATURE\r\n  [NAME:VALUE\r\n …]  \r\n
//! ```
//! Every chunk keeps its size and every signature its length, so the body keeps its own. The end is given out only
//! once the whole was seen to be true: what lies never becomes an object.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::chain::Chain;

/// The largest chunk that is signed anew: it is held whole, for its signature stands before it.
pub const MAX_CHUNK: u64 = 1 << 20;
/// The longest line of the framing, and the longest trailer.
const MAX_LINE: usize = 1024;
const MAX_TRAILER: usize = 8 * 1024;
const SIGNED: &str = ";chunk-signature=";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// The chunks are not what the head says, or not framed by the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are not framed as its head says")]
pub struct BadChunks;

/// What the head says of a chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Framed {
    /// `x-amz-decoded-content-length`.
    pub(super) length: u64,
    /// `x-amz-trailer`: the fields that may stand behind the last chunk; `None` where there is no trailer.
    pub(super) trailer: Option<Vec<String>>,
    /// Whether each chunk is signed.
    pub(super) signed: bool,
}

/// Reads an agent's chunks and gives out those that go upstream.
#[derive(Debug)]
pub struct Chunks {
    framed: Framed,
    chain: Option<Chain>,
    state: State,
    /// The line, or the signed chunk, that is being gathered.
    gathered: BytesMut,
    /// The line end behind the last chunk's data is still due: without it a body that breaks off between two chunks
    /// has not its whole length, and its connection is torn.
    owed: bool,
    /// How much was decoded.
    seen: u64,
    /// The trailer's fields so far, as they are signed, and how many bytes they took.
    fields: Vec<(String, String)>,
    taken: usize,
    /// The end, held back until the body has ended.
    held: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The line end behind a chunk's data.
    After,
    /// The lines behind the last chunk.
    Trailer,
    /// Nothing may follow.
    End,
}

impl Chunks {
    pub(super) fn new(framed: Framed, chain: Option<Chain>) -> Self {
        Self {
            framed,
            chain,
            state: State::Size,
            gathered: BytesMut::new(),
            owed: false,
            seen: 0,
            fields: Vec::new(),
            taken: 0,
            held: BytesMut::new(),
        }
    }

    /// Takes the next piece; what may go upstream is put into `out`.
    ///
    /// # Errors
    /// [`BadChunks`]: the body must be broken off.
    pub fn push(
        &mut self,
        mut piece: Bytes,
        out: &mut impl Extend<Bytes>,
    ) -> Result<(), BadChunks> {
        while !piece.is_empty() {
            match self.state {
                State::Size => {
                    if let Some(line) = self.line(&mut piece)? {
                        self.size(&line, out)?;
                    }
                }
                State::Data(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let data = piece.split_to(piece.len().min(most));
                    let left = left - data.len() as u64;
                    match &mut self.chain {
                        None => out.extend([data]),
                        Some(_) => self.gathered.extend_from_slice(&data),
                    }
                    if left == 0 {
                        self.whole(out);
                        self.state = State::After;
                    } else {
                        self.state = State::Data(left);
                    }
                }
                State::After => {
                    if let Some(line) = self.line(&mut piece)? {
                        if !line.is_empty() {
                            return Err(BadChunks);
                        }
                        self.owed = true;
                        self.state = State::Size;
                    }
                }
                State::Trailer => {
                    if let Some(line) = self.line(&mut piece)? {
                        self.field(&line)?;
                    }
                }
                State::End => return Err(BadChunks),
            }
        }
        Ok(())
    }

    /// The body has ended: gives out its end.
    ///
    /// # Errors
    /// [`BadChunks`] where it broke off in the middle.
    pub fn finish(&mut self) -> Result<Bytes, BadChunks> {
        match self.state {
            State::End => Ok(self.held.split().freeze()),
            _ => Err(BadChunks),
        }
    }

    /// A whole line without its end, once it is there.
    fn line(&mut self, piece: &mut Bytes) -> Result<Option<Bytes>, BadChunks> {
        let end = memchr::memchr(b'\n', piece);
        let part = piece.split_to(end.map_or(piece.len(), |end| end + 1));
        self.gathered.extend_from_slice(&part);
        if self.gathered.len() > MAX_LINE {
            return Err(BadChunks);
        }
        if end.is_none() {
            return Ok(None);
        }
        let line = self.gathered.split().freeze();
        let text = line.strip_suffix(b"\r\n").ok_or(BadChunks)?;
        Ok(Some(line.slice_ref(text)))
    }

    fn size(&mut self, line: &[u8], out: &mut impl Extend<Bytes>) -> Result<(), BadChunks> {
        let line = std::str::from_utf8(line).map_err(|_| BadChunks)?;
        let digits = if self.framed.signed {
            let (digits, signature) = line.split_once(SIGNED).ok_or(BadChunks)?;
            is_signature(signature).then_some(digits).ok_or(BadChunks)?
        } else {
            line
        };
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        if digits.is_empty() || digits.len() > 16 || !is_hex {
            return Err(BadChunks);
        }
        let size = u64::from_str_radix(digits, 16).map_err(|_| BadChunks)?;
        self.seen = self.seen.checked_add(size).ok_or(BadChunks)?;
        if self.seen > self.framed.length {
            return Err(BadChunks);
        }
        let due = if std::mem::take(&mut self.owed) {
            "\r\n"
        } else {
            ""
        };
        if size == 0 {
            if self.seen != self.framed.length {
                return Err(BadChunks);
            }
            self.held.put_slice(due.as_bytes());
            self.held.put_slice(digits.as_bytes());
            if let Some(chain) = &mut self.chain {
                self.held.put_slice(SIGNED.as_bytes());
                self.held.put_slice(chain.chunk(b"").as_bytes());
            }
            self.held.put_slice(b"\r\n");
            self.state = State::Trailer;
            return Ok(());
        }
        if self.chain.is_some() {
            if size > MAX_CHUNK {
                return Err(BadChunks);
            }
            // The size goes first into the buffer, and its signature between it and the data once that is known.
            self.held.clear();
            self.held.put_slice(due.as_bytes());
            self.held.put_slice(digits.as_bytes());
        } else {
            let mut head = BytesMut::with_capacity(due.len() + digits.len() + 2);
            head.put_slice(due.as_bytes());
            head.put_slice(digits.as_bytes());
            head.put_slice(b"\r\n");
            out.extend([head.freeze()]);
        }
        self.state = State::Data(size);
        Ok(())
    }

    /// A signed chunk is whole: it goes out with its new signature.
    fn whole(&mut self, out: &mut impl Extend<Bytes>) {
        let Some(chain) = &mut self.chain else { return };
        let data = self.gathered.split().freeze();
        let signature = chain.chunk(&data);
        let mut head = self.held.split();
        head.put_slice(SIGNED.as_bytes());
        head.put_slice(signature.as_bytes());
        head.put_slice(b"\r\n");
        out.extend([head.freeze(), data]);
    }

    /// One line behind the last chunk.
    fn field(&mut self, line: &[u8]) -> Result<(), BadChunks> {
        self.taken += line.len() + 2;
        if self.taken > MAX_TRAILER {
            return Err(BadChunks);
        }
        let signed = self.chain.is_some();
        let sealed = self
            .fields
            .iter()
            .any(|(name, _)| name == TRAILER_SIGNATURE);
        if line.is_empty() {
            let due = self.framed.trailer.is_some();
            let whole = if due && signed {
                sealed
            } else {
                due != self.fields.is_empty()
            };
            if !whole {
                return Err(BadChunks);
            }
            self.held.put_slice(b"\r\n");
            self.state = State::End;
            return Ok(());
        }
        let declared = self.framed.trailer.as_deref().ok_or(BadChunks)?;
        let line = std::str::from_utf8(line).map_err(|_| BadChunks)?;
        let visible = line.bytes().all(|b| (0x20..0x7f).contains(&b));
        let (name, value) = line.split_once(':').ok_or(BadChunks)?;
        let name = name.to_ascii_lowercase();
        let twice = self.fields.iter().any(|(other, _)| *other == name);
        if sealed || twice || !visible {
            return Err(BadChunks);
        }
        if name == TRAILER_SIGNATURE {
            let chain = self.chain.as_mut().ok_or(BadChunks)?;
            if self.fields.len() != declared.len() || !is_signature(value) {
                return Err(BadChunks);
            }
            let mut fields: Vec<String> = self
                .fields
                .iter()
                .map(|(name, value)| format!("{name}:{}\n", value.trim()))
                .collect();
            fields.sort();
            let signature = chain.trailer(&fields.concat());
            let sent = format!("{TRAILER_SIGNATURE}:{signature}\r\n");
            self.held.put_slice(sent.as_bytes());
        } else if declared.contains(&name) {
            self.held.put_slice(line.as_bytes());
            self.held.put_slice(b"\r\n");
        } else {
            return Err(BadChunks);
        }
        self.fields.push((name, value.to_owned()));
        Ok(())
    }
}

fn is_signature(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
