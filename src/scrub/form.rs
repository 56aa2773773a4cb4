//! The forms that a secret may take in an answer: the one list that everything here searches for.
//!
//! A form is a row of symbols; each symbol can be written in one or several ways, each independently of its
//! neighbours, so that a secret of which only some characters are escaped is the same form.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::escape::{self, Escape, NAMED, SHORT};

/// One form of one secret.
pub(super) struct Form {
    symbols: Zeroizing<Vec<u8>>,
    alphabet: Alphabet,
    /// A symbol is itself the lead of an escape, so one input can be read in two ways.
    ambiguous: bool,
}

/// How a symbol may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    /// As it is, or escaped in any of the ways of [`escape`].
    Text,
    /// As base64 or base64url has it; `+` and `/` may be escaped, as URLs and JSON do.
    Base64,
    /// A hex digit of either case.
    Hex,
    /// As it is.
    Exact,
}

/// Where reading an input along a form led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// The whole form was read; the hit ends before this offset.
    Hit(usize),
    /// Go on from here.
    Open(Place),
    /// The input is something else.
    Dead,
}

/// An offset of the input, and the symbol that is due there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) at: usize,
    pub(super) symbol: usize,
}

/// What an escape at some offset means for the form.
enum Reading {
    Step(Place),
    Cut,
    Other,
}

/// The fewest bytes of a secret that are searched for, and the length of an opening.
pub(super) const LEAST: usize = 4;
/// So many bytes of a secret, at the very end of what is searched, are masked though the rest of it does not come.
pub(super) const TELLING: usize = 8;

impl Form {
    /// All forms of `secret`; none for fewer than [`LEAST`] bytes, which would mask half of any answer.
    pub(super) fn all_of(secret: &[u8]) -> Vec<Self> {
        if secret.len() < LEAST {
            return Vec::new();
        }
        let mut forms = vec![
            Self::new(secret.to_vec(), Alphabet::Text),
            Self::new(hex(secret), Alphabet::Hex),
        ];
        forms.extend((0..3).map(|before| Self::new(base64_core(secret, before), Alphabet::Base64)));
        if let Ok(text) = std::str::from_utf8(secret) {
            let units = || text.encode_utf16();
            forms.push(Self::new(
                units().flat_map(u16::to_le_bytes).collect(),
                Alphabet::Exact,
            ));
            forms.push(Self::new(
                units().flat_map(u16::to_be_bytes).collect(),
                Alphabet::Exact,
            ));
        }
        forms
    }

    fn new(symbols: Vec<u8>, alphabet: Alphabet) -> Self {
        let ambiguous = alphabet == Alphabet::Text
            && symbols
                .iter()
                .any(|&symbol| symbol != b'+' && escape::leads(symbol));
        Self {
            symbols: Zeroizing::new(symbols),
            alphabet,
            ambiguous,
        }
    }

