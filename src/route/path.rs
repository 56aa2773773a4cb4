//! Patterns over paths: `*` stands for anything within one segment, `**` for any number of whole segments.

use std::fmt;
use std::str::FromStr;

/// A pattern such as `/v1/contacts/**`, matched in time linear in the path for each `**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: Box<str>,
    segments: Box<[Segment]>,
}

/// A path pattern that does not begin with `/`, holds `?`, `#`, a dot segment, or `**` beside other characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path pattern begins with `/`; `*` stands for anything within a segment, `**` alone for any segments; no query, no dot segments"
)]
pub struct BadPath;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// Pieces of text with `*` between them.
    Glob(Box<[Box<str>]>),
    /// `**`: any number of segments, none included.
    Any,
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Glob(pieces) => glob(pieces, text),
            Self::Any => true,
        }
    }
}

/// First piece at the start, last at the end, the rest leftmost in between.
fn glob(pieces: &[Box<str>], text: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(mut rest) = text.strip_prefix(&**first) else {
        return false;
    };
    for piece in middle {
        let Some((_, after)) = rest.split_once(&**piece) else {
            return false;
        };
        rest = after;
    }
    rest.len() >= last.len() && rest.ends_with(&**last)
}

impl PathPattern {
    /// Whether the path (no query) is meant.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let (mut p, mut rest) = (0, Some(path));
        let mut resume: Option<(usize, &str)> = None;
        // Greedy with one point of return: the last `**` that was passed takes one more segment on failure.
        loop {
            match (self.segments.get(p), rest) {
                (Some(Segment::Any), _) if p + 1 == self.segments.len() => return true,
                (Some(Segment::Any), Some(text)) => {
                    resume = Some((p, text));
                    p += 1;
                    continue;
                }
                (Some(segment), Some(text)) => {
                    let (head, tail) = split(text);
                    if segment.matches(head) {
                        p += 1;
                        rest = tail;
                        continue;
                    }
                }
                (None, None) => return true,
                (Some(_), None) | (None, Some(_)) => {}
            }
            let Some((any, text)) = resume else {
                return false;
            };
            let (_, Some(tail)) = split(text) else {
                return false;
            };
            resume = Some((any, tail));
            p = any + 1;
            rest = Some(tail);
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every path is meant (`/**`).
    pub fn is_everything(&self) -> bool {
        matches!(&*self.segments, [Segment::Any])
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('/')
        .map_or((text, None), |(head, tail)| (head, Some(tail)))
}

impl FromStr for PathPattern {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        let body = text.strip_prefix('/').ok_or(BadPath)?;
        if !text
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !matches!(b, b'?' | b'#' | b'\\'))
        {
            return Err(BadPath);
        }
        let segments = body.split('/').map(|segment| match segment {
            "." | ".." => Err(BadPath),
            "**" => Ok(Segment::Any),
            _ if segment.contains("**") => Err(BadPath),
            _ if segment.contains('*') => {
                Ok(Segment::Glob(segment.split('*').map(Into::into).collect()))
            }
            _ => Ok(Segment::Literal(segment.into())),
        });
        Ok(Self {
            text: text.into(),
            segments: segments.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_where_they_belong() {
        let table = [
            ("/", "/", true),
            ("/", "/a", false),
            ("/v1/*", "/v1/a", true),
            ("/v1/*", "/v1/a/b", false),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1", false),
            ("/v1/**", "/v1/a/b", true),
            ("/v1/**", "/v1", true),
            ("/v1/**", "/v1/", true),
            ("/v1/**", "/v10", false),
            ("/**", "/", true),
            ("/**/keys", "/a/b/keys", true),
            ("/**/keys", "/keys", true),
            ("/**/keys", "/a/keys/b", false),
            ("/a/**/b/**/c", "/a/x/b/y/z/c", true),
            ("/a/**/b/c", "/a/b/b/c", true),
            ("/a/**/b/c", "/a/b/b/d", false),
            ("/r-*.json", "/r-1.json", true),
            ("/r-*.json", "/r-.json", true),
            ("/r-*.json", "/r-1.xml", false),
            ("/a*b*c", "/axbyc", true),
            ("/a*a", "/a", false),
            ("/v1/**/", "/v1/a/", true),
        ];
        for (pattern, path, expected) in table {
            let compiled: PathPattern = pattern.parse().unwrap();
            assert_eq!(compiled.matches(path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_pattern_is_a_clean_path() {
        for bad in [
            "", "v1", "/a/../b", "/./a", "/a?b", "/a#b", "/a**", "/a\\b", "/a b", "/é",
        ] {
            assert_eq!(bad.parse::<PathPattern>(), Err(BadPath), "{bad}");
        }
    }

    #[test]
    fn a_long_path_against_many_stars_is_quick() {
        let pattern: PathPattern = "/**/a/**/a/**/a/**/a/**/b".parse().unwrap();
        let path = "/a".repeat(50_000);
        assert!(!pattern.matches(&path));
    }
}
