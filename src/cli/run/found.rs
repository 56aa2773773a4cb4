//! Without a file: the keys of known services that the environment holds become a configuration.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::app::Environment;
use crate::host::{HostMatch, HostPattern};
use crate::inject::Placement;
use crate::preset::{Key, Preset, Presets};
use crate::route::PathPattern;

/// What the environment holds, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The configuration, as a file would say it.
    pub(crate) text: String,
    /// The variables that leave the environment, with what stands there instead.
    pub(crate) taken: BTreeMap<String, Option<String>>,
    /// The services that are served.
    pub(crate) served: Vec<Arc<Preset>>,
    /// What the user should know, a sentence each.
    pub(crate) notes: Vec<String>,
    /// The credential of each variable that is served.
    credentials: BTreeMap<String, String>,
    /// Hosts all of whose paths have a route.
    whole: HashSet<HostPattern>,
}

/// Looks for the keys of every service. `strict`: the paths that a service does not speak of are refused too.
pub(crate) fn look(environment: &Environment, presets: &Presets, strict: bool) -> Found {
    let mut found = Found::default();
    let mut ordered: Vec<&Arc<Preset>> = presets.iter().collect();
    // The first route that matches decides: paths before whole hosts, hosts before patterns of them.
    ordered.sort_by_key(|preset| (preset.paths.is_empty(), has_pattern(preset)));
    for preset in ordered {
        for (place, key) in preset.keys.iter().enumerate() {
            let set: Vec<&str> = (key.env.iter().map(|var| &**var))
                .filter(|var| is_set(environment, var))
                .collect();
            let Some(var) = set.first() else { continue };
            match found.serve(environment, preset, (place, key), var) {
                Ok(()) => found.take(&set, Some(&key.placeholder)),
                Err(why) => {
                    found.take(&set, None);
                    found.notes.push(format!("{var} is not served: {why}"));
                }
            }
            let differ = |other: &&&str| environment.get(**other) != environment.get(*var);
            if let Some(other) = set.iter().find(differ) {
                found.notes.push(format!(
                    "{var} and {other} are names of one key and differ: {var} is used"
                ));
            }
        }
    }
    if !strict {
        found.leave_the_rest_open();
    }
    found.look_at_base_urls(environment);
    found.notes.dedup();
    if found.served.is_empty() {
        found.notes.push(
            "no key of a known service is in the environment, so nothing is injected".to_owned(),
        );
    }
    found
}

fn has_pattern(preset: &Preset) -> bool {
    (preset.hosts.iter()).any(|host| matches!(host.kind, HostMatch::OneLabel(_)))
}

pub(super) fn is_set(environment: &Environment, var: &str) -> bool {
    environment.get(var).is_some_and(|value| !value.is_empty())
}

impl Found {
    fn take(&mut self, set: &[&str], placeholder: Option<&str>) {
        for var in set {
            let slot = self.taken.entry((*var).to_owned()).or_default();
            *slot = slot.take().or_else(|| placeholder.map(str::to_owned));
        }
    }

    /// Writes credential and route, or says why there can be none. The key is kept from the command either way.
    fn serve(
        &mut self,
        environment: &Environment,
        preset: &Arc<Preset>,
        (place, key): (usize, &Key),
        var: &str,
    ) -> Result<(), String> {
        let name = &preset.name;
        if key.placements.is_empty() {
            return Err(format!(
                "{} wants signed requests; use a file (-c)",
                preset.title
            ));
        }
        if place > 0 {
            return Err(format!(
                "only the first key of {} is injected",
                preset.title
            ));
        }
        if preset.keys.len() > 1 {
            return Err(format!(
                "{} takes several keys at once; name them in a file (-c)",
                preset.title
            ));
        }
        if let Some(shape) = &preset.host_shape {
            return Err(format!(
                "{} answers at a host of your own ({shape}); name it in a file (-c)",
                preset.title
            ));
        }
        let hosts = &preset.hosts;
        if preset.paths.is_empty() && hosts.iter().all(|host| self.whole.contains(host)) {
            return Err(format!("another key goes to the hosts of {}", preset.title));
        }
        let inject = inject(environment, key)?;
        let credential = if let Some(credential) = self.credentials.get(var) {
            credential.clone()
        } else {
            let text = format!("[credential.{name}.static]\nvalue = {{ env = \"{var}\" }}\n");
            self.text.insert_str(0, &text);
            (self.credentials).insert(var.to_owned(), name.to_string());
            name.to_string()
        };
        let mut route = format!(
            "[[route]]\nname = \"{name}\"\npreset = \"{name}\"\ncredential = \"{credential}\"\n{inject}"
        );
        if preset.paths.is_empty() {
            self.whole.extend(hosts.iter().cloned());
        } else {
            let paths: Vec<&str> = preset.paths.iter().map(PathPattern::as_str).collect();
            // Writing to a String cannot fail.
            writeln!(route, "paths = {}", serde_json::Value::from(paths)).ok();
        }
        self.text.push_str(&route);
        self.served.push(Arc::clone(preset));
        Ok(())
    }

    /// A host with a credential is never tunnelled, so the paths of which its service does not speak get a route
    /// without one.
    fn leave_the_rest_open(&mut self) {
        let rest: Vec<(String, Vec<String>)> = (self.served.iter())
            .filter(|preset| !preset.paths.is_empty())
            .filter(|preset| !preset.hosts.iter().all(|host| self.whole.contains(host)))
            .map(|preset| {
                let hosts = preset.hosts.iter().map(ToString::to_string).collect();
                (preset.name.to_string(), hosts)
            })
            .collect();
        for (name, hosts) in rest {
            let hosts = serde_json::Value::from(hosts);
            let rest = format!("[[route]]\nname = \"{name}-rest\"\nhosts = {hosts}\n");
            self.text.push_str(&rest);
        }
    }

