//! `[trust.NAME.kubernetes]`: projected tokens against an API server written from the API's specification.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use keyward::identity::AttestError;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::upstream::{Seen, Upstream, full};
use super::mint::Pair;
use super::{NOW, OWN_TOKEN, Provider};

/// What the API server knows.
#[derive(Default)]
struct Cluster {
    /// Whether it believes tokens at all.
    believes: bool,
    /// Whether it knows of audiences (every one since 1.13 does).
    audiences: bool,
    pod: Option<Value>,
    keys: Vec<Value>,
    down: bool,
}

struct World {
    server: Upstream,
    cluster: Arc<Mutex<Cluster>>,
    pair: Pair,
}

/// A container of the spec that is held as tightly as can be.
fn contained(name: &str) -> Value {
    json!({"name": name, "securityContext": {
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    }})
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "calendar-7f", "uid": "pod-uid-1", "labels": {"app": "calendar", "x": "y"}},
        "spec": {
            "serviceAccountName": "calendar",
            "securityContext": {"runAsNonRoot": true},
            "containers": [contained("main"), contained("side")],
        },
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "main", "imageID": format!("registry.example/calendar@sha256:{}", "a".repeat(64))},
            {"name": "side", "imageID": format!("docker-pullable://side@sha256:{}", "b".repeat(64))},
        ]},
    })
}

/// A token as the API server makes it for a projected volume.
fn claims() -> Value {
    json!({
        "aud": ["keyward"], "exp": NOW + 3600, "iat": NOW - 10, "nbf": NOW - 10,
        "iss": "https://kubernetes.default.svc.cluster.local", "jti": "1",
        "kubernetes.io": {
            "namespace": "agents", "node": {"name": "n1", "uid": "n"},
            "pod": {"name": "calendar-7f", "uid": "pod-uid-1"},
            "serviceaccount": {"name": "calendar", "uid": "sa-uid"},
        },
        "sub": "system:serviceaccount:agents:calendar",
    })
}

impl World {
    async fn new() -> Self {
        let pair = Pair::rsa();
        let cluster = Arc::new(Mutex::new(Cluster {
            believes: true,
            audiences: true,
            pod: Some(pod()),
            keys: vec![pair.jwk("kube")],
            down: false,
        }));
        let of = Arc::clone(&cluster);
        let server = Upstream::service(&["http/1.1"], move |seen| {
            let (status, body) = answer(&seen, &of.lock());
            Box::pin(async move {
                let response = Response::builder().status(status);
                response.body(full(body.to_string())).unwrap()
            })
        })
        .await;
        Self {
            server,
            cluster,
            pair,
        }
    }

    fn provider(&self, lines: &str) -> Provider {
        Provider::new(&format!(
            "agent = {{ map = {{ \"agents/calendar\" = \"a\", \"agents/*\" = \"b\" }} }}\n\
             [trust.t.kubernetes]\naudience = [\"keyward\"]\napi-url = \"https://{}\"\n{lines}\n",
            self.server.address
        ))
    }

    fn token(&self, claims: &Value) -> String {
        self.pair
            .token(&json!({"alg": "RS256", "kid": "kube"}), claims)
    }

    fn calls(&self) -> usize {
        self.server.requests().len()
    }
}

fn answer(seen: &Seen, cluster: &Cluster) -> (u16, Value) {
    if cluster.down {
        return (503, json!({}));
    }
    if seen.get("authorization") != Some(format!("Bearer {OWN_TOKEN}")) {
        return (401, json!({"kind": "Status", "reason": "Unauthorized"}));
    }
    match (&*seen.method, &*seen.uri) {
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews") => {
            let review: Value = serde_json::from_slice(&seen.body).unwrap();
            assert_eq!(review["kind"], "TokenReview");
            assert_eq!(review["apiVersion"], "authentication.k8s.io/v1");
            assert_eq!(review["spec"]["audiences"], json!(["keyward"]));
            let token = review["spec"]["token"].as_str().unwrap();
            let payload = token.split('.').nth(1).unwrap();
            let claims: Value = serde_json::from_slice(
                &base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload)
                    .unwrap(),
            )
            .unwrap();
            if !cluster.believes {
                let status = json!({"user": {}, "error": "[invalid bearer token]"});
                return (201, json!({"kind": "TokenReview", "status": status}));
            }
            let pod = &claims["kubernetes.io"]["pod"];
            let extra = match pod {
                Value::Null => json!({}),
                pod => json!({
                    "authentication.kubernetes.io/pod-name": [pod["name"]],
                    "authentication.kubernetes.io/pod-uid": [pod["uid"]],
                }),
            };
            let mut status = json!({
                "authenticated": true,
                "user": {
                    "username": claims["sub"], "uid": "sa-uid",
                    "groups": ["system:serviceaccounts", "system:authenticated"],
                    "extra": extra,
                },
            });
            if cluster.audiences {
                status["audiences"] = json!(["keyward"]);
            }
            (201, json!({"kind": "TokenReview", "status": status}))
        }
        ("GET", "/api/v1/namespaces/agents/pods/calendar-7f") => match &cluster.pod {
            Some(pod) => (200, pod.clone()),
            None => (404, json!({"kind": "Status", "reason": "NotFound"})),
        },
        ("GET", "/openid/v1/jwks") => (200, json!({"keys": cluster.keys})),
        _ => (403, json!({"kind": "Status", "reason": "Forbidden"})),
    }
}

