//! Logins of command-line tools that a session serves: the token is taken out of the tool's file, which is masked, and
//! the tool finds a placeholder in the variable of its service.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::found::is_set;
use crate::app::Environment;
use crate::preset::{Login, Part, Preset, Presets};

/// A longer file is no login.
const LONGEST: u64 = 1 << 20;
/// A shorter secret could not be scrubbed from answers.
const SHORTEST: usize = 12;

/// What logins bring: variables with their tokens, as if the caller had set them, and what the user should know.
#[derive(Debug, Default)]
pub(super) struct Lifted {
    pub(super) variables: Vec<(String, OsString)>,
    pub(super) notes: Vec<String>,
}

/// Looks into the login of each service of which no key is set.
pub(super) fn look(environment: &Environment, presets: &Presets, now: Timestamp) -> Lifted {
    let mut lifted = Lifted::default();
    let Some(home) = environment.get("HOME").map(Path::new) else {
        return lifted;
    };
    let has_key = |preset: &Preset| preset.env().any(|var| is_set(environment, var));
    for preset in presets.iter().filter(|preset| !preset.logins.is_empty()) {
        let shares = |other: &Preset| other.hosts.iter().any(|host| preset.hosts.contains(host));
        // A key that the caller set is the one that is meant.
        if presets.iter().any(|other| has_key(other) && shares(other)) {
            continue;
        }
        let Some(var) = preset.env().next() else {
            continue;
        };
        for login in &preset.logins {
            let Some(file) = login.file.strip_prefix("~/").map(|rest| home.join(rest)) else {
                continue;
            };
            match token(login, &file, now) {
                Token::Found(token) => {
                    lifted.notes.push(format!(
                        "the login of {} in {} is served, and renewed by nobody while this runs",
                        preset.title, login.file
                    ));
                    let token = OsString::from(token.as_str());
                    lifted.variables.push((var.to_owned(), token));
                    break;
                }
                Token::Over => lifted.notes.push(format!(
                    "the login of {} in {} has expired: let its own tool renew it, outside of keyward",
                    preset.title, login.file
                )),
                Token::None => {}
            }
        }
    }
    lifted
}

enum Token {
    Found(Zeroizing<String>),
    Over,
    None,
}

fn token(login: &Login, file: &Path, now: Timestamp) -> Token {
    let is_login = |found: fs::Metadata| found.is_file() && found.len() <= LONGEST;
    let Some(text) = (fs::metadata(file).ok())
        .filter(|found| is_login(found.clone()))
        .and_then(|_| fs::read_to_string(file).ok())
        .map(Zeroizing::new)
    else {
        return Token::None;
    };
    let found = match &login.part {
        Part::Whole => Some(text.trim().to_owned()),
        Part::Json(path) => json(&text, path).and_then(|value| value.as_str().map(str::to_owned)),
        Part::Line { begins, after } => line(&text, begins, after.as_deref()),
    };
    let Some(found) = found.map(Zeroizing::new).filter(|found| is_token(found)) else {
        return Token::None;
    };
    let ends = login
        .expires
        .as_ref()
        .and_then(|path| json(&text, path)?.as_i64());
    match ends {
        Some(ends) if ends <= now.as_millisecond() => Token::Over,
        _ => Token::Found(found),
    }
}

fn json(text: &str, path: &str) -> Option<serde_json::Value> {
    let mut value: serde_json::Value = serde_json::from_str(text).ok()?;
    for name in path.split('.') {
        value = value.get_mut(name)?.take();
    }
    Some(value)
}

fn line(text: &str, begins: &str, after: Option<&str>) -> Option<String> {
    let mut lines = text.lines().map(str::trim);
    if let Some(after) = after {
        // Below the next line that is not indented deeper there is another host or section.
        let mut whole = text.lines();
        let start = whole.by_ref().find(|line| line.trim() == after)?;
        let depth = |line: &str| line.len() - line.trim_start().len();
        let (own, section) = (depth(start), after.starts_with('['));
        return whole
            .take_while(|line| {
                line.trim().is_empty()
                    || if section {
                        !line.trim().starts_with('[')
                    } else {
                        depth(line) > own
                    }
            })
            .find_map(|line| value(line.trim(), begins));
    }
    lines.find_map(|line| value(line, begins))
}

fn value(line: &str, begins: &str) -> Option<String> {
    let rest = line.strip_prefix(begins)?.trim();
    Some(rest.trim_matches(['"', '\'']).to_owned())
}

