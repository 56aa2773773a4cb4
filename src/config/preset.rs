//! The built-in services, as routes name them.

use std::sync::Arc;

use super::{PresetRoute, Presets};
use crate::preset::{self, Preset};

impl Presets for preset::Presets {
    fn find(&self, name: &str) -> Option<PresetRoute> {
        let preset: &Arc<Preset> = self.get(name)?;
        Some(PresetRoute {
            hosts: preset.hosts.clone(),
            paths: preset.paths.clone(),
            placements: match &*preset.keys {
                [key] => key.placements.clone(),
                _ => Vec::new(),
            },
            encoded_slash: preset.encoded_slash,
            minting: Some(Arc::clone(preset)),
        })
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|preset| preset.name.as_str()).collect()
    }
}
