//! Secrets, compiled into what is searched for in an answer.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::form::{Form, LEAST, Place, TELLING, Walk};
use super::machine::{Classes, Machine, ROOT, Reader, Spot};
use super::openings::{Cursor, Openings};
use super::sought::Shelf;
use crate::secret::Secret;

/// A set of secrets in every form of the list. It keeps its own copies of them, wiped when dropped; of the first four
/// bytes of each form there are copies that are not.
pub struct Patterns {
    forms: Box<[Arc<Form>]>,
    openings: Openings,
    classes: Classes,
    /// The length of the shortest form, in bytes.
    least: usize,
    /// Automata that nobody reads with just now: what one answer made known serves the next.
    #[expect(
        clippy::vec_box,
        reason = "an automaton is large, and moves in and out of the pool"
    )]
    idle: Mutex<Vec<Box<Machine>>>,
    /// Where this is weighed, and with how many bytes, `idle` included.
    shelf: Option<Arc<Shelf>>,
    weight: AtomicUsize,
}

/// What a search found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The bytes of complete hits; they may overlap.
    pub(super) hits: Vec<Range<usize>>,
    /// Hits that go on where the input ends.
    pub(super) open: Vec<Thread>,
}

/// A hit that may come to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    form: u32,
    pub(super) start: usize,
    place: Place,
}

/// The automata that are kept.
const IDLE: usize = 2;
/// A beginning found so near behind the last one tells a dense place, where the automaton reads on instead of the search:
/// what an adversary repeats costs no start of the search each time.
const NEAR: usize = 64;
/// How far it reads on, twice as far each time that it is still dense.
const STRETCH: [usize; 2] = [256, 16 * 1024];

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

    /// The same, weighed on `shelf` as long as it lives.
    pub(super) fn on_shelf<'a>(
        secrets: impl IntoIterator<Item = &'a Secret>,
        shelf: &Arc<Shelf>,
    ) -> Self {
        let mut this = Self::compile(secrets);
        let weight = this.size();
        this.weight = AtomicUsize::new(weight);
        this.shelf = Some(Arc::clone(shelf));
        shelf.grown(weight);
        this
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
            classes: Classes::of(forms.iter().map(|form| &**form)),
            least: forms.iter().map(|form| form.least()).min().unwrap_or(0),
            idle: Mutex::new(Vec::new()),
            shelf: None,
            weight: AtomicUsize::new(0),
            forms: forms.into(),
        }
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The bytes of memory that these patterns take, forms shared with others included; the automata, which hostile
    /// answers make grow up to some 300 KiB each, are not.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.openings.size()
            + self.classes.size()
            + self.forms.iter().map(|form| form.size()).sum::<usize>()
    }

    /// `value` with every hit masked, and a beginning of eight bytes of a secret or more at its end, for what is at hand
    /// as a whole: a header's value, a reason phrase, a trailer. `None`, and nothing allocated, where there is neither.
    pub fn scrub_value(&self, value: &[u8]) -> Option<Vec<u8>> {
        // Most fields are shorter than any key: all that one can hold is a beginning, which has a whole opening.
        let is_short = value.len() < self.least;
        let may_hold = || self.openings.find(value, 0, &mut Cursor::default());
        if is_short && (value.len() < TELLING || may_hold().is_none()) {
            return None;
        }
        let mut found = Findings::default();
        self.scan(value, 0, &mut found);
        self.end_of(value.len(), &mut found);
        if found.hits.is_empty() {
            return None;
        }
        let mut value = value.to_vec();
        for hit in found.hits {
            mask(&mut value, hit);
        }
        Some(value)
    }

    /// Whether the name of a field holds a secret, of whatever case its letters are: names come lower-cased.
    pub fn is_in_name(&self, name: &[u8]) -> bool {
        // Most names are shorter than any key.
        if name.len() < self.least {
            return false;
        }
        let mut found = Findings::default();
        self.scan(name, 0, &mut found);
        !found.hits.is_empty() || self.forms.iter().any(|form| form.stands_in_name(name))
    }

    /// Makes hits of what is open at the end of all input, after `len` bytes, and tells too much of a secret: who cuts an
    /// echo short would else get all of it but its last byte.
    pub(super) fn end_of(&self, len: usize, found: &mut Findings) {
        for thread in std::mem::take(&mut found.open) {
            let form = self.forms.get(thread.form as usize);
            if form.is_some_and(|form| form.tells(thread.place.symbol)) {
                found.hits.push(thread.start..len);
            }
        }
    }

    /// Searches `input` for what begins at `from` or later.
    pub(super) fn scan(&self, input: &[u8], from: usize, found: &mut Findings) {
        if self.is_empty() {
            return;
        }
        let mut cursor = Cursor::default();
        let first = self.next(input, from, &mut cursor);
        if first == input.len() {
            return;
        }
        let idle = self.idle.lock().pop();
        let mut machine = idle.unwrap_or_else(|| Box::new(Machine::new(&self.classes)));
        self.read(input, (first, cursor), &mut machine, found);
        self.put_back(machine);
    }

    fn put_back(&self, mut machine: Box<Machine>) {
        let told = machine.told();
        let grown = machine.grown();
        let kept = {
            let mut idle = self.idle.lock();
            let has_room = idle.len() < IDLE;
            if has_room {
                idle.push(machine);
            }
            has_room
        };
        let Some(shelf) = &self.shelf else { return };
        if !kept {
            // It goes, and what was weighed of it when it was put back before.
            self.weight.fetch_sub(told, Ordering::Relaxed);
            shelf.shrunk(told);
        } else if grown > 0 {
            self.weight.fetch_add(grown, Ordering::Relaxed);
            shelf.grown(grown);
        }
    }

    /// Where the automaton is to read next, from `from` on: the input's end, if nowhere.
    fn next(&self, input: &[u8], from: usize, cursor: &mut Cursor) -> usize {
        if let Some(start) = self.openings.find(input, from, cursor) {
            return start;
        }
        let tail = input.len().saturating_sub(LEAST - 1).max(from);
        input
            .iter()
            .skip(tail)
            .position(|&byte| self.openings.may_begin(byte))
            .map_or(input.len(), |at| tail + at)
    }

    /// Reads from the first beginning on, by turns with the search. Every byte is read once by the automaton at most
    /// (and again by its next lane, until both agree).
    fn read(
        &self,
        input: &[u8],
        (first, mut cursor): (usize, Cursor),
        machine: &mut Machine,
        found: &mut Findings,
    ) {
        let mut left = |at: usize, spot: Spot| {
            let thread = spot.thread(at);
            if let Some(form) = self.forms.get(thread.form as usize) {
                found.end(thread, form.walk(input, thread.place));
            }
        };
        let mut reader = Reader {
            machine,
            classes: &self.classes,
            forms: &self.forms,
            input,
            left: &mut left,
        };
        let [least, most] = STRETCH;
        let (mut at, mut state, mut stretch) = (first, ROOT, 0);
        while at < input.len() {
            if stretch == 0 {
                (at, state) = reader.until_idle(at, input.len().min(at + NEAR));
            } else {
                let to = input.len().min(at + stretch);
                state = reader.read(at, to, state);
                at = to;
            }
            let next = match state {
                ROOT => self.next(input, at, &mut cursor),
                _ => at,
            };
            stretch = if next - at < NEAR {
                (stretch * 2).clamp(least, most)
            } else {
                0
            };
            at = next;
        }
        let spots = reader.spots(state).to_vec();
        for spot in spots {
            let thread = spot.thread(input.len());
            found.end(thread, Walk::Open(thread.place));
        }
        found.settle();
    }

    /// Goes on with `threads`, as far as `input` tells. One along a form that is not ambiguous is a straight line. The
    /// others go side by side, from the least offset on, and those that come to the same place become one: there are
    /// never more of them than places.
    pub(super) fn follow(&self, input: &[u8], threads: Vec<Thread>, found: &mut Findings) {
        let mut due = BTreeMap::new();
        for thread in threads {
            match self.forms.get(thread.form as usize) {
                Some(form) if !form.is_ambiguous() => {
                    found.end(thread, form.walk(input, thread.place));
                }
                _ => Self::add(&mut due, thread),
            }
        }
        while let Some(((place, index), start)) = due.pop_first() {
            let Some(form) = self.forms.get(index as usize) else {
                continue;
            };
            form.step(input, place, &mut |walk| {
                let thread = Thread {
                    form: index,
                    start,
                    place,
                };
                match walk {
                    Walk::Open(step) if step != place => Self::add(
                        &mut due,
                        Thread {
                            place: step,
                            ..thread
                        },
                    ),
                    end => found.end(thread, end),
                }
            });
        }
        found.settle();
    }

    fn add(due: &mut BTreeMap<(Place, u32), usize>, thread: Thread) {
        let start = due
            .entry((thread.place, thread.form))
            .or_insert(thread.start);
        *start = thread.start.min(*start);
    }
}

