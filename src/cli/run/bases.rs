//! The base URLs of a session: SDKs that know no proxy find keyward by them, and have its token for a key.

use std::sync::Arc;

use http::Uri;

use super::surroundings::Access;
use crate::app::Environment;
use crate::host::{Scheme, Target};
use crate::preset::Preset;

/// Names and values.
pub(super) type Variables = Vec<(String, String)>;

/// The variables of these services, with their values, and what the user should know.
pub(super) fn of(
    services: &[Arc<Preset>],
    access: &Access<'_>,
    caller: &Environment,
) -> (Variables, Vec<String>) {
    let (mut set, mut notes) = (Variables::new(), Vec::new());
    for preset in services {
        let Some(base) = &preset.base_url else {
            continue;
        };
        if let Some(var) = elsewhere(preset, caller) {
            notes.push(format!("{var} stays as it is"));
            continue;
        }
        let url = url(preset, &format!("127.0.0.1:{}", access.port));
        for (names, value) in [
            (
                base.env.iter().map(|name| &**name).collect::<Vec<&str>>(),
                url.as_str(),
            ),
            (preset.env().collect(), access.token),
        ] {
            for name in names {
                // Of two services under one variable the first has it, as with keys.
                if !set.iter().any(|(known, _)| known == name) {
                    set.push((name.to_string(), value.to_owned()));
                }
            }
        }
    }
    (set, notes)
}

/// What stands in the base URL's variables: the SDK appends to it what it appends to the usual one.
pub(crate) fn url(preset: &Preset, address: &str) -> String {
    let usual = preset
        .base_url
        .as_ref()
        .and_then(|base| base.url.parse::<Uri>().ok());
    let path = usual
        .as_ref()
        .map_or("", |url| url.path().trim_end_matches('/'));
    format!("http://{address}/{}{path}", preset.name)
}

/// The variable by which this service's SDKs are led to another host already.
pub(super) fn elsewhere<'a>(preset: &'a Preset, environment: &Environment) -> Option<&'a str> {
    let vars = preset.base_url.iter().flat_map(|base| &base.env);
    let leads_away = |var: &&str| {
        let Some(value) = environment.get(*var).filter(|value| !value.is_empty()) else {
            return false;
        };
        let target = (value.to_str())
            .and_then(|value| value.parse::<Uri>().ok())
            .filter(|uri| uri.scheme_str() == Some("https"))
            .and_then(|uri| Target::from_authority(Scheme::Https, uri.authority()?.as_str()).ok());
        !target.is_some_and(|target| preset.names(&target))
    };
    vars.map(|var| &**var).find(leads_away)
}
