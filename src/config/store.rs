//! `[store]`: what outlasts the process, and the key that seals it.

use super::fault::Named;
use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use super::source;
use crate::store::Settings;

pub(super) static STORE: Section = Section {
    title: "[store]",
    keys: &[
        key(
            "sqlite",
            Kind::Path,
            Need::Optional,
            "A SQLite file, mode 0600, made at the first start: for one machine. Left out, and without `postgres`: in memory.",
        ),
        key(
            "postgres",
            Kind::Source,
            Need::Optional,
            "Where the URL of a PostgreSQL database is read from: for replicas that share it.",
        ),
        key(
            "key",
            Kind::Source,
            Need::Optional,
            "Where the key is read from that seals all secrets in the store: 32 bytes in base64. Required with either.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Settings {
    let (sqlite, postgres) = (reader.path("sqlite"), source::read(reader, "postgres"));
    let key = source::read(reader, "key");
    let both = reader.has("sqlite") && reader.has("postgres");
    if both {
        let message = "[store] has \"sqlite\" and \"postgres\"";
        let help = "write one of them: sqlite for one machine, postgres for replicas that share it";
        reader
            .desk
            .fault_with(&reader.key_span("postgres"), message, help);
    }
    let either = reader.has("sqlite") || reader.has("postgres");
    if either && !reader.has("key") {
        let message = "[store] needs the key \"key\"";
        let help = "what is stored is sealed with it. Make one with `openssl rand -base64 32`, and name where it is read from: key = { file = \"PATH\" }";
        reader.desk.missing(&reader.span, message, help);
    }
    if !either && reader.has("key") {
        let message = "\"key\" without \"sqlite\" or \"postgres\": nothing is stored";
        let help = "add sqlite = \"PATH\" or postgres = { env = \"NAME\" }, or leave \"key\" out";
        reader
            .desk
            .fault_with(&reader.key_span("key"), message, help);
    }
    if let (Some(path), Some(value)) = (&sqlite, reader.raw("sqlite")) {
        let folder = path.parent().map(ToOwned::to_owned).unwrap_or_default();
        reader.desk.site(&value.span(), Named::Folder(folder));
    }
    if let (Some(key), Some(value)) = (&key, reader.raw("key")) {
        reader
            .desk
            .site(&value.span(), Named::StoreKey(key.clone()));
    }
    match (sqlite, postgres, key) {
        (Some(path), None, Some(key)) => Settings::Sqlite { path, key },
        (None, Some(url), Some(key)) => Settings::Postgres { url, key },
        _ => Settings::Memory,
    }
}
