//! `[trust.NAME.peer]`.

use toml::de::DeValue;

use super::{Read, words};
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::Reader;
use crate::config::values;
use crate::identity::{PeerSettings, TrustKind};

pub(in crate::config) static PEER: Section = Section {
    title: "[trust.NAME.peer]",
    keys: &[
        key(
            "uids",
            K::List(&K::Count(0, 4_294_967_294)),
            Need::Optional,
            "Its effective user is one of these. Every key that is given must match; at least one is.",
        ),
        key(
            "gids",
            K::List(&K::Count(0, 4_294_967_294)),
            Need::Optional,
            "Its effective group is one of these.",
        ),
        key(
            "executables",
            K::List(&K::Path),
            Need::Optional,
            "Its executable is one of these files, named as it runs: symlinks resolved.",
        ),
        key(
            "sha256",
            K::List(&K::Text("64 hex digits")),
            Need::Optional,
            "The SHA-256 of its executable is one of these.",
        ),
        key(
            "cgroups",
            K::List(&K::Text("a path, such as \"/system.slice/agent.service\"")),
            Need::Optional,
            "It is in one of these control groups, or below.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    Some((TrustKind::Peer(processes(reader)?), None))
}

/// What a process must be.
pub(super) fn processes(reader: &Reader<'_, '_>) -> Option<PeerSettings> {
    if !PEER.keys.iter().any(|key| reader.has(key.name)) {
        let message = "this would be every process of the machine";
        let help = "give at least one of uids, gids, executables, sha256 and cgroups";
        reader.desk.missing(&reader.span, message, help);
        return None;
    }
    let paths = reader.texts("executables").into_iter();
    let executables = paths
        .filter_map(|(text, span)| values::path(reader.desk, text, &span))
        .collect();
    let sums = reader.texts("sha256").into_iter();
    let sha256 = sums
        .filter_map(|(text, span)| {
            let sum = digest(text);
            if sum.is_none() {
                let message = "a SHA-256 is 64 hex digits";
                reader
                    .desk
                    .fault_with(&span, message, "as `sha256sum FILE` prints it");
            }
            sum
        })
        .collect();
    let cgroups = words(reader, "cgroups");
    for (text, span) in reader.texts("cgroups") {
        if !text.starts_with('/') || text == "/" {
            let message = "a control group is a path below `/`";
            let help = "as it stands in /proc/PID/cgroup, such as \"/system.slice/agent.service\"";
            reader.desk.fault_with(&span, message, help);
        }
    }
    Some(PeerSettings {
        uids: ids(reader, "uids"),
        gids: ids(reader, "gids"),
        executables,
        sha256,
        cgroups,
    })
}

fn ids(reader: &Reader<'_, '_>, name: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for item in reader.list(name).unwrap_or_default() {
        let id = match item.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        if let Some(id) = id.filter(|id| *id != u32::MAX) {
            ids.push(id);
        } else {
            let message = format!("\"{name}\" holds whole numbers from 0 to 4294967294");
            reader.desk.fault(&item.span(), message);
        }
    }
    ids
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut sum = [0; 32];
    for (place, byte) in sum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(sum)
}
