//! `{ env = "NAME" }` and its kin: where a secret is read from, since it never stands in the file itself.

use std::path::PathBuf;

use toml::de::DeValue;

use super::fault::{Desk, Named, Span};
use super::key::{Kind, Need, Section, key, millis, secs};
use super::reader::{self, Reader, Value};
use crate::credential::Source;

/// The four forms, as help shows them.
pub(super) const FORMS: &str = "{ env = \"NAME\" }, { file = \"PATH\" }, { command = [\"PROGRAM\", \"ARG\"] } or { keyring = \"SERVICE/USER\" }";

pub(super) static SOURCE: Section = Section {
    title: "a source",
    keys: &[
        key(
            "env",
            Kind::Guarded("the name of an environment variable"),
            Need::OneOf,
            "The environment variable of keyward's own that holds the secret; read once at start and removed.",
        ),
        key(
            "file",
            Kind::Path,
            Need::OneOf,
            "The file whose content is the secret, trailing line ends taken off; read again when it changes.",
        ),
        key(
            "command",
            Kind::List(&Kind::Guarded("program and arguments")),
            Need::OneOf,
            "Program and arguments, without a shell; what it prints is the secret, trailing line ends taken off.",
        ),
        key(
            "keyring",
            Kind::Guarded("\"SERVICE/USER\""),
            Need::OneOf,
            "An entry of the operating system's keyring, as `SERVICE/USER`; the last slash divides.",
        ),
        key(
            "deadline",
            Kind::Duration(millis(100), secs(300)),
            Need::Default("\"10s\""),
            "With `command`: the time that it may take.",
        ),
        key(
            "max-output",
            Kind::Size(1, 16 << 20),
            Need::Default("\"64KiB\""),
            "With `command`: what it may print.",
        ),
        key(
            "ttl",
            Kind::Duration(secs(1), secs(365 * 24 * 3600)),
            Need::Default("\"5m\""),
            "With `command`: how long its answer is used before it runs again.",
        ),
    ],
};

/// The source below a key, noted so that `check` can look whether the machine has it.
pub(super) fn read(reader: &Reader<'_, '_>, name: &str) -> Option<Source> {
    value(reader.desk, name, reader.raw(name)?)
}

/// The source that this value is. What stands in place of one is never shown.
pub(super) fn value(desk: &Desk, name: &str, value: &Value<'_>) -> Option<Source> {
    let DeValue::Table(_) = value.get_ref() else {
        let message = match value.get_ref() {
            DeValue::String(_) => {
                format!("\"{name}\" holds text: a secret never stands in this file")
            }
            other => format!(
                "\"{name}\" is {}, not a source of a secret",
                reader::article(other)
            ),
        };
        let help = format!("name where it is read from: {name} = {FORMS}");
        desk.fault_with(&value.span(), message, help);
        return None;
    };
    let reader = Reader::open_value(
        desk,
        &SOURCE,
        format!("the source \"{name}\""),
        value.span(),
        value,
    )?;
    let (source, span) = match reader.chosen()? {
        "env" => env(&reader)?,
        "file" => (
            Source::File(reader.path("file")?),
            reader.raw("file")?.span(),
        ),
        "command" => command(&reader)?,
        _ => keyring(&reader)?,
    };
    if !matches!(source, Source::Command { .. }) {
        only_with_command(&reader);
    }
    desk.site(&span, Named::Secret(source.clone()));
    Some(source)
}

fn env(reader: &Reader<'_, '_>) -> Option<(Source, Span)> {
    let (name, span) = reader.text("env")?;
    let name = variable(reader.desk, name, &span)?;
    Some((Source::Env(name), span))
}

/// The name of an environment variable, and not its value.
pub(super) fn variable(desk: &Desk, name: &str, span: &Span) -> Option<String> {
    let clean = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = !name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || !starts_well || !name.bytes().all(clean) {
        let help = "write the variable's name alone, without `$`: letters, digits and `_`; never its value";
        let message = "this is not the name of an environment variable";
        desk.fault_with(span, message, help);
        return None;
    }
    Some(name.to_owned())
}

/// Program and arguments, the program from the file's folder.
pub(super) fn argv(reader: &Reader<'_, '_>, name: &str) -> Option<Vec<String>> {
    let span = reader.raw(name)?.span();
    let mut argv: Vec<String> = reader
        .texts(name)
        .iter()
        .map(|(arg, _)| (*arg).to_owned())
        .collect();
    let program = argv.first_mut()?;
    if program.is_empty() || program.contains(char::is_whitespace) {
        let help =
            "no shell is started: each argument is an item of its own, [\"PROGRAM\", \"ARG\"]";
        let message = "the program of a command is empty or holds a blank";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    // A bare word is looked up in PATH; a relative path starts, as everywhere, at the file's folder.
    if program.contains('/') {
        *program = rooted(reader.desk.rooted(program));
    }
    Some(argv)
}

fn command(reader: &Reader<'_, '_>) -> Option<(Source, Span)> {
    let span = reader.raw("command")?.span();
    let argv = argv(reader, "command")?;
    let source = Source::Command {
        argv,
        deadline: reader.duration("deadline"),
        max_output: usize::try_from(reader.size("max-output")).unwrap_or(usize::MAX),
        ttl: reader.duration("ttl"),
    };
    Some((source, span))
}

fn rooted(path: PathBuf) -> String {
    path.into_os_string()
        .into_string()
        .unwrap_or_else(|path| path.to_string_lossy().into_owned())
}

fn keyring(reader: &Reader<'_, '_>) -> Option<(Source, Span)> {
    let (text, span) = reader.text("keyring")?;
    match text.rsplit_once('/') {
        Some((service, user)) if !service.is_empty() && !user.is_empty() => {
            let (service, user) = (service.to_owned(), user.to_owned());
            Some((Source::Keyring { service, user }, span))
        }
        _ => {
            let message = "an entry of the keyring is \"SERVICE/USER\"";
            reader.desk.fault(&span, message);
            None
        }
    }
}

fn only_with_command(reader: &Reader<'_, '_>) {
    for name in ["deadline", "max-output", "ttl"] {
        if reader.has(name) {
            let message = format!("\"{name}\" belongs to a source with \"command\"");
            reader.desk.fault(&reader.key_span(name), message);
        }
    }
}