impl Drop for Patterns {
    fn drop(&mut self) {
        if let Some(shelf) = &self.shelf {
            shelf.shrunk(*self.weight.get_mut());
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
            Walk::Open(place) => self.open.push(Thread { place, ..thread }),
            Walk::Dead => {}
        }
    }

    /// Of open threads that differ in their beginnings only, keeps the one that began first: every hit of another lies
    /// within one of its. Hits that lie within one another become one.
    pub(super) fn settle(&mut self) {
        self.open
            .sort_unstable_by_key(|thread| (thread.form, thread.place, thread.start));
        self.open.dedup_by_key(|thread| (thread.form, thread.place));
        self.hits.sort_unstable_by_key(|hit| hit.start);
        self.hits.dedup_by(|next, hit| {
            let overlap = next.start < hit.end;
            if overlap {
                hit.end = hit.end.max(next.end);
            }
            overlap
        });
    }
}

impl Spot {
    /// The hit that may come to be, where the automaton has come to `at`.
    fn thread(self, at: usize) -> Thread {
        Thread {
            form: self.form,
            start: at - self.len as usize,
            place: Place {
                at: at - self.back as usize,
                symbol: self.symbol as usize,
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// More answers at a time than automata are kept: those that are let go are weighed no longer.
    #[test]
    fn an_automaton_that_is_let_go_is_weighed_no_longer() {
        let shelf = Shelf::new(usize::MAX);
        let secret = Arc::new(Secret::from("secret-of-somebody".to_owned()));
        let sought = shelf.sought([secret]);
        let patterns = sought.patterns();
        let bare = shelf.weight();
        let anew = || Box::new(Machine::new(&patterns.classes));
        for _ in 0..IDLE {
            patterns.put_back(anew());
        }
        let full = shelf.weight();
        assert!(full > bare);
        for _ in 0..100 {
            let busy = patterns.idle.lock().pop().unwrap();
            patterns.put_back(anew());
            patterns.put_back(busy);
            assert_eq!(shelf.weight(), full, "{IDLE} are kept");
        }
        drop((patterns, sought));
        assert_eq!(shelf.weight(), 0);
    }
}
