//! Where the chain stands: the last whole record of a file, and what a crash left torn behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use aws_lc_rs::digest::{SHA256, digest};

use super::chain::{Hex, Sealed, hex};

/// The end of a file that a writer goes on from.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// The last whole record.
    pub(super) last: Option<Sealed>,
    /// Bytes behind it, without their own last newline: how many, and their digest.
    pub(super) torn: Option<(u64, Hex)>,
    /// The file does not end with a newline.
    pub(super) open_line: bool,
}

/// More than a batch can hold, so that a batch of which nothing arrived whole still shows the record before.
const REACH: u64 = 32 * 1024 * 1024;

impl Tail {
    /// Reads the end of `file`. `None`: there are bytes, but nothing of an audit trail among them.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(Some(Self {
                last: None,
                torn: None,
                open_line: false,
            }));
        }
        let mut window = 64 * 1024;
        loop {
            let size = window.min(length);
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            file.read_exact_at(&mut bytes, length - size)?;
            let whole = size == length;
            if let Some(found) = last_record(&bytes, whole) {
                return Ok(Some(found));
            }
            if whole || window >= REACH {
                // The very first record may be the torn one.
                let ours = whole && (bytes.starts_with(OPENING) || OPENING.starts_with(&bytes));
                return Ok(ours.then(|| Self::behind(None, &bytes)));
            }
            window *= 4;
        }
    }

    fn behind(last: Option<Sealed>, rest: &[u8]) -> Self {
        let junk = rest.strip_suffix(b"\n").unwrap_or(rest);
        let torn = (!rest.is_empty()).then(|| {
            let bytes = u64::try_from(junk.len()).unwrap_or_default();
            (bytes, hex(digest(&SHA256, junk).as_ref()))
        });
        Self {
            last,
            torn,
            open_line: !rest.is_empty() && !rest.ends_with(b"\n"),
        }
    }
}

/// How every record begins.
const OPENING: &[u8] = b"{\"time\":\"";

/// Looks for the last whole record, line by line from the end. The first line of a window that is not the whole
/// file may lack its beginning; its hash will not fit, and a larger window follows.
fn last_record(bytes: &[u8], whole: bool) -> Option<Tail> {
    let mut end = bytes.len();
    loop {
        let start = bytes
            .get(..end)?
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let line = bytes.get(start..end)?;
        if (start > 0 || whole)
            && let Some(sealed) = Sealed::read(line)
        {
            return Some(match bytes.get(end + 1..) {
                Some(rest) => Tail::behind(Some(sealed), rest),
                // Whole but for its newline.
                None => Tail {
                    last: Some(sealed),
                    torn: None,
                    open_line: true,
                },
            });
        }
        end = start.checked_sub(1)?;
    }
}
