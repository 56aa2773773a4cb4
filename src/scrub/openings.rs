//! Where a form may begin: a vectored search for the first four bytes of every form, or a filter where they are many.

use aho_corasick::packed::{self, MatchKind};
use std::collections::BTreeSet;
use std::fmt;

use super::form::{Form, LEAST};

/// The first bytes of all forms, ready to be searched for.
pub(super) struct Openings {
    /// Each searches for [`SEARCHED`] of them; none where that would not pay.
    vectored: Vec<packed::Searcher>,
    /// What is looked into where there is no vectored search.
    filter: Option<Box<Filter>>,
    first: Box<[bool; 256]>,
    count: usize,
}

struct Filter {
    /// A bit for each hash: whether an opening may have it.
    hashes: [u64; 1 << (FILTER - u64::BITS.ilog2())],
    /// A bit for each two bytes: whether they stand beside one another in an opening.
    pairs: [u64; 1 << 10],
}

/// What was found of each vectored search, at or behind the offset last asked for.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    next: [Option<usize>; MOST_SEARCHES],
    begun: bool,
}

/// More openings than this in one vectored search, and its buckets give too many false alarms.
const SEARCHED: usize = 48;
/// With more searches than this, the filter is faster.
const MOST_SEARCHES: usize = 1;
/// The bits of the filter's hash: 8 KiB, so that it stays in the first cache.
const FILTER: u32 = 16;
/// So many offsets are filtered before the first branch, a multiple of three; and the bytes of the openings there.
const GROUP: usize = 24;
const WINDOW: usize = GROUP + LEAST - 1;
/// Knuth's multiplier: 2^32 divided by the golden ratio.
const SPREAD: u32 = 0x9E37_79B1;

impl Openings {
    pub(super) fn of<'a>(forms: impl Iterator<Item = &'a Form>) -> Self {
        let words: BTreeSet<[u8; LEAST]> = forms.flat_map(Form::openings).collect();
        let vectored = vectored(&words);
        let filter = vectored.is_empty().then(|| Filter::of(&words));
        let mut this = Self {
            vectored,
            filter,
            first: Box::new([false; 256]),
            count: words.len(),
        };
        for [first, ..] in words {
            if let Some(first) = this.first.get_mut(usize::from(first)) {
                *first = true;
            }
        }
        this
    }

    /// The first offset from `from` on where an opening may stand: nearly always one does, and none is passed over. In
    /// the last three offsets none can stand whole: see [`Openings::may_begin`].
    pub(super) fn find(&self, input: &[u8], from: usize, cursor: &mut Cursor) -> Option<usize> {
        if let Some(filter) = &self.filter {
            return filter.find(input, from);
        }
        for (search, next) in self.vectored.iter().zip(&mut cursor.next) {
            let passed = next.is_some_and(|start| start < from);
            if passed || !cursor.begun {
                *next = input
                    .get(from..)
                    .and_then(|rest| search.find(rest))
                    .map(|found| from + found.start());
            }
        }
        cursor.begun = true;
        cursor.next.iter().flatten().min().copied()
    }

    /// Whether a form may begin with `byte`.
    pub(super) fn may_begin(&self, byte: u8) -> bool {
        self.first.get(usize::from(byte)) == Some(&true)
    }

    /// The bytes that this keeps in memory.
    pub(super) fn size(&self) -> usize {
        self.vectored
            .iter()
            .map(packed::Searcher::memory_usage)
            .sum::<usize>()
            + self.filter.as_ref().map_or(0, |_| size_of::<Filter>())
            + self.first.len()
    }
}

impl Filter {
    fn of(words: &BTreeSet<[u8; LEAST]>) -> Box<Self> {
        let mut this = Box::new(Self {
            hashes: [0; 1 << (FILTER - u64::BITS.ilog2())],
            pairs: [0; 1 << 10],
        });
        for &word in words {
            for &pair in word.array_windows() {
                let pair = u16::from_le_bytes(pair);
                if let Some(bits) = this.pairs.get_mut(usize::from(pair / 64)) {
                    *bits |= 1 << (pair % 64);
                }
            }
            let (at, bit) = hash(word);
            if let Some(bits) = this.hashes.get_mut(at) {
                *bits |= 1 << bit;
            }
        }
        this
    }

    /// Looks at two bytes of every three: wherever an opening stands, two of its bytes are among them.
    fn find(&self, input: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(group) = input.get(at..).and_then(<[u8]>::first_chunk::<WINDOW>) {
            let (three, _) = group.as_chunks::<3>();
            let passing = three
                .iter()
                .zip(three.iter().skip(1))
                .fold(0, |any, (&[_, _, left], &[right, ..])| {
                    any | self.pairs(left, right)
                });
            if passing & 1 != 0
                && let Some(found) = self.first_of(group)
            {
                return Some(at + found);
            }
            at += GROUP;
        }
        Some(at + self.first_of(input.get(at..)?)?)
    }

    fn first_of(&self, input: &[u8]) -> Option<usize> {
        input
            .array_windows()
            .position(|&opening| self.passes(opening))
    }

    /// The last bit tells whether both stand beside one another in an opening.
    #[inline]
    fn pairs(&self, left: u8, right: u8) -> u64 {
        let pair = u16::from_le_bytes([left, right]);
        self.pairs
            .get(usize::from(pair / 64))
            .map_or(0, |bits| bits >> (pair % 64))
    }

    #[inline]
    fn passes(&self, opening: [u8; LEAST]) -> bool {
        let (at, bit) = hash(opening);
        self.hashes.get(at).is_some_and(|bits| bits >> bit & 1 != 0)
    }
}

impl fmt::Debug for Openings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Openings({})", self.count)
    }
}

/// The word of the filter and the bit of it.
#[inline]
fn hash(opening: [u8; LEAST]) -> (usize, u32) {
    let hash = u32::from_le_bytes(opening).wrapping_mul(SPREAD) >> (u32::BITS - FILTER);
    ((hash >> u64::BITS.ilog2()) as usize, hash % u64::BITS)
}

/// None where the processor has no such instructions, or there is too much to search for.
fn vectored(words: &BTreeSet<[u8; LEAST]>) -> Vec<packed::Searcher> {
    if words.len() > MOST_SEARCHES * SEARCHED {
        return Vec::new();
    }
    let words: Vec<_> = words.iter().collect();
    let build = |words: &[&[u8; LEAST]]| {
        packed::Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .only_teddy(true)
            .builder()
            .extend(words)
            .build()
    };
    let searches: Option<Vec<_>> = words.chunks(SEARCHED).map(build).collect();
    searches.unwrap_or_default()
}
