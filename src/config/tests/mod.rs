//! What a person reads when a file is wrong, and that every file which is shipped or shown in the docs is right.

mod bad;
mod docs;
mod good;
mod shapes;
mod warnings;

use std::path::{Path, PathBuf};

use super::{Loaded, PresetRoute, Presets, Report, parse};
use crate::inject::Placement;

/// Presets enough for a test.
#[derive(Debug)]
pub(super) struct TestPresets;

impl Presets for TestPresets {
    fn find(&self, name: &str) -> Option<PresetRoute> {
        (name == "openai").then(|| PresetRoute {
            hosts: vec!["api.openai.com".parse().unwrap()],
            paths: vec!["/v1/**".parse().unwrap()],
            placements: vec![Placement::Bearer],
            encoded_slash: true,
            minting: None,
        })
    }

    fn names(&self) -> Vec<&str> {
        vec!["openai"]
    }
}

pub(super) fn read(text: &str) -> Result<Loaded, Report> {
    parse(text, "test.toml", Path::new("/etc/keyward"), &TestPresets)
}

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder with this extension, in order.
pub(super) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}
