//! Reads one table by its [`Section`]: a key that the section does not know is a fault, and so is a value of another kind.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Desk, Span};
use super::key::{Key, Kind, Need, Section};
use super::text;
use crate::agent::Name;

/// A value as it stands in the file.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// One table, being read.
#[derive(Debug)]
pub(super) struct Reader<'a, 'i> {
    pub(super) desk: &'a Desk,
    /// Where a fault of the table as a whole is shown.
    pub(super) span: Span,
    /// How messages call it: `[credential.openai]`.
    pub(super) title: String,
    pub(super) section: &'static Section,
    pub(super) table: &'a DeTable<'i>,
}

impl<'a, 'i> Reader<'a, 'i> {
    /// Opens a table and looks at its keys.
    pub(super) fn open(
        desk: &'a Desk,
        section: &'static Section,
        title: String,
        span: Span,
        table: &'a DeTable<'i>,
    ) -> Self {
        let reader = Self {
            desk,
            span,
            title,
            section,
            table,
        };
        reader.look_for_unknown();
        reader.look_for_required();
        reader
    }

    /// Opens a value that must be a table; faults of the table as a whole are shown at `span`.
    pub(super) fn open_value(
        desk: &'a Desk,
        section: &'static Section,
        title: String,
        span: Span,
        value: &'a Value<'i>,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::open(desk, section, title, span, table)),
            other => {
                let message = format!("{title} is a table, not {}", article(other));
                let keys: Vec<_> = section.keys.iter().map(|key| key.name).collect();
                let help = format!("its keys are: {}", keys.join(", "));
                desk.fault_with(&value.span(), message, help);
                None
            }
        }
    }

    fn look_for_unknown(&self) {
        for (key, _) in self.table {
            let name = key.get_ref();
            if self.section.find(name).is_none() {
                let message = format!("{} has no key {}", self.title, text::quoted(name));
                self.desk
                    .fault_with(&key.span(), message, self.other_key(name));
            }
        }
    }

    /// What was meant by an unknown key: a near one, the same one elsewhere, or any of this table.
    fn other_key(&self, written: &str) -> String {
        let here = self.section.keys.iter().map(|key| key.name);
        if let Some(near) = text::nearest(written, here.clone()) {
            return format!("did you mean \"{near}\"?");
        }
        let elsewhere = super::key::sections()
            .into_iter()
            .find(|section| section.find(written).is_some());
        let list: Vec<_> = here.collect();
        let known = format!("its keys are: {}", list.join(", "));
        match elsewhere {
            Some(section) => format!("\"{written}\" is a key of {}\n{known}", section.title),
            None => known,
        }
    }

    fn look_for_required(&self) {
        for key in self.section.keys {
            if key.need == Need::Required && !self.has(key.name) && !self.is_mistyped(key.name) {
                let message = format!("{} needs the key \"{}\"", self.title, key.name);
                let help = format!("expected {}", key.kind.due());
                self.desk.missing(&self.span, message, help);
            }
        }
        if self.section.one_of().next().is_some() {
            self.look_for_one_of();
        }
    }

    /// Whether an unknown key, told already, was probably meant to be this one.
    fn is_mistyped(&self, name: &str) -> bool {
        let known = || self.section.keys.iter().map(|key| key.name);
        let mut unknown = self.table.iter().map(|(key, _)| &**key.get_ref());
        unknown.any(|key| {
            self.section.find(key).is_none() && text::nearest(key, known()) == Some(name)
        })
    }

    fn look_for_one_of(&self) {
        let names: Vec<_> = self.section.one_of().collect();
        let mut given: Vec<_> = self.given(&names).collect();
        given.sort_by_key(|(_, span)| span.start);
        match &*given {
            [] => {
                // A kind that does not exist was told as an unknown key already.
                let mut keys = self.table.iter().map(|(key, _)| key.get_ref());
                if keys.all(|key| self.section.find(key).is_some()) {
                    let message = format!("{} needs one of: {}", self.title, names.join(", "));
                    let help = format!("write exactly one of {}", text::any_of(&names));
                    self.desk.missing(&self.span, message, help);
                }
            }
            [_] => {}
            [(first, _), rest @ ..] => {
                for (second, span) in rest {
                    let message = format!("{} has \"{first}\" and \"{second}\"", self.title);
                    let help = format!("write exactly one of {}", text::any_of(&names));
                    self.desk.fault_with(span, message, help);
                }
            }
        }
    }

    /// Which of these keys stand there, and where.
    fn given(&self, names: &'a [&'static str]) -> impl Iterator<Item = (&'static str, Span)> {
        names.iter().filter_map(|name| {
            let (key, _) = self.table.get_key_value(*name)?;
            Some((*name, key.span()))
        })
    }

    /// The one of the alternatives that stands there.
    pub(super) fn chosen(&self) -> Option<&'static str> {
        self.section.one_of().find(|name| self.has(name))
    }

    /// Whether the key stands there, with whatever value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The key itself, for faults about it.
    pub(super) fn key_span(&self, name: &str) -> Span {
        self.table
            .get_key_value(name)
            .map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    /// The value as it stands.
    pub(super) fn raw(&self, name: &str) -> Option<&'a Value<'i>> {
        self.table.get(name)
    }

    pub(super) fn key(&self, name: &str) -> &'static Key {
        self.section
            .find(name)
            .expect("a section's reader asks for keys of that section")
    }

    /// A fault for a value of the wrong kind.
    pub(super) fn wrong(&self, name: &str, value: &Value<'i>) {
        let message = format!(
            "\"{name}\" is {}; expected {}",
            article(value.get_ref()),
            self.key(name).kind.due()
        );
        match self.example(name) {
            Some(help) => self.desk.fault_with(&value.span(), message, help),
            None => self.desk.fault(&value.span(), message),
        }
    }

    fn example(&self, name: &str) -> Option<String> {
        let key = self.key(name);
        match (key.need, &key.kind) {
            (Need::Default(default), _) => Some(format!("for example: {name} = {default}")),
            (_, Kind::List(_)) => Some(format!("for example: {name} = [\"…\"]")),
            _ => None,
        }
    }

    /// The table below this key.
    pub(super) fn table(&self, name: &str) -> Option<Reader<'a, 'i>> {
        let value = self.raw(name)?;
        let Kind::Table(section) = &self.key(name).kind else {
            self.wrong(name, value);
            return None;
        };
        let title = self.below(name);
        Reader::open_value(self.desk, section, title, self.key_span(name), value)
    }

    /// The tables below this key, by NAME, in the file's order.
    pub(super) fn named(&self, name: &str) -> Vec<(Name, Reader<'a, 'i>)> {
        let Kind::Named(section) = &self.key(name).kind else {
            if let Some(value) = self.raw(name) {
                self.wrong(name, value);
            }
            return Vec::new();
        };
        let mut found = Vec::new();
        for (key, value) in self.entries(name) {
            let title = self.below(&format!("{name}.{}", key.get_ref()));
            // Under a bad name the table is read all the same: its faults are told at once.
            let name = parse_name(self.desk, key).unwrap_or_else(unnamed);
            let reader = Reader::open_value(self.desk, section, title, key.span(), value);
            found.extend(reader.map(|reader| (name, reader)));
        }
        found
    }

    /// The pairs of the table with free keys below this key, in the file's order.
    pub(super) fn entries(
        &self,
        name: &str,
    ) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Value<'i>)> {
        let Some(value) = self.raw(name) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(name, value);
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    /// The tables of `[[name]]`.
    pub(super) fn rows(&self, name: &str) -> Vec<Reader<'a, 'i>> {
        let Some(value) = self.raw(name) else {
            return Vec::new();
        };
        let Kind::Rows(section) = &self.key(name).kind else {
            self.wrong(name, value);
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            let message = format!(
                "\"{name}\" is a list of tables, not {}",
                article(value.get_ref())
            );
            let help = format!("write its header in two brackets: [[{name}]]");
            self.desk.fault_with(&self.key_span(name), message, help);
            return Vec::new();
        };
        let open = |item: &'a Value<'i>| {
            Reader::open_value(self.desk, section, format!("[[{name}]]"), item.span(), item)
        };
        items.iter().filter_map(open).collect()
    }

    /// The title of a table below this one.
    fn below(&self, name: &str) -> String {
        let name: String = name.chars().take(80).map(text::visible).collect();
        match self.title.strip_suffix(']') {
            Some(head) if !self.title.starts_with("[[") => format!("{head}.{name}]"),
            Some(_) => format!("\"{name}\""),
            None => format!("[{name}]"),
        }
    }
}

/// A NAME that stands as a key.
pub(super) fn parse_name(desk: &Desk, key: &Spanned<toml::de::DeString<'_>>) -> Option<Name> {
    match key.get_ref().parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} is not a name", text::quoted(key.get_ref()));
            desk.fault_with(&key.span(), message, error);
            None
        }
    }
}

fn unnamed() -> Name {
    "unnamed".parse().expect("a static name is valid")
}

/// What stands there, with its article.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
