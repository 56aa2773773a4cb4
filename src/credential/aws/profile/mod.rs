//! The shared files `~/.aws/credentials` and `~/.aws/config`: what one profile leads to.
//!
//! Read anew for each issue. A fault is told with the file and the line, and without any value that could be a secret.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::held::key_id;
use super::words::words;
use crate::inject::Keys;
use crate::secret::Secret;

/// The largest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Which profile of which files.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    name: String,
    /// The environment names it: then it has to be there.
    named: bool,
    files: Vec<PathBuf>,
}

/// What a profile leads to: where the first keys come from, and the roles that they assume one after the other.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) base: Base,
    pub(super) roles: Vec<Step>,
}

/// Where a profile's first keys come from.
#[derive(Debug, PartialEq)]
pub(super) enum Base {
    /// `aws_access_key_id` and its kin.
    Keys(Shared),
    /// `web_identity_token_file` for `role_arn`.
    WebIdentity { role: String, file: PathBuf },
    /// `sso_session`, or `sso_start_url` as it was written before.
    Sso(Sso),
    /// `credential_process`, taken apart.
    Process(Vec<String>),
    /// `credential_source`.
    Of(Place),
}

/// `credential_source`: another link of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Environment,
    Container,
    Instance,
}

/// Keys that are compared by their id only.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Keys);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

/// A login by the browser, whose token `aws sso login` has left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sso {
    /// What its cached token is filed under: the session's name, or the start URL.
    pub(super) filed: String,
    pub(super) region: String,
    pub(super) account: String,
    pub(super) role: String,
}

/// A role that is assumed with the keys before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) role: String,
    pub(super) external_id: Option<String>,
    pub(super) session: Option<String>,
    pub(super) duration: Option<Duration>,
}

/// A profile that leads nowhere, and where that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadProfile {
    place: String,
    what: String,
}

impl fmt::Display for BadProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A value, and where it stands.
#[derive(Debug, Clone, Copy)]
struct Value<'t> {
    text: &'t str,
    file: &'t Path,
    line: usize,
}

impl Value<'_> {
    fn fault(&self, what: impl Into<String>) -> BadProfile {
        BadProfile {
            place: format!("{}:{}", self.file.display(), self.line),
            what: what.into(),
        }
    }
}

type Values<'t> = HashMap<&'t str, Value<'t>>;

/// Every section of the files, by its title.
#[derive(Debug, Default)]
struct Sections<'t> {
    profiles: HashMap<&'t str, Values<'t>>,
    sessions: HashMap<&'t str, Values<'t>>,
}

impl Profile {
    pub(super) fn of(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = env("HOME").map(PathBuf::from);
        let file = |variable: &str, name: &str| {
            let named = env(variable).map(PathBuf::from);
            named.or_else(|| home.as_ref().map(|home| home.join(".aws").join(name)))
        };
        let files = [
            file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            file("AWS_CONFIG_FILE", "config"),
        ];
        let named = env("AWS_PROFILE");
        Self {
            named: named.is_some(),
            name: named.unwrap_or_else(|| "default".into()),
            files: files.into_iter().flatten().collect(),
        }
    }

    /// What the profile leads to; `None` where there is no such profile, or nothing in it.
    ///
    /// # Errors
    /// What in the files is wrong, with its place.
    pub(super) fn plan(&self) -> Result<Option<Plan>, BadProfile> {
        let texts: Vec<(&Path, Zeroizing<String>)> = self
            .files
            .iter()
            .filter_map(|file| Some((file.as_path(), text(file)?)))
            .collect();
        let mut sections = Sections::default();
        for (file, text) in &texts {
            sections.read(file, text);
        }
        if !sections.profiles.contains_key(&*self.name) {
            let place = || {
                let files = self.files.iter().map(|file| file.display().to_string());
                files.collect::<Vec<_>>().join(", ")
            };
            let what = || format!("no profile is called \"{}\" (AWS_PROFILE)", self.name);
            let missing = self.named.then(|| BadProfile {
                place: place(),
                what: what(),
            });
            return missing.map_or(Ok(None), Err);
        }
        sections.resolve(&self.name, &mut Vec::new())
    }
}

fn text(file: &Path) -> Option<Zeroizing<String>> {
    let size = std::fs::metadata(file).ok()?.len();
    let text = std::fs::read_to_string(file).ok().map(Zeroizing::new);
    text.filter(|_| size <= LONGEST)
}

impl<'t> Sections<'t> {
    /// The sections of one file; what an earlier file says stays.
    fn read(&mut self, file: &'t Path, text: &'t str) {
        let mut inside: Option<&mut Values<'t>> = None;
        for (line, text) in (1..).zip(text.lines()) {
            // A nested block is indented, and is not of the profile itself.
            if text.starts_with([' ', '\t', '#', ';']) {
                continue;
            }
            let title = text
                .trim()
                .strip_prefix('[')
                .and_then(|t| t.strip_suffix(']'));
            if let Some(title) = title.map(str::trim) {
                let (list, name) = match title.split_once(char::is_whitespace) {
                    Some(("profile", name)) => (&mut self.profiles, name),
                    Some(("sso-session", name)) => (&mut self.sessions, name),
                    _ => (&mut self.profiles, title),
                };
                inside = Some(list.entry(name.trim().trim_matches('"')).or_default());
            } else if let (Some((key, value)), Some(values)) = (text.split_once('='), &mut inside) {
                let (key, text) = (key.trim(), value.trim());
                if !text.is_empty() {
                    values.entry(key).or_insert(Value { text, file, line });
                }
            }
        }
    }

