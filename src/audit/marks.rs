//! The signed checkpoints as a verification reads them: along with the records, in constant memory.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::AuditError;
use super::checkpoint::{Checkpoint, beside};
use super::verify::{Fault, FaultKind, MOST_FAULTS, Options, Place, Report, open};

/// The checkpoints, read along with the records.
pub(super) struct Marks {
    lines: Option<(PathBuf, BufReader<File>)>,
    next: Option<Checkpoint>,
    line: u64,
    key: Option<String>,
    pub(super) keys: Vec<String>,
    pub(super) highest: u64,
    /// The given files end here, by their name: later checkpoints belong to later files.
    pub(super) bound: u64,
}

impl Marks {
    /// Finds and opens the checkpoints of `files`.
    pub(super) fn open(files: &[PathBuf], options: &Options) -> Result<Self, AuditError> {
        let named = |path: &Path| AuditError::Open {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        let mut found = options.checkpoints.clone();
        let mut bound = 0;
        for file in files {
            let (base, end) = base(file);
            bound = bound.max(end.unwrap_or(u64::MAX));
            let beside = beside(&base, "checkpoints");
            if found.is_none() && beside.exists() {
                found = Some(beside);
            }
        }
        let lines = match found {
            Some(path) => {
                let file = open(&path).map_err(|source| AuditError::Open {
                    path: path.clone(),
                    source,
                })?;
                Some((path, BufReader::new(file)))
            }
            None if options.key.is_some() => {
                return Err(named(files.first().map_or(Path::new(""), PathBuf::as_path)));
            }
            None => None,
        };
        let (key, keys) = (options.key.clone(), Vec::new());
        let mut marks = Self {
            lines,
            next: None,
            line: 0,
            key,
            keys,
            highest: 0,
            bound,
        };
        marks.highest = marks.find_highest()?;
        Ok(marks)
    }

    /// The highest record that the file signs for, whoever truncated what: read once before the records.
    fn find_highest(&self) -> Result<u64, AuditError> {
        let Some((path, _)) = &self.lines else {
            return Ok(0);
        };
        let fault = |source| AuditError::Open {
            path: path.clone(),
            source,
        };
        let mut reader = BufReader::new(open(path).map_err(fault)?);
        let mut line = Vec::new();
        let mut highest = 0;
        loop {
            line.clear();
            if reader
                .by_ref()
                .take(4096)
                .read_until(b'\n', &mut line)
                .map_err(fault)?
                == 0
            {
                return Ok(highest);
            }
            let signed = Checkpoint::read(line.strip_suffix(b"\n").unwrap_or(&line));
            if let Ok(Some(mark)) = signed
                && self.key.as_ref().is_none_or(|key| *key == mark.key)
            {
                highest = highest.max(mark.seq);
            }
        }
    }

    /// The next checkpoint that is not beyond record `seq`.
    pub(super) fn up_to(
        &mut self,
        seq: u64,
        report: &mut Report,
    ) -> io::Result<Option<Checkpoint>> {
        if self.next.is_none() {
            self.next = self.read(report)?;
        }
        Ok(self.next.take_if(|mark| mark.seq <= seq))
    }

    fn read(&mut self, report: &mut Report) -> io::Result<Option<Checkpoint>> {
        let Some((path, reader)) = &mut self.lines else {
            return Ok(None);
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(4096).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let fault = match Checkpoint::read(line.strip_suffix(b"\n").unwrap_or(&line)) {
                Ok(Some(mark)) if self.key.as_ref().is_none_or(|key| *key == mark.key) => {
                    if !self.keys.contains(&mark.key) {
                        self.keys.push(mark.key.clone());
                    }
                    return Ok(Some(mark));
                }
                Ok(Some(_)) => "another key signed this",
                Ok(None) => continue,
                Err(detail) => detail,
            };
            if report.faults.len() < MOST_FAULTS {
                let place = Place {
                    file: path.clone(),
                    line: self.line,
                };
                report.faults.push(Fault {
                    place,
                    kind: FaultKind::Checkpoint,
                    detail: fault.to_owned(),
                });
            }
        }
    }
}

/// A rotated file's name is the file's own with the number of its last record.
fn base(path: &Path) -> (PathBuf, Option<u64>) {
    let digits = path
        .extension()
        .and_then(|e| e.to_str())
        .and_then(|e| e.split('-').next()?.parse::<u64>().ok());
    match digits {
        Some(end) => (path.with_extension(""), Some(end)),
        None => (path.to_owned(), None),
    }
}
