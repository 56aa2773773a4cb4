//! Verification: reads files line by line, in constant memory, and names every place where the chain does not hold.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use super::AuditError;
use super::chain::{GENESIS, Hex, Sealed, hex};
use super::marks::Marks;

/// What is asked of a verification beyond the chain.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The checkpoint file; left out: the one beside the first file, if there is one.
    pub checkpoints: Option<PathBuf>,
    /// The only public key, in hex, whose checkpoints count.
    pub key: Option<String>,
    /// The trail must begin with its first record; otherwise older files may be missing.
    pub whole: bool,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether the trail holds.
    pub ok: bool,
    /// Whole records.
    pub records: u64,
    /// The number of the first record, and of the last.
    pub first: Option<u64>,
    /// The number of the last record.
    pub last: Option<u64>,
    /// Signed checkpoints that a record answered.
    pub checkpoints: u64,
    /// The last record that a checkpoint covers: what lies behind it could be cut off unseen.
    pub covered: Option<u64>,
    /// The public keys of the checkpoints.
    pub keys: Vec<String>,
    /// Places where a crash tore the end and the next start says so: no faults.
    pub torn: Vec<Place>,
    /// Where the trail does not hold; the first hundred.
    pub faults: Vec<Fault>,
}

/// A line of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
}

/// A place where the trail does not hold.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What kind.
    pub kind: FaultKind,
    /// What it means.
    pub detail: String,
}

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// A line is no whole record, or its hash does not fit.
    Edited,
    /// Records are missing between two lines.
    Missing,
    /// A record stands where an earlier or another one belongs.
    Order,
    /// The last line is cut off.
    Torn,
    /// A signed checkpoint names a record that is not there, or another one.
    Checkpoint,
}

/// Verifies `files`, which may be given in any order.
pub fn verify(files: &[PathBuf], options: &Options) -> Result<Report, AuditError> {
    let files = in_order(files)?;
    let marks = Marks::open(&files, options)?;
    let mut check = Check {
        report: Report::default(),
        before: None,
        junk: None,
        marks,
    };
    for path in &files {
        check.file(path).map_err(|source| AuditError::Open {
            path: path.clone(),
            source,
        })?;
    }
    check.end(
        options,
        files.last().map_or(Path::new(""), PathBuf::as_path),
    );
    let mut report = check.report;
    report.ok = report.faults.is_empty();
    Ok(report)
}

/// A record is never longer; a line that is, is none.
const LONGEST: u64 = 16 * 1024 * 1024;
/// As many as a report names.
pub(super) const MOST_FAULTS: usize = 100;

struct Check {
    report: Report,
    /// The number and hash that the next record must follow; `None` at the start and after a fault.
    before: Option<(u64, Hex)>,
    junk: Option<Junk>,
    marks: Marks,
}

/// Lines that are no records: a fault, unless the next record is a `start` that answers for these very bytes.
struct Junk {
    place: Place,
    bytes: u64,
    hashed: Context,
}

impl Check {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(256 * 1024, open(path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let place = Place {
                file: path.to_owned(),
                line: number,
            };
            let Some(whole) = line.strip_suffix(b"\n") else {
                self.junk_is_a_fault();
                self.fault(
                    &place,
                    FaultKind::Torn,
                    "the last line is cut off".to_owned(),
                );
                continue;
            };
            if let Some(sealed) = Sealed::read(whole) {
                self.record(&sealed, &place)?;
            } else {
                self.no_record(whole, place);
            }
        }
        self.junk_is_a_fault();
        Ok(())
    }

    fn record(&mut self, sealed: &Sealed, place: &Place) -> io::Result<()> {
        self.answer(sealed, place);
        let (kind, detail) = match self.before {
            Some((seq, _)) if sealed.seq > seq + 1 => (
                FaultKind::Missing,
                format!("records {} to {} are missing", seq + 1, sealed.seq - 1),
            ),
            Some((seq, _)) if sealed.seq <= seq => (
                FaultKind::Order,
                format!("record {} stands after record {seq}", sealed.seq),
            ),
            Some((_, hash)) if sealed.prev != hash => (
                FaultKind::Order,
                format!("record {} follows another record than this", sealed.seq),
            ),
            None if sealed.seq == 1 && sealed.prev != GENESIS => {
                (FaultKind::Order, "record 1 has one before it".to_owned())
            }
            Some(_) | None => (FaultKind::Order, String::new()),
        };
        if !detail.is_empty() {
            self.fault(place, kind, detail);
        }
        self.before = Some((sealed.seq, sealed.hash));
        self.report.records += 1;
        self.report.first = self.report.first.or(Some(sealed.seq));
        self.report.last = Some(sealed.seq);
        self.compare(sealed, place)
    }

