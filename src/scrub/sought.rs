//! Secrets that may have to be searched for, and the search for them, built when the first answer needs it.
//!
//! A search takes many times the memory of its secrets, and most leases that live are not in use at any moment. So a
//! lease holds its secrets only; [`Sought::patterns`] is the one way to a scrubber, and gives a search that exists. What
//! was built stays on a [`Shelf`] as long as that has room.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::form::LEAST;
use super::patterns::Patterns;
use crate::secret::Secret;

/// A set of secrets that answers must not show.
pub struct Sought {
    secrets: Box<[Arc<Secret>]>,
    shelf: Arc<Shelf>,
    built: ArcSwapOption<Patterns>,
    /// Whether somebody found what was built, since the shelf last looked. To build it is no use yet: what is used
    /// once only goes first.
    used: AtomicBool,
}

/// Where built searches are kept, up to a weight: beyond it, those go that were not used since the last look (CLOCK). It
/// is locked when a search is built or has grown, not when one is found.
pub struct Shelf {
    room: usize,
    /// The bytes of all searches that were built here and live, kept or not.
    weight: AtomicUsize,
    /// The oldest first. Of what is dropped elsewhere there may be places left.
    kept: Mutex<VecDeque<Weak<Sought>>>,
}

impl Shelf {
    /// A shelf for searches of so many bytes together.
    pub fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            room,
            weight: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    /// The secrets, to be searched for once they are asked for. One of fewer than four bytes is not searched for.
    pub fn sought(self: &Arc<Self>, secrets: impl IntoIterator<Item = Arc<Secret>>) -> Arc<Sought> {
        let mut all: Vec<Arc<Secret>> = Vec::new();
        for secret in secrets {
            if secret.len() >= LEAST && !all.contains(&secret) {
                all.push(secret);
            }
        }
        Arc::new(Sought {
            secrets: all.into(),
            shelf: Arc::clone(self),
            built: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
        })
    }

    /// The secrets of all `parts`.
    pub fn union<'a>(
        self: &Arc<Self>,
        parts: impl IntoIterator<Item = &'a Arc<Sought>>,
    ) -> Arc<Sought> {
        self.sought(
            parts
                .into_iter()
                .flat_map(|part| part.secrets.iter().cloned()),
        )
    }

    /// The bytes of all searches that were built here and live.
    pub fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// Takes note that a search has become larger, and makes room for that.
    pub(super) fn grown(&self, by: usize) {
        let before = self.weight.fetch_add(by, Ordering::Relaxed);
        if before + by > self.room {
            self.make_room(&mut self.kept.lock());
        }
    }

    pub(super) fn shrunk(&self, by: usize) {
        self.weight.fetch_sub(by, Ordering::Relaxed);
    }

    fn keep(&self, sought: &Arc<Sought>) {
        let mut kept = self.kept.lock();
        kept.push_back(Arc::downgrade(sought));
        // Two looks for each one that comes: places of what is gone never outnumber the others for long.
        for _ in 0..2 {
            if let Some(first) = kept.pop_front()
                && first.strong_count() > 0
            {
                kept.push_back(first);
            }
        }
        self.make_room(&mut kept);
    }

    fn make_room(&self, kept: &mut VecDeque<Weak<Sought>>) {
        // The first time around takes the marks; the second time around everything would go.
        let mut looks = kept.len() * 2;
        while self.weight() > self.room && looks > 0 {
            looks -= 1;
            let Some(first) = kept.pop_front() else {
                return;
            };
            let Some(sought) = first.upgrade() else {
                continue;
            };
            if sought.used.swap(false, Ordering::Relaxed) {
                kept.push_back(first);
            } else {
                sought.built.store(None);
            }
        }
    }
}

impl Sought {
    /// The search for these secrets, built if it is not there. Who holds it goes on with it whatever the shelf does.
    pub fn patterns(self: &Arc<Self>) -> Arc<Patterns> {
        if let Some(built) = self.built.load_full() {
            // Read before written: cores that serve the same lease do not fight for the line.
            if !self.used.load(Ordering::Relaxed) {
                self.used.store(true, Ordering::Relaxed);
            }
            return built;
        }
        let patterns = Patterns::on_shelf(self.secrets.iter().map(|secret| &**secret), &self.shelf);
        let patterns = Arc::new(patterns);
        // Two that build at a time do the work twice; one result stays, and one place on the shelf.
        if self.built.swap(Some(Arc::clone(&patterns))).is_none() && !self.is_empty() {
            self.shelf.keep(self);
        }
        patterns
    }

