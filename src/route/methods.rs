//! A set of request methods.

use http::Method;

/// Request methods, as a bit set of the standard ones and a list of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodSet {
    standard: u8,
    extension: Vec<Method>,
}

/// A method that is no token, or that a proxy may never forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMethod {
    /// Not an upper-case token.
    #[error("a method is an upper-case word such as GET")]
    Token,
    /// `CONNECT` and `TRACE`: the one is the proxy's own, the other echoes the injected header (RFC 9110 §9.3.8).
    #[error("{0} is never forwarded")]
    Never(&'static str),
}

/// GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, in this order, are the bits.
const STANDARD: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl MethodSet {
    /// What a route without `methods` matches: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS.
    pub const DEFAULT: Self = Self {
        standard: 0x7f,
        extension: Vec::new(),
    };

    /// Parses the list of a route.
    ///
    /// # Errors
    /// [`BadMethod`] for what is no method, or is never forwarded.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BadMethod> {
        let mut set = Self {
            standard: 0,
            extension: Vec::new(),
        };
        for name in names {
            set.insert(name)?;
        }
        Ok(set)
    }

    fn insert(&mut self, name: &str) -> Result<(), BadMethod> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return Err(BadMethod::Token);
        }
        match Method::from_bytes(name.as_bytes()).map_err(|_| BadMethod::Token)? {
            Method::CONNECT => return Err(BadMethod::Never("CONNECT")),
            Method::TRACE => return Err(BadMethod::Never("TRACE")),
            method => match bit(&method) {
                Some(bit) => self.standard |= bit,
                None => self.extension.push(method),
            },
        }
        Ok(())
    }

    /// Whether the method is in the set.
    pub fn contains(&self, method: &Method) -> bool {
        bit(method).map_or_else(
            || self.extension.contains(method),
            |bit| self.standard & bit != 0,
        )
    }

    /// Whether every method of `other` is in this set too.
    pub fn covers(&self, other: &Self) -> bool {
        other.standard & !self.standard == 0
            && other.extension.iter().all(|m| self.extension.contains(m))
    }
}

fn bit(method: &Method) -> Option<u8> {
    STANDARD
        .iter()
        .position(|standard| standard == method)
        .map(|place| 1 << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_and_connect_are_in_no_set() {
        assert_eq!(MethodSet::parse(["TRACE"]), Err(BadMethod::Never("TRACE")));
        assert_eq!(
            MethodSet::parse(["CONNECT"]),
            Err(BadMethod::Never("CONNECT"))
        );
        assert!(!MethodSet::DEFAULT.contains(&Method::TRACE));
        assert!(!MethodSet::DEFAULT.contains(&Method::CONNECT));
    }

    #[test]
    fn a_method_is_matched_as_it_is_written() {
        let set = MethodSet::parse(["GET", "PROPFIND"]).unwrap();
        assert!(
            set.contains(&Method::GET) && set.contains(&Method::from_bytes(b"PROPFIND").unwrap())
        );
        assert!(
            !set.contains(&Method::POST) && !set.contains(&Method::from_bytes(b"get").unwrap())
        );
        assert_eq!(MethodSet::parse(["get"]), Err(BadMethod::Token));
    }
}