    /// One profile, and those that it stands on; `above` are those that stand on it.
    fn resolve(&self, name: &str, above: &mut Vec<String>) -> Result<Option<Plan>, BadProfile> {
        let Some(values) = self.profiles.get(name) else {
            return Ok(None);
        };
        let first = above.is_empty();
        let keys = keys(values)?;
        // A profile that others stand on is asked for its own keys first.
        if let Some(base) = keys.filter(|_| !first || !values.contains_key("role_arn")) {
            return Ok(Some(base.into()));
        }
        if let Some(role) = values.get("role_arn") {
            return self.role(name, (role, values), above).map(Some);
        }
        if let Some(sso) = self.sso(values)? {
            return Ok(Some(Base::Sso(sso).into()));
        }
        let Some(process) = values.get("credential_process") else {
            return Ok(None);
        };
        let words = words(process.text);
        let words = words.filter(|words| !words.is_empty());
        let words = words
            .ok_or_else(|| process.fault("credential_process has a quote that does not end"))?;
        Ok(Some(Base::Process(words).into()))
    }

    fn role(
        &self,
        name: &str,
        (role, values): (&Value<'_>, &Values<'_>),
        above: &mut Vec<String>,
    ) -> Result<Plan, BadProfile> {
        if let Some(file) = values.get("web_identity_token_file") {
            let base = Base::WebIdentity {
                role: role.text.to_owned(),
                file: file.text.into(),
            };
            return Ok(base.into());
        }
        if let Some(serial) = values.get("mfa_serial") {
            return Err(serial.fault("mfa_serial asks for a person, and nobody is there"));
        }
        let mut plan = match (
            values.get("source_profile"),
            values.get("credential_source"),
        ) {
            (Some(_), Some(both)) => {
                return Err(both.fault("source_profile and credential_source exclude each other"));
            }
            (None, None) => {
                let what =
                    "role_arn needs source_profile, credential_source or web_identity_token_file";
                return Err(role.fault(what));
            }
            (None, Some(source)) => Base::Of(match source.text {
                "Environment" => Place::Environment,
                "EcsContainer" => Place::Container,
                "Ec2InstanceMetadata" => Place::Instance,
                _ => {
                    let known = "Environment, EcsContainer or Ec2InstanceMetadata";
                    return Err(source.fault(format!("credential_source is {known}")));
                }
            })
            .into(),
            // It stands on its own keys.
            (Some(source), None) if source.text == name => keys(values)?
                .ok_or_else(|| {
                    source.fault("source_profile names its own profile, which has no keys")
                })?
                .into(),
            (Some(source), None) => {
                above.push(name.to_owned());
                if above.iter().any(|other| other == source.text) {
                    let way = above.join(" → ");
                    let what = format!("source_profile makes a circle: {way} → {}", source.text);
                    return Err(source.fault(what));
                }
                let below = self.resolve(source.text, above)?;
                let missing =
                    || source.fault(format!("the profile \"{}\" gives no keys", source.text));
                below.ok_or_else(missing)?
            }
        };
        let text = |name: &str| values.get(name).map(|value| value.text.to_owned());
        plan.roles.push(Step {
            role: role.text.to_owned(),
            external_id: text("external_id"),
            session: text("role_session_name"),
            duration: match values.get("duration_seconds") {
                None => None,
                Some(value) => {
                    let seconds = value
                        .text
                        .parse()
                        .ok()
                        .filter(|n| (900..=43_200).contains(n));
                    let seconds =
                        seconds.ok_or_else(|| value.fault("duration_seconds is 900 to 43200"))?;
                    Some(Duration::from_secs(seconds))
                }
            },
        });
        Ok(plan)
    }

    fn sso(&self, values: &Values<'_>) -> Result<Option<Sso>, BadProfile> {
        let session = values.get("sso_session");
        let Some(first) = session.or_else(|| values.get("sso_start_url")) else {
            return Ok(None);
        };
        let of_session = match session {
            None => values,
            Some(named) => self
                .sessions
                .get(named.text)
                .ok_or_else(|| named.fault(format!("there is no [sso-session {}]", named.text)))?,
        };
        let part = |values: &Values<'_>, name: &str| {
            let value = values.get(name).map(|value| value.text.to_owned());
            value.ok_or_else(|| first.fault(format!("a login by SSO needs {name}")))
        };
        Ok(Some(Sso {
            filed: first.text.to_owned(),
            region: part(of_session, "sso_region")?,
            account: part(values, "sso_account_id")?,
            role: part(values, "sso_role_name")?,
        }))
    }
}

fn keys(values: &Values<'_>) -> Result<Option<Base>, BadProfile> {
    let (Some(id), Some(secret)) = (
        values.get("aws_access_key_id"),
        values.get("aws_secret_access_key"),
    ) else {
        return Ok(None);
    };
    let share = |value: &Value<'_>| Arc::new(Secret::from(value.text.to_owned()));
    let fit = key_id(id.text.as_bytes());
    Ok(Some(Base::Keys(Shared(Keys {
        id: fit.ok_or_else(|| id.fault("aws_access_key_id is not the id of a key"))?,
        secret: share(secret),
        token: values.get("aws_session_token").map(share),
    }))))
}

impl From<Base> for Plan {
    fn from(base: Base) -> Self {
        let roles = Vec::new();
        Self { base, roles }
    }
}

#[cfg(test)]
mod tests;
