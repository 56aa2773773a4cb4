//! Which agent a proven subject is: one for all, by patterns in the file's order, or by a claim.

use std::fmt;

use crate::agent::AgentId;

/// `agent` of `[trust.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Mapping {
    /// `{ id = "…" }`: whoever this table proves.
    Id(AgentId),
    /// `{ map = { PATTERN = "…" } }`: the first pattern that matches the subject, in the file's order.
    Map(Vec<(Pattern, AgentId)>),
    /// `{ claim = "…" }`: the claim of this name holds the agent's id.
    Claim(String),
}

impl Mapping {
    /// The agent of this subject; `claim` gives the text of a claim where the evidence has such. `None` is a refusal.
    pub fn agent<'a>(
        &self,
        subject: &str,
        claim: impl FnOnce(&str) -> Option<&'a str>,
    ) -> Option<AgentId> {
        match self {
            Self::Id(agent) => Some(agent.clone()),
            Self::Map(rows) => rows
                .iter()
                .find(|(pattern, _)| pattern.matches(subject))
                .map(|(_, agent)| agent.clone()),
            Self::Claim(name) => claim(name)?.parse().ok(),
        }
    }

    /// The agents that it can name; none by a claim, which can name any.
    pub fn agents(&self) -> Vec<&AgentId> {
        match self {
            Self::Id(agent) => vec![agent],
            Self::Map(rows) => rows.iter().map(|(_, agent)| agent).collect(),
            Self::Claim(_) => Vec::new(),
        }
    }
}

/// A text in which `*` stands for any run of characters, the empty one too; all else stands for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes the text as it is.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for the whole text. Takes time by the product of the lengths at most.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where the last `*` stood, and how much of the text it stands for so far.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(byte) if text.get(t) == Some(byte) => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((at, taken)) = star else {
                        return false;
                    };
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
            }
        }
        pattern
            .get(p..)
            .unwrap_or_default()
            .iter()
            .all(|b| *b == b'*')
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_nothing_else_is_special() {
        for (pattern, text, fits) in [
            ("repo:acme/app:*", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/app:*", "repo:acme/app:", true),
            ("repo:acme/app:*", "repo:acme/application:ref", false),
            ("repo:acme/app:*", "xrepo:acme/app:ref", false),
            (
                "*:ref:refs/heads/main",
                "repo:a/b:ref:refs/heads/main",
                true,
            ),
            (
                "*:ref:refs/heads/main",
                "repo:a/b:ref:refs/heads/main2",
                false,
            ),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a.c", "abc", false),
            ("a?c", "abc", false),
            ("[a-z]", "b", false),
            ("A", "a", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                fits,
                "{pattern} {text}"
            );
        }
        // What makes a naive matcher take exponential time.
        assert!(!Pattern::new(&"a*".repeat(64)).matches(&format!("{}!b", "a".repeat(63))));
    }

    #[test]
    fn the_first_row_that_matches_decides() {
        let id = |id: &str| id.parse::<AgentId>().unwrap();
        let map = Mapping::Map(vec![
            (Pattern::new("repo:acme/app:*"), id("deployer")),
            (Pattern::new("repo:acme/*"), id("reader")),
        ]);
        assert_eq!(map.agent("repo:acme/app:x", |_| None), Some(id("deployer")));
        assert_eq!(map.agent("repo:acme/web:x", |_| None), Some(id("reader")));
        assert_eq!(map.agent("repo:evil/app:x", |_| None), None);
        let claim = Mapping::Claim("agent_id".to_owned());
        assert_eq!(claim.agent("s", |_| Some("calendar")), Some(id("calendar")));
        assert_eq!(claim.agent("s", |_| Some("../x")), None);
        assert_eq!(claim.agent("calendar", |_| None), None);
    }
}
