//! Which hosts the intermediate may issue for, as a set and as an X.509 extension that binds every client.
//!
//! A constraint of one form of name says nothing of the others (RFC 5280 §4.2.1.10): a list of DNS names alone would
//! let a stolen key issue for any address, e-mail or URI. So every form is named. Where nothing of a form is
//! permitted, the form is held to [`NOTHING`], a name that cannot exist: all verifiers read such an entry alike, which
//! is not so for an empty excluded one (OpenSSL takes it to match nothing in e-mail and URI, Java does not parse it).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::host::{Host, HostMatch};

use super::error::CaError;

/// The hosts that a configuration intercepts, and so the only ones that its CA can speak for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Constraints {
    names: BTreeSet<Arc<str>>,
    parents: BTreeSet<Arc<str>>,
    addresses: BTreeSet<IpAddr>,
}

impl Constraints {
    /// Gathers the hosts of all routes; ports play no part in a certificate.
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a HostMatch>) -> Self {
        let mut set = Self::default();
        for host in hosts {
            match host {
                HostMatch::Exact(Host::Name(name)) => set.names.insert(name.clone()),
                HostMatch::Exact(Host::Ip(ip)) => set.addresses.insert(*ip),
                HostMatch::OneLabel(parent) => set.parents.insert(parent.clone()),
            };
        }
        set
    }

    /// Whether a leaf may be minted for `host`. This is narrower than the extension, whose entries cover all that lies
    /// below a name: `*.` is one label, and a plain name is itself only.
    pub fn permits(&self, host: &Host) -> bool {
        match host {
            Host::Ip(ip) => self.addresses.contains(ip),
            Host::Name(name) => {
                self.names.contains(name)
                    || name
                        .split_once('.')
                        .is_some_and(|(_, parent)| self.parents.contains(parent))
            }
        }
    }

    /// The DNS subtrees of the extension, without those that lie below another.
    ///
    /// `*.x` becomes `x`: RFC 5280 knows no leading dot for DNS names, and not every verifier takes one.
    fn subtrees(&self) -> Vec<&str> {
        let all: BTreeSet<&str> = self
            .names
            .union(&self.parents)
            .map(|name| &**name)
            .collect();
        let covered = |name: &str| {
            name.match_indices('.')
                .filter_map(|(dot, _)| name.get(dot + 1..))
                .any(|above| all.contains(above))
        };
        all.iter().copied().filter(|name| !covered(name)).collect()
    }

    /// The value of the extension (RFC 5280 §4.2.1.10), in a stable order: equal sets give equal bytes.
    pub(super) fn to_der(&self) -> Result<Vec<u8>, CaError> {
        let mut permitted = Vec::new();
        let subtrees = self.subtrees();
        for name in &subtrees {
            permitted.extend(subtree(DNS, name.as_bytes()));
        }
        if subtrees.is_empty() {
            permitted.extend(subtree(DNS, NOTHING));
        }
        permitted.extend(subtree(EMAIL, NOTHING));
        permitted.extend(subtree(URI, NOTHING));
        for address in &self.addresses {
            permitted.extend(subtree(ADDRESS, &one_address(*address)));
        }
        let mut excluded = Vec::new();
        if !self.addresses.iter().any(IpAddr::is_ipv4) {
            excluded.extend(subtree(ADDRESS, &[0; 8]));
        }
        if !self.addresses.iter().any(IpAddr::is_ipv6) {
            excluded.extend(subtree(ADDRESS, &[0; 32]));
        }
        let mut value = tlv(PERMITTED, &permitted);
        if !excluded.is_empty() {
            value.extend(tlv(EXCLUDED, &excluded));
        }
        let value = tlv(SEQUENCE, &value);
        if value.len() > LIMIT {
            return Err(CaError::TooManyNames {
                bytes: value.len(),
                limit: LIMIT,
            });
        }
        Ok(value)
    }
}

/// Address and mask of exactly one host.
fn one_address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => [v4.octets(), [0xff; 4]].concat(),
        IpAddr::V6(v6) => [v6.octets(), [0xff; 16]].concat(),
    }
}

fn subtree(form: u8, name: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &tlv(form, name))
}

/// One DER element: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let start = length.iter().position(|b| *b != 0).unwrap_or(length.len());
    let significant = length.get(start..).unwrap_or_default();
    let mut out = vec![tag];
    match *significant {
        [] => out.push(0),
        [short] if short < 0x80 => out.push(short),
        _ => {
            // At most eight bytes of length.
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// `.invalid` never exists (RFC 6761 §6.4), so to permit only this is to permit nothing.
const NOTHING: &[u8] = b"keyward.invalid";

/// The intermediate travels in every handshake, and rustls takes a handshake message of 64 KiB at most.
const LIMIT: usize = 48 * 1024;

const SEQUENCE: u8 = 0x30;
const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostPattern;

    fn constraints(hosts: &[&str]) -> Constraints {
        let patterns: Vec<HostPattern> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Constraints::new(patterns.iter().map(|pattern| &pattern.kind))
    }

    #[test]
    fn a_wildcard_permits_one_label_and_a_name_itself_only() {
        let set = constraints(&["api.test", "*.crm.test", "10.0.0.1", "[::1]"]);
        for good in ["api.test", "a.crm.test", "10.0.0.1", "::1"] {
            assert!(set.permits(&good.parse().unwrap()), "{good}");
        }
        for bad in [
            "x.api.test",
            "crm.test",
            "a.b.crm.test",
            "test",
            "10.0.0.2",
            "::2",
        ] {
            assert!(!set.permits(&bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn names_below_another_are_folded_into_it() {
        let set = constraints(&["api.x.test", "*.x.test", "ax.test", "localhost"]);
        assert_eq!(set.subtrees(), ["ax.test", "localhost", "x.test"]);
    }

    #[test]
    fn the_order_of_routes_does_not_change_the_extension() {
        let one = constraints(&["a.test", "b.test:8443", "10.0.0.1"]);
        let two = constraints(&["10.0.0.1", "b.test", "a.test"]);
        assert_eq!(one.to_der().unwrap(), two.to_der().unwrap());
    }

    #[test]
    fn too_many_names_are_a_fault_and_not_a_broken_handshake() {
        let hosts: Vec<HostMatch> = (0..4000)
            .map(|n| HostMatch::Exact(format!("service-{n}.test").parse().unwrap()))
            .collect();
        assert!(matches!(
            Constraints::new(&hosts).to_der(),
            Err(CaError::TooManyNames { .. })
        ));
        assert!(Constraints::new(&hosts[..1000]).to_der().is_ok());
    }

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        assert_eq!(tlv(4, &[])[..], [4, 0]);
        assert_eq!(tlv(4, &[1; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[1; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[1; 300])[..4], [4, 0x82, 1, 44]);
    }
}