    /// Whether both search for the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.alphabet == other.alphabet && self.symbols == other.symbols
    }

    /// The fewest bytes that it can be written in: no escape is shorter than what it stands for.
    pub(super) fn least(&self) -> usize {
        self.symbols.len()
    }

    /// The bytes that this form keeps in memory.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.symbols.capacity()
    }

    /// Whether one input can be read along this form in two ways.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Reads `input` from `place` on, along a form that is not ambiguous: a straight line, of at most one step a symbol.
    pub(super) fn walk(&self, input: &[u8], place: Place) -> Walk {
        let mut place = place;
        loop {
            let run = self.run(input, place);
            place.at += run;
            place.symbol += run;
            let mut next = Walk::Dead;
            self.step(input, place, &mut |walk| next = walk);
            match next {
                Walk::Open(step) if step != place => place = step,
                end => return end,
            }
        }
    }

    /// Reads one symbol in every way there is, at most two: each is told as [`Walk::Open`] at the place behind it, or
    /// at `place` itself where the input ends too early.
    pub(super) fn step(&self, input: &[u8], place: Place, found: &mut dyn FnMut(Walk)) {
        let Some(&symbol) = self.symbols.get(place.symbol) else {
            return found(Walk::Hit(place.at));
        };
        let Some(&byte) = input.get(place.at) else {
            return found(Walk::Open(place));
        };
        if self.alphabet.fold(byte) == symbol {
            found(Walk::Open(Place {
                at: place.at + 1,
                symbol: place.symbol + 1,
            }));
        }
        if escape::leads(byte) && self.alphabet.escapes(symbol) {
            match self.escaped(input, place) {
                Reading::Step(step) => found(Walk::Open(step)),
                Reading::Cut => found(Walk::Open(place)),
                Reading::Other => {}
            }
        }
    }

    /// Whether nothing is left to read at `symbol`.
    pub(super) fn ends(&self, symbol: usize) -> bool {
        symbol >= self.symbols.len()
    }

    /// Whether its first `symbols` tell [`TELLING`] bytes of the secret, or more.
    pub(super) fn tells(&self, symbols: usize) -> bool {
        let (of, bytes) = match self.alphabet {
            Alphabet::Text => (1, 1),
            Alphabet::Base64 => (4, 3),
            Alphabet::Hex | Alphabet::Exact => (2, 1),
        };
        symbols * bytes >= TELLING * of
    }

    /// Whether it stands in `name`, of whatever case its letters are. A name of a field holds no UTF-16, and hex is of
    /// either case anyway.
    pub(super) fn stands_in_name(&self, name: &[u8]) -> bool {
        matches!(self.alphabet, Alphabet::Text | Alphabet::Base64)
            && (0..name.len()).any(|at| self.begins_name(name.get(at..).unwrap_or_default()))
    }

    fn begins_name(&self, name: &[u8]) -> bool {
        let mut rest = name;
        self.symbols.iter().all(|&symbol| {
            let same = |byte: u8| self.alphabet.fold(byte).eq_ignore_ascii_case(&symbol);
            let len = match (rest, escape::read(rest)) {
                (_, Escape::Byte { value, len })
                    if self.alphabet.escapes(symbol) && same(value) =>
                {
                    len
                }
                ([byte, ..], _) if same(*byte) => 1,
                _ => return false,
            };
            rest = rest.get(len..).unwrap_or_default();
            true
        })
    }

    /// Every byte that some way to write this form has.
    pub(super) fn bytes(&self, found: &mut dyn FnMut(u8)) {
        if matches!(self.alphabet, Alphabet::Text | Alphabet::Base64) {
            escape::bytes(found);
        }
        for &symbol in self.symbols.iter() {
            found(symbol);
            match (self.alphabet, symbol) {
                (Alphabet::Base64, b'+') => found(b'-'),
                (Alphabet::Base64, b'/') => found(b'_'),
                (Alphabet::Hex, b'a'..=b'f') => found(symbol.to_ascii_uppercase()),
                _ => {}
            }
        }
    }

    /// How many symbols from `place` on stand in `input` plainly.
    fn run(&self, input: &[u8], place: Place) -> usize {
        let symbols = self.symbols.get(place.symbol..).unwrap_or_default();
        let input = input.get(place.at..).unwrap_or_default();
        match self.alphabet {
            Alphabet::Text | Alphabet::Exact => common(input, symbols),
            Alphabet::Base64 | Alphabet::Hex => input
                .iter()
                .zip(symbols)
                .take_while(|&(&byte, &symbol)| self.alphabet.fold(byte) == symbol)
                .count(),
        }
    }

    fn escaped(&self, input: &[u8], place: Place) -> Reading {
        let input = input.get(place.at..).unwrap_or_default();
        let (len, width) = match escape::read(input) {
            Escape::Byte { value, len } if self.is_byte(place.symbol, value) => (len, 1),
            Escape::Scalar { value, len } => match self.scalar(place.symbol) {
                Some((scalar, width)) if self.alphabet.fold_scalar(value) == scalar => (len, width),
                _ => return Reading::Other,
            },
            Escape::Cut if self.may_open(input, place.symbol) => return Reading::Cut,
            Escape::Byte { .. } | Escape::Cut | Escape::Not => return Reading::Other,
        };
        Reading::Step(Place {
            at: place.at + len,
            symbol: place.symbol + width,
        })
    }

    fn is_byte(&self, symbol: usize, value: u8) -> bool {
        self.symbols.get(symbol) == Some(&self.alphabet.fold(value))
    }

    /// The code point at `symbol`, and of how many symbols it is: what a program that decoded UTF-8 escapes. A byte
    /// that is no UTF-8 stands for itself, as Latin-1 has it.
    fn scalar(&self, symbol: usize) -> Option<(u32, usize)> {
        let &byte = self.symbols.get(symbol)?;
        if byte.is_ascii() {
            return Some((u32::from(byte), 1));
        }
        (2..=4)
            .find_map(|width| {
                let bytes = self.symbols.get(symbol..symbol + width)?;
                let scalar = std::str::from_utf8(bytes).ok()?.chars().next()?;
                Some((u32::from(scalar), width))
            })
            .or(Some((u32::from(byte), 1)))
    }

    /// Whether `cut`, which ends too early, is the beginning of some way to write `symbol`.
    pub(super) fn may_open(&self, cut: &[u8], symbol: usize) -> bool {
        let (Some(&byte), Some((scalar, _))) = (self.symbols.get(symbol), self.scalar(symbol))
        else {
            return false;
        };
        match (self.alphabet, byte) {
            (Alphabet::Text, _) => escape::opens(cut, byte, scalar),
            (Alphabet::Base64, b'+') => [b'+', b'-']
                .iter()
                .any(|&byte| escape::opens(cut, byte, byte.into())),
            (Alphabet::Base64, b'/') => [b'/', b'_']
                .iter()
                .any(|&byte| escape::opens(cut, byte, byte.into())),
            (Alphabet::Base64 | Alphabet::Hex | Alphabet::Exact, _) => false,
        }
    }

    /// The first [`LEAST`] bytes of every way to write this form.
    pub(super) fn openings(&self) -> BTreeSet<[u8; LEAST]> {
        let mut openings = BTreeSet::new();
        let mut rest = vec![(Vec::new(), 0)];
        while let Some((start, symbol)) = rest.pop() {
            if let Some(opening) = start.first_chunk() {
                openings.insert(*opening);
                continue;
            }
            self.spellings(symbol, 2, &mut |spelling| {
                spelling.either_case(&start, &mut |start| {
                    rest.push((start, symbol + spelling.width));
                });
            });
        }
        openings
    }

    /// Every way to write the symbol at an index; numeric references with up to `zeros` zeros before.
    fn spellings(&self, symbol: usize, zeros: usize, found: &mut dyn FnMut(Spelling<'_>)) {
        let Some(&byte) = self.symbols.get(symbol) else {
            return;
        };
        let twin = match (self.alphabet, byte) {
            (Alphabet::Base64, b'+') => Some(b'-'),
            (Alphabet::Base64, b'/') => Some(b'_'),
            _ => None,
        };
        for byte in [Some(byte), twin].into_iter().flatten() {
            let cased = usize::from(self.alphabet != Alphabet::Hex);
            found(Spelling::new(&[byte], cased, 1));
            if self.alphabet.escapes(byte) {
                byte_spellings(byte, found);
            }
            if twin.is_some() {
                scalar_spellings(u32::from(byte), 1, zeros, found);
            }
        }
        if let Some((scalar, width)) = self.scalar(symbol)
            && self.alphabet == Alphabet::Text
        {
            scalar_spellings(scalar, width, zeros, found);
        }
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Form({:?})", self.alphabet)
    }
}