    /// A base URL elsewhere: what goes there gets no key, or whoever can set a variable would choose who is shown it.
    fn look_at_base_urls(&mut self, environment: &Environment) {
        for preset in &self.served {
            if let Some(var) = super::bases::elsewhere(preset, environment) {
                self.notes.push(format!(
                    "{var} leads elsewhere than to {}: no key is injected there",
                    preset.title
                ));
            }
        }
    }
}

/// `inject = …` where the preset's own does not do: a user name comes from the environment.
fn inject(environment: &Environment, key: &Key) -> Result<String, String> {
    let asks =
        |placement: &Placement| matches!(placement, Placement::Basic { user } if user.is_empty());
    if !key.placements.iter().any(asks) {
        return Ok(String::new());
    }
    let vars = key.user_env.join(", ");
    let user = (key.user_env.iter())
        .find_map(|var| {
            environment
                .get(&**var)?
                .to_str()
                .filter(|user| !user.is_empty())
        })
        .ok_or_else(|| format!("the user name that goes with it is not set ({vars})"))?;
    // RFC 7617 §2: a user-id has no colon, and no control character.
    if user.contains(|c: char| c == ':' || c.is_control()) {
        return Err(format!("{vars} holds no user name"));
    }
    let user = serde_json::Value::from(user);
    Ok(format!("inject = {{ basic = {user} }}\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Config};

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter();
        Arc::new(
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect::<HashMap<_, _>>(),
        )
    }

    fn found(pairs: &[(&str, &str)]) -> (Found, Config) {
        let presets = Presets::shipped();
        let found = look(&environment(pairs), presets, false);
        let loaded = config::parse(&found.text, "found", Path::new(""), &**presets);
        let config = loaded.unwrap_or_else(|report| panic!("{report}{}", found.text));
        (found, config.config)
    }

    #[test]
    fn one_key_becomes_one_credential_and_one_route() {
        let (found, config) = found(&[("ANTHROPIC_API_KEY", "k-0123456789")]);
        assert_eq!(config.env_names(), ["ANTHROPIC_API_KEY"]);
        assert_eq!(config.routes.len(), 1);
        assert_eq!(config.routes[0].placements.len(), 1);
        let placeholder = found.taken["ANTHROPIC_API_KEY"].as_deref().unwrap();
        assert!(placeholder.starts_with("sk-ant-api03-"));
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }

    #[test]
    fn every_known_variable_at_once_makes_a_configuration_that_holds() {
        let presets = Presets::shipped();
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for preset in presets.iter() {
            pairs.extend(preset.env().map(|var| (var, "k-0123456789")));
            let users = preset.keys.iter().flat_map(|key| &key.user_env);
            pairs.extend(users.map(|var| (&**var, "someone@example.com")));
        }
        let (found, config) = found(&pairs);
        for preset in presets.iter() {
            for var in preset.env() {
                assert!(found.taken.contains_key(var), "{var} stays");
            }
        }
        assert!(config.routes.len() > 50);
        assert!(found.text.contains("basic = \"someone@example.com\""));
    }

    #[test]
    fn a_key_that_cannot_be_served_is_kept_from_the_command_all_the_same() {
        for (var, why) in [
            ("AWS_SECRET_ACCESS_KEY", "signed"),
            ("WEAVIATE_API_KEY", "a host of your own"),
            ("TWILIO_AUTH_TOKEN", "TWILIO_ACCOUNT_SID"),
            ("DD_APP_KEY", "first key"),
        ] {
            let (found, config) = found(&[(var, "k-0123456789")]);
            assert_eq!(found.taken[var], None, "{var}");
            assert!(found.notes[0].contains(why), "{:?}", found.notes);
            assert!(config.routes.is_empty());
        }
    }

    #[test]
    fn of_two_keys_for_one_host_one_is_served_and_the_other_taken() {
        let pairs = [
            ("ANTHROPIC_API_KEY", "k-0123456789"),
            ("CLAUDE_CODE_OAUTH_TOKEN", "o-0123456789"),
        ];
        let (found, config) = found(&pairs);
        assert_eq!(config.routes.len(), 1);
        assert!(found.taken["ANTHROPIC_API_KEY"].is_some());
        assert_eq!(found.taken["CLAUDE_CODE_OAUTH_TOKEN"], None);
        assert!(found.notes[0].contains("another key"));
    }

    #[test]
    fn a_token_for_git_goes_to_its_paths_and_the_pages_stay_open() {
        let (_, config) = found(&[("GITHUB_TOKEN", "k-0123456789")]);
        let names: Vec<&str> = config.routes.iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["github-git", "github", "github-git-rest"]);
        assert_eq!(config.credentials.len(), 1);
        assert!(!config.routes[0].paths.is_empty());
        assert!(config.routes[2].credential.is_none());
    }

    #[test]
    fn a_base_url_elsewhere_is_told_and_gets_nothing() {
        let key = ("OPENAI_API_KEY", "k-0123456789");
        let (usual, _) = found(&[key, ("OPENAI_BASE_URL", "https://api.openai.com/v1")]);
        assert!(usual.notes.is_empty(), "{:?}", usual.notes);
        for other in [
            "https://api.openai.com.evil.test/v1",
            "http://api.openai.com/",
            "x",
        ] {
            let (found, config) = found(&[key, ("OPENAI_BASE_URL", other)]);
            assert!(found.notes[0].contains("OPENAI_BASE_URL"), "{other}");
            assert_eq!(config.routes.len(), 1);
        }
    }
}
