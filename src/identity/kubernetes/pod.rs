//! A pod as the API server shows it: what its containers run, and what they may.
//!
//! Every container counts, those that start before it and those put in for a look around among them: whichever of them
//! has the token could speak. What stands in the spec and not yet in the status is not known to run anything good.

use std::collections::HashMap;

use serde::Deserialize;

use crate::identity::settings::SecurityContext;

#[derive(Deserialize)]
pub(super) struct PodObject {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) labels: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) service_account_name: String,
    #[serde(rename = "hostPID")]
    host_pid: bool,
    #[serde(rename = "hostIPC")]
    host_ipc: bool,
    host_network: bool,
    security_context: PodContext,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

/// `PodSecurityContext`, as far as containers inherit it.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodContext {
    run_as_non_root: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    security_context: Option<ContainerContext>,
}

/// `SecurityContext` of a container.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ContainerContext {
    privileged: Option<bool>,
    allow_privilege_escalation: Option<bool>,
    read_only_root_filesystem: Option<bool>,
    run_as_non_root: Option<bool>,
    capabilities: Option<Capabilities>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Capabilities {
    add: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "imageID")]
    image_id: String,
}

impl PodObject {
    /// The image of every container of spec and status, each with its digest; `None` where one is not known.
    pub(super) fn images(&self) -> Option<Vec<&str>> {
        let status = &self.status;
        let statuses: Vec<&ContainerStatus> = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ]
        .into_iter()
        .flatten()
        .collect();
        let runs = |container: &Container| statuses.iter().any(|of| of.name == container.name);
        if self.spec.containers.is_empty() || !self.spec.all().all(runs) {
            return None;
        }
        let mut images = Vec::new();
        for status in statuses {
            // The old Docker runtime wrote `docker-pullable://`, others write the reference alone.
            let (_, reference) = status
                .image_id
                .split_once("://")
                .unwrap_or(("", &status.image_id));
            digest_of(reference)?;
            images.push(reference);
        }
        images.sort_unstable();
        images.dedup();
        Some(images)
    }
}

/// The digest of an image's reference.
pub(super) fn digest_of(reference: &str) -> Option<&str> {
    let digest = reference
        .rsplit_once('@')
        .map_or(reference, |(_, digest)| digest);
    digest.starts_with("sha256:").then_some(digest)
}

impl Spec {
    fn all(&self) -> impl Iterator<Item = &Container> {
        [
            &self.containers,
            &self.init_containers,
            &self.ephemeral_containers,
        ]
        .into_iter()
        .flatten()
    }

    /// Whether every container is held as `wanted` says.
    pub(super) fn is_held_to(&self, wanted: &SecurityContext) -> bool {
        let hosts = self.host_pid || self.host_ipc || self.host_network;
        !self.containers.is_empty()
            && !(wanted.no_host_namespaces && hosts)
            && self.all().all(|container| {
                let none = ContainerContext::default();
                let context = container.security_context.as_ref().unwrap_or(&none);
                context.is_held_to(wanted, &self.security_context)
            })
    }
}

impl ContainerContext {
    /// What the container says goes before what the pod says; what neither says is the API's default.
    fn is_held_to(&self, wanted: &SecurityContext, pod: &PodContext) -> bool {
        let privileged = self.privileged.unwrap_or(false);
        let added = self.capabilities.as_ref().map(|found| &*found.add);
        let added = added.unwrap_or_default();
        let is_any = |name: &String, of: &[&str]| {
            let name = name.to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            of.contains(&name)
        };
        // "AllowPrivilegeEscalation is true always when the container is run as privileged or has CAP_SYS_ADMIN".
        let is_admin = added.iter().any(|name| is_any(name, &["SYS_ADMIN", "ALL"]));
        let escalates = privileged || is_admin || self.allow_privilege_escalation.unwrap_or(true);
        let non_root = self.run_as_non_root.or(pod.run_as_non_root);
        (!wanted.run_as_non_root || non_root == Some(true))
            && !(wanted.unprivileged && privileged)
            && (!wanted.read_only_root || self.read_only_root_filesystem == Some(true))
            && !(wanted.no_escalation && escalates)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> Spec {
        serde_json::from_value(value).unwrap()
    }

    fn of(container: &Value) -> Spec {
        spec(json!({"containers": [{"name": "main", "securityContext": container}]}))
    }

    #[test]
    fn what_the_container_says_goes_before_the_pod_and_silence_is_the_apis_default() {
        let non_root = SecurityContext {
            run_as_non_root: true,
            ..SecurityContext::default()
        };
        let pod = |pod: Value, container: Value| {
            spec(json!({
                "securityContext": pod,
                "containers": [{"name": "main", "securityContext": container}],
            }))
        };
        let yes = json!({"runAsNonRoot": true});
        let no = json!({"runAsNonRoot": false});
        for (spec, held) in [
            (pod(yes.clone(), json!({})), true),
            (pod(json!({}), yes.clone()), true),
            (pod(no.clone(), yes.clone()), true),
            (pod(yes, no), false),
            (pod(json!({}), json!({})), false),
            (pod(json!({}), json!({"runAsUser": 1000})), false),
        ] {
            assert_eq!(spec.is_held_to(&non_root), held);
        }
        let unprivileged = SecurityContext {
            unprivileged: true,
            ..SecurityContext::default()
        };
        assert!(of(&json!({})).is_held_to(&unprivileged));
        assert!(!of(&json!({"privileged": true})).is_held_to(&unprivileged));
        let read_only = SecurityContext {
            read_only_root: true,
            ..SecurityContext::default()
        };
        assert!(!of(&json!({})).is_held_to(&read_only));
        assert!(of(&json!({"readOnlyRootFilesystem": true})).is_held_to(&read_only));
        let contained = SecurityContext {
            no_escalation: true,
            ..SecurityContext::default()
        };
        for (context, held) in [
            (json!({}), false),
            (json!({"allowPrivilegeEscalation": false}), true),
            (
                json!({"allowPrivilegeEscalation": false, "privileged": true}),
                false,
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}),
                false,
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["cap_sys_admin"]}}),
                false,
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
                false,
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_BIND_SERVICE"]}}),
                true,
            ),
        ] {
            assert_eq!(of(&context).is_held_to(&contained), held, "{context}");
        }
        let apart = SecurityContext {
            no_host_namespaces: true,
            ..SecurityContext::default()
        };
        assert!(of(&json!({})).is_held_to(&apart));
        for name in ["hostPID", "hostIPC", "hostNetwork"] {
            let spec = spec(json!({name: true, "containers": [{"name": "main"}]}));
            assert!(!spec.is_held_to(&apart), "{name}");
        }
        assert!(!spec(json!({})).is_held_to(&unprivileged), "no container");
    }

    #[test]
    fn every_container_of_the_spec_counts() {
        let wanted = SecurityContext {
            read_only_root: true,
            ..SecurityContext::default()
        };
        let good = json!({"name": "main", "securityContext": {"readOnlyRootFilesystem": true}});
        let bad = json!([{"name": "x"}]);
        let base = json!({"containers": [good]});
        assert!(spec(base.clone()).is_held_to(&wanted));
        for list in ["initContainers", "ephemeralContainers"] {
            let mut with = base.clone();
            with[list] = bad.clone();
            assert!(!spec(with).is_held_to(&wanted), "{list}");
        }
    }
}
