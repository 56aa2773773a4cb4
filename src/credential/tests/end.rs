//! How leases end: with their sessions, by order, by a reload, and at the shutdown.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_session_end_revokes_once_what_served_it_alone() {
    let scene = Scene::new(|_| {});
    let mine = scene.lease("a", "s1").await.unwrap();
    let other = scene.lease("a", "s2").await.unwrap();
    for _ in 0..3 {
        scene.broker.end_session(&"s1".into());
    }
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&mine)]);
    assert_eq!(scene.heard.of("revoked"), ["revoked session-end revoked 1"]);
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::Refused
    );
    assert_eq!(scene.lease("a", "s2").await.unwrap().id(), other.id());
    assert_eq!(scene.broker.snapshot().len(), 1);
    let patterns = |scene: &Scene| {
        let agent = "a".parse().unwrap();
        scene
            .broker
            .patterns(&agent, "s1", None, [&scene.spec.name])
    };
    assert!(
        Arc::ptr_eq(&patterns(&scene), &mine.sought().patterns()),
        "answers may be under way"
    );
    scene.pass(601.0).await;
    assert!(patterns(&scene).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shared_lease_is_revoked_when_the_last_of_its_sessions_ends() {
    for share in [Share::Agent, Share::All] {
        let scene = Scene::new(|spec| spec.share = share);
        scene
            .broker
            .begin_session(&"s1".into(), &"a".parse().unwrap(), None);
        scene
            .broker
            .begin_session(&"s2".into(), &"a".parse().unwrap(), None);
        let lease = scene.lease("a", "s1").await.unwrap();
        scene.broker.end_session(&"s1".into());
        settle().await;
        assert!(scene.fake.revoked.lock().is_empty());
        assert_eq!(scene.lease("a", "s2").await.unwrap().id(), lease.id());
        scene.broker.end_session(&"s2".into());
        settle().await;
        assert_eq!(scene.fake.revoked.lock().len(), 1, "{share:?}");
        assert_ne!(scene.lease("a", "s3").await.unwrap().id(), lease.id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lands_after_its_session_ended_is_revoked_and_not_used() {
    let scene = Arc::new(Scene::new(|_| {}));
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    let waiting = TaskTracker::new().spawn({
        let scene = Arc::clone(&scene);
        async move { scene.lease("a", "s1").await }
    });
    settle().await;
    scene.broker.end_session(&"s1".into());
    gate.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap_err(), IssueError::Refused);
    settle().await;
    assert_eq!(scene.heard.of("revoked"), ["revoked session-end revoked 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_revoked_with_the_session_too() {
    let scene = Scene::new(|_| {});
    scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    assert_eq!(scene.calls(), 2);
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!(
        scene.fake.revoked.lock().len(),
        2,
        "both still live at the issuer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_tried_until_it_is_confirmed() {
    let scene = Scene::new(|_| {});
    scene.lease("a", "s1").await.unwrap();
    scene
        .fake
        .revokes
        .lock()
        .extend([Err(RevokeError::Failed), Err(RevokeError::Failed)]);
    scene.broker.end_session(&"s1".into());
    settle().await;
    let states: Vec<_> = scene
        .broker
        .snapshot()
        .iter()
        .map(|lease| lease.state)
        .collect();
    assert_eq!(states, [LeaseState::Revoking]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let heard = scene.heard.of("revoked");
    let expected =
        ["pending 1", "pending 2", "revoked 3"].map(|s| format!("revoked session-end {s}"));
    assert_eq!(heard, expected);
    assert!(scene.broker.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_order_withdraws_at_once_and_the_secret_is_still_scrubbed() {
    let scene = Scene::new(|_| {});
    let lease = scene.lease("a", "s1").await.unwrap();
    scene.lease("b", "s2").await.unwrap();
    let agent: AgentId = "a".parse().unwrap();
    let count = |order| scene.broker.revoke(order, Reason::Order, Some("alice"));
    assert_eq!(count(Order::Lease(lease.id())), 1);
    assert_eq!(count(Order::Lease(lease.id())), 0);
    assert_eq!(
        scene
            .broker
            .snapshot()
            .iter()
            .filter(|l| l.state == LeaseState::Live)
            .count(),
        1
    );
    let patterns = scene
        .broker
        .patterns(&agent, "s1", None, [&scene.spec.name]);
    assert!(Arc::ptr_eq(&patterns, &lease.sought().patterns()));
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), lease.id());
    assert_eq!(count(Order::Agent(&agent)), 1);
    assert_eq!(count(Order::Credential(&scene.spec.name)), 1);
    settle().await;
    assert_eq!(scene.fake.revoked.lock().len(), 3);
    scene.pass(601.0).await;
    scene.pass(1.0).await;
    assert!(
        scene
            .broker
            .patterns(&agent, "s1", None, [&scene.spec.name])
            .is_empty()
    );
}

/// What was issued over a network that is no longer trusted is given back, and asked for anew.
#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_reached_otherwise_is_asked_anew() {
    let scene = Scene::new(|_| {});
    let before = scene.lease("a", "s1").await.unwrap();
    let mut changed = scene.spec.clone();
    changed.network = "another trust".into();
    let entries: Vec<(Spec, Arc<dyn CredentialProvider>)> = vec![(changed, scene.fake.clone())];
    scene.broker.reconfigure(entries);
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&before)]);
    let after = scene.lease("a", "s1").await.unwrap();
    assert_ne!(before.id(), after.id());
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_unchanged_and_retires_the_rest() {
    let scene = Scene::new(|_| {});
    let mail = spec("mail");
    let entries = |first: Spec| -> Vec<(Spec, Arc<dyn CredentialProvider>)> {
        vec![
            (first, scene.fake.clone()),
            (mail.clone(), scene.fake.clone()),
        ]
    };
    scene.broker.reconfigure(entries(scene.spec.clone()));
    let crm = scene.lease("a", "s1").await.unwrap();
    let kept = scene
        .broker
        .lease(&permit("a", "s1", "mail"))
        .await
        .unwrap();
    let mut changed = scene.spec.clone();
    changed.max_life = Some(Duration::from_mins(1));
    scene.broker.reconfigure(entries(changed));
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&crm)]);
    assert_eq!(
        scene
            .broker
            .lease(&permit("a", "s1", "mail"))
            .await
            .unwrap()
            .id(),
        kept.id()
    );
    let agent: AgentId = "a".parse().unwrap();
    let name = &scene.spec.name;
    assert!(Arc::ptr_eq(
        &scene.broker.patterns(&agent, "s1", None, [name]),
        &crm.sought().patterns()
    ));
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), crm.id());
    scene.broker.reconfigure(vec![]);
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::Refused
    );
    assert!(!scene.broker.patterns(&agent, "s1", None, [name]).is_empty());
    for _ in 0..3 {
        scene.pass(601.0).await;
    }
    assert!(scene.broker.patterns(&agent, "s1", None, [name]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn shutdown_revokes_all_and_issues_nothing_more() {
    let scene = Scene::new(|_| {});
    for session in ["s1", "s2", "s3"] {
        scene.lease("a", session).await.unwrap();
    }
    scene
        .fake
        .revokes
        .lock()
        .push_back(Err(RevokeError::Failed));
    assert_eq!(scene.broker.shutdown(Duration::from_secs(30)).await, 0);
    assert_eq!(scene.fake.revoked.lock().len(), 4);
    assert!(scene.lease("a", "s1").await.is_err());
    let scene = Scene::new(|_| {});
    scene.lease("a", "s1").await.unwrap();
    scene
        .fake
        .revokes
        .lock()
        .extend((0..100).map(|_| Err(RevokeError::Failed)));
    let began = tokio::time::Instant::now();
    assert_eq!(scene.broker.shutdown(Duration::from_secs(30)).await, 1);
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_revoked() {
    let scene = Scene::new(|_| {});
    let past = Life::Until("2026-11-20T11:59:00Z".parse().unwrap());
    let good = Life::For(Duration::from_mins(10));
    for (number, (text, life)) in [
        ("a-secret-of-the-past", past),
        ("a-secret-with-no-life", Life::For(Duration::ZERO)),
        ("too-short", good),
        ("a-second-header\r\nx: y", good),
    ]
    .into_iter()
    .enumerate()
    {
        scene.script(Ok(token(text, life)));
        scene
            .fake
            .revokes
            .lock()
            .push_back(Err(RevokeError::Failed));
        let session = format!("s{number}");
        let error = scene.lease("a", &session).await.unwrap_err();
        assert_eq!(error, IssueError::Refused, "{text:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let revoked = scene.fake.revoked.lock().split_off(0);
        assert_eq!(
            revoked,
            [text.as_bytes(), text.as_bytes()],
            "until confirmed"
        );
    }
    let heard = scene.heard.of("revoked");
    assert_eq!(heard.len(), 8);
    assert_eq!(
        heard[..2],
        ["revoked unusable pending 1", "revoked unusable revoked 2"]
    );
    assert_eq!(scene.heard.of("issued"), [""; 0]);
}

/// An operator who reads a lease's id in the audit trail finds it, though a newer one has taken its place.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_replaced_is_listed_and_revoked_by_its_id() {
    let scene = Scene::new(|_| {});
    let old = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    let new = scene.lease("a", "s1").await.unwrap();
    assert_ne!(old.id(), new.id());
    let listed = || {
        let mut ids: Vec<_> = scene.broker.snapshot().into_iter().map(|l| l.id).collect();
        ids.sort();
        ids
    };
    let mut both = vec![old.id().clone(), new.id().clone()];
    both.sort();
    assert_eq!(listed(), both);
    let order = Order::Lease(old.id());
    assert_eq!(scene.broker.revoke(order, Reason::Order, Some("alice")), 1);
    assert_eq!(scene.broker.revoke(order, Reason::Order, Some("alice")), 0);
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&old)]);
    assert_eq!(listed(), [new.id().clone()]);
    let same = scene.lease("a", "s1").await.unwrap();
    assert_eq!(
        (same.id(), scene.calls()),
        (new.id(), 2),
        "it goes on to serve"
    );
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!(
        *scene.fake.revoked.lock(),
        [exposed(&old), exposed(&new)],
        "each once"
    );
}

/// The machine's date is an hour or ten years off for a while: no issuer ends a lease for that.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_leaves_no_lease_unrevoked() {
    for (jump, serves) in [
        ("2036-11-20T12:00:00Z", false),
        ("2016-11-20T12:00:00Z", true),
    ] {
        let scene = Scene::new(|_| {});
        let (one, two) = (
            scene.lease("a", "s1").await.unwrap(),
            scene.lease("b", "s2").await.unwrap(),
        );
        scene.clock.set_wall(jump.parse().unwrap());
        assert_eq!(one.is_usable(scene.clock.now()), serves);
        scene
            .fake
            .revokes
            .lock()
            .push_back(Err(RevokeError::Failed));
        scene.broker.end_session(&"s1".into());
        tokio::time::sleep(Duration::from_secs(3)).await;
        scene.broker.end_session(&"s2".into());
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The sweep may have fetched another in place of what it took for ended.
        let mut revoked = scene.fake.revoked.lock().clone();
        revoked.sort();
        revoked.dedup();
        assert!(revoked.contains(&exposed(&one)) && revoked.contains(&exposed(&two)));
        assert_eq!(revoked.len(), scene.calls(), "{jump}");
        assert!(scene.broker.snapshot().is_empty());
    }
}