impl Alphabet {
    /// The symbol that `byte` stands for.
    #[inline]
    fn fold(self, byte: u8) -> u8 {
        match (self, byte) {
            (Self::Base64, b'-') => b'+',
            (Self::Base64, b'_') => b'/',
            (Self::Hex, b'A'..=b'F') => byte | 0x20,
            (Self::Text | Self::Base64 | Self::Hex | Self::Exact, _) => byte,
        }
    }

    fn fold_scalar(self, value: u32) -> u32 {
        u8::try_from(value).map_or(value, |byte| u32::from(self.fold(byte)))
    }

    /// Whether `symbol` may be escaped.
    fn escapes(self, symbol: u8) -> bool {
        match self {
            Self::Text => true,
            Self::Base64 => matches!(symbol, b'+' | b'/' | b'-' | b'_'),
            Self::Hex | Self::Exact => false,
        }
    }
}

/// One way to write `width` symbols. Letters from `cased` on may be of either case.
#[derive(Clone, Copy)]
struct Spelling<'a> {
    text: &'a [u8],
    cased: usize,
    width: usize,
}

impl<'a> Spelling<'a> {
    fn new(text: &'a [u8], cased: usize, width: usize) -> Self {
        Self { text, cased, width }
    }

    /// `start` with this spelling put behind it, in every case, cut where an opening ends.
    fn either_case(&self, start: &[u8], found: &mut dyn FnMut(Vec<u8>)) {
        let mut made = vec![start.to_vec()];
        let room = LEAST - start.len();
        for (at, &byte) in self.text.iter().take(room).enumerate() {
            let upper = byte.to_ascii_uppercase();
            let twins = if at >= self.cased && upper != byte {
                made.clone()
            } else {
                Vec::new()
            };
            for one in &mut made {
                one.push(byte);
            }
            made.extend(twins.into_iter().map(|mut twin| {
                twin.push(upper);
                twin
            }));
        }
        made.into_iter().for_each(found);
    }
}