/// No variable that the tool itself puts in, and nothing that could not stand in a header.
fn is_token(text: &str) -> bool {
    text.len() >= SHORTEST
        && !text.contains("${")
        && text.bytes().all(|byte| (0x21..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn lifted(files: &[(&str, &str)], set: &[(&str, &str)]) -> Lifted {
        let home = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut pairs: Vec<(String, OsString)> =
            vec![("HOME".to_owned(), home.path().as_os_str().to_owned())];
        pairs.extend(
            set.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into())),
        );
        let environment: Environment = Arc::new(pairs.into_iter().collect());
        let now = Timestamp::from_second(NOW).unwrap();
        look(&environment, Presets::shipped(), now)
    }

    fn only(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let found = lifted(files, &[]).variables.into_iter();
        found
            .map(|(name, value)| (name, value.into_string().unwrap()))
            .collect()
    }

    #[test]
    fn tokens_are_found_in_the_files_of_tools() {
        let later = (NOW + 60) * 1000;
        let claude = format!(
            r#"{{"claudeAiOauth":{{"accessToken":"sk-ant-oat01-abcdef","refreshToken":"r","expiresAt":{later}}}}}"#
        );
        for (file, text, var, token) in [
            (
                ".config/gh/hosts.yml",
                "ghe.corp.test:\n    oauth_token: gho_ofanotherhost\ngithub.com:\n    user: x\n    oauth_token: gho_0123456789\n",
                "GITHUB_TOKEN",
                "gho_0123456789",
            ),
            (
                ".codex/auth.json",
                r#"{"OPENAI_API_KEY":"sk-0123456789ab","tokens":null}"#,
                "OPENAI_API_KEY",
                "sk-0123456789ab",
            ),
            (
                ".claude/.credentials.json",
                claude.as_str(),
                "CLAUDE_CODE_OAUTH_TOKEN",
                "sk-ant-oat01-abcdef",
            ),
            (
                ".cache/huggingface/token",
                "hf_0123456789\n",
                "HF_TOKEN",
                "hf_0123456789",
            ),
            (
                ".cargo/credentials.toml",
                "[registries.corp]\ntoken = \"ofanotherregistry\"\n[registry]\ntoken = \"cio0123456789\"\n",
                "CARGO_REGISTRY_TOKEN",
                "cio0123456789",
            ),
            (
                ".npmrc",
                "//npm.corp.test/:_authToken=another012345\n//registry.npmjs.org/:_authToken=npm_0123456789\n",
                "NPM_TOKEN",
                "npm_0123456789",
            ),
        ] {
            assert_eq!(
                only(&[(file, text)]),
                [(var.to_owned(), token.to_owned())],
                "{file}"
            );
        }
    }

    #[test]
    fn what_is_no_token_of_the_service_is_left_alone() {
        for (file, text) in [
            ("~", ""),
            (
                ".config/gh/hosts.yml",
                "ghe.corp.test:\n    oauth_token: gho_ofanotherhost\n",
            ),
            (
                ".config/gh/hosts.yml",
                "github.com:\n    user: x\nghe.corp.test:\n    oauth_token: gho_ofanotherhost\n",
            ),
            (".codex/auth.json", r#"{"OPENAI_API_KEY":null}"#),
            (".codex/auth.json", "no json"),
            (
                ".npmrc",
                "//registry.npmjs.org/:_authToken=${NPM_TOKEN_OF_CI}\n",
            ),
            (
                ".cargo/credentials.toml",
                "[registry]\n[registries.corp]\ntoken = \"ofanotherregistry\"\n",
            ),
            (".cache/huggingface/token", "two words are no token\n"),
        ] {
            assert!(only(&[(file, text)]).is_empty(), "{file}: {text}");
        }
        let over = format!(
            r#"{{"claudeAiOauth":{{"accessToken":"sk-ant-oat01-abcdef","expiresAt":{}}}}}"#,
            NOW * 1000
        );
        let found = lifted(&[(".claude/.credentials.json", &over)], &[]);
        assert!(found.variables.is_empty() && found.notes[0].contains("has expired"));
    }

    #[test]
    fn a_key_that_the_caller_set_for_the_same_host_is_the_one_that_is_meant() {
        let hosts = "github.com:\n    oauth_token: gho_0123456789\n";
        let file = [(".config/gh/hosts.yml", hosts)];
        assert_eq!(lifted(&file, &[]).variables.len(), 1);
        assert!(
            lifted(&file, &[("GH_TOKEN", "ghp_abcdefghijkl")])
                .variables
                .is_empty()
        );
    }
}
