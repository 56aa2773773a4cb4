//! Reads one table by its [`Section`]: a key that the section does not know is a fault, and so is a value of another kind.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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
    section: &'static Section,
    table: &'a DeTable<'i>,
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

    /// Opens a value that must be a table.
    pub(super) fn open_value(
        desk: &'a Desk,
        section: &'static Section,
        title: String,
        value: &'a Value<'i>,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::open(desk, section, title, value.span(), table)),
            other => {
                let message = format!("{title} is a table, not {}", article(other));
                desk.fault(&value.span(), message);
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
            if key.need == Need::Required && !self.has(key.name) {
                let message = format!("{} needs the key \"{}\"", self.title, key.name);
                let help = format!("expected {}", key.kind.due());
                self.desk.missing(&self.span, message, help);
            }
        }
        if self.section.one_of().next().is_some() {
            self.look_for_one_of();
        }
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

    fn key(&self, name: &str) -> &'static Key {
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

    /// Text.
    pub(super) fn text(&self, name: &str) -> Option<(&'a str, Span)> {
        let value = self.raw(name)?;
        let DeValue::String(text) = value.get_ref() else {
            self.wrong(name, value);
            return None;
        };
        Some((text, value.span()))
    }

    /// Text that is not empty and has no control characters.
    pub(super) fn plain_text(&self, name: &str) -> Option<String> {
        let (text, span) = self.text(name)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            let message = format!("\"{name}\" is empty or holds a control character");
            self.desk.fault(&span, message);
            return None;
        }
        Some(text.to_owned())
    }

    /// Text that is some other type's spelling.
    pub(super) fn parsed<T>(&self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let (text, span) = self.text(name)?;
        parse(self.desk, text, &span)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> bool {
        let default = self.default_of(name) == Some("true");
        match self.raw(name).map(|value| (value, value.get_ref())) {
            None => default,
            Some((_, DeValue::Boolean(flag))) => *flag,
            Some((value, _)) => {
                self.wrong(name, value);
                default
            }
        }
    }

    fn default_of(&self, name: &str) -> Option<&'static str> {
        match self.key(name).need {
            Need::Default(text) => Some(text.trim_matches('"')),
            Need::Required | Need::Optional | Need::OneOf => None,
        }
    }

    /// A whole number in the key's range, or its default.
    pub(super) fn count(&self, name: &str) -> usize {
        let default = self.default_of(name).and_then(|text| text.parse().ok());
        let written = self
            .raw(name)
            .and_then(|value| self.written_count(name, value));
        written.or(default).unwrap_or_default()
    }

    fn written_count(&self, name: &str, value: &Value<'i>) -> Option<usize> {
        let (DeValue::Integer(number), Kind::Count(from, to)) =
            (value.get_ref(), &self.key(name).kind)
        else {
            self.wrong(name, value);
            return None;
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let fits = parsed.filter(|n| (from..=to).contains(&n));
        if fits.is_none() {
            let message = format!("\"{name}\" is a whole number from {from} to {to}");
            self.desk.fault(&value.span(), message);
        }
        usize::try_from(fits?).ok()
    }

    /// A duration in the key's range, or its default.
    pub(super) fn duration(&self, name: &str) -> Duration {
        let default = self.default_of(name).and_then(text::duration);
        self.optional_duration(name).or(default).unwrap_or_default()
    }

    /// A duration in the key's range, where one is written.
    pub(super) fn optional_duration(&self, name: &str) -> Option<Duration> {
        let (written, span) = self.text(name)?;
        let Kind::Duration(from, to) = &self.key(name).kind else {
            return None;
        };
        let Some(value) = text::duration(written) else {
            let message = format!("{} is not a duration", text::quoted(written));
            let help = "a duration is a whole number and one of ms, s, m, h, d, such as \"30s\"";
            self.desk.fault_with(&span, message, help);
            return None;
        };
        if value < *from || value > *to {
            let (from, to) = (text::show_duration(*from), text::show_duration(*to));
            let message = format!("\"{name}\" is between {from} and {to}");
            self.desk.fault(&span, message);
            return None;
        }
        Some(value)
    }

    /// A size in the key's range, or its default.
    pub(super) fn size(&self, name: &str) -> u64 {
        let default = self.default_of(name).and_then(text::size);
        self.written_size(name).or(default).unwrap_or_default()
    }

    fn written_size(&self, name: &str) -> Option<u64> {
        let (written, span) = self.text(name)?;
        let Kind::Size(from, to) = &self.key(name).kind else {
            return None;
        };
        let Some(value) = text::size(written) else {
            let message = format!("{} is not a size", text::quoted(written));
            let help =
                "a size is a whole number and one of B, KiB, MiB, GiB, TiB, such as \"64KiB\"";
            self.desk.fault_with(&span, message, help);
            return None;
        };
        if value < *from || value > *to {
            let (from, to) = (text::show_size(*from), text::show_size(*to));
            let message = format!("\"{name}\" is between {from} and {to}");
            self.desk.fault(&span, message);
            return None;
        }
        Some(value)
    }

    /// One of the key's words, or its default.
    pub(super) fn choice(&self, name: &str) -> Option<&'static str> {
        let default = self.default_of(name);
        let Kind::Choice(words) = &self.key(name).kind else {
            return default;
        };
        let Some((written, span)) = self.text(name) else {
            return default;
        };
        let found = words.iter().find(|word| **word == written).copied();
        if found.is_none() {
            let message = format!("\"{name}\" is {}", text::any_of(words));
            match text::nearest(written, words.iter().copied()) {
                Some(near) => {
                    self.desk
                        .fault_with(&span, message, format!("did you mean \"{near}\"?"))
                }
                None => self.desk.fault(&span, message),
            }
        }
        found.or(default)
    }

    /// A path, from the file's folder.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let (text, span) = self.text(name)?;
        path(self.desk, text, &span)
    }

    /// A list with at least one item; `None` where none is written, or something else.
    pub(super) fn list(&self, name: &str) -> Option<&'a [Value<'i>]> {
        let value = self.raw(name)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(name, value);
            return None;
        };
        if items.is_empty() {
            let message = format!("\"{name}\" is an empty list");
            let help = match self.key(name).need {
                Need::Required => "write at least one item",
                _ => {
                    "an empty list could be read as none or as all: write an item, or leave the key out"
                }
            };
            self.desk.fault_with(&value.span(), message, help);
            return None;
        }
        Some(items.iter().as_slice())
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &str) -> Vec<(&'a str, Span)> {
        let mut texts = Vec::new();
        for item in self.list(name).unwrap_or_default() {
            match item.get_ref() {
                DeValue::String(text) => texts.push((&**text, item.span())),
                other => {
                    let message = format!("\"{name}\" holds texts, not {}", article(other));
                    self.desk.fault(&item.span(), message);
                }
            }
        }
        texts
    }

    /// A list of texts, each some other type's spelling.
    pub(super) fn list_of<T>(&self, name: &str) -> Vec<T>
    where
        T: FromStr<Err: Display>,
    {
        let texts = self.texts(name).into_iter();
        texts
            .filter_map(|(text, span)| parse(self.desk, text, &span))
            .collect()
    }

    /// The table below this key.
    pub(super) fn table(&self, name: &str) -> Option<Reader<'a, 'i>> {
        let value = self.raw(name)?;
        let Kind::Table(section) = &self.key(name).kind else {
            return None;
        };
        let title = self.below(name);
        let mut reader = Reader::open_value(self.desk, section, title, value)?;
        reader.span = self.key_span(name);
        Some(reader)
    }

    /// The tables below this key, by NAME, in the file's order.
    pub(super) fn named(&self, name: &str) -> Vec<(Name, Reader<'a, 'i>)> {
        let Kind::Named(section) = &self.key(name).kind else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (key, value) in self.entries(name) {
            let title = self.below(&format!("{name}.{}", key.get_ref()));
            let Some(name) = parse_name(self.desk, key) else {
                continue;
            };
            if let Some(mut reader) = Reader::open_value(self.desk, section, title, value) {
                reader.span = key.span();
                found.push((name, reader));
            }
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
        let Kind::Rows(section) = &self.key(name).kind else {
            return Vec::new();
        };
        let Some(value) = self.raw(name) else {
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
        let open = |item| Reader::open_value(self.desk, section, format!("[[{name}]]"), item);
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

/// Reads a text as something else, or lays down its own words as a fault.
pub(super) fn parse<T>(desk: &Desk, text: &str, span: &Span) -> Option<T>
where
    T: FromStr<Err: Display>,
{
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            desk.fault(span, error);
            None
        }
    }
}

/// A path, from the file's folder.
pub(super) fn path(desk: &Desk, text: &str, span: &Span) -> Option<PathBuf> {
    if text.is_empty() || text.chars().any(char::is_control) {
        desk.fault(span, "a path is not empty and holds no control characters");
        return None;
    }
    if let Some(sign) = text.chars().next().filter(|c| matches!(c, '~' | '$')) {
        let message = format!("a path is taken as it stands: `{sign}` is not expanded");
        let help = "write it whole; a relative path starts at the folder of this file";
        desk.fault_with(span, message, help);
        return None;
    }
    Some(desk.rooted(text))
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

/// `a string`, `an integer` …
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
