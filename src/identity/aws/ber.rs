//! As much of BER (X.690) as a signed message of AWS needs: definite and indefinite lengths, pieces of octets.

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'b> {
    pub(super) tag: u8,
    pub(super) content: &'b [u8],
    /// Tag, length and content as they stand.
    pub(super) whole: &'b [u8],
}

/// Elements that follow one another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, holding other elements.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// The most elements within one another.
const DEEPEST: usize = 16;

impl<'b> Reader<'b> {
    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<Element<'b>> {
        self.next_if(tag)
    }

    /// The next element if it has this tag; else nothing is taken.
    pub(super) fn next_if(&mut self, tag: u8) -> Option<Element<'b>> {
        let (element, rest) = element(self.0, DEEPEST)?;
        if element.tag != tag {
            return None;
        }
        self.0 = rest;
        Some(element)
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Option<Element<'b>> {
        let (element, rest) = element(self.0, DEEPEST)?;
        self.0 = rest;
        Some(element)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'b> Element<'b> {
    pub(super) fn inside(&self) -> Reader<'b> {
        Reader(self.content)
    }

    /// The octets of an octet string, put together where it came in pieces (X.690 §8.7).
    pub(super) fn octets(&self) -> Option<Vec<u8>> {
        if self.tag == OCTETS {
            return Some(self.content.to_vec());
        }
        if self.tag != OCTETS | 0x20 {
            return None;
        }
        let (mut pieces, mut whole) = (self.inside(), Vec::new());
        while !pieces.is_empty() {
            // Pieces of pieces are nobody's.
            whole.extend_from_slice(pieces.expect(OCTETS)?.content);
        }
        Some(whole)
    }
}

fn element(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let depth = depth.checked_sub(1)?;
    let (tag, after) = bytes.split_first()?;
    // Tags of several bytes do not occur.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (first, after) = after.split_first()?;
    if *first == 0x80 {
        return indefinite(bytes, *tag, after, depth);
    }
    let (length, content) = if *first < 0x80 {
        (usize::from(*first), after)
    } else {
        let count = usize::from(first & 0x7f);
        let (digits, content) = after.split_at_checked(count)?;
        if count > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, content)
    };
    let (content, rest) = content.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    let element = Element {
        tag: *tag,
        content,
        whole,
    };
    Some((element, rest))
}

/// X.690 §8.1.3.6: elements until two zeros.
fn indefinite<'b>(
    bytes: &'b [u8],
    tag: u8,
    content: &'b [u8],
    depth: usize,
) -> Option<(Element<'b>, &'b [u8])> {
    if tag & 0x20 == 0 {
        return None;
    }
    let mut rest = content;
    loop {
        if let Some(after) = rest.strip_prefix(&[0, 0]) {
            let element = Element {
                tag,
                content: content.get(..content.len() - rest.len())?,
                whole: bytes.get(..bytes.len() - after.len())?,
            };
            return Some((element, after));
        }
        rest = element(rest, depth)?.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_each_form_are_read_and_none_goes_beyond_the_end() {
        let long = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        assert_eq!(Reader(&long).expect(OCTETS).unwrap().content, [7; 256]);
        let pieces = [0x24, 0x80, 0x04, 0x02, 1, 2, 0x04, 0x01, 3, 0, 0, 9];
        let mut reader = Reader(&pieces);
        assert_eq!(reader.any().unwrap().octets().unwrap(), [1, 2, 3]);
        assert_eq!(reader.0, [9]);
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 5, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 1],
            &[0x30, 0x80, 0x04, 1],
            &[0x04, 0x80, 0, 0],
            &[0x1f, 0x81, 0x01, 0],
        ] {
            assert_eq!(Reader(bad).any(), None, "{bad:?}");
        }
        assert_eq!(
            Reader(&[0x30, 0x80].repeat(40)).any(),
            None,
            "nested without end"
        );
    }
}
