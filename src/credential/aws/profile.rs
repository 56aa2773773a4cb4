//! The shared files `~/.aws/credentials` and `~/.aws/config`: keys or a web identity of one profile.
//!
//! What needs a program (`credential_process`), a browser (`sso_session`) or a second profile (`source_profile`) is not
//! read: `command`, and `role-arn` in keyward's own file, are for that.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::Life;
use super::chain::{Found, of_file};
use super::held::key_id;
use crate::inject::Keys;
use crate::secret::Secret;

/// The largest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Which profile of which files.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    name: String,
    files: Vec<PathBuf>,
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
        Self {
            name: env("AWS_PROFILE").unwrap_or_else(|| "default".into()),
            files: files.into_iter().flatten().collect(),
        }
    }

    /// The profile's keys, or its token; the first file that has one of them.
    pub(super) fn find(&self) -> Option<Found> {
        self.files.iter().find_map(|file| self.of_file(file))
    }

    fn of_file(&self, file: &Path) -> Option<Found> {
        let size = std::fs::metadata(file).ok()?.len();
        let text = Zeroizing::new(
            std::fs::read_to_string(file)
                .ok()
                .filter(|_| size <= LONGEST)?,
        );
        let values = section(&text, &self.name);
        let value = |name: &str| values.get(name).copied().filter(|value| !value.is_empty());
        if let (Some(id), Some(secret)) =
            (value("aws_access_key_id"), value("aws_secret_access_key"))
        {
            let share = |text: &str| Arc::new(Secret::from(text.to_owned()));
            let keys = Keys {
                id: key_id(id.as_bytes())?,
                secret: share(secret),
                token: value("aws_session_token").map(share),
            };
            return Some(Found::Keys(of_file(keys, Life::Endless)));
        }
        let (token, role) = (value("web_identity_token_file")?, value("role_arn")?);
        let token = std::fs::read(token).ok().map(Secret::new)?;
        Some(Found::WebIdentity {
            role: Some(role.to_owned()),
            token: Arc::new(token),
        })
    }
}

/// The pairs of `[NAME]` or `[profile NAME]`.
fn section<'t>(text: &'t str, name: &str) -> HashMap<&'t str, &'t str> {
    let mut values = HashMap::new();
    let mut inside = false;
    for line in text.lines() {
        // A nested block is indented, and is not of the profile itself.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(title) = line
            .trim()
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
        {
            let title = title.trim();
            let title = title.strip_prefix("profile ").unwrap_or(title);
            inside = title.trim().trim_matches('"') == name;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            values.insert(key.trim(), value.trim());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_profile_is_read_and_nothing_of_another() {
        let text = "[default]\naws_access_key_id = A\n[profile two]\n# aws_access_key_id = X\n\
            aws_access_key_id=B\ns3 =\n  aws_secret_access_key = nested\naws_secret_access_key = k=v\n[other]\naws_session_token = T\n";
        let two = section(text, "two");
        assert_eq!(two.get("aws_access_key_id"), Some(&"B"));
        assert_eq!(two.get("aws_secret_access_key"), Some(&"k=v"));
        assert_eq!(two.get("aws_session_token"), None);
        assert_eq!(section(text, "default").len(), 1);
        assert!(section(text, "none").is_empty());
    }
}
