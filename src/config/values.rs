//! The values of a table: text, numbers, durations, sizes, words, paths and lists, each held to its key's kind and range.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::fault::{Desk, Span};
use super::key::{Kind, Need};
use super::reader::{Reader, Value, article};
use super::text;

impl<'a, 'i> Reader<'a, 'i> {
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
            self.wrong(name, self.raw(name)?);
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
            self.wrong(name, self.raw(name)?);
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
        let Some((written, span)) = self.text(name) else {
            return default;
        };
        let Some(words) = self.key(name).kind.words() else {
            self.wrong(name, self.raw(name)?);
            return default;
        };
        let found = words.iter().find(|word| **word == written).copied();
        if found.is_none() {
            let message = format!("\"{name}\" is {}", text::any_of(words));
            match text::nearest(written, words.iter().copied()) {
                Some(near) => {
                    let help = format!("did you mean \"{near}\"?");
                    self.desk.fault_with(&span, message, help);
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
                    "write an item, or leave the key out: an empty list could be read as none or as all"
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
