//! `[credential.NAME.command]`: a plug-in that issues and revokes.

use std::time::Duration;

use super::fault::Named;
use super::key::{Kind as K, Need, Section, key};
use super::reader::Reader;
use super::source;
use crate::credential::{CommandSettings, Kind, Source};

pub(super) static COMMAND: Section = Section {
    title: "[credential.NAME.command]",
    keys: &[
        key(
            "run",
            K::List(&K::Guarded("program and arguments")),
            Need::Required,
            "Program and arguments, without a shell; it reads one JSON object and writes one.",
        ),
        key(
            "max-output",
            K::Size(64, 16 << 20),
            Need::Default("\"64KiB\""),
            "What it may print; more is a failure.",
        ),
        key(
            "env",
            K::List(&K::Guarded("the name of an environment variable")),
            Need::Optional,
            "The variables of keyward's environment that it gets beside `PATH`.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let run = source::argv(reader, "run");
    let max_output = usize::try_from(reader.size("max-output")).unwrap_or(usize::MAX);
    let mut env = Vec::new();
    for (name, span) in reader.texts("env") {
        let Some(name) = source::variable(reader.desk, name, &span) else {
            continue;
        };
        let named = Named::Secret(Source::Env(name.clone()));
        reader.desk.site(&span, named);
        env.push(name);
    }
    let run = run?;
    let named = Named::Secret(Source::Command {
        argv: run.clone(),
        deadline: Duration::ZERO,
        max_output,
        ttl: Duration::ZERO,
    });
    reader.desk.site(&reader.raw("run")?.span(), named);
    Some(Kind::Command(CommandSettings {
        run,
        max_output,
        env,
    }))
}
