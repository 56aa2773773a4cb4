//! `[ca]`: where the root that agents trust is kept.

use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use crate::tls::CaSettings;

pub(super) static CA: Section = Section {
    title: "[ca]",
    keys: &[key(
        "dir",
        Kind::Path,
        Need::Optional,
        "The folder of root and intermediate, mode 0700, made at the first start; `ca.pem` in it is the root that agents trust. Left out: in memory, and new at each start.",
    )],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> CaSettings {
    CaSettings {
        dir: reader.path("dir"),
    }
}
