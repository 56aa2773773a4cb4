//! The reference in the docs and the schema for editors are written from the reader's own tables of keys.
//!
//! `KEYWARD_BLESS=1 cargo test config::tests::docs` writes both anew.

use std::fmt::Write as _;

use super::root;
use crate::config::key::{Kind, Need, Section, sections};
use crate::config::{schema, text};

#[test]
fn the_reference_names_every_key_and_no_other() {
    let path = root().join("docs/configuration.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let mut page = written.clone();
    for section in sections() {
        let (head, tail) = (
            format!("<!-- keys of {} -->\n", section.title),
            "<!-- end -->",
        );
        let start = page
            .find(&head)
            .unwrap_or_else(|| panic!("the docs lack {head}"))
            + head.len();
        let end = start + page[start..].find(tail).unwrap();
        page.replace_range(start..end, &table(section));
    }
    assert_eq!(page.matches("<!-- keys of").count(), sections().len());
    settle(&path, &written, &page);
}

#[test]
fn the_schema_is_that_of_the_reader() {
    let path = root().join("docs/keyward.schema.json");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let fresh = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    settle(&path, &written, &fresh);
}

fn settle(path: &std::path::Path, written: &str, fresh: &str) {
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(path, fresh).unwrap();
    } else {
        assert!(
            written == fresh,
            "{} is not what the reader knows: KEYWARD_BLESS=1 writes it",
            path.display()
        );
    }
}

fn table(section: &Section) -> String {
    let mut table = String::from("\n| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        let default = match key.need {
            Need::Default(text) => format!("`{text}`"),
            Need::Required => "required".into(),
            Need::OneOf => "one of these".into(),
            Need::Optional => String::new(),
        };
        let (name, kind) = (key.name, shown(&key.kind));
        writeln!(table, "| `{name}` | {kind} | {default} | {} |", key.meaning).unwrap();
    }
    table + "\n"
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Text(what) | Kind::Guarded(what) => (*what).into(),
        Kind::Path => "path".into(),
        Kind::Date => "date".into(),
        Kind::Flag => "true or false".into(),
        Kind::Count(from, to) => format!("{from} to {to}"),
        Kind::Duration(from, to) => {
            format!(
                "{} to {}",
                text::show_duration(*from),
                text::show_duration(*to)
            )
        }
        Kind::Size(from, to) => format!("{} to {}", text::show_size(*from), text::show_size(*to)),
        Kind::Choice(words) => text::any_of(words),
        Kind::Source => "[source](#sources-of-secrets)".into(),
        Kind::List(kind) => format!("list of: {}", shown(kind)),
        Kind::Map(kind) => format!("NAME = {}", shown(kind)),
        Kind::Table(_) => "table".into(),
        Kind::Named(_) => "tables by NAME".into(),
        Kind::Rows(_) => "list of tables".into(),
        Kind::Either(kinds) => kinds.iter().map(shown).collect::<Vec<_>>().join(", or "),
    }
}
