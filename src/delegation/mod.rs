//! What an agent hands on: a session is a subset of the one that it came from, computed and never taken on trust.
//!
//! Pure: no clock, no I/O. Everything that a session may do is a [`Bounds`], and [`delegate`] is the only way from one
//! to the next. No chain of calls gives more than its first link had (a property test says so).

mod scope;

use std::time::Duration;

use jiff::Timestamp;

pub use scope::{BadScope, Scope};

/// How far a session reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// What it may do.
    pub scope: Scope,
    /// When it ends; `None`: with something else than time.
    pub expires: Option<Timestamp>,
    /// How many delegations lie above it; 0 for a session that no one delegated.
    pub depth: u32,
}

/// What a sub-agent's token is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// `scope`; left out, as wide as allowed.
    pub scope: Option<Scope>,
    /// `expires_in`; left out, as long as allowed.
    pub life: Option<Duration>,
}

/// `[session]`, as far as delegation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `max-depth`.
    pub max_depth: u32,
    /// `ttl`: no token lives longer, whatever its parent's life.
    pub ttl: Duration,
    /// `shrink`.
    pub shrink: Shrink,
}

/// How much smaller a delegated scope must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shrink {
    /// A subset; it may be the same.
    #[default]
    Subset,
    /// A proper subset.
    Strict,
}

/// Why a sub-agent gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// More is asked for than the parent has, or than the sub-agent may have.
    #[error("the scope is wider than what can be handed on")]
    Wider,
    /// Under `shrink = "strict"` the same is too much.
    #[error("the scope must be smaller than the parent's")]
    NotSmaller,
    /// Nothing would be left.
    #[error("nothing that the parent may do is open to this agent")]
    Nothing,
    /// The chain is as long as it may be.
    #[error("the chain of delegations is as long as it may be")]
    TooDeep,
    /// The parent is over, or no time was asked for.
    #[error("no time is left to hand on")]
    NoTime,
}

