//! `keyward init`: a first file, written from what this machine has: keys of known services, proxies, roots, logins.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::run::{Found, look};
use super::{BUG, NO, UNAVAILABLE, complain};
use crate::app::Environment;
use crate::config;
use crate::host::{Scheme, Target};
use crate::preset::Presets;
use crate::tls::SYSTEM_BUNDLES;

/// The arguments of `keyward init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The file to write; one that is there is never overwritten
    #[arg(value_name = "FILE", default_value = "keyward.toml")]
    file: PathBuf,
}

/// Variables that name roots beside the system's.
const ROOTS: [&str; 4] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];

/// Writes the file; the exit code. 1: there is one already.
pub fn run(args: &InitArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let found = look(environment, Presets::shipped(), true);
    let text = text(&found, environment);
    let folder = args.file.parent().unwrap_or(Path::new(""));
    if let Err(report) = config::parse(&text, "keyward.toml", folder, &**Presets::shipped()) {
        complain(&format_args!("the file would not hold:\n{report}"));
        return BUG;
    }
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    let shown = args.file.display();
    match written {
        Ok(()) => {
            let served = found.served.len();
            let services = if served == 1 { "service" } else { "services" };
            writeln!(
                out,
                "{shown}: {served} {services}\n\
                 next: keyward check -c {shown}; keyward run -c {shown} -- CMD, or keyward serve -c {shown}"
            )
            .ok();
            0
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            complain(&format_args!(
                "{shown} is there already, and stays as it is"
            ));
            NO
        }
        Err(error) => {
            complain(&format_args!("{shown}: {error}"));
            UNAVAILABLE
        }
    }
}

/// The whole file. Of the environment only names of variables and of files stand in it, and a proxy's host and port.
fn text(found: &Found, environment: &Environment) -> String {
    let mut text = String::from(HEAD);
    text.push_str(&upstream(environment));
    text.push_str(AGENT);
    if found.text.is_empty() {
        text.push_str(NOTHING);
    } else {
        text.push_str(SERVICES);
        // Credentials first, then routes, each with a line of air.
        text.push_str(
            &found
                .text
                .replace("[credential.", "\n[credential.")
                .replace("[[route]]", "\n[[route]]"),
        );
    }
    let notes = found.notes.iter().filter(|_| !found.text.is_empty());
    for note in notes {
        comment(&mut text, note);
    }
    let home = environment.get("HOME").map(Path::new);
    for preset in Presets::shipped().iter() {
        let there = |file: &&str| {
            let below = home.zip(file.strip_prefix("~/"));
            below.is_some_and(|(home, rest)| home.join(rest).exists())
        };
        let files = preset.login_files.iter().map(|file| &**file);
        for file in files.filter(there) {
            comment(
                &mut text,
                &format!(
                    "{file} holds a login of {}: agents that can read it do not need keyward. Give its token to a \
                     credential, and keep the file from them (`keyward run` masks it where the service has a route).",
                    preset.title
                ),
            );
        }
    }
    text
}

