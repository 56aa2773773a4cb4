//! What the file needs of this machine: secret files that only keyward can read, variables that are set. All warnings,
//! since the file may be checked on another machine than the one it is for.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fault::{Desk, Named, Span};
use crate::credential::Source;
use crate::secret::Secret;

/// Looks at everything that the configuration names.
pub(super) fn look(desk: &Desk) {
    for site in desk.sites() {
        match &site.what {
            Named::Certificates(path) => {
                present(desk, &site.span, path);
            }
            Named::Folder(path) => folder(desk, &site.span, path),
            Named::StoreKey(Source::File(path)) => store_key(desk, &site.span, path),
            Named::Secret(Source::File(path)) => secret_file(desk, &site.span, path),
            Named::Secret(Source::Env(name)) => variable(desk, &site.span, name),
            Named::Secret(Source::Command { argv, .. }) => {
                if let Some(program) = argv.first().filter(|program| program.contains('/')) {
                    present(desk, &site.span, Path::new(program));
                }
            }
            Named::Secret(Source::Keyring { .. }) | Named::StoreKey(_) => {}
        }
    }
}

/// A file of rules that others can write is their file (CWE-732).
pub(super) fn look_at_file(desk: &Desk, metadata: &Metadata) {
    let mode = metadata.permissions().mode();
    if mode & 0o002 != 0 {
        let message = format!("everybody can write this file (mode {:04o})", mode & 0o7777);
        desk.warn(
            &(0..0),
            message,
            "who writes it decides where credentials go: chmod o-w",
        );
    }
}

fn present(desk: &Desk, span: &Span, path: &Path) -> Option<Metadata> {
    match path.metadata() {
        Ok(metadata) => Some(metadata),
        Err(error) => {
            let message = format!("this file cannot be read here: {}", reason(&error));
            desk.warn(span, message, format!("looked for {}", path.display()));
            None
        }
    }
}

/// The error's kind, without the number that the system gives it.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        kind => kind.to_string(),
    }
}

fn folder(desk: &Desk, span: &Span, path: &Path) {
    // The empty path is the folder that keyward is started in.
    if path.as_os_str().is_empty() || path.is_dir() {
        return;
    }
    let message = "the folder of this file does not exist here";
    desk.warn(span, message, format!("looked for {}", path.display()));
}

/// A key that is none stops the next start; what stands in the file is not told.
fn store_key(desk: &Desk, span: &Span, path: &Path) {
    // A file that cannot be read was told already, as the source that it is.
    let Ok(text) = std::fs::read(path).map(Secret::new) else {
        return;
    };
    if let Err(error) = crate::store::look_at_key(&text) {
        let help = "make one with `openssl rand -base64 32`";
        desk.fault_with(span, error, help);
    }
}

fn secret_file(desk: &Desk, span: &Span, path: &Path) {
    let Some(metadata) = present(desk, span, path) else {
        return;
    };
    let mode = metadata.permissions().mode();
    if metadata.is_dir() {
        desk.warn(span, "this is a folder, not a file", "name the file in it");
    } else if mode & 0o077 != 0 {
        let message = format!(
            "others can use this secret file (mode {:04o})",
            mode & 0o7777
        );
        desk.warn(span, message, "only keyward's own user needs it: chmod 600");
    }
}

fn variable(desk: &Desk, span: &Span, name: &str) {
    // Whether it is set, never what it holds.
    if std::env::var_os(name).is_none() {
        let message = format!("the environment variable {name} is not set here");
        desk.warn(span, message, "a request that needs it will be refused");
    }
}