#[tokio::test]
async fn a_projected_token_is_its_service_account() {
    let world = World::new().await;
    let provider = world.provider("");
    let token = world.token(&claims());
    assert_eq!(provider.agent(&token).await, "a");
    assert_eq!(provider.agent(&token).await, "a");
    assert_eq!(world.calls(), 1, "the second time it is known");
    let mut other = claims();
    other["sub"] = json!("system:serviceaccount:agents:reader");
    assert_eq!(provider.agent(&world.token(&other)).await, "b");

    // Kept for half a minute: then the API server is asked again, and may have changed its mind.
    world.cluster.lock().believes = false;
    provider.clock.advance(Duration::from_secs(31));
    assert_eq!(provider.show(&token).await, Err(AttestError::Bad));
    world.cluster.lock().down = true;
    assert_eq!(provider.show(&token).await, Err(AttestError::Unavailable));
}

/// ID-13: tokens of the cluster that are not for us.
#[tokio::test]
async fn tokens_for_another_audience_old_ones_and_foreign_ones_are_refused() {
    let world = World::new().await;
    let provider = world.provider("");
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        world.token(&claims)
    };
    let mut legacy = claims();
    for name in ["aud", "exp"] {
        legacy.as_object_mut().unwrap().shift_remove(name);
    }
    for (what, token) in [
        (
            "the API server's own audience",
            with("aud", json!(["https://kubernetes.default.svc"])),
        ),
        ("a token of a Secret", world.token(&legacy)),
        ("one that has ended", with("exp", json!(NOW - 60))),
        (
            "an account that no row names",
            with("sub", json!("system:serviceaccount:other:calendar")),
        ),
    ] {
        assert_eq!(provider.show(&token).await, Err(AttestError::Bad), "{what}");
    }
    assert!(world.calls() <= 1, "only the last was worth a call");
    for (what, token) in [
        ("a node", with("sub", json!("system:node:n1"))),
        (
            "a path",
            with("sub", json!("system:serviceaccount:../x:calendar")),
        ),
        ("no token", "static-token-0123456789".to_owned()),
    ] {
        assert_eq!(provider.show(&token).await, Ok(None), "{what}");
    }
    // A server that does not know of audiences believes its own tokens, and so says nothing about ours.
    world.cluster.lock().audiences = false;
    assert_eq!(
        provider.show(&world.token(&claims())).await,
        Err(AttestError::Bad)
    );
}

