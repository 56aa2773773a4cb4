//! The URL of an issuer: `https`, or `http` to a loopback host or to the metadata service of the machine itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::Uri;

use crate::host::{BadHost, Host, Scheme, Target};

/// A URL that keyward may call, parsed once at load time.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    target: Target,
    uri: Uri,
}

/// Why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadEndpoint {
    /// It is not a URL with scheme and host.
    #[error("it is not a URL such as https://login.example.com/token")]
    NotAUrl,
    /// It names a user or a fragment.
    #[error("a URL of an issuer has neither a user nor a fragment")]
    UserOrFragment,
    /// Its scheme is neither `https` nor, to loopback, `http`.
    #[error(
        "an issuer is called over https; http only where its host is a loopback address or localhost"
    )]
    Cleartext,
    /// Its host or port is none.
    #[error("its host is not one: {0}")]
    Host(#[from] BadHost),
}

impl Endpoint {
    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// As a request takes it.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The URL with `path` put after its own, one slash between them; its query is not kept. `path` is in the form of
    /// a request: what is not allowed in a path is percent-encoded already.
    ///
    /// # Errors
    /// [`BadEndpoint::NotAUrl`] if that is no URL.
    pub fn join(&self, path: &str) -> Result<Self, BadEndpoint> {
        let base = self.uri.path().trim_end_matches('/');
        let path = path.trim_start_matches('/');
        let scheme = self.target.scheme.as_str();
        format!("{scheme}://{}{base}/{path}", self.target.authority()).parse()
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        if text.contains('#') {
            return Err(BadEndpoint::UserOrFragment);
        }
        let uri: Uri = text.parse().map_err(|_| BadEndpoint::NotAUrl)?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            Some(_) => return Err(BadEndpoint::Cleartext),
            None => return Err(BadEndpoint::NotAUrl),
        };
        let authority = uri.authority().ok_or(BadEndpoint::NotAUrl)?.as_str();
        if authority.contains('@') {
            return Err(BadEndpoint::UserOrFragment);
        }
        let target = Target::from_authority(scheme, authority)?;
        let is_loopback = match &target.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => &**name == "localhost",
        };
        let is_here = is_loopback || is_metadata(&target.host);
        if scheme == Scheme::Http && !is_here {
            return Err(BadEndpoint::Cleartext);
        }
        Ok(Self { target, uri })
    }
}

/// The metadata services of clouds, which speak cleartext only: link-local addresses that the machine's own host or
/// container agent answers, and that no router passes on. Each is named; no other link-local address will do.
fn is_metadata(host: &Host) -> bool {
    // The instance (EC2, Azure), ECS tasks, EKS Pod Identity.
    const SERVICES: [IpAddr; 5] = [
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    ];
    matches!(host, Host::Ip(ip) if SERVICES.contains(ip))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleartext_goes_to_loopback_only() {
        for good in [
            "https://login.example.com/oauth2/token",
            "https://10.1.2.3:8200",
            "http://127.0.0.1:8200/v1",
            "http://[::1]:80/",
            "http://localhost:3000",
            "http://169.254.169.254/latest",
            "http://[fd00:ec2::254]",
        ] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("http://login.example.com/", BadEndpoint::Cleartext),
            ("http://127.0.0.1.example.com/", BadEndpoint::Cleartext),
            ("http://169.254.169.253/", BadEndpoint::Cleartext),
            ("http://[fe80::1]/", BadEndpoint::Cleartext),
            ("ftp://127.0.0.1/", BadEndpoint::Cleartext),
            (
                "https://user:pw@login.example.com/",
                BadEndpoint::UserOrFragment,
            ),
            ("https://login.example.com/#x", BadEndpoint::UserOrFragment),
            ("login.example.com", BadEndpoint::NotAUrl),
            ("/token", BadEndpoint::NotAUrl),
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn a_path_is_joined_by_one_slash() {
        for (base, joined) in [
            ("https://a.example", "https://a.example/v1/x"),
            ("https://a.example/", "https://a.example/v1/x"),
            (
                "https://a.example:8443/tenant/?q=1",
                "https://a.example:8443/tenant/v1/x",
            ),
        ] {
            let base: Endpoint = base.parse().unwrap();
            assert_eq!(base.join("/v1/x").unwrap().to_string(), joined);
        }
    }
}