    /// Where the search is kept.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }
}

impl fmt::Debug for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sought({} secrets)", self.secrets.len())
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} of {} bytes)", self.weight(), self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(number: usize) -> Arc<Secret> {
        Arc::new(Secret::from(format!("secret-of-somebody-{number:05}")))
    }

    fn text(number: usize) -> Vec<u8> {
        format!("he said secret-of-somebody-{number:05}!").into_bytes()
    }

    #[test]
    fn nothing_is_built_before_it_is_asked_for_and_then_once() {
        let shelf = Shelf::new(usize::MAX);
        let sought = shelf.sought([
            secret(1),
            secret(1),
            Arc::new(Secret::from("abc".to_owned())),
        ]);
        assert_eq!((shelf.weight(), sought.secrets.len()), (0, 1));
        let first = sought.patterns();
        assert!(shelf.weight() > 0);
        assert!(Arc::ptr_eq(&first, &sought.patterns()));
        drop((first, sought));
        assert_eq!(shelf.weight(), 0, "and it goes with its secrets");
    }

    #[test]
    fn whatever_the_shelf_lets_go_every_answer_is_searched() {
        let one = Shelf::new(usize::MAX).sought([secret(0)]).patterns().size();
        let shelf = Shelf::new(one * 8);
        let all: Vec<_> = (0..100)
            .map(|number| shelf.sought([secret(number)]))
            .collect();
        for round in 0..3 {
            for (number, sought) in all.iter().enumerate() {
                let clean = sought.patterns().scrub_value(&text(number));
                assert_eq!(
                    clean.as_deref(),
                    Some(&b"he said ************************!"[..])
                );
                assert!(shelf.weight() <= one * 8, "round {round}: {shelf:?}");
            }
        }
        let built = all.iter().filter(|one| one.built.load().is_some()).count();
        assert!((1..=8).contains(&built), "{built}");
        assert_eq!(shelf.kept.lock().len(), built);
    }

    #[test]
    fn what_is_used_stays_and_what_a_stream_holds_goes_on() {
        let one = Shelf::new(usize::MAX).sought([secret(0)]).patterns().size();
        let shelf = Shelf::new(one * 4);
        let (hot, held) = (shelf.sought([secret(1000)]), shelf.sought([secret(2000)]));
        let (first, stream) = (hot.patterns(), held.patterns());
        let passing: Vec<_> = (0..50)
            .map(|number| shelf.sought([secret(number)]))
            .collect();
        for (number, passing) in passing.iter().enumerate() {
            assert!(Arc::ptr_eq(&first, &hot.patterns()), "{number}");
            passing.patterns();
        }
        assert!(held.built.load().is_none(), "nobody asked for it again");
        assert!(stream.scrub_value(&text(2000)).is_some());
        let anew = held.patterns();
        assert!(!Arc::ptr_eq(&anew, &stream) && anew.scrub_value(&text(2000)).is_some());
    }

    #[test]
    fn places_of_what_is_gone_do_not_pile_up() {
        let shelf = Shelf::new(usize::MAX);
        for number in 0..1000 {
            shelf.sought([secret(number)]).patterns();
        }
        assert!(shelf.kept.lock().len() <= 4);
        assert_eq!(shelf.weight(), 0);
    }

    #[test]
    fn what_answers_made_known_is_weighed_too() {
        let shelf = Shelf::new(usize::MAX);
        let sought = shelf.sought([secret(1)]);
        let patterns = sought.patterns();
        let before = shelf.weight();
        patterns.scrub_value(&text(1));
        let after = shelf.weight();
        assert!(after > before, "{before} {after}");
        patterns.scrub_value(&text(1));
        assert_eq!(shelf.weight(), after, "the same automaton is weighed once");
    }
}
