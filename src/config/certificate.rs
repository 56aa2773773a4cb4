//! `[credential.NAME.client-certificate]`: a certificate and its key from files.

use super::fault::Named;
use super::key::{Kind as K, Need, Section, key};
use super::reader::Reader;
use super::source;
use crate::credential::{CertificateSettings, Kind};

pub(super) static CLIENT_CERTIFICATE: Section = Section {
    title: "[credential.NAME.client-certificate]",
    keys: &[
        key(
            "cert",
            K::Path,
            Need::Required,
            "The chain in PEM, the client's own certificate first; read again when it changes.",
        ),
        key(
            "key",
            K::Source,
            Need::Required,
            "Its key in PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Kind> {
    let (cert, key) = (reader.path("cert"), source::read(reader, "key"));
    let cert = cert?;
    let span = reader.raw("cert")?.span();
    reader.desk.site(&span, Named::Certificates(cert.clone()));
    Some(Kind::ClientCertificate(CertificateSettings {
        cert,
        key: key?,
    }))
}
