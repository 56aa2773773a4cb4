//! `[trust.NAME.kubernetes]`.

use toml::de::DeValue;

use super::{Read, endpoint, words};
use crate::config::key::{Kind as K, Need, Section, key};
use crate::config::reader::{self, Reader};
use crate::config::source;
use crate::credential::Source;
use crate::identity::{KeyPlace, KubernetesSettings, TrustKind};

const API: &str = "https://kubernetes.default.svc";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(in crate::config) static KUBERNETES: Section = Section {
    title: "[trust.NAME.kubernetes]",
    keys: &[
        key(
            "audience",
            K::List(&K::Text("an audience")),
            Need::Required,
            "The token must be made for one of these.",
        ),
        key(
            "verify",
            K::Choice(&["token-review", "jwks"]),
            Need::Default("\"token-review\""),
            "Who verifies: the API server is asked, or its keys are fetched; `jwks` needs `issuer` or `jwks-url`.",
        ),
        key(
            "issuer",
            K::Text("a URL"),
            Need::Optional,
            "The cluster's issuer: exactly what stands in `iss`.",
        ),
        key(
            "jwks-url",
            K::Text("a URL"),
            Need::Optional,
            "With `jwks`: where the keys are, in place of discovery.",
        ),
        key(
            "api-url",
            K::Text("a URL"),
            Need::Default("\"https://kubernetes.default.svc\""),
            "The API server.",
        ),
        key(
            "token",
            K::Source,
            Need::Default("{ file = \"/var/run/secrets/kubernetes.io/serviceaccount/token\" }"),
            "keyward's own token for the API server.",
        ),
        key(
            "pods",
            K::Flag,
            Need::Default("false"),
            "Looks up the pod: it must be there, with the uid that the token names.",
        ),
        key(
            "labels",
            K::Map(&K::Text("a label's value")),
            Need::Optional,
            "With `pods`: labels that the pod must have.",
        ),
        key(
            "image-digests",
            K::List(&K::Text("\"sha256:…\"")),
            Need::Optional,
            "With `pods`: every container, side-cars among them, runs one of these images.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> Read {
    let (discovery, jwks) = (endpoint(reader, "issuer"), endpoint(reader, "jwks-url"));
    let issuer = reader.text("issuer").map(|(text, _)| text.to_owned());
    let keys = match (reader.choice("verify"), jwks) {
        (Some("jwks"), Some(url)) => Some(KeyPlace::Url(url)),
        (Some("jwks"), None) => {
            if !reader.has("issuer") && !reader.has("jwks-url") {
                let message = "verify = \"jwks\" needs \"issuer\" or \"jwks-url\"";
                let help = "as `kubectl get --raw /.well-known/openid-configuration` shows them";
                reader
                    .desk
                    .fault_with(&reader.key_span("verify"), message, help);
            }
            let place = discovery.zip(issuer.clone());
            place.map(|(url, issuer)| KeyPlace::Discovery(url, issuer))
        }
        (_, Some(_)) => {
            let message = "\"jwks-url\" belongs to verify = \"jwks\"";
            reader.desk.fault(&reader.key_span("jwks-url"), message);
            None
        }
        (_, None) => None,
    };
    let pods = reader.flag("pods");
    for name in ["labels", "image-digests"] {
        if reader.has(name) && !pods {
            let message = format!("\"{name}\" needs pods = true");
            reader.desk.fault(&reader.key_span(name), message);
        }
    }
    let api = if reader.has("api-url") {
        endpoint(reader, "api-url")
    } else {
        API.parse().ok()
    };
    let token = if reader.has("token") {
        source::read(reader, "token")
    } else {
        Some(Source::File(TOKEN.into()))
    };
    let settings = KubernetesSettings {
        audience: words(reader, "audience"),
        issuer,
        keys,
        api: api?,
        pods,
        labels: labels(reader),
        image_digests: digests(reader),
    };
    Some((TrustKind::Kubernetes(Box::new(settings)), token))
}

fn labels(reader: &Reader<'_, '_>) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    for (key, value) in reader.entries("labels") {
        if let DeValue::String(text) = value.get_ref() {
            labels.push((key.get_ref().to_string(), text.to_string()));
        } else {
            let message = format!(
                "a label is a text, not {}",
                reader::article(value.get_ref())
            );
            reader.desk.fault(&value.span(), message);
        }
    }
    labels
}

fn digests(reader: &Reader<'_, '_>) -> Vec<String> {
    let mut digests = Vec::new();
    for (text, span) in reader.texts("image-digests") {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == 64 && hex.bytes().all(lower) {
            digests.push(text.to_owned());
        } else {
            let message = "the digest of an image is \"sha256:\" and 64 hex digits in lower case";
            reader.desk.fault(&span, message);
        }
    }
    digests
}
