//! What a session may do, as words: scopes of upstream services, and `route:NAME`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The words of a session's scope, sorted, each once. [`Scope::ALL`] has no bound but the routes.
///
/// A word only ever opens something, and each by itself: fewer words are less in every respect, which is what makes a
/// subset of the words a subset of the rights (docs/adr/0020).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(Option<Arc<[Arc<str>]>>);

/// A text that is no scope (RFC 6749 §3.3), or too long a one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is words of visible ASCII, parted by single spaces")]
pub struct BadScope;

/// The most bytes of a scope that somebody asks for.
const LONGEST: usize = 4096;

/// What a word that names a route begins with.
const ROUTE: &str = "route:";

impl Scope {
    /// No bound but the routes.
    pub const ALL: Self = Self(None);

    /// These words and nothing else.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words: Vec<Arc<str>> = words.into_iter().map(Arc::from).collect();
        words.sort_unstable();
        words.dedup();
        Self(Some(words.into()))
    }

    /// Whether there is no bound.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether nothing at all is allowed.
    pub fn is_nothing(&self) -> bool {
        self.0.as_ref().is_some_and(|words| words.is_empty())
    }

    /// The words; `None` where there is no bound.
    pub fn words(&self) -> Option<&[Arc<str>]> {
        self.0.as_deref()
    }

    /// The names of the routes among the words.
    pub fn routes(&self) -> impl Iterator<Item = &str> {
        let words = self.words().unwrap_or_default().iter();
        words.filter_map(|word| word.strip_prefix(ROUTE))
    }

    /// Whether it allows no more than `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(wide)) => own.iter().all(|word| wide.binary_search(word).is_ok()),
        }
    }

    /// What both allow.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(one), Some(two)) => {
                let both = one.iter().filter(|word| two.binary_search(word).is_ok());
                Self(Some(both.cloned().collect()))
            }
        }
    }

    /// Whether a request of this route is allowed: a word names the route, or the route asks its credential for certain
    /// scopes and all of them are words.
    pub fn covers(&self, route: &str, asks: Option<&[Arc<str>]>) -> bool {
        let Some(words) = &self.0 else { return true };
        let named = || (words.iter()).any(|word| word.strip_prefix(ROUTE) == Some(route));
        let asked = || {
            // A scope that reads like a route's word names the route: nothing else opens by it.
            let held = |ask: &Arc<str>| !ask.starts_with(ROUTE) && words.binary_search(ask).is_ok();
            asks.is_some_and(|asks| !asks.is_empty() && asks.iter().all(held))
        };
        named() || asked()
    }
}

impl FromStr for Scope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        let visible = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let good = |word: &str| !word.is_empty() && word.bytes().all(visible);
        if text.len() > LONGEST || !text.split(' ').all(good) {
            return Err(BadScope);
        }
        Ok(Self::of(text.split(' ')))
    }
}

/// The words, parted by spaces; nothing where there is no bound.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, word) in self.words().unwrap_or_default().iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(f, "{gap}{word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_is_read_as_the_rfc_says() {
        assert_eq!(scope("b a b route:x").to_string(), "a b route:x");
        for bad in ["", " a", "a  b", "a ", "a\tb", "a\"b", "a\\b", "é", "a\n"] {
            assert_eq!(bad.parse::<Scope>(), Err(BadScope), "{bad:?}");
        }
        assert_eq!("a".repeat(5000).parse::<Scope>(), Err(BadScope));
    }

    #[test]
    fn a_route_is_covered_by_its_name_or_by_all_that_it_asks_for() {
        let asks: Vec<Arc<str>> = vec!["read".into(), "write".into()];
        let asks = Some(&*asks);
        assert!(scope("route:crm").covers("crm", asks));
        assert!(scope("route:crm").covers("crm", None));
        assert!(!scope("route:crm").covers("crm-2", asks));
        assert!(scope("read write").covers("crm", asks));
        assert!(!scope("read").covers("crm", asks), "one of two");
        assert!(!scope("read").covers("static", None), "it asks for nothing");
        assert!(!scope("read").covers("static", Some(&[])));
        assert!(Scope::ALL.covers("crm", asks) && !Scope::of([]).covers("crm", asks));
    }
}
