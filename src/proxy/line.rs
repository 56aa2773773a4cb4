//! Strict line ends of HTTP/1 heads and chunk framing, byte by byte over any cut of the input.

use memchr::memchr2;

/// What is wrong with a head or a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineFault {
    /// A line feed without the carriage return before it (RFC 9112 §2.2).
    #[error("a line ends in a bare line feed")]
    BareLf,
    /// A carriage return without the line feed behind it.
    #[error("a bare carriage return stands in a line")]
    BareCr,
    /// A continued line (RFC 9112 §5.2).
    #[error("a field is folded over two lines")]
    Fold,
    /// A chunk size that is not 1 to 16 hexadecimal digits, or data of another length (RFC 9112 §7.1).
    #[error("a chunk is malformed")]
    Chunk,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 §6.1), or twice (§6.3): hyper would drop the one before
    /// anybody sees it.
    #[error("a head has two framings")]
    Framings,
}

/// Which fields of a head frame its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Framings {
    /// The current line's name so far, in lower case.
    name: [u8; Self::LONGEST],
    length: usize,
    /// The name has ended, or is none of the two.
    past: bool,
    coded: bool,
    /// How many lines say a length.
    lengths: u32,
}

impl Framings {
    const LONGEST: usize = b"transfer-encoding".len();

    /// Reads bytes of a head whose lines are well-formed.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), LineFault> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.past {
                let Some(end) = memchr::memchr(b'\n', bytes) else {
                    return Ok(());
                };
                (self.past, self.length) = (false, 0);
                bytes = bytes.get(end + 1..).unwrap_or_default();
                continue;
            }
            bytes = rest;
            match (first, self.name.get_mut(self.length)) {
                (b'\n', _) => self.length = 0,
                (b':', _) => {
                    let name = self.name.get(..self.length).unwrap_or_default();
                    self.coded |= name == b"transfer-encoding";
                    self.lengths += u32::from(name == b"content-length");
                    self.past = true;
                }
                // Most names differ from both at their first letter.
                (byte, Some(_))
                    if self.length == 0 && !matches!(byte, b't' | b'T' | b'c' | b'C') =>
                {
                    self.past = true;
                }
                (byte, Some(place)) => {
                    *place = byte.to_ascii_lowercase();
                    self.length += 1;
                }
                (_, None) => self.past = true,
            }
        }
        if self.lengths > u32::from(!self.coded) {
            Err(LineFault::Framings)
        } else {
            Ok(())
        }
    }
}

/// A reader of one head, or of one chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// In a head or a trailer section.
    Fields {
        /// Whether a line has been read: a head may be preceded by empty lines.
        begun: bool,
        /// Whether the current line is empty so far.
        empty: bool,
        /// Whether a carriage return came last.
        cr: bool,
    },
    /// In a chunk's size: its value and how many digits it has.
    Size(u64, u8),
    /// In a chunk's extension, of this size.
    Extension(u64),
    /// The size line's carriage return was read.
    SizeCr(u64),
    /// In a chunk's data, with this many bytes left.
    Data(u64),
    /// After a chunk's data.
    DataEnd,
    /// After the carriage return behind a chunk's data.
    DataCr,
}

impl Line {
    /// Before a head.
    pub(super) fn head() -> Self {
        Self::Fields {
            begun: false,
            empty: true,
            cr: false,
        }
    }

    /// Before a chunked body.
    pub(super) fn chunk() -> Self {
        Self::Size(0, 0)
    }