    /// Holds torn bytes against the `start` that follows them.
    fn answer(&mut self, sealed: &Sealed, place: &Place) {
        let found = self.junk.take();
        match (found, &sealed.torn) {
            (None, None) => {}
            (Some(junk), Some((bytes, digest))) => {
                if junk.bytes == *bytes && hex(junk.hashed.finish().as_ref()) == *digest {
                    self.report.torn.push(junk.place);
                } else {
                    let detail = "these are not the torn bytes that the next start speaks of";
                    self.fault(&junk.place, FaultKind::Edited, detail.to_owned());
                }
            }
            (Some(junk), None) => {
                self.junk = Some(junk);
                self.junk_is_a_fault();
            }
            (None, Some(_)) => {
                let detail = "the torn bytes that this start speaks of are gone";
                self.fault(place, FaultKind::Missing, detail.to_owned());
            }
        }
    }

    fn no_record(&mut self, line: &[u8], place: Place) {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if let Some(junk) = &mut self.junk {
            junk.hashed.update(b"\n");
            junk.hashed.update(line);
            junk.bytes += length + 1;
        } else {
            let mut hashed = Context::new(&SHA256);
            hashed.update(line);
            self.junk = Some(Junk {
                place,
                bytes: length,
                hashed,
            });
        }
    }

    fn junk_is_a_fault(&mut self) {
        if let Some(junk) = self.junk.take() {
            let detail = "this line is no record, or was changed".to_owned();
            self.fault(&junk.place, FaultKind::Edited, detail);
            self.before = None;
        }
    }

    /// Holds the record against the checkpoints up to it.
    fn compare(&mut self, sealed: &Sealed, place: &Place) -> io::Result<()> {
        while let Some(mark) = self.marks.up_to(sealed.seq, &mut self.report)? {
            if mark.seq < sealed.seq {
                // Before the first record: another file's. Later: a gap, which is a fault of its own already.
                continue;
            }
            if mark.hash.as_bytes() == sealed.hash {
                self.report.checkpoints += 1;
                self.report.covered = Some(sealed.seq);
            } else {
                let detail = format!("record {} is not the one that was signed", sealed.seq);
                self.fault(place, FaultKind::Checkpoint, detail);
            }
        }
        Ok(())
    }

    fn end(&mut self, options: &Options, last_file: &Path) {
        let place = Place {
            file: last_file.to_owned(),
            line: 0,
        };
        let last = self.report.last.unwrap_or(0);
        let end = self.marks.highest;
        if end > last && end <= self.marks.bound {
            let detail = format!("the trail ends with record {last}, but record {end} was signed");
            self.fault(&place, FaultKind::Checkpoint, detail);
        }
        if let Some(first) = self
            .report
            .first
            .filter(|&first| options.whole && first > 1)
        {
            let detail = format!("the trail begins with record {first}");
            self.fault(&place, FaultKind::Missing, detail);
        }
        self.report.keys.append(&mut self.marks.keys);
    }

    fn fault(&mut self, place: &Place, kind: FaultKind, detail: String) {
        if self.report.faults.len() < MOST_FAULTS {
            self.report.faults.push(Fault {
                place: place.clone(),
                kind,
                detail,
            });
        }
    }
}

/// The files by the number of their first record; `sort` is stable, so what has none keeps its place.
pub(super) fn in_order(files: &[PathBuf]) -> Result<Vec<PathBuf>, AuditError> {
    let mut numbered = Vec::with_capacity(files.len());
    for path in files {
        let first = first_record(path).map_err(|source| AuditError::Open {
            path: path.clone(),
            source,
        })?;
        numbered.push((first, path.clone()));
    }
    numbered.sort_by_key(|(first, _)| *first);
    numbered.dedup_by(|a, b| a.1 == b.1);
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn first_record(path: &Path) -> io::Result<u64> {
    let mut reader = BufReader::new(open(path)?);
    let mut line = Vec::new();
    for _ in 0..16 {
        line.clear();
        reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if let Some(sealed) = line.strip_suffix(b"\n").and_then(Sealed::read) {
            return Ok(sealed.seq);
        }
    }
    Ok(u64::MAX)
}

/// Opens a file to read; a folder is none.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}
