//! `keyward preset list` and `keyward preset show NAME`: what the program knows of each service.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::preset::{Preset, Presets};

/// `keyward preset …`
#[derive(Debug, clap::Args)]
pub struct PresetArgs {
    /// The configuration file whose own services stand beside the built-in ones, or in place of them
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: PresetCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PresetCommand {
    /// One line for each service
    List {
        /// As a JSON array of objects
        #[arg(long, conflicts_with = "markdown")]
        json: bool,
        /// As the table of docs/presets.md
        #[arg(long)]
        markdown: bool,
    },
    /// All that is known of one service
    Show {
        /// Its name in `preset = "NAME"`
        name: String,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
}

impl PresetArgs {
    /// The services that are asked about.
    ///
    /// # Errors
    /// The exit code, where the file does not hold.
    pub(crate) fn presets(&self) -> Result<Arc<Presets>, u8> {
        match &self.config {
            Some(path) => Ok(super::consult(path)?.presets()),
            None => Ok(Arc::clone(Presets::shipped())),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// Nothing has this name.
    #[error("no preset is called {name:?}{}", near.as_ref().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        name: String,
        /// The name that is most like it.
        near: Option<String>,
    },
    /// The answer could not be written.
    #[error("the answer could not be written")]
    Write(#[from] io::Error),
}

/// Answers on `out`.
///
/// # Errors
/// [`PresetError::Unknown`] is the answer "no": exit code 1.
pub fn run(args: &PresetArgs, presets: &Presets, out: &mut dyn Write) -> Result<(), PresetError> {
    match &args.command {
        PresetCommand::List { json: true, .. } => {
            let list: Vec<Value> = presets.iter().map(|preset| object(preset)).collect();
            write_json(&Value::Array(list), out)?;
        }
        PresetCommand::List { markdown: true, .. } => markdown(presets, out)?,
        PresetCommand::List { .. } => list(presets, out)?,
        PresetCommand::Show { name, json } => {
            let Some(preset) = presets.get(name) else {
                return Err(PresetError::Unknown {
                    name: name.clone(),
                    near: nearest(name, presets),
                });
            };
            if *json {
                write_json(&object(preset), out)?;
            } else {
                show(preset, out)?;
            }
        }
    }
    Ok(())
}

fn nearest(name: &str, presets: &Presets) -> Option<String> {
    presets
        .iter()
        .map(|preset| (strsim::jaro_winkler(name, preset.name.as_str()), preset))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, preset)| preset.name.to_string())
}

fn write_json(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{value:#}")
}

fn list(presets: &Presets, out: &mut dyn Write) -> io::Result<()> {
    let width = |of: fn(&Preset) -> String| presets.iter().map(|p| of(p).len()).max().unwrap_or(0);
    let (name, var) = (width(|p| p.name.to_string()), width(first_variable));
    for preset in presets.iter() {
        writeln!(
            out,
            "{:name$}  {:var$}  {}",
            preset.name.as_str(),
            first_variable(preset),
            hosts(preset, 3)
        )?;
    }
    Ok(())
}

fn first_variable(preset: &Preset) -> String {
    preset.env().next().unwrap_or_default().to_owned()
}

/// The hosts, or what the route's own would look like; at most so many of them.
fn hosts(preset: &Preset, most: usize) -> String {
    if let Some(shape) = &preset.host_shape {
        return format!("({shape})");
    }
    let mut shown: Vec<String> = preset.hosts.iter().map(ToString::to_string).collect();
    let more = shown.len().saturating_sub(most);
    shown.truncate(most);
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

fn placements(preset: &Preset) -> Vec<String> {
    let all = preset.keys.iter().flat_map(|key| &key.placements);
    all.map(ToString::to_string).collect()
}

fn show(preset: &Preset, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} ({})", preset.name, preset.title)?;
    let mut field = |name: &str, values: &[String]| match values {
        [] => Ok(()),
        values => writeln!(out, "  {name:13} {}", values.join(", ")),
    };
    let texts = |list: &[Box<str>]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    field("hosts", &[hosts(preset, usize::MAX)])?;
    let paths: Vec<String> = preset.paths.iter().map(ToString::to_string).collect();
    field("paths", &paths)?;
    for key in &preset.keys {
        let places: Vec<String> = key.placements.iter().map(ToString::to_string).collect();
        field("key", &[key.name.to_string()])?;
        field("  injected", &places)?;
        field("  variables", &texts(&key.env))?;
        field("  user from", &texts(&key.user_env))?;
        field("  placeholder", &[key.placeholder.to_string()])?;
    }
    if let Some(base) = &preset.base_url {
        field("base URL", &[base.url.to_string()])?;
        field("  variables", &texts(&base.env))?;
    }
    field("login files", &texts(&preset.login_files))?;
    if preset.encoded_slash {
        field("encoded slash", &["allowed in paths".to_owned()])?;
    }
    field("note", &texts(preset.note.as_slice()))?;
    field("source", &[preset.source.to_string()])?;
    let checked: Vec<String> = preset.checked.iter().map(ToString::to_string).collect();
    field("checked", &checked)?;
    for operation in &preset.operations {
        let (method, path) = (&operation.method, &operation.path);
        let action = operation.action.as_str();
        writeln!(out, "  {action:6} {}: {method} {path}", operation.name)?;
    }
    for minting in &preset.minting {
        writeln!(out, "  minting, refused unless granted: {minting}")?;
    }
    Ok(())
}

fn object(preset: &Preset) -> Value {
    let strings = |list: Vec<String>| Value::from(list);
    json!({
        "name": preset.name.as_str(),
        "title": &*preset.title,
        "hosts": strings(preset.hosts.iter().map(ToString::to_string).collect()),
        "host-shape": preset.host_shape.as_deref(),
        "paths": strings(preset.paths.iter().map(ToString::to_string).collect()),
        "keys": preset.keys.iter().map(|key| json!({
            "name": key.name.as_str(),
            "inject": strings(key.placements.iter().map(ToString::to_string).collect()),
            "env": strings(key.env.iter().map(ToString::to_string).collect()),
            "user-env": strings(key.user_env.iter().map(ToString::to_string).collect()),
            "placeholder": &*key.placeholder,
        })).collect::<Vec<_>>(),
        "base-url": preset.base_url.as_ref().map(|base| json!({
            "env": strings(base.env.iter().map(ToString::to_string).collect()),
            "url": &*base.url,
        })),
        "operations": preset.operations.iter().map(|operation| json!({
            "name": &*operation.name,
            "action": operation.action.as_str(),
            "method": operation.method.as_str(),
            "path": operation.path.as_str(),
        })).collect::<Vec<_>>(),
        "minting": strings(preset.minting.iter().map(ToString::to_string).collect()),
        "login-files": strings(preset.login_files.iter().map(ToString::to_string).collect()),
        "encoded-slash": preset.encoded_slash,
        "note": preset.note.as_deref(),
        "source": &*preset.source,
        "checked": preset.checked.map(|day| day.to_string()),
    })
}

fn markdown(presets: &Presets, out: &mut dyn Write) -> io::Result<()> {
    let checked = presets.iter().filter(|p| p.checked.is_some()).count();
    writeln!(
        out,
        "# Presets\n\n\
         `preset = \"NAME\"` in a route gives it hosts, injection, placeholder and operations. `keyward preset show NAME`\n\
         prints all of one. This page is what `keyward preset list --markdown` prints; a test holds it to that.\n\n\
         {} presets; of {checked} the first host and the placement were compared with the vendor's page on the day given,\n\
         the rest were written from knowledge alone, as were operations and minting of all. A service with a choice of secrets has a preset for each choice.\n\
         Requests that would mint a credential are refused unless the route grants them.\n\n\
         | preset | hosts | injected as | variables | operations | minting refused | source |\n\
         |---|---|---|---|---|---|---|",
        presets.iter().len()
    )?;
    for preset in presets.iter() {
        let places = match placements(preset) {
            places if places.is_empty() => "by the broker".to_owned(),
            places => places.join("; "),
        };
        let vars: Vec<&str> = preset.env().collect();
        let day = preset.checked.map(|day| format!(", {day}"));
        writeln!(
            out,
            "| `{}` | {} | {places} | {} | {} | {} | [{}]({}){} |",
            preset.name,
            hosts(preset, usize::MAX).replace('*', "\\*"),
            vars.join(", "),
            preset.operations.len(),
            preset.minting.len(),
            preset.title,
            preset.source,
            day.unwrap_or_default()
        )?;
    }
    writeln!(out, "\n## What they do not do\n")?;
    for preset in presets.iter() {
        if let Some(note) = &preset.note {
            writeln!(out, "- `{}`: {note}.", preset.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PresetArgs,
    }

    fn answer(words: &[&str]) -> Result<String, PresetError> {
        let line = Line::parse_from([&["preset"], words].concat());
        let mut out = Vec::new();
        run(&line.args, Presets::shipped(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_list_is_one_line_a_service() {
        insta::assert_snapshot!(answer(&["list"]).unwrap());
    }

    #[test]
    fn one_service_is_shown_whole() {
        insta::assert_snapshot!(answer(&["show", "twilio"]).unwrap());
    }

    #[test]
    fn json_has_what_the_text_has() {
        let one: Value =
            serde_json::from_str(&answer(&["show", "datadog", "--json"]).unwrap()).unwrap();
        assert_eq!(one["keys"][1]["env"][0], "DD_APP_KEY");
        assert_eq!(one["operations"][0]["action"], "read");
        let all: Value = serde_json::from_str(&answer(&["list", "--json"]).unwrap()).unwrap();
        assert_eq!(
            all.as_array().unwrap().len(),
            Presets::shipped().iter().len()
        );
    }

    #[test]
    fn a_slip_of_the_pen_is_answered_with_the_nearest_name() {
        let error = answer(&["show", "gihub"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no preset is called \"gihub\"; did you mean \"github\"?"
        );
        assert_eq!(
            answer(&["show", "qqqq"]).unwrap_err().to_string(),
            "no preset is called \"qqqq\""
        );
    }

    #[test]
    fn the_page_of_the_docs_is_what_the_command_prints() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/presets.md");
        let printed = answer(&["list", "--markdown"]).unwrap();
        assert!(
            std::fs::read_to_string(page).unwrap() == printed,
            "run the ignored test `the_page_of_the_docs_is_written`"
        );
    }

    #[test]
    #[ignore = "writes docs/presets.md"]
    fn the_page_of_the_docs_is_written() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/presets.md");
        std::fs::write(page, answer(&["list", "--markdown"]).unwrap()).unwrap();
    }
}
