//! A SPIFFE ID (SPIFFE-ID §2): `spiffe://` a trust domain, and a path.

/// One that is well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeId<'t> {
    /// The trust domain.
    pub domain: &'t str,
    /// Without one it names the domain itself, which no workload is.
    pub has_path: bool,
}

impl<'t> SpiffeId<'t> {
    /// Reads it. A domain in capitals, a port, a user, a query, a fragment, an escape, an empty segment or one of dots
    /// make it none (§2.1, §2.2).
    pub fn read(text: &'t str) -> Option<Self> {
        let rest = text
            .strip_prefix("spiffe://")
            .filter(|_| text.len() <= 2048)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let in_domain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        let in_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
        let good = !domain.is_empty()
            && domain.len() <= 255
            && domain.bytes().all(in_domain)
            && path.is_none_or(|path| path.split('/').all(is_segment));
        good.then_some(Self {
            domain,
            has_path: path.is_some(),
        })
    }
}

/// Whether this is a trust domain's name.
pub fn is_domain(text: &str) -> bool {
    let id = format!("spiffe://{text}");
    SpiffeId::read(&id).is_some_and(|id| !id.has_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let read = |text| SpiffeId::read(text).map(|id| (id.domain, id.has_path));
        assert_eq!(
            read("spiffe://prod.example/sa/a"),
            Some(("prod.example", true))
        );
        assert_eq!(read("spiffe://prod.example"), Some(("prod.example", false)));
        for bad in [
            "SPIFFE://prod.example/a",
            "spiffe://Prod.example/a",
            "spiffe://prod.example:443/a",
            "spiffe://u@prod.example/a",
            "spiffe://prod.example/a?x",
            "spiffe://prod.example/a#x",
            "spiffe://prod.example/a//b",
            "spiffe://prod.example/a/../b",
            "spiffe://prod.example/./b",
            "spiffe://prod.example/a/",
            "spiffe://prod.example/%61",
            "spiffe://prod.example/\u{e9}",
            "spiffe:///a",
            "https://prod.example/a",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(is_domain("prod.example") && !is_domain("prod.example/x") && !is_domain(""));
    }
}
