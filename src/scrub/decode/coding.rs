//! The codings: gzip (RFC 1952), deflate (RFC 1950, and 1951 as some servers send it), br (RFC 7932), zstd (RFC 8878).

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

use super::{DecodeError, PIECE};

/// A coding, and how far it is decoded.
pub(super) enum Coding {
    Gzip(Inflate),
    /// Before its first byte, which says whether it has zlib's header.
    Deflate,
    Inflate(Inflate),
    Brotli(Box<Brotli>),
    Zstd(ZstdFrames),
}

/// Deflate within one of its wrappings.
pub(super) struct Inflate {
    state: Decompress,
    at: At,
}

/// Frames of zstd, one after another.
pub(super) struct ZstdFrames {
    state: Zstd<'static>,
    at: At,
}

/// Brotli's stream, and whether it is at its end.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    at: At,
}

/// Where in its members a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing of any member was read: an empty body (the answer to `HEAD`) is a whole one.
    Start,
    Within,
    /// A member is complete; another may follow.
    Between,
}

/// What RFC 9659 asks a zstd decoder to hold: a window of 8 MiB, and no more.
const ZSTD_WINDOW_LOG: u32 = 23;
const WINDOW_BITS: u8 = 15;

impl Coding {
    /// The coding called `name`; `None` for `identity`.
    pub(super) fn named(name: &str) -> Result<Option<Self>, DecodeError> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if name.is_empty() || is("identity") {
            Ok(None)
        } else if is("gzip") || is("x-gzip") {
            Ok(Some(Self::Gzip(Inflate::new(Decompress::new_gzip(
                WINDOW_BITS,
            )))))
        } else if is("deflate") {
            Ok(Some(Self::Deflate))
        } else if is("br") {
            Ok(Some(Self::Brotli(Box::new(Brotli::new()))))
        } else if is("zstd") {
            ZstdFrames::new().map(|frames| Some(Self::Zstd(frames)))
        } else {
            Err(DecodeError::Unknown)
        }
    }

    /// Decodes of `input` what fills a piece. An empty piece: more input is needed, or, where it `ended`, all is given.
    pub(super) fn step(&mut self, input: &mut Bytes, ended: bool) -> Result<Vec<u8>, DecodeError> {
        if let (Self::Deflate, Some(&first)) = (&*self, input.first()) {
            // RFC 1950 §2.2: the low four bits of zlib's first byte are 8; a raw stream so begun has a stored block
            // with padding that nobody writes.
            *self = Self::Inflate(Inflate::new(Decompress::new(first & 0x0f == 8)));
        }
        let (piece, at) = match self {
            Self::Gzip(inflate) => (inflate.step(input, true)?, inflate.at),
            Self::Inflate(inflate) => (inflate.step(input, false)?, inflate.at),
            Self::Deflate => (Vec::new(), At::Start),
            Self::Brotli(brotli) => (brotli.step(input)?, brotli.at),
            Self::Zstd(frames) => (frames.step(input)?, frames.at),
        };
        if piece.is_empty() && ended && at == At::Within {
            return Err(DecodeError::Corrupt);
        }
        Ok(piece)
    }
}

impl Inflate {
    fn new(state: Decompress) -> Self {
        Self {
            state,
            at: At::Start,
        }
    }

    fn step(&mut self, input: &mut Bytes, members: bool) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        loop {
            if self.at == At::Between && !self.next_member(input, members)? {
                return Ok(out);
            }
            if self.at == At::Start && input.is_empty() {
                return Ok(out);
            }
            self.at = At::Within;
            out.reserve_exact(PIECE);
            let before = self.state.total_in();
            let status = self
                .state
                .decompress_vec(input, &mut out, FlushDecompress::None)
                .map_err(|_| DecodeError::Corrupt)?;
            let read = self.state.total_in() - before;
            input.advance(usize::try_from(read).unwrap_or(usize::MAX).min(input.len()));
            if status == Status::StreamEnd {
                self.at = At::Between;
            }
            if !out.is_empty() || (read == 0 && self.at == At::Within) {
                return Ok(out);
            }
        }
    }

    /// Whether another member begins. Zeros that pad a file are dropped; anything else behind the end is an error.
    fn next_member(&mut self, input: &mut Bytes, members: bool) -> Result<bool, DecodeError> {
        match input.first() {
            None => Ok(false),
            Some(0x1f) if members => {
                self.state = Decompress::new_gzip(WINDOW_BITS);
                Ok(true)
            }
            Some(_) if input.iter().all(|&byte| byte == 0) => {
                input.clear();
                Ok(false)
            }
            Some(_) => Err(DecodeError::Corrupt),
        }
    }
}

impl Brotli {
    fn new() -> Self {
        Self {
            // The large windows of `BrotliState::new` are no part of the coding `br`.
            state: BrotliState::new_strict(
                StandardAlloc::default(),
                StandardAlloc::default(),
                StandardAlloc::default(),
            ),
            at: At::Start,
        }
    }

    fn step(&mut self, input: &mut Bytes) -> Result<Vec<u8>, DecodeError> {
        if self.at == At::Between {
            return if input.is_empty() {
                Ok(Vec::new())
            } else {
                Err(DecodeError::Corrupt)
            };
        }
        if self.at == At::Start && input.is_empty() {
            return Ok(Vec::new());
        }
        self.at = At::Within;
        let mut out = vec![0; PIECE];
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut written, mut total) = (out.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut written,
            &mut out,
            &mut total,
            &mut self.state,
        );
        input.advance(read.min(input.len()));
        out.truncate(written);
        match result {
            BrotliResult::ResultSuccess => self.at = At::Between,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultFailure => return Err(DecodeError::Corrupt),
        }
        Ok(out)
    }
}

impl ZstdFrames {
    fn new() -> Result<Self, DecodeError> {
        let made = Zstd::new().and_then(|mut state| {
            state.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
            Ok(state)
        });
        Ok(Self {
            state: made.map_err(|_| DecodeError::Unknown)?,
            at: At::Start,
        })
    }

    fn step(&mut self, input: &mut Bytes) -> Result<Vec<u8>, DecodeError> {
        let mut out = vec![0; PIECE];
        loop {
            if self.at != At::Within && input.is_empty() {
                return Ok(Vec::new());
            }
            if self.at == At::Between {
                self.state.reinit().map_err(|_| DecodeError::Corrupt)?;
            }
            self.at = At::Within;
            let mut from = InBuffer::around(input);
            let mut to = OutBuffer::around(&mut *out);
            let hint = self
                .state
                .run(&mut from, &mut to)
                .map_err(|_| DecodeError::Corrupt)?;
            let (read, written) = (from.pos(), to.pos());
            input.advance(read);
            if hint == 0 {
                self.at = At::Between;
            }
            if written > 0 || (read == 0 && self.at == At::Within) {
                out.truncate(written);
                return Ok(out);
            }
        }
    }
}

impl fmt::Debug for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Deflate | Self::Inflate(_) => "Deflate",
            Self::Brotli(_) => "Brotli",
            Self::Zstd(_) => "Zstd",
        })
    }
}
