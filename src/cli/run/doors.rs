//! Services of the user's own session, which do on request what the command cannot. Those that give out secrets, or start
//! programs for whoever asks, are covered; the others are told.

use std::path::{Path, PathBuf};

use crate::app::Environment;

/// Stores of secrets that belong to no preset, below the home directory.
pub(super) const STORES: [&str; 19] = [
    "~/.ssh",
    "~/.gnupg",
    "~/.docker/config.json",
    "~/.kube/config",
    "~/.config/gcloud",
    "~/.azure",
    "~/.config/rclone/rclone.conf",
    "~/.terraform.d/credentials.tfrc.json",
    "~/.m2/settings.xml",
    "~/.gem/credentials",
    "~/.pgpass",
    "~/.my.cnf",
    "~/.password-store",
    "~/.config/op",
    "~/.local/share/keyrings",
    "~/.config/google-chrome",
    "~/.config/chromium",
    "~/.mozilla/firefox",
    "~/Library/Keychains",
];

/// What stands open in this session.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Sockets to cover.
    pub(super) covered: Vec<PathBuf>,
    /// The others, as the user calls them.
    pub(super) open: Vec<String>,
    /// A session bus whose socket is no file.
    pub(super) bus_is_open: bool,
}

/// Looks at the sockets that the environment and the usual places name.
pub(super) fn look(environment: &Environment, isolate: bool) -> Doors {
    let text = |name: &str| environment.get(name).and_then(|value| value.to_str());
    let uid = rustix::process::getuid().as_raw();
    let runtime = text("XDG_RUNTIME_DIR").filter(|dir| dir.starts_with('/'));
    let runtime = runtime.map_or_else(|| format!("/run/user/{uid}"), str::to_owned);
    let within = |path: &str| Path::new(&runtime).join(path);
    let mut doors = Doors::default();
    // D-Bus Specification, "Server Addresses". The Secret Service and systemd's user manager are asked over this bus.
    let buses = text("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    for keys in buses.split(';').filter_map(|one| one.strip_prefix("unix:")) {
        let value = |name: &str| keys.split(',').find_map(|key| key.strip_prefix(name));
        if let Some(path) = value("path=") {
            doors.covered.push(unescaped(path));
        } else if value("abstract=").is_some() {
            doors.bus_is_open = true;
        }
    }
    doors.covered.extend(
        [
            "bus",
            "systemd/private",
            "keyring/control",
            "keyring/pkcs11",
            "kwalletd5.socket",
            "kwalletd6.socket",
        ]
        .map(within),
    );
    let control = text("GNOME_KEYRING_CONTROL").map(|dir| Path::new(dir).join("control"));
    doors.covered.extend(control);
    doors.covered.retain(|path| path.exists());
    doors.covered.sort();
    doors.covered.dedup();
    // In a network of its own no name of the abstract kind is found, and sockets that stand are covered.
    if isolate {
        doors.bus_is_open = false;
        return doors;
    }
    if doors.bus_is_open {
        let bus =
            "the session bus (DBUS_SESSION_BUS_ADDRESS is no file), with the keyring behind it";
        doors.open.push(bus.to_owned());
    }
    let home = text("HOME").unwrap_or("/nonexistent");
    let engine = text("DOCKER_HOST").and_then(|host| host.strip_prefix("unix://"));
    let tmux = text("TMUX").and_then(|value| value.split(',').next());
    let others = [
        (
            "docker",
            engine.map_or_else(|| "/var/run/docker.sock".into(), PathBuf::from),
        ),
        ("podman", within("podman/podman.sock")),
        (
            "ssh-agent",
            text("SSH_AUTH_SOCK").map(PathBuf::from).unwrap_or_default(),
        ),
        ("gpg-agent", within("gnupg/S.gpg-agent")),
        ("gpg-agent", Path::new(home).join(".gnupg/S.gpg-agent")),
        ("tmux", tmux.map(PathBuf::from).unwrap_or_default()),
    ];
    let standing = others.iter().filter(|(_, path)| path.exists());
    (doors.open).extend(standing.map(|(name, path)| format!("{name} ({})", path.display())));
    doors
}

/// The value of an address has `%XX` for bytes that mean something there.
fn unescaped(value: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_bus_is_covered_where_it_is_a_file_and_told_where_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a bus;");
        let _bus = UnixListener::bind(&odd).unwrap();
        let look_at = |address: &str, isolate| {
            let pairs = [
                ("DBUS_SESSION_BUS_ADDRESS".to_owned(), address.into()),
                ("XDG_RUNTIME_DIR".to_owned(), folder.path().into()),
            ];
            let environment: Environment = Arc::new(HashMap::from(pairs));
            look(&environment, isolate)
        };
        let path = odd
            .to_str()
            .unwrap()
            .replace(' ', "%20")
            .replace(';', "%3b");
        let found = look_at(&format!("tcp:host=x;unix:guid=0,path={path}"), false);
        assert_eq!(found.covered, [odd]);
        assert!(!found.bus_is_open);
        let told = look_at("unix:abstract=/tmp/dbus-x,guid=0", false);
        assert!(
            told.bus_is_open && told.open[0].contains("the keyring"),
            "{told:?}"
        );
        assert!(look_at("unix:abstract=/tmp/dbus-x", true).open.is_empty());
    }
}