#[tokio::test]
async fn a_pod_must_be_there_and_be_the_one_of_the_token() {
    let world = World::new().await;
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let lines = format!(
        "pods = true\nlabels = {{ app = \"calendar\" }}\nimage-digests = [\"{}\", \"{}\"]\n",
        digest("a"),
        digest("b"),
    );
    let token = world.token(&claims());
    let fresh = || world.provider(&lines);
    assert_eq!(fresh().agent(&token).await, "a");
    let change = |path: &str, value: Value| {
        let mut pod = pod();
        *pod.pointer_mut(path).unwrap() = value;
        world.cluster.lock().pod = Some(pod);
    };
    for (path, value) in [
        ("/metadata/uid", json!("another-pod-of-that-name")),
        ("/metadata/labels", json!({"app": "other"})),
        ("/metadata/labels", json!({})),
        ("/spec/serviceAccountName", json!("other")),
        ("/status/phase", json!("Failed")),
        (
            "/status/containerStatuses/1/imageID",
            json!(format!("side@{}", digest("c"))),
        ),
        (
            "/status/containerStatuses/0/imageID",
            json!("registry.example/calendar:latest"),
        ),
        ("/status/containerStatuses", json!([])),
    ] {
        change(path, value);
        assert_eq!(fresh().show(&token).await, Err(AttestError::Bad), "{path}");
    }
    // A container that was put in for a look around.
    let mut spied = pod();
    spied["status"]["ephemeralContainerStatuses"] =
        json!([{"imageID": format!("shell@{}", digest("d"))}]);
    world.cluster.lock().pod = Some(spied);
    assert_eq!(fresh().show(&token).await, Err(AttestError::Bad));
    // One of which the status does not speak yet, before or beside the others; and one whose image is not pulled yet.
    for list in ["ephemeralContainers", "initContainers", "containers"] {
        let mut early = pod();
        let mut all = early["spec"][list].as_array().cloned().unwrap_or_default();
        all.push(contained("new"));
        early["spec"][list] = json!(all);
        world.cluster.lock().pod = Some(early.clone());
        assert_eq!(fresh().show(&token).await, Err(AttestError::Bad), "{list}");
        early["status"]["initContainerStatuses"] = json!([{"name": "new", "imageID": ""}]);
        world.cluster.lock().pod = Some(early);
        assert_eq!(fresh().show(&token).await, Err(AttestError::Bad), "{list}");
    }
    // Deleted.
    world.cluster.lock().pod = None;
    assert_eq!(fresh().show(&token).await, Err(AttestError::Bad));
    // A token that is bound to no pod.
    world.cluster.lock().pod = Some(pod());
    let mut unbound = claims();
    unbound["kubernetes.io"]
        .as_object_mut()
        .unwrap()
        .shift_remove("pod");
    assert_eq!(
        fresh().show(&world.token(&unbound)).await,
        Err(AttestError::Bad)
    );
}

#[tokio::test]
async fn the_clusters_keys_verify_without_a_review() {
    let world = World::new().await;
    let lines = format!(
        "verify = \"jwks\"\nissuer = \"https://kubernetes.default.svc.cluster.local\"\n\
         jwks-url = \"https://{}/openid/v1/jwks\"\n",
        world.server.address
    );
    let provider = world.provider(&lines);
    assert_eq!(provider.agent(&world.token(&claims())).await, "a");
    let forged = Pair::rsa().token(&json!({"alg": "RS256", "kid": "kube"}), &claims());
    assert_eq!(provider.show(&forged).await, Err(AttestError::Bad));
    let mut foreign = claims();
    foreign["iss"] = json!("https://other.cluster");
    assert_eq!(
        provider.show(&world.token(&foreign)).await,
        Ok(None),
        "another cluster's"
    );
    let reviews = world.server.requests();
    assert!(
        reviews.iter().all(|seen| seen.uri == "/openid/v1/jwks"),
        "no review: {reviews:?}"
    );
}

/// What a pod may is part of who it is: one container that is held less tightly spoils it.
#[tokio::test]
async fn a_pod_must_be_held_as_the_file_says() {
    let world = World::new().await;
    let lines = "pods = true\nsecurity-context = { run-as-non-root = true, privileged = false, read-only-root = true, \
                 allow-privilege-escalation = false, host-namespaces = false }\n";
    let token = world.token(&claims());
    assert_eq!(world.provider(lines).agent(&token).await, "a");
    let context = "/spec/containers/1/securityContext";
    for (path, name, value) in [
        ("/spec/securityContext", "runAsNonRoot", json!(false)),
        (context, "runAsNonRoot", json!(false)),
        (context, "privileged", json!(true)),
        (context, "allowPrivilegeEscalation", json!(true)),
        (context, "allowPrivilegeEscalation", Value::Null),
        (context, "readOnlyRootFilesystem", json!(false)),
        (context, "readOnlyRootFilesystem", Value::Null),
        (context, "capabilities", json!({"add": ["SYS_ADMIN"]})),
        ("/spec", "hostPID", json!(true)),
        ("/spec", "hostNetwork", json!(true)),
        ("/spec", "ephemeralContainers", json!([{"name": "debug"}])),
        (
            "/spec",
            "initContainers",
            json!([{"name": "setup", "securityContext": {"privileged": true}}]),
        ),
        ("/spec", "containers", json!([])),
    ] {
        let mut pod = pod();
        pod.pointer_mut(path).unwrap()[name] = value;
        world.cluster.lock().pod = Some(pod);
        let shown = world.provider(lines).show(&token).await;
        assert_eq!(shown, Err(AttestError::Bad), "{path} {name}");
    }
}

