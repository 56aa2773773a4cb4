//! How long a lease is good: refreshed ahead, capped, never used at its end.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_refreshed_ahead_and_nobody_waits() {
    let scene = Scene::new(|_| {});
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(455.0).await;
    assert_eq!(scene.calls(), 1);
    scene.pass(25.0).await;
    assert_eq!(scene.calls(), 2, "at 80 % of 600 s");
    let second = scene.lease("a", "s1").await.unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(
        scene.heard.of("issued"),
        ["issued crm first", "issued crm refresh"]
    );
    let mut registry = Registry::default();
    scene.broker.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("keyward_lease_waits_total{credential=\"crm\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("keyward_lease_hits_total{credential=\"crm\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("keyward_leases{credential=\"crm\"} 1"),
        "{text}"
    );
    assert!(!text.contains(CANARY));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_used_since_its_refresh_is_let_go() {
    let scene = Scene::new(|_| {});
    drop(scene.lease("a", "s1").await.unwrap());
    scene.pass(480.0).await;
    assert_eq!(scene.calls(), 2);
    scene.pass(480.0).await;
    scene.pass(100.0).await;
    assert_eq!(scene.calls(), 2, "it was not used since");
    scene.pass(30.0).await;
    assert!(scene.broker.snapshot().is_empty());
    scene.pass(700.0).await;
    assert!(
        scene
            .broker
            .patterns(&"a".parse().unwrap(), "s1", None, [&scene.spec.name])
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_never_used_at_its_end() {
    let scene = Scene::new(|_| {});
    let first = scene.lease("a", "s1").await.unwrap();
    // No sweep runs in between: the request itself finds the end.
    scene
        .clock
        .advance(Duration::from_mins(10) - Duration::from_nanos(1));
    assert_eq!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    scene.clock.advance(Duration::from_nanos(1));
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_an_hour_either_way_lengthens_no_life() {
    for hours in [-1_i64, 1] {
        let scene = Scene::new(|_| {});
        let first = scene.lease("a", "s1").await.unwrap();
        let wall = scene.clock.now().wall;
        scene
            .clock
            .set_wall(wall + jiff::SignedDuration::from_hours(hours));
        let now = scene.lease("a", "s1").await.unwrap();
        assert_eq!(
            now.id() == first.id(),
            hours < 0,
            "forward ends it, back does not"
        );
        scene.clock.advance(Duration::from_mins(10));
        let later = scene.lease("a", "s1").await.unwrap();
        assert!(later.id() != first.id() && later.id() != now.id());
    }
}

#[tokio::test(start_paused = true)]
async fn max_life_caps_every_lease_and_what_lives_on_is_revoked() {
    let scene = Scene::new(|spec| spec.max_life = Some(Duration::from_mins(2)));
    let first = scene.lease("a", "s1").await.unwrap();
    scene.clock.advance(Duration::from_mins(2));
    let second = scene.lease("a", "s1").await.unwrap();
    assert_ne!(first.id(), second.id());
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&first)]);
    assert_eq!(scene.heard.of("revoked"), ["revoked max-life revoked 1"]);
}

#[tokio::test(start_paused = true)]
async fn refuse_fails_closed_and_stale_serves_within_the_life() {
    for on_failure in [OnFailure::Refuse, OnFailure::Stale] {
        let scene = Scene::new(|spec| spec.on_failure = on_failure);
        let first = scene.lease("a", "s1").await.unwrap();
        for _ in 0..100 {
            scene.script(Err(unavailable()));
        }
        scene.pass(480.0).await;
        assert_eq!(scene.calls(), 2, "the refresh was tried");
        let outcome = scene.lease("a", "s1").await;
        match on_failure {
            OnFailure::Refuse => assert!(outcome.is_err()),
            OnFailure::Stale => assert_eq!(outcome.unwrap().id(), first.id()),
        }
        scene.pass(120.0).await;
        assert!(scene.lease("a", "s1").await.is_err(), "the life is over");
        scene.fake.script.lock().clear();
        scene.pass(5.0).await;
        assert!(scene.lease("a", "s1").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_lease_is_refreshed_when_the_issuer_is_back() {
    let scene = Scene::new(|spec| spec.on_failure = OnFailure::Stale);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.script(Err(unavailable()));
    scene.pass(480.0).await;
    assert_eq!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    scene.pass(5.0).await;
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    assert_eq!(scene.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_lease_is_replaced_before_anybody_asks_and_not_used_meanwhile() {
    for on_failure in [OnFailure::Refuse, OnFailure::Stale] {
        let scene = Scene::new(|spec| spec.on_failure = on_failure);
        let flag = Superseded::default();
        let mut old = token(CANARY, Life::Endless);
        old.superseded = Some(flag.clone());
        scene.script(Ok(old));
        let first = scene.lease("a", "s1").await.unwrap();
        scene.pass(1800.0).await;
        assert_eq!(scene.calls(), 1, "an endless lease is not refreshed");
        flag.raise();
        settle().await;
        assert_eq!(scene.calls(), 2);
        let second = scene.lease("a", "s1").await.unwrap();
        assert_ne!(second.id(), first.id());
    }
    let scene = Scene::new(|spec| spec.on_failure = OnFailure::Stale);
    let mut old = token(CANARY, Life::Endless);
    let flag = old.superseded.insert(Superseded::default()).clone();
    scene.script(Ok(old));
    scene.lease("a", "s1").await.unwrap();
    scene.script(Err(unavailable()));
    flag.raise();
    assert!(scene.lease("a", "s1").await.is_err(), "its life is over");
}

#[tokio::test(start_paused = true)]
async fn an_endless_lease_that_nobody_uses_is_let_go() {
    let scene = Scene::new(|_| {});
    *scene.fake.life.lock() = Life::Endless;
    scene.lease("a", "s1").await.unwrap();
    scene.pass(3601.0).await;
    assert_eq!(scene.broker.snapshot().len(), 1, "it was used in that hour");
    scene.pass(3601.0).await;
    assert!(scene.broker.snapshot().is_empty());
    assert_eq!(scene.heard.of("revoked"), ["revoked unused revoked 1"]);
}
