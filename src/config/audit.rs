//! `[audit]`: where records go, and what they survive.

use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use crate::audit::{Durability, Settings, Sink};

pub(super) static AUDIT: Section = Section {
    title: "[audit]",
    keys: &[
        key(
            "file",
            Kind::Path,
            Need::Optional,
            "The file that records are appended to; left out, stdout. Without `[audit]`: stdout for `serve`, `$XDG_STATE_HOME/keyward/audit.jsonl` for `run`.",
        ),
        key(
            "durability",
            Kind::Choice(&["os", "disk"]),
            Need::Default("\"os\""),
            "What an intent survives before its request leaves: `os`, a kill of keyward; `disk`, a power cut (group commit).",
        ),
        key(
            "rotate-at",
            Kind::Size(1 << 20, 1 << 40),
            Need::Default("\"256MiB\""),
            "The size past which the file is rotated.",
        ),
        key(
            "keep",
            Kind::Count(0, 100_000),
            Need::Default("0"),
            "How many rotated files are kept; 0 keeps all.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Settings {
    let sink = reader.path("file").map_or(Sink::Stdout, Sink::File);
    if !reader.has("file") {
        for name in ["rotate-at", "keep"] {
            if reader.has(name) {
                let message = format!("\"{name}\" does nothing without \"file\"");
                let help = "standard output is never rotated";
                reader.desk.warn(&reader.key_span(name), message, help);
            }
        }
    }
    Settings {
        sink,
        durability: match reader.choice("durability") {
            Some("disk") => Durability::Disk,
            _ => Durability::Os,
        },
        rotate_at: reader.size("rotate-at"),
        keep: reader.count("keep"),
    }
}