/// The bounds of a sub-agent's session. `permissions` are the widest that the sub-agent may have.
///
/// # Errors
/// [`Refused`]: nothing is cut in silence but time, which the answer states.
pub fn delegate(
    parent: &Bounds,
    permissions: &Scope,
    asked: &Asked,
    rules: &Rules,
    now: Timestamp,
) -> Result<Bounds, Refused> {
    let depth = parent.depth.checked_add(1).ok_or(Refused::TooDeep)?;
    if depth > rules.max_depth {
        return Err(Refused::TooDeep);
    }
    let widest = parent.scope.meet(permissions);
    let scope = match &asked.scope {
        None => widest,
        Some(scope) if scope.is_within(&widest) => scope.clone(),
        Some(_) => return Err(Refused::Wider),
    };
    if scope.is_nothing() {
        return Err(Refused::Nothing);
    }
    if rules.shrink == Shrink::Strict && scope == parent.scope {
        return Err(Refused::NotSmaller);
    }
    let life = asked.life.map_or(rules.ttl, |life| life.min(rules.ttl));
    let own = now.checked_add(life).map_err(|_| Refused::NoTime)?;
    let expires = parent.expires.map_or(own, |parent| parent.min(own));
    if expires <= now {
        return Err(Refused::NoTime);
    }
    Ok(Bounds {
        scope,
        expires: Some(expires),
        depth,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        max_depth: 3,
        ttl: Duration::from_mins(15),
        shrink: Shrink::Subset,
    };

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    fn parent(text: &str) -> Bounds {
        Bounds {
            scope: scope(text),
            expires: Some(now() + Duration::from_secs(100)),
            depth: 0,
        }
    }

    fn asking(text: &str) -> Asked {
        Asked {
            scope: Some(scope(text)),
            life: None,
        }
    }

    #[test]
    fn more_than_the_parent_has_is_refused_and_not_cut() {
        let parent = parent("a b route:x");
        let ask = |asked: &Asked, permissions: &Scope| {
            delegate(&parent, permissions, asked, &RULES, now()).map(|bounds| bounds.scope)
        };
        assert_eq!(
            ask(&asking("a route:x"), &Scope::ALL),
            Ok(scope("a route:x"))
        );
        assert_eq!(ask(&asking("a c"), &Scope::ALL), Err(Refused::Wider));
        assert_eq!(ask(&asking("route:y"), &Scope::ALL), Err(Refused::Wider));
        assert_eq!(ask(&asking("a b"), &scope("a")), Err(Refused::Wider));
        assert_eq!(ask(&Asked::default(), &scope("a c")), Ok(scope("a")));
        assert_eq!(ask(&Asked::default(), &scope("c")), Err(Refused::Nothing));
    }

    #[test]
    fn strict_asks_for_a_proper_subset() {
        let strict = Rules {
            shrink: Shrink::Strict,
            ..RULES
        };
        let ask = |asked: &Asked| delegate(&parent("a b"), &Scope::ALL, asked, &strict, now());
        assert_eq!(ask(&Asked::default()), Err(Refused::NotSmaller));
        assert_eq!(ask(&asking("b a")), Err(Refused::NotSmaller));
        assert!(ask(&asking("a")).is_ok());
        let endless = Bounds {
            scope: Scope::ALL,
            ..parent("a")
        };
        let all = delegate(&endless, &Scope::ALL, &Asked::default(), &strict, now());
        assert_eq!(all, Err(Refused::NotSmaller));
    }

    #[test]
    fn no_child_outlives_its_parent_or_the_ttl() {
        let life = |parent: &Bounds, secs| {
            let asked = Asked {
                scope: None,
                life: Some(Duration::from_secs(secs)),
            };
            let bounds = delegate(parent, &Scope::ALL, &asked, &RULES, now())?;
            Ok((bounds.expires.unwrap() - now()).get_seconds())
        };
        assert_eq!(life(&parent("a"), 1_000_000), Ok(100));
        assert_eq!(life(&parent("a"), 60), Ok(60));
        assert_eq!(life(&parent("a"), 0), Err(Refused::NoTime));
        let endless = Bounds {
            expires: None,
            ..parent("a")
        };
        assert_eq!(life(&endless, 1_000_000), Ok(900));
        let over = Bounds {
            expires: Some(now()),
            ..parent("a")
        };
        assert_eq!(life(&over, 60), Err(Refused::NoTime));
    }

    #[test]
    fn a_chain_is_at_most_as_long_as_the_rules_say() {
        let mut bounds = parent("a");
        for depth in 1..=3 {
            bounds = delegate(&bounds, &Scope::ALL, &Asked::default(), &RULES, now()).unwrap();
            assert_eq!(bounds.depth, depth);
        }
        let more = delegate(&bounds, &Scope::ALL, &Asked::default(), &RULES, now());
        assert_eq!(more, Err(Refused::TooDeep));
    }

    fn any_scope() -> impl Strategy<Value = Scope> {
        let word = prop_oneof!["[a-e]", "route:[a-e]"];
        let words = proptest::collection::btree_set(word, 1..6);
        prop_oneof![
            1 => Just(Scope::ALL),
            6 => words.prop_map(|words| Scope::of(words.iter().map(String::as_str))),
        ]
    }

    fn any_link() -> impl Strategy<Value = (Scope, Asked, u64)> {
        let asked = (
            proptest::option::of(any_scope()),
            proptest::option::of(0_u64..2_000),
        );
        let asked = asked.prop_map(|(scope, life)| Asked {
            scope,
            life: life.map(Duration::from_secs),
        });
        // Often nothing is taken away, so that chains come to be as long as they may.
        let permissions = prop_oneof![2 => Just(Scope::ALL), 1 => any_scope()];
        (permissions, asked, 0_u64..120)
    }

    /// What a scope opens, said a second time.
    fn opens(scope: &Scope, route: &str, asks: Option<&[std::sync::Arc<str>]>) -> bool {
        let text = scope.to_string();
        let held = |word: &str| text.split(' ').any(|held| held == word);
        let by_asking = |asks: &[std::sync::Arc<str>]| {
            !asks.is_empty()
                && !asks
                    .iter()
                    .any(|ask| !held(ask) || ask.starts_with("route:"))
        };
        scope.is_all() || held(&format!("route:{route}")) || asks.is_some_and(by_asking)
    }

    /// Every route, with what it asks of its credential.
    fn requests() -> Vec<(String, Option<Vec<std::sync::Arc<str>>>)> {
        let mut found = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            found.push((name.to_owned(), None));
            for asks in [&["a"][..], &["b", "c"], &["a", "e"], &[], &["route:a"]] {
                let asks = asks.iter().map(|word| (*word).into()).collect();
                found.push((name.to_owned(), Some(asks)));
            }
        }
        found
    }

    proptest! {
        #[test]
        fn no_chain_of_delegations_ever_widens_anything(
            first in any_scope(),
            life in proptest::option::of(1_u64..2_000),
            strict in any::<bool>(),
            links in proptest::collection::vec(any_link(), 1..12),
        ) {
            let mut time = now();
            let rules = Rules {
                shrink: if strict { Shrink::Strict } else { Shrink::Subset },
                ..RULES
            };
            let top = Bounds {
                scope: first,
                expires: life.map(|life| time + Duration::from_secs(life)),
                depth: 0,
            };
            let mut parent = top.clone();
            for (permissions, asked, later) in links {
                time += Duration::from_secs(later);
                let Ok(child) = delegate(&parent, &permissions, &asked, &rules, time) else {
                    continue;
                };
                prop_assert!(child.scope.is_within(&parent.scope));
                prop_assert!(child.scope.is_within(&permissions));
                prop_assert!(!child.scope.is_nothing());
                prop_assert!(!strict || child.scope != parent.scope);
                prop_assert_eq!(child.depth, parent.depth + 1);
                prop_assert!(child.depth <= rules.max_depth);
                let end = child.expires.unwrap();
                prop_assert!(end > time && end <= time + rules.ttl);
                prop_assert!(parent.expires.is_none_or(|parent| end <= parent));
                for (route, asks) in requests() {
                    let open = child.scope.covers(&route, asks.as_deref());
                    prop_assert_eq!(open, opens(&child.scope, &route, asks.as_deref()));
                    prop_assert!(!open || parent.scope.covers(&route, asks.as_deref()));
                    prop_assert!(!open || top.scope.covers(&route, asks.as_deref()));
                }
                parent = child;
            }
        }
    }
}
