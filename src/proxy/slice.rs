//! A slice of an answer, cut here (RFC 9110 §14).
//!
//! An upstream's own slice could cut a secret so that nobody recognises it; so an injected request asks for the whole.
//! A whole object where a slice was asked for is what RFC 9110 §14.2 allows, and what some clients write into the
//! middle of a file. Masks are as long as what they cover: the slice of the scrubbed whole is the one that was meant.
//! There are other ways to ask than those taken out here (`X-Range`, a parameter of the query, `Range` of a change): what
//! comes as the upstream's own slice all the same is not passed on.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::head::Head;

/// Azure Storage takes it before `Range`.
const X_MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");
/// `Range` before it had that name; some servers still take it.
const REQUEST_RANGE: HeaderName = HeaderName::from_static("request-range");

/// One slice that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// From this byte on, to this one if it says so.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

/// What is passed on of a body: after `skip` bytes the next `left`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    skip: u64,
    left: u64,
}

/// Takes the question for a slice out of a head, which then asks for the whole in the one coding that slices of it are
/// counted in. `None` where nothing is cut: several slices at once, or one that holds for an older state only, whose
/// asker is ready for the whole (§13.1.5).
pub(super) fn take(head: &mut Head) -> Option<Asked> {
    head.headers_mut().remove(REQUEST_RANGE);
    // Of a change it names what is changed, as in Azure's page blobs.
    if matches!(*head.method(), Method::PUT | Method::PATCH | Method::DELETE) {
        return None;
    }
    let is_get = head.method() == Method::GET;
    let headers = head.headers_mut();
    let mut names = headers.keys();
    if !names.any(|name| *name == RANGE || *name == X_MS_RANGE || *name == IF_RANGE) {
        return None;
    }
    let conditional = headers.remove(IF_RANGE).is_some();
    let azure = one(headers, &X_MS_RANGE);
    let asked = azure.or_else(|| one(headers, &RANGE));
    headers.remove(RANGE);
    headers.remove(X_MS_RANGE);
    let asked = asked.filter(|_| is_get && !conditional)?;
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Some(asked)
}

/// Whether this is the head of a slice that the upstream cut. Slices of other units than bytes hold whole items (rows,
/// ids), and pass: PostgREST and Heroku say so on lists that nobody asked a slice of.
pub(super) fn is_cut(status: StatusCode, headers: &HeaderMap) -> bool {
    let begins = |value: &HeaderValue, with: &str| {
        let start = value.as_bytes().trim_ascii_start().get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    let mut ranges = headers.get_all(CONTENT_RANGE).iter().peekable();
    let unsaid = ranges.peek().is_none();
    // RFC 9110 §15.5.17: a 416 says how long the whole is, and brings none of it.
    let of_bytes = ranges.any(|range| begins(range, "bytes") && !begins(range, "bytes */"));
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    (status == StatusCode::PARTIAL_CONTENT && unsaid)
        || of_bytes
        || types.any(|value| begins(value, "multipart/byteranges"))
}

fn one(headers: &HeaderMap, name: &HeaderName) -> Option<Asked> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().filter(|_| values.next().is_none())?;
    parsed(first.to_str().ok()?)
}

/// `bytes=0-99`, `bytes=100-` or `bytes=-100`; whatever else there may be is not cut.
fn parsed(text: &str) -> Option<Asked> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    match (first, last) {
        ("", last) => number(last).map(Asked::Last),
        (first, "") => Some(Asked::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From(first, Some(last)))
        }
    }
}

impl Asked {
    /// Cuts an answer whose head has been cleaned: its new status, and what is left of its body. `None` leaves it as it
    /// is: no 200, or a body whose length nobody knows.
    pub(super) fn cut(
        self,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) -> Option<(StatusCode, Cut)> {
        if status != StatusCode::OK || headers.contains_key(http::header::CONTENT_ENCODING) {
            return None;
        }
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let length = lengths.next().filter(|_| lengths.next().is_none())?;
        let length: u64 = length.to_str().ok()?.parse().ok().filter(|n| *n > 0)?;
        let bounds = match self {
            Self::From(first, last) => {
                let last = last.map_or(length - 1, |last| last.min(length - 1));
                (first < length).then_some((first, last))
            }
            Self::Last(count) => (count > 0).then(|| (length.saturating_sub(count), length - 1)),
        };
        let (status, range, cut) = match bounds {
            Some((first, last)) => (
                StatusCode::PARTIAL_CONTENT,
                format!("bytes {first}-{last}/{length}"),
                Cut {
                    skip: first,
                    left: last - first + 1,
                },
            ),
            None => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("bytes */{length}"),
                Cut { skip: 0, left: 0 },
            ),
        };
        headers.insert(CONTENT_LENGTH, HeaderValue::from(cut.left));
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).ok()?);
        Some((status, cut))
    }
}