/// The verifier's folder: it notes what it is asked, and says what `answer` does.
fn verifier(answer: &str) -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("verify");
    let log = folder.path().join("asked").display().to_string();
    let script = format!("#!/bin/sh\nread -r line\necho \"$line\" >> {log}\n{answer}\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let lines = format!(
        "pods = true\nimage-verifier = {{ run = [\"{}\"], deadline = \"2s\", ttl = \"5m\" }}\n",
        program.display()
    );
    (folder, lines)
}

fn asked(folder: &tempfile::TempDir) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path().join("asked")).unwrap_or_default();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_says_whether_an_image_is_signed() {
    let world = World::new().await;
    let token = world.token(&claims());
    let (folder, lines) = verifier("echo '{}'");
    let provider = world.provider(&lines);
    assert_eq!(provider.agent(&token).await, "a");
    let images: Vec<Value> = asked(&folder);
    let digest = format!("sha256:{}", "a".repeat(64));
    let one = json!({
        "version": 1, "op": "verify-image", "digest": digest,
        "image": format!("registry.example/calendar@{digest}"),
    });
    assert_eq!(images.len(), 2, "{images:?}");
    assert!(images.contains(&one), "{images:?}");
    // Another token of the pod, and the same after its review is forgotten: the images are known.
    let mut other = claims();
    other["jti"] = json!("2");
    assert_eq!(provider.agent(&world.token(&other)).await, "a");
    provider.clock.advance(Duration::from_mins(1));
    assert_eq!(provider.agent(&token).await, "a");
    assert_eq!(asked(&folder).len(), 2);
    provider.clock.advance(Duration::from_mins(5));
    assert_eq!(provider.agent(&token).await, "a");
    assert_eq!(asked(&folder).len(), 4, "asked anew past its time");
    // Another digest under the same name is another image.
    let mut changed = pod();
    changed["status"]["containerStatuses"][0]["imageID"] = json!(format!(
        "registry.example/calendar@sha256:{}",
        "e".repeat(64)
    ));
    world.cluster.lock().pod = Some(changed);
    provider.clock.advance(Duration::from_mins(1));
    assert_eq!(provider.agent(&token).await, "a");
    assert_eq!(asked(&folder).len(), 5);

    world.cluster.lock().pod = Some(pod());
    for (answer, error) in [
        ("echo '{\"error\":\"not signed\"}'", AttestError::Bad),
        ("echo '{}'; exit 1", AttestError::Bad),
        ("echo '[]'", AttestError::Bad),
        ("echo yes", AttestError::Bad),
        ("exit 0", AttestError::Bad),
        ("sleep 9; echo '{}'", AttestError::Unavailable),
        ("head -c 100000 /dev/zero", AttestError::Unavailable),
    ] {
        let (folder, lines) = verifier(answer);
        let provider = world.provider(&lines);
        assert_eq!(provider.show(&token).await, Err(error), "{answer}");
        assert_eq!(provider.show(&token).await, Err(error), "{answer}");
        assert_eq!(asked(&folder).len(), 1, "not asked at once again");
    }
    let nowhere = "pods = true\nimage-verifier = { run = [\"/nowhere/verify\"] }\n";
    let shown = world.provider(nowhere).show(&token).await;
    assert_eq!(shown, Err(AttestError::Unavailable));
    // Without a digest there is nothing to verify: the command is not even asked.
    let (folder, lines) = verifier("echo '{}'");
    let mut untold = pod();
    untold["status"]["containerStatuses"][0]["imageID"] = json!("registry.example/calendar:1");
    world.cluster.lock().pod = Some(untold);
    let shown = world.provider(&lines).show(&token).await;
    assert_eq!(shown, Err(AttestError::Bad));
    assert_eq!(asked(&folder).len(), 0);
}

/// A thousand connections with one token are one review and one look at its pod. A refusal is not kept, so of a thousand
/// with a bad one those that come after it has landed ask again, together.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_show_a_token_there_is_one_review() {
    let world = World::new().await;
    let (folder, lines) = verifier("sleep 0.2; echo '{}'");
    for (believes, calls) in [(true, 2..=2), (false, 1..=50)] {
        world.cluster.lock().believes = believes;
        let before = world.calls();
        let provider = Arc::new(world.provider(&lines));
        let token: Arc<str> = world.token(&claims()).into();
        let mut shown = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (provider, token) = (Arc::clone(&provider), Arc::clone(&token));
            shown.spawn(async move { provider.show(&token).await.is_ok() });
        }
        while let Some(one) = shown.join_next().await {
            assert_eq!(one.unwrap(), believes);
        }
        let made = world.calls() - before;
        assert!(calls.contains(&made), "{made}");
    }
    assert_eq!(asked(&folder).len(), 2, "one for each image");
}
