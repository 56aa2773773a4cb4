//! Reading dense places: an automaton of all forms, one look into a table a byte, made while it is read.
//!
//! A state is a set of [`Spot`]s: everything that has begun and may yet become a hit. The one that follows it on a
//! byte is worked out the first time it is asked for. The memory is bounded: where it is full, all is forgotten but
//! the states that are being read from.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::form::{Form, Place, Walk};

/// The automaton, as far as it is known.
pub(super) struct Machine {
    /// A row of [`Classes::count`] entries for each state: the number of the state that follows, or [`UNKNOWN`]. Made at
    /// its full size, so that it never leaves a copy behind.
    table: Zeroizing<Vec<u16>>,
    states: Vec<Arc<State>>,
    known: HashMap<Arc<State>, u16>,
    width: usize,
    /// The spots of all states together.
    spots: usize,
    /// The most bytes that [`Machine::grown`] told of.
    told: usize,
}

/// Bytes that all forms treat alike are one class.
pub(super) struct Classes {
    of: Box<[u16; 256]>,
    count: usize,
}

/// A hit that may come to be, told from the offset that the automaton has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spot {
    pub(super) form: u32,
    /// The symbol that is due.
    pub(super) symbol: u32,
    /// How many bytes of an escape of it were read.
    pub(super) back: u32,
    /// How many bytes were read since it began.
    pub(super) len: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    spots: Vec<Spot>,
    /// The escape that is being read.
    tail: Vec<u8>,
    /// What left the set on the way here: whole, or long enough to be read on alone.
    left: Vec<Spot>,
}

/// Where one reading of an input stands.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    at: usize,
    state: u16,
}

/// The state in which nothing has begun.
pub(super) const ROOT: u16 = 0;
/// Something left on the way to this state.
const LEFT: u16 = 1 << 15;
const UNKNOWN: u16 = u16::MAX;
/// The most entries of the table, of two bytes each.
const ENTRIES: usize = 48 * 1024;
/// The most spots of all states, of sixteen bytes each; a single state may have more.
const SPOTS: usize = 8 * 1024;
/// What a state takes besides itself and its spots: its places in the list and the map, and what an allocation costs.
const STATE: usize = 64;
/// What has read so many bytes is read on alone, if there is only one way to: by then it has paid for that.
const ALONE: u32 = 256;
/// Readings that go on at a time, so that one need not wait for another's table.
const LANES: usize = 4;
/// The fewest bytes that are shared out among lanes.
const SHARED: usize = 2048;

impl Classes {
    pub(super) fn of<'a>(forms: impl Iterator<Item = &'a Form>) -> Self {
        let mut this = Self {
            of: Box::new([0; 256]),
            count: 1,
        };
        for form in forms {
            form.bytes(&mut |byte| {
                if let Some(class @ 0) = this.of.get_mut(usize::from(byte)) {
                    *class = u16::try_from(this.count).unwrap_or_default();
                    this.count += 1;
                }
            });
        }
        this
    }

    /// The bytes that this keeps in memory.
    pub(super) fn size(&self) -> usize {
        size_of_val(&*self.of)
    }

    #[inline]
    fn get(&self, byte: u8) -> usize {
        self.of
            .get(usize::from(byte))
            .map_or(0, |&class| usize::from(class))
    }
}

/// What a reading needs besides the automaton.
pub(super) struct Reader<'a> {
    pub(super) machine: &'a mut Machine,
    pub(super) classes: &'a Classes,
    pub(super) forms: &'a [Arc<Form>],
    pub(super) input: &'a [u8],
    /// Told each spot that leaves, and the offset behind what it read.
    pub(super) left: &'a mut dyn FnMut(usize, Spot),
}

