//! Which addresses may be dialled: the checked address is the dialled one, and there is no second look-up.
//!
//! The table is the IANA special-purpose registries (RFC 6890 and its updates), after unwrapping the forms in which
//! IPv6 carries an IPv4 address. Metadata services and keyward's own listeners are refused whatever the operator
//! allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Forbidden {
    /// Loopback, private, link-local or otherwise not on the public internet.
    #[error("the address is not on the public internet")]
    Private,
    /// A cloud's metadata service, or one of our own listeners.
    #[error("the address is never reachable by agents")]
    Never,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn v6(segments: [u16; 8], len: u8) -> Ipv6Net {
    let mut bits = 0_u128;
    let mut rest: &[u16] = &segments;
    while let [first, after @ ..] = rest {
        bits = bits << 16 | *first as u128;
        rest = after;
    }
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), len)
}

/// IPv4 special-purpose addresses, multicast and class E.
const SPECIAL_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 31, 196, 0, 24),
    v4(192, 52, 193, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 3),
];

/// IPv6: all but global unicast 2000::/3, and what is special within it.
const SPECIAL_V6: [Ipv6Net; 5] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
];

/// Metadata services of AWS, GCP, Azure, Oracle, Alibaba, Tencent, Scaleway, and the credential endpoints of ECS and EKS.
const METADATA: [IpAddr; 12] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// Checks one resolved address. `own` are the addresses that we listen on.
pub(super) fn check(
    address: SocketAddr,
    allowed: &[IpNet],
    own: &[SocketAddr],
) -> Result<SocketAddr, Forbidden> {
    let ip = address.ip().to_canonical();
    let seen = [Some(ip), embedded(ip)];
    let is_metadata = |ip: &IpAddr| METADATA.contains(ip);
    if seen.iter().flatten().any(is_metadata)
        || local_readings(ip).iter().any(is_metadata)
        || is_own(ip, address.port(), own)
    {
        return Err(Forbidden::Never);
    }
    for ip in seen.into_iter().flatten() {
        if is_special(ip) && !allowed.iter().any(|net| net.contains(&ip)) {
            return Err(Forbidden::Private);
        }
    }
    Ok(SocketAddr::new(ip, address.port()))
}

/// Whether dialling it would reach ourselves: the very address, or any local one where we listen on all.
fn is_own(ip: IpAddr, port: u16, own: &[SocketAddr]) -> bool {
    own.iter().any(|own| {
        let listens = own.ip().to_canonical();
        own.port() == port
            && (listens == ip
                || listens.is_unspecified()
                || ip.is_unspecified()
                || (ip.is_loopback() && listens.is_loopback()))
    })
}

fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => {
            ip.segments()[0] & 0xe000 != 0x2000 && embedded(IpAddr::V6(ip)).is_none()
                || SPECIAL_V6.iter().any(|net| net.contains(&ip))
        }
    }
}

/// The IPv4 address that an IPv6 one stands for wherever it is dialled: NAT64 (RFC 6052 §2.1), 6to4, Teredo.
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let v4 = |high: u16, low: u16| {
        let bits = u32::from(high) << 16 | u32::from(low);
        Some(IpAddr::V4(Ipv4Addr::from(bits)))
    };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        _ => None,
    }
}

/// What an address of the local NAT64 prefix (RFC 8215) or an IPv4-compatible one may stand for. Both are special as they
/// are; where the operator allows them, this network alone knows how long its prefix is, and with it at which bits the
/// IPv4 address stands (RFC 6052 §2.2).
fn local_readings(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(ip) = ip else {
        return Vec::new();
    };
    let o = ip.octets();
    let readings = match ip.segments() {
        // Prefixes of 48, 56, 64 and 96 bits: bits 64 to 71 are left out.
        [0x64, 0xff9b, 1, ..] => vec![
            [o[6], o[7], o[9], o[10]],
            [o[7], o[9], o[10], o[11]],
            [o[9], o[10], o[11], o[12]],
            [o[12], o[13], o[14], o[15]],
        ],
        [0, 0, 0, 0, 0, 0, ..] => vec![[o[12], o[13], o[14], o[15]]],
        _ => Vec::new(),
    };
    readings.into_iter().map(IpAddr::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(address: &str) -> Result<SocketAddr, Forbidden> {
        check(address.parse().unwrap(), &[], &[])
    }

    #[test]
    fn metadata_is_refused_whatever_is_allowed() {
        let all: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        for address in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[fd00:ec2::254]:80",
            "168.63.129.16:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "169.254.170.2:80",
            "169.254.170.23:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::]:80",
            "169.254.0.23:80",
            "169.254.42.42:80",
            "[fd00:42::42]:80",
            "[fd20:ce::254]:80",
            "[::169.254.169.254]:80",
            "[64:ff9b:1:a9fe:a9:fe00:808:808]:80",
            "[64:ff9b:1:a9:fe:a9fe:808:808]:80",
            "[64:ff9b:1:0:a9:fea9:fe00:808]:80",
            "[64:ff9b:1::a9fe:a9fe]:80",
        ] {
            assert_eq!(
                check(address.parse().unwrap(), &all, &[]),
                Err(Forbidden::Never),
                "{address}"
            );
        }
    }

    #[test]
    fn special_addresses_are_private_in_every_wrapping() {
        for address in [
            "10.0.0.1:443",
            "172.16.0.1:443",
            "172.31.255.255:1",
            "192.168.0.1:443",
            "100.64.0.1:443",
            "169.254.1.1:443",
            "192.0.0.1:443",
            "198.18.0.1:443",
            "224.0.0.1:443",
            "240.0.0.1:443",
            "255.255.255.255:443",
            "0.0.0.0:443",
            "127.0.0.1:443",
            "[::1]:443",
            "[::]:443",
            "[fc00::1]:443",
            "[fe80::1]:443",
            "[ff02::1]:443",
            "[2001:db8::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[::127.0.0.1]:443",
            "[64:ff9b::7f00:1]:443",
            "[2002:7f00:1::]:443",
            "[2001:0:4136:e378:8000:63bf:80ff:fffe]:443",
            "[64:ff9b:1::a00:1]:443",
            "[64:ff9b:1::808:808]:443",
            "[64:ff9b:1:a00:0:100:808:808]:443",
            "[::8.8.8.8]:443",
            "[4000::1]:443",
        ] {
            assert_eq!(judge(address), Err(Forbidden::Private), "{address}");
        }
        for address in [
            "93.184.216.34:443",
            "[2606:4700::1111]:443",
            "[64:ff9b::5db8:d822]:443",
        ] {
            assert!(judge(address).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_dialled_but_never_ourselves() {
        let allowed: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
        let own: Vec<SocketAddr> = vec![
            "127.0.0.1:8180".parse().unwrap(),
            "0.0.0.0:9000".parse().unwrap(),
        ];
        let judge = |address: &str| check(address.parse().unwrap(), &allowed, &own);
        assert!(judge("127.0.0.1:443").is_ok());
        for own in [
            "127.0.0.1:8180",
            "127.0.0.2:8180",
            "127.0.0.1:9000",
            "10.1.1.1:9000",
        ] {
            assert_eq!(judge(own), Err(Forbidden::Never), "{own}");
        }
        assert_eq!(judge("10.1.1.1:443"), Err(Forbidden::Private));
    }
}
