//! The one table of keys: the reader, the JSON Schema and the reference in the docs are made from it and cannot drift.

use std::time::Duration;

/// A table of the file and the keys that it knows.
#[derive(Debug)]
pub(super) struct Section {
    /// How messages and docs call it: `[proxy]`, `[credential.NAME]`, `a source`.
    pub(super) title: &'static str,
    /// Its keys, in the order of the docs.
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    /// One or two sentences for docs and schema.
    pub(super) meaning: &'static str,
}

/// What a key holds.
#[derive(Debug)]
pub(super) enum Kind {
    /// Text; the word says what kind of text, for messages and docs.
    Text(&'static str),
    /// Text in which a secret may stand by mistake: reports never show it.
    Guarded(&'static str),
    /// A path; relative ones start at the file's folder.
    Path,
    /// A date, as text or as a TOML date.
    Date,
    /// `true` or `false`.
    Flag,
    /// A whole number from, to.
    Count(u64, u64),
    /// A duration from, to.
    Duration(Duration, Duration),
    /// A size in bytes from, to.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Where a secret is read from.
    Source,
    /// A list that is not empty.
    List(&'static Kind),
    /// A table with free keys.
    Map(&'static Kind),
    /// A table.
    Table(&'static Section),
    /// Tables by NAME.
    Named(&'static Section),
    /// `[[…]]`.
    Rows(&'static Section),
    /// Any of these.
    Either(&'static [Kind]),
}

/// Whether a key must stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
    /// Left out it has this value, in TOML.
    Default(&'static str),
    /// Exactly one of the keys with this mark stands in the table.
    OneOf,
}

pub(super) const fn key(name: &'static str, kind: Kind, need: Need, meaning: &'static str) -> Key {
    Key {
        name,
        kind,
        need,
        meaning,
    }
}

pub(super) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) const HOUR: Duration = secs(3600);
pub(super) const DAY: Duration = secs(24 * 3600);

impl Section {
    /// The key of this name.
    pub(super) fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names of the keys of which exactly one stands in the table.
    pub(super) fn one_of(&self) -> impl Iterator<Item = &'static str> {
        let chosen = |key: &&Key| key.need == Need::OneOf;
        self.keys.iter().filter(chosen).map(|key| key.name)
    }
}

impl Kind {
    /// The sections that can stand below a value of this kind.
    pub(super) fn sections(&self) -> Vec<&'static Section> {
        match self {
            Self::Table(section) | Self::Named(section) | Self::Rows(section) => vec![section],
            Self::Source => vec![&super::source::SOURCE],
            Self::List(kind) | Self::Map(kind) => kind.sections(),
            Self::Either(kinds) => kinds.iter().flat_map(Self::sections).collect(),
            Self::Text(_)
            | Self::Guarded(_)
            | Self::Path
            | Self::Date
            | Self::Flag
            | Self::Count(..)
            | Self::Duration(..)
            | Self::Size(..)
            | Self::Choice(_) => Vec::new(),
        }
    }

    /// The words of a choice, also where it is one of several kinds.
    pub(super) fn words(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::Choice(words) => Some(words),
            Self::Either(kinds) => kinds.iter().find_map(Self::words),
            _ => None,
        }
    }

    /// Whether a report may show what was written: not where a secret can stand, rightly or by mistake.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Guarded(_) | Self::Source | Self::Table(_) | Self::Named(_) | Self::Rows(_) => {
                false
            }
            // Only words of ours: what else stands there may be anything.
            Self::Map(kind) => matches!(kind, Self::Choice(_)),
            Self::List(kind) => kind.is_plain(),
            Self::Either(kinds) => kinds.iter().any(Self::is_plain),
            Self::Text(_)
            | Self::Path
            | Self::Date
            | Self::Flag
            | Self::Count(..)
            | Self::Duration(..)
            | Self::Size(..)
            | Self::Choice(_) => true,
        }
    }

    /// What is due, as messages say it: "expected …".
    pub(super) fn due(&self) -> String {
        match self {
            Self::Text(what) | Self::Guarded(what) => format!("text: {what}"),
            Self::Path => "text: a path".into(),
            Self::Date => "a date such as \"2026-11-01\"".into(),
            Self::Flag => "true or false".into(),
            Self::Count(..) => "a whole number".into(),
            Self::Duration(..) => "a duration as text, such as \"30s\"".into(),
            Self::Size(..) => "a size as text, such as \"64KiB\"".into(),
            Self::Choice(words) => super::text::any_of(words),
            Self::Source => format!("a source of a secret: {}", super::source::FORMS),
            Self::List(kind) => format!("a list of {}", kind.plural()),
            Self::Map(_) | Self::Table(_) | Self::Named(_) => "a table".into(),
            Self::Rows(_) => "a list of tables".into(),
            Self::Either(kinds) => {
                let due: Vec<_> = kinds.iter().map(Self::due).collect();
                due.join(", or ")
            }
        }
    }

    fn plural(&self) -> &'static str {
        match self {
            Self::Choice(_) => "words",
            Self::Table(_) | Self::Source => "tables",
            _ => "texts",
        }
    }
}

/// Every section that can be reached from the root, each once, in the order of the docs.
pub(super) fn sections() -> Vec<&'static Section> {
    let mut found: Vec<&'static Section> = vec![&super::file::ROOT];
    let mut next = 0;
    while let Some(section) = found.get(next).copied() {
        let below = section.keys.iter().flat_map(|key| key.kind.sections());
        for section in below {
            if !found.iter().any(|known| std::ptr::eq(*known, section)) {
                found.push(section);
            }
        }
        next += 1;
    }
    found
}
