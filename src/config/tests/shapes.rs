//! No key of the schema takes a value of another kind in silence: every one of them is tried with every kind of value.

use super::read;
use crate::config::Severity;
use crate::config::key::{Kind, Section};

/// A value of each of TOML's kinds. None of them is what any key means.
const VALUES: [(Shape, &str); 7] = [
    (Shape::Text, "\"\""),
    (Shape::Whole, "-7"),
    (Shape::Number, "0.5"),
    (Shape::Flag, "true"),
    (Shape::Date, "1979-05-27"),
    (Shape::List, "[[]]"),
    (Shape::Table, "{ 'no such key' = [[]] }"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Whole,
    Number,
    Flag,
    Date,
    List,
    Table,
}

/// Whether a value of this shape can be what the kind means.
fn admits(kind: &Kind, shape: Shape) -> bool {
    match kind {
        Kind::Text(_)
        | Kind::Guarded(_)
        | Kind::Path
        | Kind::Duration(..)
        | Kind::Size(..)
        | Kind::Choice(_) => shape == Shape::Text,
        Kind::Date => matches!(shape, Shape::Text | Shape::Date),
        Kind::Flag => shape == Shape::Flag,
        Kind::Count(..) => shape == Shape::Whole,
        Kind::List(_) | Kind::Rows(_) => shape == Shape::List,
        Kind::Source | Kind::Map(_) | Kind::Table(_) | Kind::Named(_) => shape == Shape::Table,
        Kind::Either(kinds) => kinds.iter().any(|kind| admits(kind, shape)),
    }
}

/// Values that are not of this kind, and lists and tables whose items are not.
fn wrong(kind: &Kind) -> Vec<String> {
    let whole = VALUES.iter().filter(|(shape, _)| !admits(kind, *shape));
    let mut wrong: Vec<String> = whole.map(|(_, value)| (*value).to_owned()).collect();
    wrong.extend(wrong_within(kind));
    wrong
}

fn wrong_within(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::List(item) => (wrong(item).iter())
            .map(|item| format!("[{item}]"))
            .collect(),
        Kind::Map(item) => (wrong(item).iter())
            .map(|item| format!("{{ x = {item} }}"))
            .collect(),
        Kind::Either(kinds) => kinds.iter().flat_map(wrong_within).collect(),
        _ => Vec::new(),
    }
}

/// What is written around a table: a header, and what stands before and after it on its line.
#[derive(Debug, Clone)]
struct Around {
    /// The path of the header's table; `None` once the table stands within a line.
    header: Vec<&'static str>,
    rows: bool,
    before: String,
    after: String,
}

impl Around {
    fn document(&self, line: &str) -> String {
        let name = self.header.join(".");
        let header = match (self.header.is_empty(), self.rows) {
            (true, _) => String::new(),
            (false, true) => format!("[[{name}]]"),
            (false, false) => format!("[{name}]"),
        };
        format!("{header}\n{}{line}{}\n", self.before, self.after)
    }

    fn within(&self, before: &str, after: &str) -> Self {
        Self {
            before: format!("{}{before}", self.before),
            after: format!("{after}{}", self.after),
            ..self.clone()
        }
    }
}

/// The tables that can stand as this key's value, with what is then written around their keys.
fn below(around: &Around, name: &'static str, kind: &Kind) -> Vec<(Around, &'static Section)> {
    let header = |more: &[&'static str], rows| Around {
        header: [&around.header[..], more].concat(),
        rows,
        ..around.clone()
    };
    let inline = !around.before.is_empty() || around.rows;
    match kind {
        Kind::Table(section) if !inline => vec![(header(&[name], false), section)],
        Kind::Named(section) if !inline => vec![(header(&[name, "x"], false), section)],
        Kind::Rows(section) if !inline => vec![(header(&[name], true), section)],
        _ => {
            let around = around.within(&format!("{name} = "), "");
            values(&around, kind)
        }
    }
}

fn values(around: &Around, kind: &Kind) -> Vec<(Around, &'static Section)> {
    match kind {
        Kind::Table(section) => vec![(around.within("{ ", " }"), section)],
        Kind::Source => vec![(around.within("{ ", " }"), &crate::config::source::SOURCE)],
        Kind::Named(section) => vec![(around.within("{ x = { ", " } }"), section)],
        Kind::Rows(section) => vec![(around.within("[{ ", " }]"), section)],
        Kind::List(kind) => values(&around.within("[", "]"), kind),
        Kind::Map(kind) => values(&around.within("{ x = ", " }"), kind),
        Kind::Either(kinds) => kinds.iter().flat_map(|kind| values(around, kind)).collect(),
        _ => Vec::new(),
    }
}

/// A fault on the value's own line, at the key or behind it.
fn is_told(text: &str, key: &str, value: &str) -> bool {
    let (line, row) = (text.lines().enumerate())
        .find_map(|(place, row)| row.contains(value).then_some((place + 1, row)))
        .unwrap();
    let column = row.rfind(&format!("{key} = ")).unwrap() + 1;
    let Err(report) = read(text) else {
        return false;
    };
    report
        .notes()
        .iter()
        .any(|note| note.severity == Severity::Error && note.line == line && note.column >= column)
}

#[test]
fn a_value_of_another_kind_is_a_fault_for_every_key() {
    let root = Around {
        header: Vec::new(),
        rows: false,
        before: String::new(),
        after: String::new(),
    };
    let mut tables: Vec<(Around, &'static Section)> = vec![(root, &crate::config::file::ROOT)];
    let (mut tried, mut silent, mut next) = (0, Vec::new(), 0);
    while let Some((around, section)) = tables.get(next).cloned() {
        next += 1;
        for key in section.keys {
            for (below, section) in below(&around, key.name, &key.kind) {
                // One way to each table of each kind will do.
                let known = |(known, other): &(Around, &Section)| {
                    std::ptr::eq(*other, section) && known.header == below.header
                };
                if !tables.iter().any(known) {
                    tables.push((below, section));
                }
            }
            for value in wrong(&key.kind) {
                let text = around.document(&format!("{} = {value}", key.name));
                tried += 1;
                if !is_told(&text, key.name, &value) {
                    silent.push(text.trim().to_owned());
                }
            }
        }
    }
    assert!(tried > 1000, "only {tried} were tried");
    assert!(
        silent.is_empty(),
        "{} of {tried} are taken:\n{}",
        silent.len(),
        silent.join("\n")
    );
}
