//! Where a form may begin: a vectored search for the first four bytes of every form, and a table for dense places.

use aho_corasick::packed::{self, MatchKind};
use std::collections::BTreeMap;
use std::fmt;

use super::form::{Form, LEAST};

/// The first bytes of all forms, ready to be searched for.
pub(super) struct Openings {
    /// Each searches for [`SEARCHED`] of `entries`; none where that would not pay.
    vectored: Vec<packed::Searcher>,
    /// Whether an opening may have this hash.
    filter: Box<[bool; 1 << FILTER]>,
    /// Open addressing: an index of `entries`, or [`EMPTY`].
    slots: Box<[u32]>,
    shift: u32,
    entries: Box<[Entry]>,
    /// The forms of all entries, one entry's after another's.
    forms: Box<[u32]>,
    first: Box<[bool]>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    word: u32,
    from: usize,
    to: usize,
}

const EMPTY: u32 = u32::MAX;
/// More openings than this in one vectored search, and its buckets give too many false alarms.
const SEARCHED: usize = 48;
/// With more searches than this, looking into the table is faster.
const MOST_SEARCHES: usize = 4;
/// The bits of the filter's hash: 8 KiB, so that it stays in the first cache.
const FILTER: u32 = 13;
/// So many offsets are filtered before the first branch.
const GROUP: usize = 8;
/// A vectored search that found something this near had better been a look into the table at each byte, which is
/// how the next [`STRETCH`] bytes are searched: what an adversary repeats costs no start of the vectored search each time.
const NEAR: usize = 64;
const STRETCH: usize = 512;
/// Knuth's multiplier: 2^32 divided by the golden ratio.
const SPREAD: u32 = 0x9E37_79B1;

impl Openings {
    pub(super) fn of<'a>(forms: impl Iterator<Item = &'a Form>) -> Self {
        let mut words: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (index, form) in (0..).zip(forms) {
            for opening in form.openings() {
                words
                    .entry(u32::from_le_bytes(opening))
                    .or_default()
                    .push(index);
            }
        }
        let mut this = Self::empty(words.len());
        let mut entries = Vec::with_capacity(words.len());
        let mut forms = Vec::new();
        for (index, (word, of)) in (0..).zip(words) {
            let from = forms.len();
            forms.extend(of);
            let to = forms.len();
            entries.push(Entry { word, from, to });
            this.put(word, index);
        }
        this.vectored = vectored(&entries);
        this.entries = entries.into();
        this.forms = forms.into();
        this
    }

    fn empty(words: usize) -> Self {
        let bits = (words * 32).next_power_of_two().trailing_zeros().max(5);
        Self {
            vectored: Vec::new(),
            filter: Box::new([false; 1 << FILTER]),
            slots: vec![EMPTY; 1 << bits].into(),
            shift: 32 - bits,
            entries: Box::default(),
            forms: Box::default(),
            first: vec![false; 256].into(),
        }
    }

    fn put(&mut self, word: u32, index: u32) {
        let [first, ..] = word.to_le_bytes();
        if let Some(first) = self.first.get_mut(usize::from(first)) {
            *first = true;
        }
        let bit = word.wrapping_mul(SPREAD) >> (32 - FILTER);
        if let Some(bit) = self.filter.get_mut(bit as usize) {
            *bit = true;
        }
        let mut slot = self.slot(word);
        while self.slots.get(slot).is_some_and(|&taken| taken != EMPTY) {
            slot = self.after(slot);
        }
        if let Some(free) = self.slots.get_mut(slot) {
            *free = index;
        }
    }

    /// Calls `visit` with every offset of `input` from `from` on where an opening stands, in order, and the forms that
    /// it opens. The last three offsets, where none can stand, are the caller's: see [`Openings::may_begin`].
    pub(super) fn each(&self, input: &[u8], from: usize, visit: &mut impl FnMut(usize, &[u32])) {
        if self.vectored.is_empty() {
            self.each_dense(input, from, input.len(), visit);
            return;
        }
        let mut at = from;
        let mut next = [None; MOST_SEARCHES];
        let mut begun = false;
        loop {
            for ((base, search), next) in (0..).step_by(SEARCHED).zip(&self.vectored).zip(&mut next)
            {
                let passed = next.is_some_and(|(start, _)| start < at);
                if passed || !begun {
                    *next = input
                        .get(at..)
                        .and_then(|rest| search.find(rest))
                        .map(|found| (at + found.start(), base + found.pattern().as_usize()));
                }
            }
            begun = true;
            let Some(&(start, entry)) = next.iter().flatten().min() else {
                return;
            };
            if let Some(entry) = self.entries.get(entry) {
                visit(start, self.opened_by(entry));
            }
            let near = start - at < NEAR;
            at = start + 1;
            if near {
                let end = input.len().min(at + STRETCH);
                self.each_dense(input, at, end, visit);
                at = end;
            }
        }
    }

    /// Offsets in `from..to`.
    fn each_dense(
        &self,
        input: &[u8],
        from: usize,
        to: usize,
        visit: &mut impl FnMut(usize, &[u32]),
    ) {
        let reach = input.len().min(to + LEAST - 1);
        let input = input.get(from..reach).unwrap_or_default();
        let mut one = |at: usize, opening: &[u8; LEAST]| {
            let word = u32::from_le_bytes(*opening);
            if self.passes(word)
                && let Some(entry) = self.lookup(word)
            {
                visit(from + at, self.opened_by(entry));
            }
        };
        let mut at = 0;
        for group in input
            .array_windows::<{ GROUP + LEAST - 1 }>()
            .step_by(GROUP)
        {
            let passing = group.array_windows().fold(false, |any, opening| {
                any | self.passes(u32::from_le_bytes(*opening))
            });
            if passing {
                for (next, opening) in group.array_windows().enumerate() {
                    one(at + next, opening);
                }
            }
            at += GROUP;
        }
        for (next, opening) in input
            .get(at..)
            .unwrap_or_default()
            .array_windows()
            .enumerate()
        {
            one(at + next, opening);
        }
    }

    #[inline]
    fn passes(&self, word: u32) -> bool {
        let bit = word.wrapping_mul(SPREAD) >> (32 - FILTER);
        self.filter.get(bit as usize) == Some(&true)
    }

    fn lookup(&self, word: u32) -> Option<&Entry> {
        let mut slot = self.slot(word);
        loop {
            let &index = self.slots.get(slot)?;
            let entry = self.entries.get(index as usize)?;
            if entry.word == word {
                return Some(entry);
            }
            slot = self.after(slot);
        }
    }

    fn opened_by(&self, entry: &Entry) -> &[u32] {
        self.forms.get(entry.from..entry.to).unwrap_or_default()
    }

    fn slot(&self, word: u32) -> usize {
        (word.wrapping_mul(SPREAD) >> self.shift) as usize
    }

    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
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
            + self.filter.len()
            + size_of_val(&*self.slots)
            + size_of_val(&*self.entries)
            + size_of_val(&*self.forms)
            + self.first.len()
    }
}

impl fmt::Debug for Openings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Openings({})", self.entries.len())
    }
}

/// None where the processor has no such instructions, or there is too much to search for.
fn vectored(entries: &[Entry]) -> Vec<packed::Searcher> {
    if entries.len() > MOST_SEARCHES * SEARCHED {
        return Vec::new();
    }
    let build = |entries: &[Entry]| {
        packed::Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .only_teddy(true)
            .builder()
            .extend(entries.iter().map(|entry| entry.word.to_le_bytes()))
            .build()
    };
    let searches: Option<Vec<_>> = entries.chunks(SEARCHED).map(build).collect();
    searches.unwrap_or_default()
}
