//! `[trust.NAME.kubernetes]`.

use toml::de::DeValue;

use super::{Read, endpoint, words};
use crate::config::fault::Named;
use crate::config::key::{DAY, Kind as K, Need, Section, key, millis, secs};
use crate::config::reader::{self, Reader};
use crate::config::source;
use crate::credential::Source;
use crate::identity::{ImageVerifier, KeyPlace, KubernetesSettings, SecurityContext, TrustKind};

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
        key(
            "security-context",
            K::Table(&SECURITY_CONTEXT),
            Need::Optional,
            "With `pods`: what every container must be held to, those that start before it and ephemeral ones among them.",
        ),
        key(
            "image-verifier",
            K::Table(&IMAGE_VERIFIER),
            Need::Optional,
            "With `pods`: a command that says of every container's image whether it is signed as it must be.",
        ),
    ],
};

pub(in crate::config) static SECURITY_CONTEXT: Section = Section {
    title: "security-context of [trust.NAME.kubernetes]",
    keys: &[
        key(
            "run-as-non-root",
            K::Flag,
            Need::Optional,
            "`true`: `runAsNonRoot`, the container's own or else the pod's.",
        ),
        key(
            "privileged",
            K::Flag,
            Need::Optional,
            "`false`: no container is privileged.",
        ),
        key(
            "read-only-root",
            K::Flag,
            Need::Optional,
            "`true`: `readOnlyRootFilesystem`.",
        ),
        key(
            "allow-privilege-escalation",
            K::Flag,
            Need::Optional,
            "`false`: `allowPrivilegeEscalation` is false, and neither `privileged` nor `SYS_ADMIN` overrules it.",
        ),
        key(
            "host-namespaces",
            K::Flag,
            Need::Optional,
            "`false`: neither `hostPID` nor `hostIPC` nor `hostNetwork`.",
        ),
    ],
};

pub(in crate::config) static IMAGE_VERIFIER: Section = Section {
    title: "image-verifier of [trust.NAME.kubernetes]",
    keys: &[
        key(
            "run",
            K::List(&K::Guarded("program and arguments")),
            Need::Required,
            "Program and arguments, without a shell; it reads one JSON object for each image, and accepts by `{}` and the code 0.",
        ),
        key(
            "deadline",
            K::Duration(millis(100), secs(60)),
            Need::Default("\"10s\""),
            "The time for one image; past it nobody is let in.",
        ),
        key(
            "max-output",
            K::Size(64, 1 << 20),
            Need::Default("\"64KiB\""),
            "What it may print; more is a failure.",
        ),
        key(
            "ttl",
            K::Duration(secs(0), DAY),
            Need::Default("\"10m\""),
            "How long its yes counts for an image and its digest.",
        ),
        key(
            "env",
            K::List(&K::Guarded("the name of an environment variable")),
            Need::Optional,
            "The variables of keyward's environment that it gets beside `PATH`.",
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
    for name in [
        "labels",
        "image-digests",
        "security-context",
        "image-verifier",
    ] {
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
        security_context: reader
            .table("security-context")
            .map(|below| security_context(&below)),
        image_verifier: match reader.table("image-verifier") {
            Some(below) => Some(image_verifier(&below)?),
            None => None,
        },
    };
    Some((TrustKind::Kubernetes(Box::new(settings)), token))
}

fn security_context(reader: &Reader<'_, '_>) -> SecurityContext {
    // A pod that must be allowed more than others is nothing to prove anybody by.
    let wants = |name: &str, must: bool| {
        if reader.has(name) && reader.flag(name) != must {
            let message = format!("\"{name}\" can be required to be {must} only");
            let help = format!("write {name} = {must}, or leave it out");
            reader
                .desk
                .fault_with(&reader.key_span(name), message, help);
        }
        reader.has(name)
    };
    SecurityContext {
        run_as_non_root: wants("run-as-non-root", true),
        unprivileged: wants("privileged", false),
        read_only_root: wants("read-only-root", true),
        no_escalation: wants("allow-privilege-escalation", false),
        no_host_namespaces: wants("host-namespaces", false),
    }
}

fn image_verifier(reader: &Reader<'_, '_>) -> Option<ImageVerifier> {
    let run = source::argv(reader, "run")?;
    let (deadline, ttl) = (reader.duration("deadline"), reader.duration("ttl"));
    let max_output = usize::try_from(reader.size("max-output")).unwrap_or(usize::MAX);
    let mut env = Vec::new();
    for (name, span) in reader.texts("env") {
        env.extend(source::variable(reader.desk, name, &span));
    }
    let named = Named::Secret(Source::Command {
        argv: run.clone(),
        deadline,
        max_output,
        ttl,
    });
    reader.desk.site(&reader.raw("run")?.span(), named);
    Some(ImageVerifier {
        run,
        deadline,
        max_output,
        env,
        ttl,
    })
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