impl Cut {
    /// What of the next piece is passed on.
    pub(super) fn of(&mut self, mut piece: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(piece.len());
        self.skip -= skipped as u64;
        let mut piece = piece.split_off(skipped);
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        piece
    }

    /// How much is still to come, in bytes.
    pub(super) fn left(self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slice_of_bytes_is_understood_and_nothing_else() {
        for (text, asked) in [
            ("bytes=0-99", Some(Asked::From(0, Some(99)))),
            ("bytes=100-", Some(Asked::From(100, None))),
            ("Bytes=-7", Some(Asked::Last(7))),
            ("bytes= 5-5", Some(Asked::From(5, Some(5)))),
            ("bytes=9-5", None),
            ("bytes=0-9,20-29", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=1--2", None),
            ("items=0-9", None),
            ("bytes=99999999999999999999-", None),
            ("0-9", None),
        ] {
            assert_eq!(parsed(text), asked, "{text}");
        }
    }

    #[test]
    fn a_slice_of_the_upstreams_own_is_known() {
        let cut = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_cut(StatusCode::from_u16(status).unwrap(), &headers)
        };
        let multipart = ("content-type", "Multipart/ByteRanges; boundary=x");
        for (status, fields) in [
            (206, &[][..]),
            (206, &[("content-range", "bytes 0-29/63")]),
            (200, &[("content-range", "Bytes 0-29/63")]),
            (200, &[("content-range", "bytes=0-29/63")]),
            (416, &[("content-range", "bytes 0-29/63")]),
            (
                206,
                &[("content-range", "*/9"), ("content-range", "bytes 0-2/9")],
            ),
            (206, &[multipart]),
            (200, &[multipart]),
        ] {
            assert!(cut(status, fields), "{status} {fields:?}");
        }
        for (status, fields) in [
            (200, &[][..]),
            (201, &[("x-ms-range", "bytes=0-29")]),
            (308, &[("range", "bytes=0-29")]),
            (416, &[("content-range", "bytes */63")]),
            (200, &[("content-range", "0-24/*")]),
            (206, &[("content-range", "0-24/3573458")]),
            (206, &[("content-range", "id 01234567..89abcdef; max=200")]),
            (200, &[("content-type", "multipart/mixed; boundary=x")]),
        ] {
            assert!(!cut(status, fields), "{status} {fields:?}");
        }
    }

    #[test]
    fn a_slice_is_the_same_at_every_cut_of_the_body() {
        let body: &'static [u8] = b"0123456789";
        for (asked, status, range, wanted) in [
            (Asked::From(0, None), 206, "bytes 0-9/10", "0123456789"),
            (Asked::From(3, Some(5)), 206, "bytes 3-5/10", "345"),
            (Asked::From(3, Some(500)), 206, "bytes 3-9/10", "3456789"),
            (Asked::From(9, None), 206, "bytes 9-9/10", "9"),
            (Asked::Last(4), 206, "bytes 6-9/10", "6789"),
            (Asked::Last(40), 206, "bytes 0-9/10", "0123456789"),
            (Asked::From(10, None), 416, "bytes */10", ""),
            (Asked::Last(0), 416, "bytes */10", ""),
        ] {
            for size in 1..=10 {
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("10"));
                let (said, mut cut) = asked.cut(StatusCode::OK, &mut headers).unwrap();
                let pieces = body.chunks(size).map(Bytes::from_static);
                let got: Vec<u8> = pieces.flat_map(|piece| cut.of(piece)).collect();
                assert_eq!(
                    (said.as_u16(), &headers[CONTENT_RANGE], &*got, cut.left()),
                    (
                        status,
                        &HeaderValue::from_static(range),
                        wanted.as_bytes(),
                        0
                    ),
                    "{asked:?} in pieces of {size}"
                );
                assert_eq!(headers[CONTENT_LENGTH], wanted.len().to_string());
            }
        }
    }

    #[test]
    fn what_cannot_be_counted_is_not_cut() {
        let asked = Asked::From(3, None);
        let mut headers = HeaderMap::new();
        assert_eq!(asked.cut(StatusCode::OK, &mut headers), None);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("10"));
        assert_eq!(asked.cut(StatusCode::CREATED, &mut headers), None);
        assert_eq!(asked.cut(StatusCode::PARTIAL_CONTENT, &mut headers), None);
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(asked.cut(StatusCode::OK, &mut headers), None);
        assert!(!headers.contains_key(CONTENT_RANGE));
    }
}
