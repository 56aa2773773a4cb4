//! One spelling of a path, so that the policy and the upstream read the same bytes.
//!
//! Percent-encoded unreserved characters are decoded and hexadecimal digits made upper-case (RFC 3986 §6.2.2);
//! whatever another parser could read as a second path (dot segments, `\`, encoded dots and backslashes, double and
//! overlong encodings) is refused. An empty segment (`//`) is told: the keys of S3 may hold it, and nothing else.

use http::uri::PathAndQuery;

use super::Unclean;

/// A canonical path and query.
#[derive(Debug)]
pub(super) struct Canonical {
    pub(super) text: PathAndQuery,
    pub(super) encoded_slash: bool,
    pub(super) empty_segment: bool,
    /// Whether a segment has a parameter (`;`), which some servers take away before they route.
    pub(super) parameter: bool,
}

pub(super) fn canonical(given: &PathAndQuery) -> Result<Canonical, Unclean> {
    let (path, query) = (given.path(), given.query());
    if path == "*" && query.is_none() {
        return Ok(Canonical {
            text: given.clone(),
            encoded_slash: false,
            empty_segment: false,
            parameter: false,
        });
    }
    if !path.starts_with('/')
        || path
            .bytes()
            .any(|b| !(0x21..0x7f).contains(&b) || matches!(b, b'\\' | b'#'))
    {
        return Err(Unclean::Path);
    }
    if query.is_some_and(|query| {
        query
            .bytes()
            .any(|b| !(0x21..0x7f).contains(&b) || b == b'#')
    }) {
        return Err(Unclean::Path);
    }
    if !path.contains('%') {
        return Ok(Canonical {
            text: rooted(given)?,
            encoded_slash: false,
            empty_segment: has_empty_segment(path)?,
            parameter: path.contains(';'),
        });
    }
    let (mut text, encoded_slash) = decode(path)?;
    let empty_segment = has_empty_segment(&text)?;
    if encoded_slash {
        // Where `%2F` is let through, a server may decode it before it looks for dot segments.
        has_empty_segment(&with_slashes(&text))?;
    }
    let parameter = text.contains(';');
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    let text = PathAndQuery::from_maybe_shared(text).map_err(|_| Unclean::Path)?;
    Ok(Canonical {
        text,
        encoded_slash,
        empty_segment,
        parameter,
    })
}

/// The text with a path in it. Where there is none, before `?` or before a fragment that was dropped, `path()` says `/`
/// all the same, and what is written upstream would be nothing: a request line of two words.
fn rooted(given: &PathAndQuery) -> Result<PathAndQuery, Unclean> {
    match given.as_str() {
        "/" => Ok(PathAndQuery::from_static("/")),
        text if text.starts_with('/') => Ok(given.clone()),
        text => PathAndQuery::from_maybe_shared(format!("/{text}")).map_err(|_| Unclean::Path),
    }
}

/// A canonical path as a server reads it that decodes `%2F` before it routes.
pub(super) fn with_slashes(path: &str) -> String {
    path.replace("%2F", "/")
}

/// Whether a segment but the last is empty. There is no dot segment, with or without a parameter behind it (`..;x`).
fn has_empty_segment(path: &str) -> Result<bool, Unclean> {
    let mut found = false;
    let body = path.get(1..).unwrap_or_default();
    let mut segments = body.split('/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or_default();
        let last = segments.peek().is_none();
        if matches!(name, "." | "..") {
            return Err(Unclean::Path);
        }
        found |= segment.is_empty() && !last;
    }
    Ok(found)
}

/// A path without the parameters of its segments (`;…`, RFC 3986 §3.3), and with each run of `/` as one: as servers read
/// it that do so before they route.
pub(super) fn folded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut in_parameter = false;
    for c in path.chars() {
        in_parameter = c == ';' || in_parameter && c != '/';
        if !in_parameter && (c != '/' || !out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

/// Decodes unreserved characters and judges the rest.
fn decode(path: &str) -> Result<(String, bool), Unclean> {
    let mut out = String::with_capacity(path.len());
    let mut encoded_slash = false;
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let byte = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .ok_or(Unclean::Path)?;
        if after.starts_with('+') {
            return Err(Unclean::Path);
        }
        rest = after.get(2..).unwrap_or_default();
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            // An encoded dot is only ever written to hide one; control characters, `\` and overlong UTF-8 likewise.
            b'.' | b'\\' | 0..=0x1f | 0x7f | 0xc0 | 0xc1 | 0xf5..=0xff => {
                return Err(Unclean::Path);
            }
            _ => {
                encoded_slash |= byte == b'/';
                out.push('%');
                out.push(hex_digit(byte >> 4));
                out.push(hex_digit(byte & 15));
            }
        }
    }
    out.push_str(rest);
    // `%25` followed by two hexadecimal digits would decode a second time. It is looked for in what is sent, since the
    // digits may have been encoded themselves.
    let decodes_again = |after: &str| {
        let digits = after.bytes().take(2);
        digits.filter(u8::is_ascii_hexdigit).count() == 2
    };
    if out.split("%25").skip(1).any(decodes_again) {
        return Err(Unclean::Path);
    }
    Ok((out, encoded_slash))
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16)
        .unwrap_or('0')
        .to_ascii_uppercase()
}