impl Reader<'_> {
    /// Reads `from..to` beginning in `state`, and gives the state it ends in.
    pub(super) fn read(&mut self, from: usize, to: usize, state: u16) -> u16 {
        let share = to.saturating_sub(from) / LANES;
        if share * LANES < SHARED {
            let lane = Lane { at: from, state };
            return self.one(lane, to).state;
        }
        let mut lanes = [Lane::default(); LANES];
        for (lane, at) in lanes.iter_mut().zip((from..).step_by(share)) {
            lane.at = at;
        }
        if let Some(first) = lanes.first_mut() {
            first.state = state;
        }
        self.all(&mut lanes, share);
        self.join(&mut lanes, share);
        let last = lanes.last().copied().unwrap_or_default();
        self.one(last, to).state
    }

    /// Reads from `at` to `to`, or to where nothing is begun; gives where it came to, and the state there.
    pub(super) fn until_idle(&mut self, at: usize, to: usize) -> (usize, u16) {
        let mut lane = Lane { at, state: ROOT };
        while lane.at < to {
            lane = self.one(lane, lane.at + 1);
            if lane.state == ROOT {
                break;
            }
        }
        (lane.at, lane.state)
    }

    fn one(&mut self, lane: Lane, to: usize) -> Lane {
        let mut lanes = [lane];
        for _ in lane.at..to {
            self.byte(&mut lanes, 0);
        }
        let [lane] = lanes;
        lane
    }

    /// Reads `share` bytes in each lane.
    fn all(&mut self, lanes: &mut [Lane; LANES], share: usize) {
        let mut done = 0;
        while done < share {
            let ran = self.known(lanes, share - done);
            done += ran;
            if done < share {
                for index in 0..LANES {
                    self.byte(lanes, index);
                }
                done += 1;
            }
        }
    }

    #[expect(
        clippy::many_single_char_names,
        reason = "four lanes, each with a state and a byte"
    )]
    /// Reads up to `most` bytes in each lane, as long as every state is known and nothing leaves; gives how many.
    fn known(&self, lanes: &mut [Lane; LANES], most: usize) -> usize {
        let texts = lanes.map(|lane| self.input.get(lane.at..lane.at + most).unwrap_or_default());
        let [mut p, mut q, mut r, mut s] = lanes.map(|lane| lane.state);
        let [a, b, c, d] = texts;
        let mut ran = 0;
        for (((&a, &b), &c), &d) in a.iter().zip(b).zip(c).zip(d) {
            let next = [
                self.machine.look(p, self.classes.get(a)),
                self.machine.look(q, self.classes.get(b)),
                self.machine.look(r, self.classes.get(c)),
                self.machine.look(s, self.classes.get(d)),
            ];
            if next.iter().fold(0, |any, next| any | next) >= LEFT {
                break;
            }
            [p, q, r, s] = next;
            ran += 1;
        }
        for (lane, state) in lanes.iter_mut().zip([p, q, r, s]) {
            lane.at += ran;
            lane.state = state;
        }
        ran
    }

    /// Goes on with what had begun in one lane where the next one began with nothing, until both are in the same state:
    /// from there on they are one.
    fn join(&mut self, lanes: &mut [Lane; LANES], share: usize) {
        for index in 1..LANES {
            let before = lanes.get(index - 1).copied().unwrap_or_default();
            let begun_anew = Lane {
                at: before.at,
                state: ROOT,
            };
            let [a, b, c, d] = *lanes;
            // The others go along, so that their states are not forgotten on the way.
            let mut all = [a, b, c, d, before, begun_anew];
            for _ in 0..share {
                let [.., first, second] = all;
                if first.state == second.state {
                    break;
                }
                self.byte(&mut all, LANES);
                self.byte(&mut all, LANES + 1);
            }
            let [a, b, c, d, first, second] = all;
            *lanes = [a, b, c, d];
            if let Some(lane) = lanes.get_mut(index)
                && first.state != second.state
            {
                *lane = first;
            }
        }
    }

    /// Reads one byte in one of `lanes`.
    #[inline]
    fn byte(&mut self, lanes: &mut [Lane], index: usize) {
        let Some(&Lane { at, state }) = lanes.get(index) else {
            return;
        };
        let byte = self.input.get(at).copied().unwrap_or_default();
        let class = self.classes.get(byte);
        let mut next = self.machine.look(state, class);
        if next == UNKNOWN {
            next = self.learn(lanes, index, byte);
        }
        if next & LEFT != 0 {
            next &= !LEFT;
            for spot in &self.machine.state(next).left {
                (self.left)(at + 1, *spot);
            }
        }
        if let Some(lane) = lanes.get_mut(index) {
            lane.at = at + 1;
            lane.state = next;
        }
    }

    /// Works out the state that follows a lane's on `byte`, and notes it in the table.
    #[cold]
    fn learn(&mut self, lanes: &mut [Lane], index: usize, byte: u8) -> u16 {
        let of = |lanes: &[Lane]| lanes.get(index).map_or(ROOT, |lane| lane.state);
        let next = self.machine.state(of(lanes)).after(byte, self.forms);
        if self.machine.is_full(next.spots.len() + next.left.len()) {
            self.machine.forget(lanes);
        }
        let next = self.machine.intern(next);
        let entry = usize::from(of(lanes)) * self.machine.width + self.classes.get(byte);
        if let Some(entry) = self.machine.table.get_mut(entry) {
            *entry = next;
        }
        next
    }

    /// The hits that may yet come to be in `state`.
    pub(super) fn spots(&self, state: u16) -> &[Spot] {
        &self.machine.state(state).spots
    }
}

