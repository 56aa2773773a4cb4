//! Where a request goes: one strict grammar for hosts, decided once, and the patterns that match it.
//!
//! Lower-case ASCII letters, digits and hyphens, or an address in its one canonical spelling. No user-info, no
//! trailing dot, brackets only around IPv6, no octal, hexadecimal or shortened IPv4 (glibc resolves ten spellings of
//! 127.0.0.1). A host that is none of these is refused before policy, DNS or a certificate sees it (RFC 9110 §9.3.6,
//! RFC 952, RFC 3986 §3.2.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A host: a DNS name or an address. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name in lower-case LDH labels, without a trailing dot.
    Name(Arc<str>),
    /// An address literal.
    Ip(IpAddr),
}

/// Why a text is not a host or a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHost {
    /// Nothing stands there.
    #[error("the host is empty")]
    Empty,
    /// A character outside the grammar, or a label that is empty, too long or begins or ends with a hyphen.
    #[error(
        "a host is lower-case letters, digits, `-` and dots, or an IP address; write an international name in its `xn--` form"
    )]
    Grammar,
    /// All digits and dots (or hexadecimal), but not an IPv4 address in dotted-decimal form.
    #[error("this is not a plain dotted-decimal IPv4 address")]
    OddAddress,
    /// An IPv6 address without brackets, brackets around something else, or a zone.
    #[error("brackets hold an IPv6 address without a zone, and only that")]
    Brackets,
    /// The port is missing, zero, signed, zero-led or above 65535.
    #[error("a port is a decimal number from 1 to 65535")]
    Port,
    /// The wildcard is not `*.` followed by a name of at least two labels.
    #[error("a wildcard is `*.` followed by a name; it stands for exactly one label")]
    Wildcard,
}

impl Host {
    /// The DNS name, where it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }

    /// The address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Ip(ip) => Some(*ip),
        }
    }

    /// Whether the name is one label only (`localhost`), which a resolver's search list could complete.
    pub fn is_single_label(&self) -> bool {
        matches!(self, Self::Name(name) if !name.contains('.'))
    }

    /// Parses a name or a bare IPv4 address, with IPv6 in brackets only if `brackets`.
    fn parse(text: &str, bracketed: bool) -> Result<Self, BadHost> {
        if bracketed {
            return text
                .parse::<Ipv6Addr>()
                .map(|ip| Self::Ip(IpAddr::V6(ip)))
                .map_err(|_| BadHost::Brackets);
        }
        if text.is_empty() {
            return Err(BadHost::Empty);
        }
        if text.contains(':') || text.contains('[') || text.contains(']') {
            return Err(BadHost::Brackets);
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        if text.len() > 253 || !text.split('.').all(is_label) {
            return Err(BadHost::Grammar);
        }
        // WHATWG URL "ends in a number": a last label of digits, or 0x…, would be read as an address by some resolver.
        let last = text.rsplit('.').next().unwrap_or(text);
        let hex = last
            .strip_prefix("0x")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadHost::OddAddress);
        }
        Ok(Self::Name(text.into()))
    }
}

/// One LDH label: 1 to 63 of `a-z0-9-`, no hyphen at either end.
fn is_label(label: &str) -> bool {
    let clean = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(clean)
}

/// A host alone; IPv6 with or without brackets.
impl FromStr for Host {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Ip(IpAddr::V6(ip)));
        }
        match text.strip_prefix('[') {
            Some(rest) => Self::parse(rest.strip_suffix(']').ok_or(BadHost::Brackets)?, true),
            None => Self::parse(text, false),
        }
    }
}

/// As it stands in a URL or a CONNECT line: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether a request travels under TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `http`: nothing is ever injected.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that an authority without one means.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The one place that a request may go to: scheme, host and port, decided once.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Under TLS or not.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port, 1 to 65535.
    pub port: u16,
}

impl Target {
    /// Parses `host:port` as a CONNECT request writes it: the port is required (RFC 9110 §9.3.6).
    ///
    /// # Errors
    /// [`BadHost`] for everything that the grammar does not allow.
    pub fn from_connect(authority: &str) -> Result<Self, BadHost> {
        let (host, port) = split_authority(authority)?;
        Ok(Self {
            scheme: Scheme::Https,
            host,
            port: port.ok_or(BadHost::Port)?,
        })
    }

    /// Parses the authority of a URL of this scheme: the port may be left out.
    ///
    /// # Errors
    /// [`BadHost`] for everything that the grammar does not allow.
    pub fn from_authority(scheme: Scheme, authority: &str) -> Result<Self, BadHost> {
        let (host, port) = split_authority(authority)?;
        Ok(Self {
            scheme,
            host,
            port: port.unwrap_or(scheme.default_port()),
        })
    }

    /// Whether `authority`, a `Host` field or an `:authority`, names exactly this target. Letter case is folded, as
    /// RFC 9110 §4.2.3 has it; nothing else is.
    pub fn is_named_by(&self, authority: &str) -> bool {
        let folded;
        let authority = if authority.bytes().any(|b| b.is_ascii_uppercase()) {
            folded = authority.to_ascii_lowercase();
            &folded
        } else {
            authority
        };
        // The common case without parsing or allocating: the bare name on the default port.
        if let Host::Name(name) = &self.host
            && self.port == self.scheme.default_port()
            && **name == *authority
        {
            return true;
        }
        split_authority(authority).is_ok_and(|(host, port)| {
            host == self.host && port.unwrap_or(self.scheme.default_port()) == self.port
        })
    }

