//! What was found in a file, for a person and for a program: line, column, caret, and what to do.

use std::fmt;

use serde::Serialize;

use super::conceal;
use super::fault::Draft;
use super::text::visible;

/// Everything found in one file, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    notes: Vec<Note>,
}

/// One fault or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong; never a value where a secret can stand.
    pub message: String,
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What to do.
    pub help: Option<String>,
    /// The line as it is shown: without comments, and with what may be a secret starred out.
    #[serde(skip)]
    excerpt: String,
}

/// How grave a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file does not hold.
    Error,
    /// It holds, but is probably not what was meant.
    Warning,
}

impl Report {
    /// The notes, in the order of the file.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// The number of faults, warnings left aside.
    pub fn faults(&self) -> usize {
        let is_fault = |note: &&Note| note.severity == Severity::Error;
        self.notes.iter().filter(is_fault).count()
    }

    /// A JSON list of `{"severity","message","file","line","column","help"}`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.notes).unwrap_or_else(|_| "[]".into())
    }

    /// A fault of the file as a whole.
    pub(super) fn of_file(file: &str, message: String, help: Option<String>) -> Self {
        let note = Note {
            severity: Severity::Error,
            message,
            file: file.into(),
            line: 1,
            column: 1,
            help,
            excerpt: String::new(),
        };
        Self { notes: vec![note] }
    }

    /// Finds lines and columns, and puts the notes into the file's order.
    pub(super) fn new(file: &str, text: &str, mut drafts: Vec<Draft>) -> Self {
        drafts.sort_by_key(|draft| draft.span.start);
        drafts.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        let shown = if drafts.is_empty() {
            String::new()
        } else {
            conceal::conceal(text)
        };
        let lines: Vec<&str> = shown.split('\n').collect();
        let mut cursor = Cursor::default();
        let note = |draft: Draft| {
            cursor.advance(text, draft.span.start);
            let excerpt = lines.get(cursor.line).copied().unwrap_or_default();
            Note {
                severity: draft.severity,
                message: draft.message,
                file: file.into(),
                line: cursor.line + 1,
                column: cursor.column + 1,
                help: draft.help,
                excerpt: excerpt.trim_end().into(),
            }
        };
        Self {
            notes: drafts.into_iter().map(note).collect(),
        }
    }
}

/// A walk through the text that counts lines and characters, both from 0. It never walks back.
#[derive(Debug, Default)]
struct Cursor {
    offset: usize,
    line: usize,
    column: usize,
}

impl Cursor {
    fn advance(&mut self, text: &str, to: usize) {
        let mut rest = text.get(self.offset..).unwrap_or_default().chars();
        while self.offset < to {
            let Some(c) = rest.next() else { return };
            if self.offset + c.len_utf8() > to {
                return; // never into the middle of a character
            }
            self.offset += c.len_utf8();
            if c == '\n' {
                self.line += 1;
                self.column = 0;
            } else {
                self.column += 1;
            }
        }
    }
}

/// The longest piece of a line that is shown.
const WIDTH: usize = 120;

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            ..
        } = self;
        let word = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        writeln!(f, "{file}:{line}:{column}: {word}{message}")?;
        if !self.excerpt.is_empty() {
            // A long line is shown from a little before the caret on.
            let skipped = if *column > WIDTH - 20 {
                *column - 20
            } else {
                0
            };
            let piece: String = self
                .excerpt
                .chars()
                .skip(skipped)
                .take(WIDTH)
                .map(visible)
                .collect();
            writeln!(f, "   | {piece}")?;
            writeln!(f, "   | {:>1$}", '^', *column - skipped)?;
        }
        for (place, line) in self.help.iter().flat_map(|help| help.lines()).enumerate() {
            let mark = if place == 0 { '=' } else { ' ' };
            writeln!(f, "   {mark} {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| write!(f, "{note}"))
    }
}

impl std::error::Error for Report {}
