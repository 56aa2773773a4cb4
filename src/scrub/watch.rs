//! What a stream is searched for: from its beginning on, and what comes to it while it lasts.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::patterns::Patterns;

/// Tells of secrets that came after a stream began.
pub trait Source: Send + Sync {
    /// Goes up whenever there may be more to search for. It is asked before every piece of every stream.
    fn mark(&self) -> u64;

    /// What there is to search for now; only asked when the mark has changed.
    fn patterns(&self) -> Arc<Patterns>;
}

/// What one stream is searched for. Nothing that it was ever searched for at its beginning is left out later.
#[derive(Clone)]
pub struct Watch {
    first: Arc<Patterns>,
    /// What [`Source::patterns`] gave last.
    last: Arc<Patterns>,
    all: Arc<Patterns>,
    source: Option<(Arc<dyn Source>, u64)>,
}

impl Watch {
    /// Begins with `patterns`, which were asked for after `source` had this mark.
    pub fn new(patterns: Arc<Patterns>, source: Arc<dyn Source>, mark: u64) -> Self {
        Self {
            source: Some((source, mark)),
            ..patterns.into()
        }
    }

    /// Whether there is something else to search for than at the last look.
    pub(super) fn look(&mut self) -> bool {
        let Some((source, seen)) = &mut self.source else {
            return false;
        };
        // Before the patterns: what comes between the two is found at the next look.
        let mark = source.mark();
        if mark == std::mem::replace(seen, mark) {
            return false;
        }
        let now = source.patterns();
        if Arc::ptr_eq(&now, &self.last) {
            return false;
        }
        self.all = Patterns::union([&self.first, &now]);
        self.last = now;
        true
    }
}

impl From<Arc<Patterns>> for Watch {
    /// These, and nothing else.
    fn from(patterns: Arc<Patterns>) -> Self {
        Self {
            first: Arc::clone(&patterns),
            last: Arc::clone(&patterns),
            all: patterns,
            source: None,
        }
    }
}

impl Deref for Watch {
    type Target = Patterns;

    fn deref(&self) -> &Patterns {
        &self.all
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.all).finish()
    }
}
