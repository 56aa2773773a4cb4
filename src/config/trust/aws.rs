//! `[trust.NAME.aws]`.

use super::{Read, endpoint};
use crate::config::fault::Named;
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::Reader;
use crate::config::values;
use crate::identity::{AwsSettings, CallerIdentity, TrustKind};

pub(in crate::config) static AWS: Section = Section {
    title: "[trust.NAME.aws]",
    keys: &[
        key(
            "accounts",
            K::List(&K::Text("an account, 12 digits")),
            Need::Required,
            "Instances and principals of these accounts.",
        ),
        key(
            "identity-document",
            K::Table(&DOCUMENT),
            Need::Optional,
            "Takes the identity documents of EC2 instances. At least one of the two proofs.",
        ),
        key(
            "caller-identity",
            K::Table(&CALLER),
            Need::Optional,
            "Takes requests for `GetCallerIdentity` that a principal has signed.",
        ),
    ],
};

pub(in crate::config) static DOCUMENT: Section = Section {
    title: "identity-document of [trust.NAME.aws]",
    keys: &[key(
        "certificates",
        K::List(&K::Path),
        Need::Required,
        "PEM files with the RSA-2048 certificates that AWS publishes for the regions.",
    )],
};

pub(in crate::config) static CALLER: Section = Section {
    title: "caller-identity of [trust.NAME.aws]",
    keys: &[
        key(
            "audience",
            K::Text("an audience"),
            Need::Required,
            "What the signed header `x-keyward-audience` must say.",
        ),
        key(
            "sts-url",
            K::Text("a URL"),
            Need::Default("\"https://sts.amazonaws.com\""),
            "The STS that is asked; the request must have been signed for its host.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    let mut accounts = Vec::new();
    for (text, span) in reader.texts("accounts") {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            accounts.push(text.to_owned());
        } else {
            reader
                .desk
                .fault(&span, "an account of AWS is 12 digits, as text");
        }
    }
    if !reader.has("identity-document") && !reader.has("caller-identity") {
        let message = "without a proof nobody could be anybody";
        let help = "give identity-document, caller-identity, or both";
        reader.desk.missing(&reader.span, message, help);
        return None;
    }
    let mut certificates = Vec::new();
    if let Some(below) = reader.table("identity-document") {
        for (text, span) in below.texts("certificates") {
            if let Some(path) = values::path(below.desk, text, &span) {
                below.desk.site(&span, Named::Certificates(path.clone()));
                certificates.push(path);
            }
        }
    }
    let caller_identity = reader.table("caller-identity").and_then(|below| {
        let sts = if below.has("sts-url") {
            endpoint(&below, "sts-url")
        } else {
            "https://sts.amazonaws.com".parse().ok()
        };
        Some(CallerIdentity {
            audience: below.plain_text("audience")?,
            sts: sts?,
        })
    });
    let settings = AwsSettings {
        accounts,
        certificates,
        caller_identity,
    };
    Some((TrustKind::Aws(Box::new(settings)), None))
}
