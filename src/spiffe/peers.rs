//! Who the other side of a call may be: SPIFFE IDs, in which `*` may stand for one segment of the path.

use std::fmt;
use std::str::FromStr;

use super::SpiffeId;

/// `peer-ids` and `verify-name` of a route. Two connections that differ here are never one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peers {
    /// `peer-ids`; never empty.
    pub ids: Vec<PeerId>,
    /// `verify-name`: the certificate must be for the host's name as well.
    pub verify_name: bool,
}

/// One of `peer-ids`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerId(Box<str>);

/// What was written is no such ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a peer is a SPIFFE ID with a path, such as \"spiffe://prod.example/sa/mail\"; `*` stands for one whole segment of the path"
)]
pub struct BadPeer;

impl Peers {
    /// Whether whoever has this SPIFFE ID may be there.
    pub fn admit(&self, id: &str) -> bool {
        self.ids.iter().any(|peer| peer.matches(id))
    }

    /// The trust domains, each once.
    pub fn domains(&self) -> Vec<&str> {
        let mut domains: Vec<&str> = self.ids.iter().map(PeerId::domain).collect();
        domains.sort_unstable();
        domains.dedup();
        domains
    }
}

impl PeerId {
    /// Whether this is the ID, or one that the pattern covers.
    fn matches(&self, id: &str) -> bool {
        let (mut mine, mut theirs) = (self.0.split('/'), id.split('/'));
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some(one), Some(other)) if one == other || one == ANY => {}
                _ => return false,
            }
        }
    }

    /// The trust domain, in which nothing is left open.
    pub fn domain(&self) -> &str {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }
}

impl FromStr for PeerId {
    type Err = BadPeer;

    fn from_str(text: &str) -> Result<Self, BadPeer> {
        // `*` is in no ID, so an example of what the pattern covers tells whether all else is well formed.
        let example: Vec<&str> = text
            .split('/')
            .enumerate()
            .map(|(place, part)| if part == ANY && place > 2 { "x" } else { part })
            .collect();
        let example = example.join("/");
        let good = SpiffeId::read(&example).is_some_and(|id| id.has_path);
        good.then(|| Self(text.into())).ok_or(BadPeer)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One whole segment of a path, whatever it is.
const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_segment_and_never_a_domain() {
        let peers = |ids: &[&str]| Peers {
            ids: ids.iter().map(|id| id.parse().unwrap()).collect(),
            verify_name: false,
        };
        let exact = peers(&["spiffe://prod.example/sa/mail"]);
        assert!(exact.admit("spiffe://prod.example/sa/mail"));
        for other in [
            "spiffe://prod.example/sa/mail/x",
            "spiffe://prod.example/sa",
            "spiffe://prod.example/sa/mai",
            "spiffe://test.example/sa/mail",
            "spiffe://prod.example",
            "",
        ] {
            assert!(!exact.admit(other), "{other}");
        }
        let any = peers(&["spiffe://prod.example/ns/*/sa/mail", "spiffe://b.example/x"]);
        assert!(any.admit("spiffe://prod.example/ns/one/sa/mail"));
        assert!(!any.admit("spiffe://prod.example/ns/one/two/sa/mail"));
        assert!(!any.admit("spiffe://prod.example/ns/sa/mail"));
        assert!(!any.admit("spiffe://b.example/ns/one/sa/mail"));
        assert_eq!(any.domains(), ["b.example", "prod.example"]);
        for bad in [
            "spiffe://*/sa/mail",
            "*",
            "*//prod.example/x",
            "spiffe:/*/prod.example/x",
            "spiffe://prod.example",
            "spiffe://prod.example/",
            "spiffe://prod.example/sa/m*",
            "spiffe://prod.example/**",
            "spiffe://*.example/x",
            "https://prod.example/x",
        ] {
            assert_eq!(bad.parse::<PeerId>(), Err(BadPeer), "{bad}");
        }
    }
}