/// The escapes of a byte.
fn byte_spellings(byte: u8, found: &mut dyn FnMut(Spelling<'_>)) {
    found(Spelling::new(format!("%{byte:02x}").as_bytes(), 1, 1));
    if byte == b' ' {
        found(Spelling::new(b"+", 1, 1));
    }
    for (letter, value) in SHORT {
        if value == byte {
            found(Spelling::new(&[b'\\', letter], 2, 1));
        }
    }
    for (name, value) in NAMED {
        if value == byte {
            found(Spelling::new(name, name.len(), 1));
        }
    }
}

/// The escapes of a code point.
fn scalar_spellings(scalar: u32, width: usize, zeros: usize, found: &mut dyn FnMut(Spelling<'_>)) {
    let mut json = Vec::new();
    let mut units = [0; 2];
    if let Some(scalar) = char::from_u32(scalar) {
        for unit in scalar.encode_utf16(&mut units) {
            json.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        }
    }
    found(Spelling::new(&json, 2, width));
    for zeros in 0..=zeros {
        let pad = "0".repeat(zeros);
        let decimal = format!("&#{pad}{scalar};");
        found(Spelling::new(decimal.as_bytes(), decimal.len(), width));
        let hex = format!("&#x{pad}{scalar:x};");
        found(Spelling::new(hex.as_bytes(), 2, width));
    }
}

fn hex(secret: &[u8]) -> Vec<u8> {
    let nibble = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    };
    secret
        .iter()
        .flat_map(|&byte| [nibble(byte >> 4), nibble(byte & 15)])
        .collect()
}

/// The characters that `secret` alone decides when `before` other bytes stand before it in a group of three. The
/// characters at both ends that it shares with its neighbours (at most four bits of it each) are not among them.
fn base64_core(secret: &[u8], before: usize) -> Vec<u8> {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.extend_from_slice(secret);
    let text = Zeroizing::new(STANDARD_NO_PAD.encode(&*bytes));
    let first = (before * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    text.as_bytes().get(first..end).unwrap_or_default().to_vec()
}

/// The length of the longest common beginning.
fn common(left: &[u8], right: &[u8]) -> usize {
    const LANE: usize = 16;
    // Arrays, not slices: their comparison is two instructions and no call.
    let (left_lanes, right_lanes) = (left.as_chunks::<LANE>().0, right.as_chunks::<LANE>().0);
    let lanes = left_lanes
        .iter()
        .zip(right_lanes)
        .take_while(|(left, right)| left == right)
        .count();
    let same = lanes * LANE;
    same + left
        .iter()
        .zip(right)
        .skip(same)
        .take_while(|(left, right)| left == right)
        .count()
}
