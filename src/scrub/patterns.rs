//! Secrets, compiled into what is searched for in an answer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::form::{Form, LEAST, Place, Walk};
use super::openings::Openings;
use crate::secret::Secret;

/// A set of secrets in every form of the list. It keeps its own copies of them, wiped when dropped; of the first four
/// bytes of each form there are copies that are not.
pub struct Patterns {
    forms: Box<[Arc<Form>]>,
    openings: Openings,
}

/// What a search found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The bytes of complete hits; they may overlap.
    pub(super) hits: Vec<Range<usize>>,
    /// Hits that go on where the input ends, those that began first standing first.
    pub(super) open: Vec<Thread>,
}

/// A hit that may come to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    form: u32,
    pub(super) start: usize,
    place: Place,
}

/// What is written over every byte of a hit.
pub(super) const MASK: u8 = b'*';

impl Patterns {
    /// Compiles `secrets`. One of fewer than four bytes is not searched for.
    pub fn compile<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        Self::of(
            secrets
                .into_iter()
                .flat_map(|secret| Form::all_of(secret.expose()))
                .map(Arc::new),
        )
    }

    /// The patterns of all `parts`. The forms are shared, not copied; the search for their beginnings is built anew, so
    /// keep the result as long as the parts hold.
    pub fn union<'a>(parts: impl IntoIterator<Item = &'a Arc<Self>>) -> Arc<Self> {
        let mut parts = parts.into_iter().filter(|part| !part.is_empty()).peekable();
        match (parts.next(), parts.peek()) {
            (Some(only), None) => Arc::clone(only),
            (first, _) => Arc::new(Self::of(
                first
                    .into_iter()
                    .chain(parts)
                    .flat_map(|part| part.forms.iter().cloned()),
            )),
        }
    }

    fn of(all: impl Iterator<Item = Arc<Form>>) -> Self {
        let mut forms: Vec<Arc<Form>> = Vec::new();
        for form in all {
            if !forms.iter().any(|known| known.same(&form)) {
                forms.push(form);
            }
        }
        Self {
            openings: Openings::of(forms.iter().map(|form| &**form)),
            forms: forms.into(),
        }
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The bytes of memory that these patterns take, forms shared with others included.
    pub fn size(&self) -> usize {
        self.openings.size() + self.forms.iter().map(|form| form.size()).sum::<usize>()
    }

    /// `value` with every hit masked, for what is at hand as a whole: a header's name or value, a reason phrase, a
    /// trailer. `None`, and nothing allocated, where there is no hit.
    pub fn scrub_value(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut found = Findings::default();
        self.scan(value, 0, &mut found);
        if found.hits.is_empty() {
            return None;
        }
        let mut value = value.to_vec();
        for hit in found.hits {
            mask(&mut value, hit);
        }
        Some(value)
    }

    /// Searches `input` for what begins at `from` or later.
    pub(super) fn scan(&self, input: &[u8], from: usize, found: &mut Findings) {
        if self.is_empty() {
            return;
        }
        self.openings.each(input, from, &mut |start, forms| {
            for &form in forms {
                self.begin(input, form, start, found);
            }
        });
        let tail = input.len().saturating_sub(LEAST - 1).max(from);
        for (start, &byte) in input.iter().enumerate().skip(tail) {
            if self.openings.may_begin(byte) {
                for (form, _) in (0..).zip(&self.forms) {
                    self.begin(input, form, start, found);
                }
            }
        }
    }

    fn begin(&self, input: &[u8], form: u32, start: usize, found: &mut Findings) {
        let place = Place {
            at: start,
            symbol: 0,
        };
        let thread = Thread { form, start, place };
        self.follow(input, thread, found);
    }

    /// Goes on with `thread`.
    pub(super) fn follow(&self, input: &[u8], thread: Thread, found: &mut Findings) {
        let Some(form) = self.forms.get(thread.form as usize) else {
            return;
        };
        let mut forks = Vec::new();
        found.end(thread, form.walk(input, thread.place, &mut forks));
        let mut seen = Vec::new();
        while let Some(place) = forks.pop() {
            let Err(new) = seen.binary_search(&place) else {
                continue;
            };
            seen.insert(new, place);
            if form.is_cut(input, place) {
                found.end(thread, Walk::Open(place));
            }
            found.end(thread, form.walk(input, place, &mut forks));
        }
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patterns({} forms)", self.forms.len())
    }
}

impl Findings {
    fn end(&mut self, thread: Thread, walk: Walk) {
        match walk {
            Walk::Hit(end) => self.hits.push(thread.start..end),
            Walk::Open(place) => {
                let same = |open: &Thread| open.form == thread.form && open.place == place;
                if !self.open.iter().any(same) {
                    self.open.push(Thread { place, ..thread });
                }
            }
            Walk::Dead => {}
        }
    }
}

impl Thread {
    /// The same, where `by` bytes before it are gone.
    pub(super) fn moved(self, by: usize) -> Self {
        Self {
            start: self.start - by,
            place: Place {
                at: self.place.at - by,
                ..self.place
            },
            ..self
        }
    }
}

/// Masks `hit` as far as it lies within `bytes`.
pub(super) fn mask(bytes: &mut [u8], hit: Range<usize>) {
    let end = hit.end.min(bytes.len());
    if let Some(hit) = bytes.get_mut(hit.start..end) {
        hit.fill(MASK);
    }
}
