//! Names: of agents, credentials and all else that an operator names in the file.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A name of the grammar `[a-z0-9_-]{1,64}`: safe in a path, a label, a header and a log line. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// The id of an agent in the registry.
pub type AgentId = Name;

/// The person for whom an agent acts: a login (`[login.NAME]` or `[trust.NAME]`) and the name that it gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    /// The NAME of the login or trust provider that signed the person in.
    pub provider: Name,
    /// What that provider calls the person (`user-claim`). Of two providers the same name is two people.
    pub name: Arc<str>,
}

/// A name outside the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 characters of a-z, 0-9, `-` and `_`")]
pub struct BadName;

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let clean = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(clean) {
            return Err(BadName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_climb_or_break_a_line_are_refused() {
        for bad in [
            "",
            "../../etc/cron.d/x",
            "A",
            "a b",
            "a\n",
            "é",
            "a.b",
            &"a".repeat(65),
        ] {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad:?}");
        }
        assert_eq!("web-1_x".parse::<Name>().unwrap().as_str(), "web-1_x");
    }
}
