//! What the command finds empty: keyward's own files, the logins of command-line tools whose service is served, and
//! sockets behind which secrets are given out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Prepared;
use super::doors::{Doors, STORES};
use crate::app::Environment;
use crate::preset::Preset;
use crate::sandbox::Mask;

/// The masks for these files, and a sentence each about logins that stay readable and services that stay open.
pub(super) fn masks(
    prepared: &Prepared,
    doors: &Doors,
    environment: &Environment,
) -> (Vec<Mask>, Vec<String>) {
    let home = environment.get("HOME").map(PathBuf::from);
    let mut paths: Vec<PathBuf> = prepared.hidden.clone();
    let of = |preset: &Arc<Preset>| -> Vec<PathBuf> {
        let files = preset.login_files.iter();
        files
            .filter_map(|file| expand(file, home.as_deref()))
            .collect()
    };
    paths.extend(prepared.services.iter().flat_map(of));
    paths.extend(doors.covered.iter().cloned());
    paths.retain(|path| path.exists());
    paths.sort();
    paths.dedup();
    let others = STORES
        .iter()
        .filter_map(|file| expand(file, home.as_deref()));
    let mut open: Vec<String> = (prepared.presets.iter().flat_map(of).chain(others))
        .filter(|path| !paths.contains(path) && path.exists())
        .map(|path| path.display().to_string())
        .collect();
    open.sort();
    open.dedup();
    let mut told = Vec::new();
    if !open.is_empty() {
        told.push(format!(
            "the command can read these logins, for whose services keyward holds no key: {}",
            open.join(", ")
        ));
    }
    if !doors.open.is_empty() {
        told.push(format!(
            "the command can ask these services, which act outside of the sandbox (not with --isolate): {}",
            doors.open.join(", ")
        ));
    }
    (paths.into_iter().map(mask).collect(), told)
}

fn expand(file: &str, home: Option<&Path>) -> Option<PathBuf> {
    Some(home?.join(file.strip_prefix("~/")?))
}

/// An empty file is no JSON, which tools take for damage.
fn mask(path: PathBuf) -> Mask {
    let json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    Mask {
        replacement: (json && path.is_file()).then(|| b"{}\n".to_vec()),
        path,
    }
}
