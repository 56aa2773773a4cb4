//! Reading one escape: percent (RFC 3986 §2.1), JSON (RFC 8259 §7), HTML character references.

/// Zeros that may pad a numeric character reference. HTML sets no bound; constant memory asks for one.
pub(super) const ZEROS: usize = 8;

/// The named references that HTML escaping makes, and what they stand for.
pub(super) const NAMED: [(&[u8], u8); 5] = [
    (b"&amp;", b'&'),
    (b"&lt;", b'<'),
    (b"&gt;", b'>'),
    (b"&quot;", b'"'),
    (b"&apos;", b'\''),
];

/// The backslash escapes of one letter, and what they stand for. `\'` is what script languages write.
pub(super) const SHORT: [(u8, u8); 9] = [
    (b'/', b'/'),
    (b'"', b'"'),
    (b'\\', b'\\'),
    (b'\'', b'\''),
    (b'n', b'\n'),
    (b'r', b'\r'),
    (b't', b'\t'),
    (b'b', 0x08),
    (b'f', 0x0c),
];

/// What stands at the start of some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// An escaped byte.
    Byte { value: u8, len: usize },
    /// An escaped code point.
    Scalar { value: u32, len: usize },
    /// The input ends before the escape does.
    Cut,
    /// No escape.
    Not,
}

/// Whether an escape may begin with `byte`.
#[inline]
pub(super) fn leads(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'+')
}

/// Reads the escape at the start of `input`.
#[inline]
pub(super) fn read(input: &[u8]) -> Escape {
    match input {
        [b'%', high, low, ..] => percent(*high, *low),
        [b'+', ..] => Escape::Byte {
            value: b' ',
            len: 1,
        },
        [b'\\', b'u', ..] => json_unicode(input),
        [b'\\', letter, ..] => SHORT
            .iter()
            .find(|(name, _)| name == letter)
            .map_or(Escape::Not, |&(_, value)| Escape::Byte { value, len: 2 }),
        [b'%', ..] | [b'\\' | b'&'] => Escape::Cut,
        [b'&', b'#', rest @ ..] => numeric(rest),
        [b'&', ..] => named(input),
        _ => Escape::Not,
    }
}

fn percent(high: u8, low: u8) -> Escape {
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Escape::Byte {
            value: high << 4 | low,
            len: 3,
        },
        _ => Escape::Not,
    }
}

/// `\uXXXX`, and two of them where the first is a high surrogate.
fn json_unicode(input: &[u8]) -> Escape {
    let first = match unit(input) {
        Ok(first) => first,
        Err(other) => return other,
    };
    if !(0xD800..0xDC00).contains(&first) {
        return Escape::Scalar {
            value: first,
            len: 6,
        };
    }
    match unit(input.get(6..).unwrap_or_default()) {
        Ok(second) if (0xDC00..0xE000).contains(&second) => Escape::Scalar {
            value: 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00),
            len: 12,
        },
        Ok(_) => Escape::Not,
        Err(other) => other,
    }
}

/// The code unit of one `\uXXXX`.
fn unit(input: &[u8]) -> Result<u32, Escape> {
    if let [b'\\', b'u', a, b, c, d, ..] = *input {
        let nibble = |byte| digit(byte).map(u32::from).ok_or(Escape::Not);
        return Ok(nibble(a)? << 12 | nibble(b)? << 8 | nibble(c)? << 4 | nibble(d)?);
    }
    for at in 0..6 {
        let Some(&byte) = input.get(at) else {
            return Err(Escape::Cut);
        };
        match (at, digit(byte)) {
            (0, _) if byte == b'\\' => {}
            (1, _) if byte == b'u' => {}
            (2.., Some(_)) => {}
            _ => return Err(Escape::Not),
        }
    }
    Err(Escape::Not)
}

