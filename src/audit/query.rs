//! Queries: the raw lines that a filter lets through, in the order of the trail.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use memchr::memmem;

use super::AuditError;
use super::sink::rotated;
use super::verify::in_order;

/// What a line must have; what is left out asks nothing.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The acting agent.
    pub agent: Option<String>,
    /// The person.
    pub user: Option<String>,
    /// The target's host.
    pub host: Option<String>,
    /// The refusal's word.
    pub word: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Behind the record of this number.
    pub after: Option<u64>,
    /// No more lines than this.
    pub most: Option<u64>,
}

/// The members that a filter looks at.
#[derive(serde::Deserialize)]
struct Members<'a> {
    seq: u64,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    word: Option<Cow<'a, str>>,
}

impl Filter {
    /// Whether a line, without its newline, passes. What is no record does not.
    pub fn passes(&self, line: &[u8]) -> bool {
        let Ok(found) = serde_json::from_slice::<Members<'_>>(line) else {
            return false;
        };
        let same = |wanted: &Option<String>, found: &Option<Cow<'_, str>>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| found.as_deref() == Some(wanted))
        };
        same(&self.agent, &found.agent)
            && same(&self.user, &found.user)
            && same(&self.host, &found.host)
            && same(&self.word, &found.word)
            && self.after.is_none_or(|after| found.seq > after)
            && self.in_time(&found.time)
    }

    fn in_time(&self, time: &str) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(time) = time.parse::<Timestamp>() else {
            return false;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// A plain text that every passing line holds: searching for it is much quicker than reading the JSON.
    fn needle(&self) -> Option<memmem::Finder<'_>> {
        let plain = |text: &&String| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.@:".contains(&b))
        };
        [&self.word, &self.user, &self.host, &self.agent]
            .into_iter()
            .flatten()
            .find(plain)
            .map(|text| memmem::Finder::new(text.as_bytes()))
    }
}

/// Writes the lines of `files` that pass, as they stand; returns how many.
pub fn query(files: &[PathBuf], filter: &Filter, out: &mut dyn Write) -> Result<u64, AuditError> {
    let mut passed = 0;
    for path in in_order(files)? {
        let most = filter.most.map(|most| most - passed);
        let found = one(&path, (filter, most), out);
        passed += found.map_err(|source| AuditError::Open { path, source })?;
    }
    Ok(passed)
}

/// The files of the trail that is written to `path`: those that were rotated, and the last.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let earlier = rotated(path).into_iter().map(|(_, path)| path);
    earlier.chain([path.to_owned()]).collect()
}

fn one(
    path: &Path,
    (filter, most): (&Filter, Option<u64>),
    out: &mut dyn Write,
) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let needle = filter.needle();
    let mut line = Vec::new();
    let mut passed = 0;
    loop {
        if most.is_some_and(|most| passed >= most) {
            return Ok(passed);
        }
        line.clear();
        if reader
            .by_ref()
            .take(16 * 1024 * 1024)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(passed);
        }
        if needle
            .as_ref()
            .is_some_and(|needle| needle.find(&line).is_none())
        {
            continue;
        }
        let whole = line.strip_suffix(b"\n").unwrap_or(&line);
        if filter.passes(whole) {
            out.write_all(whole)?;
            out.write_all(b"\n")?;
            passed += 1;
        }
    }
}

/// A moment in RFC 3339, or a day, which begins at midnight UTC.
///
/// # Errors
/// How a time is written.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(day) = text.parse::<jiff::civil::Date>()
        && !text.contains(['T', 't', ' '])
    {
        return day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|start| start.timestamp())
            .map_err(|error| error.to_string());
    }
    text.parse()
        .map_err(|_| "write a time as 2026-11-21T08:00:00Z or 2026-11-21".to_owned())
}