    /// Reads head bytes: how many belong to the head, and whether it is complete.
    pub(super) fn head_bytes(&mut self, bytes: &[u8]) -> Result<(usize, bool), LineFault> {
        let Self::Fields { begun, empty, cr } = self else {
            return Err(LineFault::Chunk);
        };
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if *cr {
                if rest.first() != Some(&b'\n') {
                    return Err(LineFault::BareCr);
                }
                at += 1;
                *cr = false;
                if *empty && *begun {
                    return Ok((at, true));
                }
                *begun |= !*empty;
                *empty = true;
                continue;
            }
            if *empty && *begun && matches!(rest.first(), Some(b' ' | b'\t')) {
                return Err(LineFault::Fold);
            }
            let Some(end) = memchr2(b'\r', b'\n', rest) else {
                *empty = false;
                return Ok((bytes.len(), false));
            };
            *empty &= end == 0;
            if rest.get(end) == Some(&b'\n') {
                return Err(LineFault::BareLf);
            }
            *cr = true;
            at += end + 1;
        }
        Ok((bytes.len(), false))
    }

    /// Reads bytes of a chunked body: how many belong to it, and whether it is complete, trailers included.
    pub(super) fn chunked_bytes(&mut self, bytes: &[u8]) -> Result<(usize, bool), LineFault> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Self::Data(left) = self {
                let taken = (*left).min(rest.len() as u64);
                *left -= taken;
                at += usize::try_from(taken).unwrap_or(rest.len());
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                continue;
            }
            if let Self::Fields { .. } = self {
                let (taken, done) = self.head_bytes(rest)?;
                return Ok((at + taken, done));
            }
            if let Some(byte) = rest.first() {
                *self = self.chunk_byte(*byte)?;
            }
            at += 1;
        }
        Ok((bytes.len(), false))
    }

    fn chunk_byte(self, byte: u8) -> Result<Self, LineFault> {
        match (self, byte) {
            (Self::Size(size, digits), byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                if digits >= 16 {
                    Err(LineFault::Chunk)
                } else {
                    Ok(Self::Size(size << 4 | digit, digits + 1))
                }
            }
            (Self::Size(size, digits), b';') if digits > 0 => Ok(Self::Extension(size)),
            (Self::Size(size, digits), b'\r') if digits > 0 => Ok(Self::SizeCr(size)),
            (Self::Extension(size), b'\r') => Ok(Self::SizeCr(size)),
            (Self::Size(..) | Self::Extension(_) | Self::DataEnd, b'\n') => Err(LineFault::BareLf),
            (Self::Extension(size), _) => Ok(Self::Extension(size)),
            // The trailer section reads like a head that has begun: an empty line ends it.
            (Self::SizeCr(0), b'\n') => Ok(Self::Fields {
                begun: true,
                empty: true,
                cr: false,
            }),
            (Self::SizeCr(size), b'\n') => Ok(Self::Data(size)),
            (Self::SizeCr(_), _) => Err(LineFault::BareCr),
            (Self::DataEnd, b'\r') => Ok(Self::DataCr),
            (Self::DataCr, b'\n') => Ok(Self::chunk()),
            (
                Self::Size(..) | Self::DataEnd | Self::DataCr | Self::Data(_) | Self::Fields { .. },
                _,
            ) => Err(LineFault::Chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &[u8]) -> Result<(usize, bool), LineFault> {
        Line::head().head_bytes(text)
    }

    fn chunks(text: &[u8]) -> Result<(usize, bool), LineFault> {
        Line::chunk().chunked_bytes(text)
    }

    #[test]
    fn a_head_ends_at_its_empty_line_and_nowhere_else() {
        assert_eq!(
            head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /x"),
            Ok((27, true))
        );
        assert_eq!(head(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok((22, true)));
        assert_eq!(head(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok((25, false)));
        assert_eq!(head(b"GET / HTTP/1.1\nHost: a\n\n"), Err(LineFault::BareLf));
        assert_eq!(
            head(b"GET / HTTP/1.1\r\nX: y\n\r\n"),
            Err(LineFault::BareLf)
        );
        assert_eq!(
            head(b"GET / HTTP/1.1\r\nX: a\rTransfer-Encoding: chunked\r\n"),
            Err(LineFault::BareCr)
        );
        assert_eq!(
            head(b"GET / HTTP/1.1\r\nX: a\r\n b: c\r\n\r\n"),
            Err(LineFault::Fold)
        );
    }

    #[test]
    fn chunks_are_read_strictly() {
        assert_eq!(chunks(b"5\r\nhello\r\n0\r\n\r\nGET"), Ok((15, true)));
        assert_eq!(
            chunks(b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
            Ok((25, true))
        );
        for bad in [
            &b"0x5\r\n"[..],
            b"+5\r\n",
            b"5_0\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"\r\n",
            b"FFFFFFFFFFFFFFFF1\r\n",
            b"5\r\nhelloX",
        ] {
            assert_eq!(chunks(bad), Err(LineFault::Chunk), "{bad:?}");
        }
        assert_eq!(chunks(b"5\nhello"), Err(LineFault::BareLf));
        assert_eq!(chunks(b"5\r\nhello\n"), Err(LineFault::BareLf));
        assert_eq!(chunks(b"5\rx"), Err(LineFault::BareCr));
    }

    #[test]
    fn two_framings_in_one_head_are_a_fault_at_every_cut() {
        let fault = |text: &[u8], cut: usize| {
            let mut framings = Framings::default();
            let (left, right) = text.split_at(cut);
            framings
                .read(left)
                .and_then(|()| framings.read(right))
                .is_err()
        };
        let two = b"POST /: HTTP/1.1\r\nContent-LENGTH: 4\r\nA: transfer-encoding:\r\nTransfer-Encoding: chunked\r\n\r\n";
        let one = b"POST /: HTTP/1.1\r\nContent-Length: 4\r\nX-Transfer-Encoding: a\r\nTransfer-Encodings: b\r\n\r\n";
        let same = b"POST /: HTTP/1.1\r\nContent-Length: 4\r\nA: content-length: 4\r\ncontent-length: 4\r\n\r\n";
        for cut in 0..one.len() {
            assert!(fault(two, cut) && !fault(one, cut), "{cut}");
        }
        for cut in 0..same.len() {
            assert!(fault(same, cut), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_reads_the_same(text in "[a-c \r\n0-5;:]{0,40}", cut in 0_usize..40) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            for whole in [Line::head(), Line::chunk()] {
                let read = |line: &mut Line, bytes: &[u8]| match whole {
                    Line::Fields { .. } => line.head_bytes(bytes),
                    _ => line.chunked_bytes(bytes),
                };
                let at_once = read(&mut whole.clone(), bytes);
                let mut line = whole;
                let in_two = match read(&mut line, &bytes[..cut]) {
                    Ok((_, false)) => read(&mut line, &bytes[cut..]).map(|(taken, done)| (cut + taken, done)),
                    other => other,
                };
                prop_assert_eq!(at_once, in_two);
            }
        }
    }
}