    /// What stands in a `Host` field: the port is left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// `host:port`, as in a CONNECT line.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

/// Splits `host[:port]`; upper-case letters are folded, user-info is not known here and so refused by the grammar.
fn split_authority(authority: &str) -> Result<(Host, Option<u16>), BadHost> {
    let folded;
    let authority = if authority.bytes().any(|b| b.is_ascii_uppercase()) {
        folded = authority.to_ascii_lowercase();
        &folded
    } else {
        authority
    };
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(BadHost::Brackets)?;
        let port = match after {
            "" => None,
            _ => Some(port(after.strip_prefix(':').ok_or(BadHost::Brackets)?)?),
        };
        return Ok((Host::parse(host, true)?, port));
    }
    match authority.split_once(':') {
        Some((host, after)) => Ok((Host::parse(host, false)?, Some(port(after)?))),
        None => Ok((Host::parse(authority, false)?, None)),
    }
}

/// A port in plain decimal: no sign, no leading zero, 1 to 65535.
fn port(text: &str) -> Result<u16, BadHost> {
    if text.is_empty() || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadHost::Port);
    }
    text.parse().map_err(|_| BadHost::Port)
}

/// A pattern of `hosts`: a host or `*.name`, with an optional port (443 where none is written).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// What the host must be.
    pub kind: HostMatch,
    /// The port that must be meant.
    pub port: u16,
}

/// The host part of a [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This host and no other.
    Exact(Host),
    /// `*.` and this name: any host that has exactly one label before it.
    OneLabel(Arc<str>),
}

impl HostPattern {
    /// Whether this target is meant.
    pub fn matches(&self, target: &Target) -> bool {
        self.port == target.port
            && match (&self.kind, &target.host) {
                (HostMatch::Exact(host), other) => host == other,
                (HostMatch::OneLabel(parent), Host::Name(name)) => name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest == &**parent),
                (HostMatch::OneLabel(_), Host::Ip(_)) => false,
            }
    }
}

impl FromStr for HostPattern {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let Some(rest) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return Err(BadHost::Wildcard);
            }
            if let Ok(ip) = text.parse::<Ipv6Addr>() {
                return Ok(Self {
                    kind: HostMatch::Exact(Host::Ip(IpAddr::V6(ip))),
                    port: 443,
                });
            }
            let (host, port) = split_authority(text)?;
            return Ok(Self {
                kind: HostMatch::Exact(host),
                port: port.unwrap_or(443),
            });
        };
        match split_authority(rest)? {
            (Host::Name(parent), port) if !rest.contains('*') => Ok(Self {
                kind: HostMatch::OneLabel(parent),
                port: port.unwrap_or(443),
            }),
            _ => Err(BadHost::Wildcard),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            HostMatch::Exact(host) => write!(f, "{host}")?,
            HostMatch::OneLabel(parent) => write!(f, "*.{parent}")?,
        }
        if self.port == 443 {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_spellings_of_loopback_and_their_kin_are_refused() {
        for bad in [
            "2130706433:443",
            "0x7f000001:443",
            "127.1:443",
            "0177.0.0.1:443",
            "0:443",
            "127.0.0.1.:443",
            "api.test.:443",
            "api.test..:443",
            ".api.test:443",
            "api..test:443",
            "-api.test:443",
            "api-.test:443",
            "api%2etest:443",
            "api.test%00.evil.test:443",
            "api.test\0.evil.test:443",
            "api.test\tevil:443",
            "api．test:443",
            "ⓐpi.test:443",
            "127。0。0。1:443",
            "user@api.test:443",
            "user:pass@api.test:443",
            "[api.test]:443",
            "[fe80::1%25lo]:443",
            "[::1]x:443",
            "::1:443",
            "[::1",
            "[127.0.0.1]:443",
            "api.test:0",
            "api.test:65536",
            "api.test:+443",
            "api.test:0443",
            "api.test:443/",
            "api.test:",
            "api.test",
            ":443",
            "",
            "*.test:443",
            "a_b.test:443",
            "1.2.3.4.5:443",
            "api.test:44 3",
            "0x7f.1:443",
            "1.2.3.0x4:443",
        ] {
            assert!(Target::from_connect(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_keep_their_one_spelling() {
        for (text, shown) in [
            ("API.Test:443", "api.test:443"),
            ("[::1]:8443", "[::1]:8443"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("xn--pi-7kc.test:443", "xn--pi-7kc.test:443"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(Target::from_connect(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_target_is_named_by_its_own_authority_only() {
        let target = Target::from_connect("api.test:443").unwrap();
        for good in ["api.test", "api.test:443", "API.test"] {
            assert!(target.is_named_by(good), "{good}");
        }
        for bad in [
            "",
            "evil.test",
            "api.test:8443",
            "api.test.",
            "api.test, evil.test",
            "u@api.test",
            "api.test:0443",
        ] {
            assert!(!target.is_named_by(bad), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_is_exactly_one_label() {
        let pattern: HostPattern = "*.crm.example".parse().unwrap();
        let matches = |host: &str| pattern.matches(&Target::from_connect(host).unwrap());
        assert!(matches("a.crm.example:443"));
        assert!(!matches("crm.example:443"));
        assert!(!matches("a.b.crm.example:443"));
        assert!(!matches("acrm.example:443"));
        assert!(!matches("a.crm.example:8443"));
        for bad in [
            "*",
            "*.*.x",
            "a.*.x",
            "*a.x",
            "**.x",
            "*.10.0.0.1",
            "*.[::1]",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!("api.test:8443".parse::<HostPattern>().unwrap().port, 8443);
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_back_to_itself(text in "\\PC{0,40}") {
            if let Ok(target) = Target::from_connect(&text) {
                let shown = target.to_string();
                proptest::prop_assert_eq!(Target::from_connect(&shown).unwrap().to_string(), shown);
                proptest::prop_assert!(target.is_named_by(&text));
            }
        }
    }
}
