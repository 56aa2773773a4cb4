//! `[trust.NAME.relay]`.

use super::peer::processes;
use super::spiffe::{BUNDLE, bundle, domain};
use super::{Read, words};
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::Reader;
use crate::identity::{Pattern, RelaySettings, TrustKind};

pub(in crate::config) static RELAY: Section = Section {
    title: "[trust.NAME.relay]",
    keys: &[
        key(
            "trust-domain",
            K::Text("a trust domain, such as \"prod.example\""),
            Need::Required,
            "The trust domain of the relays.",
        ),
        key(
            "bundle",
            K::Table(&BUNDLE),
            Need::Required,
            "What the trust domain is believed by.",
        ),
        key(
            "relays",
            K::List(&K::Text(
                "a SPIFFE ID, such as \"spiffe://prod.example/relay/*\"",
            )),
            Need::Required,
            "Whose word is taken: SPIFFE IDs of relays, `*` is any run of characters.",
        ),
        key(
            "uids",
            K::List(&K::Count(0, 4_294_967_294)),
            Need::Optional,
            "The relay says that its effective user is one of these. Every key that is given must match; at least one is.",
        ),
        key(
            "gids",
            K::List(&K::Count(0, 4_294_967_294)),
            Need::Optional,
            "So its effective group.",
        ),
        key(
            "executables",
            K::List(&K::Path),
            Need::Optional,
            "So its executable, as it is named on the relay's machine.",
        ),
        key(
            "sha256",
            K::List(&K::Text("64 hex digits")),
            Need::Optional,
            "So the SHA-256 of its executable.",
        ),
        key(
            "cgroups",
            K::List(&K::Text("a path, such as \"/system.slice/agent.service\"")),
            Need::Optional,
            "So its control group, or one above it.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    let domain = domain(reader);
    let bundle = reader.table("bundle").and_then(|below| bundle(&below));
    let relays = words(reader, "relays");
    if let Some(domain) = &domain {
        let within = format!("spiffe://{domain}/");
        for (text, span) in reader.texts("relays") {
            if !text.starts_with(&within) {
                let message = format!("this is no SPIFFE ID of {domain}");
                let help = format!("write it as \"{within}PATH\"");
                reader.desk.fault_with(&span, message, help);
            }
        }
    }
    if relays.is_empty() {
        if reader.has("relays") {
            let message = "\"relays\" is empty: nobody's word would be taken";
            reader.desk.fault(&reader.key_span("relays"), message);
        }
        return None;
    }
    let settings = RelaySettings {
        process: processes(reader)?,
        relays: relays.iter().map(|id| Pattern::new(id)).collect(),
        trust_domain: domain?,
        bundle: bundle?,
    };
    Some((TrustKind::Relay(Box::new(settings)), None))
}