/// What follows `&#`.
fn numeric(rest: &[u8]) -> Escape {
    let (radix, most, lead, digits) = match rest {
        [b'x' | b'X', digits @ ..] => (16, 6, 3, digits),
        digits => (10, 7, 2, digits),
    };
    let mut value: u32 = 0;
    for (at, &byte) in digits.iter().take(ZEROS + most + 1).enumerate() {
        if byte == b';' && at > 0 {
            let len = lead + at + 1;
            return if zeros(digits) > ZEROS {
                Escape::Not
            } else {
                Escape::Scalar { value, len }
            };
        }
        let Some(digit) = char::from(byte).to_digit(radix) else {
            return Escape::Not;
        };
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    if digits.len() > ZEROS + most {
        Escape::Not
    } else {
        Escape::Cut
    }
}

/// How many zeros pad the number; the one of a bare `0` does not.
fn zeros(digits: &[u8]) -> usize {
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    let bare = digits.get(zeros) == Some(&b';');
    zeros - usize::from(bare)
}

fn named(input: &[u8]) -> Escape {
    for (name, value) in NAMED {
        if input.starts_with(name) {
            return Escape::Byte {
                value,
                len: name.len(),
            };
        }
        if name.starts_with(input) {
            return Escape::Cut;
        }
    }
    Escape::Not
}

/// Whether `cut`, an escape that its input ends too early, begins an escape of `byte` or of the code point `scalar`.
pub(super) fn opens(cut: &[u8], byte: u8, scalar: u32) -> bool {
    match cut {
        [b'%' | b'\\' | b'&'] | [b'&', b'#'] | [b'\\', b'u'] => true,
        [b'%', high] => digit(*high) == Some(byte >> 4),
        [b'\\', b'u', ..] => opens_json(cut, scalar),
        [b'&', b'#', b'x' | b'X', digits @ ..] => opens_number(digits, scalar, 16),
        [b'&', b'#', digits @ ..] => opens_number(digits, scalar, 10),
        _ => NAMED
            .iter()
            .any(|(name, value)| *value == byte && name.starts_with(cut)),
    }
}

fn opens_json(cut: &[u8], scalar: u32) -> bool {
    let mut units = [0; 2];
    let Some(scalar) = char::from_u32(scalar) else {
        return false;
    };
    let units = scalar.encode_utf16(&mut units);
    cut.iter().enumerate().all(|(at, &byte)| {
        let Some(unit) = units.get(at / 6) else {
            return false;
        };
        match at % 6 {
            0 => byte == b'\\',
            1 => byte == b'u',
            nibble => digit(byte).map(u16::from) == Some(unit >> ((5 - nibble) * 4) & 15),
        }
    })
}

/// Whether `digits` are the first of `scalar`, up to [`ZEROS`] zeros before them.
fn opens_number(digits: &[u8], scalar: u32, radix: u32) -> bool {
    let width = scalar.checked_ilog(radix).unwrap_or(0);
    let pad = digits.iter().take_while(|&&digit| digit == b'0').count();
    let (pad, most) = match scalar {
        0 => (pad, ZEROS + 1),
        _ => (pad, ZEROS),
    };
    let rest = digits.get(pad..).unwrap_or_default();
    pad <= most
        && rest.len() <= width as usize + 1
        && (0..=width).rev().zip(rest).all(|(power, &digit)| {
            char::from(digit).to_digit(radix) == Some(scalar / radix.pow(power) % radix)
        })
        && (scalar != 0 || rest.is_empty())
}

/// Every byte that an escape may have.
pub(super) fn bytes(found: &mut dyn FnMut(u8)) {
    for &byte in b"%\\&+#;uxX0123456789abcdefABCDEF" {
        found(byte);
    }
    for (letter, _) in SHORT {
        found(letter);
    }
    for &letter in NAMED.iter().flat_map(|(name, _)| *name) {
        found(letter);
    }
}

#[inline]
fn digit(byte: u8) -> Option<u8> {
    DIGITS
        .get(usize::from(byte))
        .copied()
        .filter(|&digit| digit < 16)
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index out of bounds"
)]
const DIGITS: [u8; 256] = {
    let mut table = [u8::MAX; 256];
    let mut nibble: u8 = 0;
    while nibble < 16 {
        table[b"0123456789abcdef"[nibble as usize] as usize] = nibble;
        table[b"0123456789ABCDEF"[nibble as usize] as usize] = nibble;
        nibble += 1;
    }
    table
};
