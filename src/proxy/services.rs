//! What known services give the data path: the base URLs under which their SDKs reach them, and their placeholders.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, Uri};

use crate::agent::Name;
use crate::host::{HostMatch, HostPattern, Scheme, Target};
use crate::inject::{Format, Placement};
use crate::preset::{Preset, Presets};
use crate::route::Route;

/// The services that routes name.
#[derive(Debug, Default)]
pub struct Services {
    bases: HashMap<Name, Base>,
    placeholders: HashMap<Name, Arc<[Box<str>]>>,
}

/// A service under `/NAME/` of a listener.
#[derive(Debug)]
pub(super) struct Base {
    /// Where its requests go.
    pub(super) target: Arc<Target>,
    /// Where its SDKs put their key: there the session's token stands. `Authorization: Bearer` does everywhere.
    pub(super) keys: Box<[(HeaderName, Format)]>,
}

impl Services {
    /// Those of the presets that these routes name.
    pub fn of(routes: &[Route], presets: &Presets) -> Self {
        let mut this = Self::default();
        for route in routes {
            let Some(preset) = route
                .preset
                .as_ref()
                .and_then(|name| presets.get(name.as_str()))
            else {
                continue;
            };
            let texts = preset.keys.iter().map(|key| key.placeholder.clone());
            this.placeholders
                .insert(preset.name.clone(), texts.collect());
            if route.credential.is_some()
                && let Some(base) = Base::of(preset)
            {
                this.bases.insert(preset.name.clone(), base);
            }
        }
        this
    }

    /// The service whose name is a path's first segment, and the path that is left.
    pub(super) fn base<'a>(&self, path: &'a str) -> Option<(&Base, &'a str)> {
        let (name, _) = path.strip_prefix('/')?.split_once('/')?;
        let base = self.bases.get(name)?;
        Some((base, path.get(name.len() + 1..)?))
    }

    /// What clients of this route's service have for a key.
    pub(super) fn placeholders(&self, route: &Route) -> Arc<[Box<str>]> {
        let preset = route.preset.as_ref();
        let known = preset.and_then(|preset| self.placeholders.get(preset.as_str()));
        known.map(Arc::clone).unwrap_or_default()
    }
}

impl Base {
    /// `None` for a service without a host of its own, or whose key is no header.
    fn of(preset: &Preset) -> Option<Self> {
        let target = match &preset.base_url {
            Some(base) => {
                let url: Uri = base.url.parse().ok()?;
                Target::from_authority(Scheme::Https, url.authority()?.as_str()).ok()?
            }
            None => preset.hosts.first().and_then(only)?,
        };
        let bearer = || Some((AUTHORIZATION, "Bearer {}".parse().ok()?));
        let mut keys: Vec<(HeaderName, Format)> = Vec::new();
        for placement in preset.keys.iter().flat_map(|key| &key.placements) {
            match placement {
                Placement::Bearer => keys.extend(bearer()),
                Placement::Header { name, format } => keys.push((name.clone(), format.clone())),
                _ => {}
            }
        }
        if keys.is_empty() {
            return None;
        }
        if !keys.iter().any(|(name, _)| *name == AUTHORIZATION) {
            keys.extend(bearer());
        }
        Some(Self {
            target: Arc::new(target),
            keys: keys.into(),
        })
    }
}

/// The one target of a pattern that has one.
fn only(pattern: &HostPattern) -> Option<Target> {
    match &pattern.kind {
        HostMatch::OneLabel(_) => None,
        HostMatch::Exact(_) => Target::from_authority(Scheme::Https, &pattern.to_string()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_whole_first_segment_and_leaves_the_rest_untouched() {
        let mut services = Services::default();
        let preset = Presets::shipped().get("openai").unwrap();
        let base = Base::of(preset).unwrap();
        services.bases.insert("openai".parse().unwrap(), base);
        let (base, rest) = services.base("/openai/v1/models?x=/openai/").unwrap();
        assert_eq!(&*base.target.authority(), "api.openai.com");
        assert_eq!(rest, "/v1/models?x=/openai/");
        for other in [
            "/openai",
            "/openaix/v1",
            "//openai/v1",
            "/%6fpenai/v1",
            "openai/v1",
            "/OPENAI/v1",
            "/",
        ] {
            assert!(services.base(other).is_none(), "{other}");
        }
    }

    #[test]
    fn every_preset_with_a_base_url_has_a_base_at_its_own_host() {
        let named = Presets::shipped().iter().filter(|p| p.base_url.is_some());
        for preset in named {
            let base = Base::of(preset).unwrap();
            assert!(preset.names(&base.target), "{}", preset.name);
        }
        let site = Presets::shipped().get("atlassian").unwrap();
        assert!(Base::of(site).is_none(), "a pattern is no host");
        let path = Presets::shipped().get("telegram").unwrap();
        assert!(Base::of(path).is_none(), "its key stands in the path");
    }
}
