//! `[session]`: how long sessions live, what they are bound to, and how far they may be handed on.

use super::key::{DAY, Kind, Need, Section, key, secs};
use super::reader::Reader;
use crate::delegation::Shrink;
use crate::session::{Bind, Settings};

pub(super) static SESSION: Section = Section {
    title: "[session]",
    keys: &[
        key(
            "ttl",
            Kind::Duration(secs(1), DAY),
            Need::Default("\"15m\""),
            "How long a session token lives.",
        ),
        key(
            "idle",
            Kind::Duration(secs(1), DAY),
            Need::Default("\"10m\""),
            "A session that nothing uses for so long ends.",
        ),
        key(
            "max-depth",
            Kind::Count(0, 16),
            Need::Default("3"),
            "How often a session may be handed on. A session that no one delegated has depth 0.",
        ),
        key(
            "approve-beyond",
            Kind::Count(0, 16),
            Need::Default("2"),
            "A session that is deeper needs a person's approval.",
        ),
        key(
            "approval",
            Kind::Text("the NAME of an [approval.NAME]"),
            Need::Optional,
            "Who is asked beyond that depth. Left out, it is refused.",
        ),
        key(
            "bind",
            Kind::Choice(&["auto", "none"]),
            Need::Default("\"auto\""),
            "What a session token is bound to. `auto`: the peer that asked for it; elsewhere it is refused. `none`: nothing.",
        ),
        key(
            "shrink",
            Kind::Choice(&["subset", "strict"]),
            Need::Default("\"subset\""),
            "`strict`: what is handed on must be less than what there is, and not the same.",
        ),
    ],
};

/// `approvals` are the names of `[approval.NAME]`.
pub(super) fn read(reader: &Reader<'_, '_>, approvals: &[&str]) -> Settings {
    let depth = |name| u32::try_from(reader.count(name)).unwrap_or_default();
    Settings {
        ttl: reader.duration("ttl"),
        idle: reader.duration("idle"),
        max_depth: depth("max-depth"),
        approve_beyond: depth("approve-beyond"),
        approval: super::approval::named(reader, approvals),
        bind: match reader.choice("bind") {
            Some("none") => Bind::None,
            _ => Bind::Auto,
        },
        shrink: match reader.choice("shrink") {
            Some("strict") => Shrink::Strict,
            _ => Shrink::Subset,
        },
    }
}
