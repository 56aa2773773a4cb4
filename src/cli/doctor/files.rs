//! The modes of files: what others can read or write is theirs. Files of secrets are among the file's own warnings.
//! And the store, which is a file or a server.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::Finding;
use crate::app::{Environment, roots_file};
use crate::audit::Sink;
use crate::config::Config;
use crate::store::{self, Settings, StoreError};

/// Looks at the configuration's own file, the CA's folder and the audit trail.
pub(super) fn look(config: &Config, file: &Path) -> Vec<Finding> {
    let mut found = vec![mode("modes", file, 0o022, "chmod go-w")];
    match (&config.ca.dir, roots_file(&config.ca)) {
        (Some(dir), Some(roots)) => {
            found.push(mode("modes", dir, 0o077, "chmod 0700"));
            let mut keys: Vec<_> = (std::fs::read_dir(dir).into_iter().flatten().flatten())
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "key"))
                .collect();
            keys.sort();
            found.extend(
                keys.iter()
                    .map(|key| mode("modes", key, 0o077, "chmod 0600")),
            );
            found.push(if roots.is_file() {
                Finding::ok("ca", format!("agents trust {}", roots.display()))
            } else {
                Finding::warn(
                    "ca",
                    format!("{} is not there yet", roots.display()),
                    "`keyward serve` or `keyward ca issue` makes it",
                )
            });
        }
        _ => found.push(Finding::warn(
            "ca",
            "the CA is in memory, and another one at each start",
            "write dir = \"…\" in [ca], or let each agent read GET /ca.pem of the listener",
        )),
    }
    if let Some(Sink::File(path)) = config.audit.as_ref().map(|audit| &audit.sink)
        && path.exists()
    {
        found.push(mode("modes", path, 0o022, "chmod go-w"));
    }
    found
}

/// Whether `[store]` can be used. Nothing is made or changed by looking.
pub(super) async fn store(
    settings: &Settings,
    environment: &Environment,
    offline: bool,
) -> Vec<Finding> {
    const CHECK: &str = "store";
    let mut found = Vec::new();
    match settings {
        Settings::Memory => {
            return vec![Finding::ok(CHECK, "nothing is kept beyond this process")];
        }
        Settings::Sqlite { path, .. } => {
            if path.exists() {
                found.push(mode("modes", path, 0o077, "chmod 0600"));
            }
        }
        Settings::Postgres { .. } if offline => {
            return vec![Finding::ok(CHECK, "the server is not tried")];
        }
        Settings::Postgres { .. } => {}
    }
    let look = |name: &str| environment.get(name).cloned();
    found.push(match store::reach(settings, &look).await {
        Ok(()) => Finding::ok(CHECK, "it can be reached, and its key is a key"),
        Err(error @ StoreError::Source(..)) => Finding::warn(
            CHECK,
            format!("{error}, so it was not tried"),
            "run this as keyward's user, with keyward's environment",
        ),
        Err(error) => {
            let help = match &error {
                StoreError::BadKey => "make one with `openssl rand -base64 32`",
                StoreError::BadUrl => "write it so, percent-encoded",
                StoreError::File { .. } => "make its folder, and give it to keyward's user",
                _ => "look at host, port, user, password and database of its URL, and at TLS (sslmode, sslrootcert)",
            };
            Finding::fail(CHECK, error.to_string(), help)
        }
    });
    found
}

/// Whether a file's mode has none of these bits, and the file is ours or root's.
fn mode(check: &'static str, path: &Path, bits: u32, help: &str) -> Finding {
    let shown = path.display();
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::ok(check, format!("{shown} is not there yet"));
        }
        Err(error) => {
            return Finding::fail(
                check,
                format!("{shown}: {error}"),
                "run this as keyward's user",
            );
        }
    };
    let mode = metadata.permissions().mode() & 0o7777;
    let own = rustix::process::geteuid().as_raw();
    if mode & bits != 0 {
        let message = format!("{shown} has mode {mode:04o}: others can reach it");
        Finding::fail(check, message, format!("{help} {shown}"))
    } else if metadata.uid() != own && metadata.uid() != 0 {
        let message = format!("{shown} belongs to uid {}, not to {own}", metadata.uid());
        Finding::warn(
            check,
            message,
            format!("chown it, or run keyward as uid {}", metadata.uid()),
        )
    } else {
        Finding::ok(check, format!("{shown} ({mode:04o})"))
    }
}
