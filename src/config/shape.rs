//! Every value is of the kind that its key has, also under keys that nobody read: what hangs on a choice that was not
//! made, or on a neighbour that is missing, is held to its kind all the same.

use toml::de::{DeTable, DeValue};

use super::fault::Desk;
use super::key::{Kind, Section};
use super::reader::{Value, article};

/// Lays down a fault for each value of another kind that has none yet.
pub(super) fn look(desk: &Desk, section: &'static Section, table: &DeTable<'_>) {
    for (name, value) in table {
        let Some(key) = section.find(name.get_ref()) else {
            continue;
        };
        if admits(&key.kind, value.get_ref()) {
            look_within(desk, key.name, &key.kind, value);
        } else if !desk.has_told(&name.span()) {
            tell(desk, &format!("\"{}\"", key.name), &key.kind, value);
        }
    }
}

/// The items of a list or a table. Where several kinds could be meant, their reader says which.
fn look_within(desk: &Desk, name: &str, kind: &Kind, value: &Value<'_>) {
    let mut fitting = Vec::new();
    choose(kind, value.get_ref(), &mut fitting);
    let [kind] = fitting[..] else { return };
    match (kind, value.get_ref()) {
        (Kind::List(kind), DeValue::Array(items)) => {
            let title = format!("an item of \"{name}\"");
            for item in items {
                look_at_item(desk, (name, &title), kind, item);
            }
        }
        (Kind::Map(kind), DeValue::Table(table)) => {
            let title = format!("a value of \"{name}\"");
            for (_, item) in table {
                look_at_item(desk, (name, &title), kind, item);
            }
        }
        (Kind::Rows(section), DeValue::Array(items)) => {
            for item in items {
                look_at_table(desk, section, item);
            }
        }
        (Kind::Named(section), DeValue::Table(table)) => {
            for (_, item) in table {
                look_at_table(desk, section, item);
            }
        }
        (Kind::Table(section), DeValue::Table(table)) => look(desk, section, table),
        (Kind::Source, DeValue::Table(table)) => look(desk, &super::source::SOURCE, table),
        _ => {}
    }
}

fn look_at_item(desk: &Desk, (name, title): (&str, &str), kind: &Kind, item: &Value<'_>) {
    if admits(kind, item.get_ref()) {
        look_within(desk, name, kind, item);
    } else {
        tell(desk, title, kind, item);
    }
}

/// Not a table: its reader has told so, since no choice stands before it.
fn look_at_table(desk: &Desk, section: &'static Section, item: &Value<'_>) {
    if let DeValue::Table(table) = item.get_ref() {
        look(desk, section, table);
    }
}

fn tell(desk: &Desk, title: &str, kind: &Kind, value: &Value<'_>) {
    if !desk.has_told(&value.span()) {
        let (found, due) = (article(value.get_ref()), kind.due());
        let message = format!("{title} is {found}; expected {due}");
        desk.fault(&value.span(), message);
    }
}

/// The kinds of which the value can be, alternatives taken apart.
fn choose<'k>(kind: &'k Kind, value: &DeValue<'_>, fitting: &mut Vec<&'k Kind>) {
    match kind {
        Kind::Either(kinds) => kinds.iter().for_each(|kind| choose(kind, value, fitting)),
        kind if admits(kind, value) => fitting.push(kind),
        _ => {}
    }
}

/// Whether the value can be of this kind, by its shape alone.
fn admits(kind: &Kind, value: &DeValue<'_>) -> bool {
    match kind {
        Kind::Text(_)
        | Kind::Guarded(_)
        | Kind::Path
        | Kind::Duration(..)
        | Kind::Size(..)
        | Kind::Choice(_) => matches!(value, DeValue::String(_)),
        Kind::Date => matches!(value, DeValue::String(_) | DeValue::Datetime(_)),
        Kind::Flag => matches!(value, DeValue::Boolean(_)),
        Kind::Count(..) => matches!(value, DeValue::Integer(_)),
        Kind::List(_) | Kind::Rows(_) => matches!(value, DeValue::Array(_)),
        Kind::Source | Kind::Map(_) | Kind::Table(_) | Kind::Named(_) => {
            matches!(value, DeValue::Table(_))
        }
        Kind::Either(kinds) => kinds.iter().any(|kind| admits(kind, value)),
    }
}
