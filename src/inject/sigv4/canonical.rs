//! The one spelling of path and query that is both signed and sent.
//!
//! Amazon's servers decode what came and spell it anew before they look at the signature. What is sent in their
//! spelling already has one reading only.

use super::Unsignable;

/// A query parameter, decoded and spelled.
#[derive(Debug)]
pub(super) struct Pair {
    /// Decoded.
    pub(super) name: String,
    /// Decoded.
    pub(super) value: String,
    /// As it is sent: `name` or `name=value`, each percent-encoded.
    pub(super) sent: String,
    /// As it is signed: name and value, percent-encoded.
    pub(super) signed: (String, String),
}

impl Pair {
    /// A parameter with a value.
    pub(super) fn new(name: &str, value: &str) -> Self {
        let signed = (encoded(name.as_bytes()), encoded(value.as_bytes()));
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
            sent: format!("{}={}", signed.0, signed.1),
            signed,
        }
    }

    fn bare(name: &str) -> Self {
        let signed = (encoded(name.as_bytes()), String::new());
        Self {
            name: name.to_owned(),
            value: String::new(),
            sent: signed.0.clone(),
            signed,
        }
    }
}

/// A path as it is sent: all but unreserved characters and `/` escaped. What is escaped stays so; the head's hygiene
/// has seen to it that every escape is whole.
pub(super) fn path(given: &str) -> String {
    let mut out = String::with_capacity(given.len());
    for byte in given.bytes() {
        if byte == b'/' || byte == b'%' {
            out.push(char::from(byte));
        } else {
            encode(byte, &mut out);
        }
    }
    out
}

/// The path once more, as every service but S3 signs it.
pub(super) fn twice(path: &str) -> String {
    path.replace('%', "%25")
}

/// The parameters of a query, in the order in which they came.
///
/// # Errors
/// [`Unsignable::Query`] for an escape that is none, or that is not UTF-8.
pub(super) fn query(given: &str) -> Result<Vec<Pair>, Unsignable> {
    let mut pairs = Vec::new();
    for part in given.split('&').filter(|part| !part.is_empty()) {
        pairs.push(match part.split_once('=') {
            None => Pair::bare(&decoded(part)?),
            Some((name, value)) => Pair::new(&decoded(name)?, &decoded(value)?),
        });
    }
    Ok(pairs)
}

/// The canonical query: sorted by the encoded name, then the encoded value.
pub(super) fn canonical_query(pairs: &[Pair]) -> String {
    let mut sorted: Vec<&(String, String)> = pairs.iter().map(|pair| &pair.signed).collect();
    sorted.sort();
    let mut out = String::new();
    for (name, value) in sorted {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
    out
}

/// A plus is a blank, as Amazon's servers read it.
fn decoded(text: &str) -> Result<String, Unsignable> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || {
                    let digit = bytes.next().and_then(|b| char::from(b).to_digit(16));
                    digit.and_then(|digit| u8::try_from(digit).ok())
                };
                let (high, low) = (digit(), digit());
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(Unsignable::Query);
                };
                out.push(high << 4 | low);
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| Unsignable::Query)
}

fn encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        encode(*byte, &mut out);
    }
    out
}

fn encode(byte: u8, out: &mut String) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
        out.push(char::from(byte));
    } else {
        let nibbles = [byte >> 4, byte & 15];
        out.push('%');
        out.extend(nibbles.iter().filter_map(|n| HEX.get(usize::from(*n))));
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    let both = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (given, sent) in [
            ("/", "/"),
            ("/a/b.txt", "/a/b.txt"),
            ("/model/x:0/invoke", "/model/x%3A0/invoke"),
            ("/a%20b+c/%C3%BC", "/a%20b%2Bc/%C3%BC"),
            ("/a%2Fb", "/a%2Fb"),
            ("/(1)*!'", "/%281%29%2A%21%27"),
        ] {
            assert_eq!(path(given), sent);
        }
        assert_eq!(twice("/a%20b"), "/a%2520b");
    }

    #[test]
    fn a_query_has_one_spelling() {
        let pairs = query("b=2&a=%7e&acl&a=x+y&&k=a%2fb=c").unwrap();
        let sent: Vec<&str> = pairs.iter().map(|pair| &*pair.sent).collect();
        assert_eq!(sent, ["b=2", "a=~", "acl", "a=x%20y", "k=a%2Fb%3Dc"]);
        assert_eq!(canonical_query(&pairs), "a=x%20y&a=~&acl=&b=2&k=a%2Fb%3Dc");
        for bad in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=%+1"] {
            assert_eq!(query(bad).unwrap_err(), Unsignable::Query, "{bad}");
        }
    }
}
