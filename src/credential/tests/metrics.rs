//! Every metric of the broker, and what moves it.

use super::*;

/// The value of a line of the metrics; 0 where there is none.
fn value(registry: &Registry, line: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let found = text.lines().find_map(|known| known.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_metric_moves_with_what_it_counts() {
    let scene = Scene::new(|spec| spec.failure_ttl = Duration::ZERO);
    let mut registry = Registry::default();
    scene.broker.register(&mut registry);
    let is = |line: &str, expected: u32| {
        let labelled = line
            .replacen('{', "{credential=\"crm\",", 1)
            .replace(",}", "}");
        let found = value(&registry, &format!("{labelled} "));
        assert!(
            (found - f64::from(expected)).abs() < 0.001,
            "{labelled} is {found}"
        );
    };
    scene.script(Err(IssueError::Sealed));
    scene.lease("a", "s1").await.unwrap_err();
    is("keyward_issue_failures_total{word=\"broker-sealed\"}", 1);
    is("keyward_issue_seconds_count{outcome=\"failed\"}", 1);
    is("keyward_leases{}", 0);
    scene.lease("a", "s1").await.unwrap();
    scene.lease("a", "s1").await.unwrap();
    is("keyward_issue_seconds_count{outcome=\"issued\"}", 1);
    is("keyward_lease_waits_total{}", 2);
    is("keyward_lease_hits_total{}", 1);
    is("keyward_leases{}", 1);
    is("keyward_lease_age_seconds_count{}", 0);

    scene
        .fake
        .revokes
        .lock()
        .push_back(Err(RevokeError::Failed));
    scene.broker.end_session(&"s1".into());
    settle().await;
    is("keyward_leases{}", 0);
    is("keyward_lease_age_seconds_count{}", 1);
    is("keyward_revocations_pending{}", 1);
    is("keyward_revocations_total{outcome=\"pending\"}", 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    is("keyward_revocations_pending{}", 0);
    is("keyward_revocations_total{outcome=\"revoked\"}", 1);

    // What has no handle, as STS gives it, ends by itself; the record says that.
    let mut issued = token("keys-without-a-handle", Life::For(Duration::from_mins(10)));
    issued.handle = None;
    scene.script(Ok(issued));
    scene.lease("a", "s2").await.unwrap();
    scene.broker.end_session(&"s2".into());
    settle().await;
    is("keyward_revocations_total{outcome=\"unsupported\"}", 1);
    is("keyward_revocations_pending{}", 0);
    let heard = scene.heard.of("revoked session-end unsupported");
    assert_eq!(heard, ["revoked session-end unsupported 1"]);
    assert!(
        scene
            .fake
            .revoked
            .lock()
            .iter()
            .all(|one| one != b"keys-without-a-handle")
    );

    // An issuer that says that it cannot is not asked again.
    scene.lease("a", "s3").await.unwrap();
    scene
        .fake
        .revokes
        .lock()
        .push_back(Err(RevokeError::Unsupported));
    scene.broker.end_session(&"s3".into());
    settle().await;
    is("keyward_revocations_total{outcome=\"unsupported\"}", 2);
    is("keyward_revocations_pending{}", 0);
    is("keyward_leases{}", 0);
}