/// A paragraph of its own, no line of it longer than 100 characters.
fn comment(text: &mut String, note: &str) {
    text.push('\n');
    let mut line = String::from("#");
    for word in note.split_whitespace() {
        if line.len() + word.len() > 100 {
            writeln!(text, "{line}").ok();
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(text, "{line}").ok();
}

/// `[upstream]`: a company's roots, and its proxy as a comment, since nobody has tried it yet.
fn upstream(environment: &Environment) -> String {
    let mut lines = String::new();
    let mut roots: Vec<&str> = ROOTS
        .iter()
        .filter_map(|var| environment.get(*var)?.to_str())
        .filter(|file| Path::new(file).is_absolute() && Path::new(file).is_file())
        .filter(|file| !SYSTEM_BUNDLES.contains(file))
        .collect();
    roots.sort_unstable();
    roots.dedup();
    if !roots.is_empty() {
        roots.insert(0, "system");
        lines.push_str("# Your variables name these roots: a company's, most likely.\n");
        writeln!(lines, "trust = {}", serde_json::Value::from(roots)).ok();
    }
    let proxy = ["HTTPS_PROXY", "https_proxy"].iter().find_map(|var| {
        let value = environment.get(*var)?.to_str()?;
        let rest = value.strip_prefix("http://")?.trim_end_matches('/');
        // Who the proxy takes us for is a secret, and does not belong here.
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        let target = Target::from_authority(Scheme::Http, place).ok()?;
        Some((*var, target.authority()))
    });
    if let Some((var, place)) = proxy {
        writeln!(
            lines,
            "# {var} names this proxy. Take the # away where keyward must go through it.\n# via = \"http://{place}\""
        )
        .ok();
    }
    if lines.is_empty() {
        return lines;
    }
    format!("\n[upstream]\n{lines}")
}

const HEAD: &str = "\
# keyward, as `keyward init` found this machine. What every key means: docs/configuration.md.
# No secret stands here: `env` names the variable that holds one. Better where a daemon serves: { file = \"…\" }, which
# only keyward can read, or { command = [\"…\"] }.

[proxy]
listen = [\"127.0.0.1:8180\"]
unmatched = \"refuse\"             # hosts that no route names; \"tunnel\" lets them through untouched
# base-url = true                # serves SDKs that know no proxy under http://127.0.0.1:8180/PRESET/…

[ca]
dir = \"keyward-ca\"               # made at the first start; agents trust ca.pem in it

[audit]
file = \"keyward-audit.jsonl\"
";

const AGENT: &str = "
# Who may ask. `keyward serve` needs the token, `keyward run` makes one of its own:
#   export KEYWARD_AGENT_TOKEN=$(openssl rand -hex 32)
[agent.default]
token = { env = \"KEYWARD_AGENT_TOKEN\" }
";

const SERVICES: &str = "
# The services whose keys were in the environment. A preset gives hosts and placement (`keyward preset show NAME`), and
# refuses requests that would mint other credentials. The first route that matches decides.
";

const NOTHING: &str = "
# No key of a known service was in the environment (`keyward preset list` names their variables). For example:
#
# [credential.openai.static]
# value = { env = \"OPENAI_API_KEY\" }
#
# [[route]]
# preset = \"openai\"
# credential = \"openai\"
";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Arc::new(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
        )
    }

    #[test]
    fn whatever_is_found_the_file_holds_and_has_no_secret() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/gh")).unwrap();
        std::fs::write(home.path().join(".config/gh/hosts.yml"), "x").unwrap();
        let root = home.path().join("corp.pem");
        std::fs::write(&root, "x").unwrap();
        let canary = "canary-7f3a9c51d2";
        let mut pairs: Vec<(&str, &str)> = Presets::shipped()
            .iter()
            .flat_map(|preset| preset.env())
            .map(|var| (var, canary))
            .collect();
        pairs.extend([
            ("HOME", home.path().to_str().unwrap()),
            ("TWILIO_ACCOUNT_SID", "AC0"),
            (
                "HTTPS_PROXY",
                "http://user:canary-7f3a9c51d2@proxy.corp.test:3128/",
            ),
            ("SSL_CERT_FILE", root.to_str().unwrap()),
        ]);
        for pairs in [&pairs[..], &[]] {
            let environment = environment(pairs);
            let found = look(&environment, Presets::shipped(), true);
            let text = text(&found, &environment);
            assert!(!text.contains(canary), "{text}");
            let loaded = config::parse(&text, "x", Path::new("/x"), &**Presets::shipped());
            let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(loaded.config.routes.is_empty(), pairs.is_empty());
            if !pairs.is_empty() {
                assert!(loaded.config.routes.len() > 40);
                assert!(
                    text.contains("# via = \"http://proxy.corp.test:3128\""),
                    "{text}"
                );
                assert!(text.contains("\"system\"") && text.contains("corp.pem"));
                assert!(text.contains("~/.config/gh/hosts.yml"));
            }
        }
    }
}
