//! Faults and warnings on their way to a report: collected, never thrown, so that all are told at once.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::report::Severity;
use crate::credential::Source;

/// A range of bytes in the file.
pub(super) type Span = Range<usize>;

/// What was found at a span.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) severity: Severity,
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Something is not there: after a syntax error that may be the parser's loss, and is not told.
    pub(super) absence: bool,
}

/// A file that the configuration names, and where.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) span: Span,
    pub(super) what: Named,
}

/// What is named at a [`Site`].
#[derive(Debug, Clone)]
pub(super) enum Named {
    /// The source of a secret.
    Secret(Source),
    /// A file of certificates.
    Certificates(PathBuf),
    /// A folder that a file is made in.
    Folder(PathBuf),
    /// The key of the store: its shape can be looked at.
    StoreKey(Source),
}

/// Where faults are laid down while sections are read, with what every section needs to know.
#[derive(Debug)]
pub(super) struct Desk {
    base: PathBuf,
    drafts: RefCell<Vec<Draft>>,
    sites: RefCell<Vec<Site>>,
}

impl Desk {
    /// `base` is the folder at which relative paths start.
    pub(super) fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            drafts: RefCell::default(),
            sites: RefCell::default(),
        }
    }

    /// A fault.
    pub(super) fn fault(&self, span: &Span, message: impl Display) {
        self.put(Severity::Error, span, message, None, false);
    }

    /// A fault and what to do about it.
    pub(super) fn fault_with(&self, span: &Span, message: impl Display, help: impl Display) {
        let help = Some(help.to_string());
        self.put(Severity::Error, span, message, help, false);
    }

    /// Something that must stand there does not.
    pub(super) fn missing(&self, span: &Span, message: impl Display, help: impl Display) {
        let help = Some(help.to_string());
        self.put(Severity::Error, span, message, help, true);
    }

    /// Something that holds, but is probably not meant.
    pub(super) fn warn(&self, span: &Span, message: impl Display, help: impl Display) {
        let help = Some(help.to_string());
        self.put(Severity::Warning, span, message, help, false);
    }

    fn put(
        &self,
        severity: Severity,
        span: &Span,
        message: impl Display,
        help: Option<String>,
        absence: bool,
    ) {
        self.drafts.borrow_mut().push(Draft {
            severity,
            span: span.clone(),
            message: message.to_string(),
            help,
            absence,
        });
    }

    /// The path from the file's folder.
    pub(super) fn rooted(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Notes what the machine must have.
    pub(super) fn site(&self, span: &Span, what: Named) {
        let span = span.clone();
        self.sites.borrow_mut().push(Site { span, what });
    }

    /// Drops what does not pass.
    pub(super) fn keep(&self, pass: impl Fn(&Draft) -> bool) {
        self.drafts.borrow_mut().retain(pass);
    }

    /// Whether a fault, not only warnings, was laid down.
    pub(super) fn has_faults(&self) -> bool {
        let drafts = self.drafts.borrow();
        drafts.iter().any(|draft| draft.severity == Severity::Error)
    }

    /// Whether a fault was laid down within this span.
    pub(super) fn has_told(&self, span: &Span) -> bool {
        let within = |other: &Span| span.start <= other.start && other.end <= span.end;
        let drafts = self.drafts.borrow();
        (drafts.iter()).any(|draft| draft.severity == Severity::Error && within(&draft.span))
    }

    /// What the machine must have.
    pub(super) fn sites(&self) -> Vec<Site> {
        self.sites.borrow().clone()
    }

    /// All that was laid down.
    pub(super) fn into_drafts(self) -> Vec<Draft> {
        self.drafts.into_inner()
    }
}
