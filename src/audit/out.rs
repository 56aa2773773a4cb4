//! The batch on its way into the sink: what a failed write took of it is remembered, and never written twice.

use std::io;
use std::time::Instant;

use super::AuditError;
use super::chain::Hex;
use super::sink::{LogFile, Output};

/// What is being written.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) output: Output,
    /// Whether checkpoints are signed.
    pub(super) signs: bool,
    /// Whole lines, of which the first `done` bytes are in the sink.
    pub(super) batch: Vec<u8>,
    pub(super) done: usize,
    /// The batch is in the file, but `fdatasync` failed.
    pub(super) unsynced: bool,
    /// The path leads elsewhere, and no file could be opened there: what is written might lie where nobody looks.
    pub(super) misplaced: bool,
    /// The last record of the batch, and its hash.
    pub(super) end: (u64, Hex),
    /// The last record that a checkpoint covers, and when it was signed.
    pub(super) signed: (u64, Instant),
    pub(super) looked: Instant,
}

impl Out {
    /// Goes on in a new file where the path no longer leads to the open one.
    pub(super) fn swap_file(&mut self) -> Result<(), AuditError> {
        let part = self.part_of_a_line();
        let Some(log) = self.output.file_mut() else {
            return Ok(());
        };
        self.misplaced = !log.in_place();
        if !self.misplaced {
            return Ok(());
        }
        let new = LogFile::open(&log.path)?;
        if new.size > 0 {
            return Err(AuditError::NotATrail {
                path: log.path.clone(),
            });
        }
        // The new file begins with a whole line.
        if part > 0 && log.take_back(part).is_ok() {
            self.done = self
                .done
                .saturating_sub(usize::try_from(part).unwrap_or_default());
        }
        self.output = Output::File(new);
        self.misplaced = false;
        self.unsynced = false;
        Ok(())
    }

    /// Writes the rest of the batch. What a failed write did take is not written again.
    pub(super) fn put(&mut self) -> io::Result<()> {
        while let Some(rest) = self.batch.get(self.done..).filter(|rest| !rest.is_empty()) {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced
            && let Output::File(log) = &self.output
        {
            log.rewrite(&self.batch)?;
        }
        self.unsynced = true;
        self.output.sync()?;
        self.unsynced = false;
        Ok(())
    }

    /// The last record, if more than `spare` are written that no checkpoint covers.
    pub(super) fn take_due(&mut self, spare: u64, now: Instant) -> Option<(u64, Hex)> {
        let due = self.signs && self.batch.is_empty() && self.end.0 > self.signed.0 + spare;
        due.then(|| {
            self.signed = (self.end.0, now);
            self.end
        })
    }

    /// How many bytes of an unfinished line are in the sink.
    pub(super) fn part_of_a_line(&self) -> u64 {
        let written = self.batch.get(..self.done).unwrap_or_default();
        let begun = written
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        u64::try_from(self.done - begun).unwrap_or_default()
    }
}