impl Machine {
    pub(super) fn new(classes: &Classes) -> Self {
        let mut this = Self {
            table: Zeroizing::new(Vec::with_capacity(ENTRIES + classes.count)),
            states: Vec::new(),
            known: HashMap::new(),
            width: classes.count,
            spots: 0,
            told: 0,
        };
        this.intern(State::default());
        this
    }

    /// How many bytes [`Self::grown`] has told of so far.
    pub(super) fn told(&self) -> usize {
        self.told
    }

    /// By how many bytes it has become larger than it was when this was last asked. What is forgotten is not taken off:
    /// its memory stays.
    pub(super) fn grown(&mut self) -> usize {
        let states = self.states.len() * (size_of::<State>() + STATE);
        let spots = self.spots * size_of::<Spot>();
        let size = size_of::<Self>() + size_of_val(&**self.table) + states + spots;
        let grown = size.saturating_sub(self.told);
        self.told += grown;
        grown
    }

    #[inline]
    fn look(&self, state: u16, class: usize) -> u16 {
        self.table
            .get(usize::from(state) * self.width + class)
            .copied()
            .unwrap_or(UNKNOWN)
    }

    fn state(&self, state: u16) -> &State {
        static NONE: State = State {
            spots: Vec::new(),
            tail: Vec::new(),
            left: Vec::new(),
        };
        self.states
            .get(usize::from(state))
            .map_or(&NONE, |state| state)
    }

    fn intern(&mut self, state: State) -> u16 {
        if let Some(&known) = self.known.get(&state) {
            return known;
        }
        let number = u16::try_from(self.states.len()).unwrap_or_default();
        let mark = if state.left.is_empty() { 0 } else { LEFT };
        let behind = self.table.len() + self.width;
        self.table.resize(behind, UNKNOWN);
        self.spots += state.spots.len() + state.left.len();
        let state = Arc::new(state);
        self.states.push(Arc::clone(&state));
        self.known.insert(state, number | mark);
        number | mark
    }

    fn is_full(&self, spots: usize) -> bool {
        self.table.len() + self.width > ENTRIES || self.spots + spots > SPOTS
    }

    /// Forgets all but the root and the states of `lanes`, which are numbered anew.
    fn forget(&mut self, lanes: &mut [Lane]) {
        let kept: Vec<State> = lanes
            .iter()
            .map(|lane| self.state(lane.state).clone())
            .collect();
        self.table.fill(UNKNOWN);
        self.table.clear();
        self.states.clear();
        self.known.clear();
        self.spots = 0;
        self.intern(State::default());
        for (lane, state) in lanes.iter_mut().zip(kept) {
            lane.state = self.intern(state) & !LEFT;
        }
    }
}

impl State {
    /// The state that follows on `byte`. Of two spots that differ in their beginnings only, the one that began first
    /// stays: every hit of the other lies within one of its.
    fn after(&self, byte: u8, forms: &[Arc<Form>]) -> Self {
        let mut text = self.tail.clone();
        text.push(byte);
        let mut next = Self::default();
        for (index, form) in (0..).zip(forms) {
            let start = Spot {
                form: index,
                symbol: 0,
                back: 0,
                len: 0,
            };
            next.take(start, form, &text);
        }
        for &spot in &self.spots {
            if let Some(form) = forms.get(spot.form as usize) {
                next.take(spot, form, &text);
            }
        }
        next.spots.sort_unstable_by(|left, right| {
            (left.form, left.symbol, left.back, right.len).cmp(&(
                right.form,
                right.symbol,
                right.back,
                left.len,
            ))
        });
        next.spots
            .dedup_by_key(|spot| (spot.form, spot.symbol, spot.back));
        let tail = next.spots.iter().map(|spot| spot.back).max().unwrap_or(0) as usize;
        next.tail = text.split_off(text.len().saturating_sub(tail));
        next
    }

    /// Takes up where `spot` leads when the last byte of `text` is read.
    fn take(&mut self, spot: Spot, form: &Form, text: &[u8]) {
        let from = text.len().saturating_sub(spot.back as usize + 1);
        let escape = text.get(from..).unwrap_or_default();
        let place = Place {
            at: 0,
            symbol: spot.symbol as usize,
        };
        form.step(escape, place, &mut |walk| {
            let Walk::Open(step) = walk else { return };
            let led = Spot {
                symbol: u32::try_from(step.symbol).unwrap_or(u32::MAX),
                back: u32::try_from(escape.len() - step.at).unwrap_or(u32::MAX),
                len: spot.len + 1,
                ..spot
            };
            // With an escape begun, its first byte as it is has been taken up already.
            if led.back > 0 && step != place {
                return;
            }
            let alone = led.back == 0 && led.len >= ALONE && !form.is_ambiguous();
            if alone || form.ends(step.symbol) {
                self.left.push(led);
            } else {
                self.spots.push(led);
            }
        });
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({} states)", self.states.len())
    }
}
