//! One call for all who wait: how it lands, fails, and how long a failure is remembered.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_first_requests_are_one_call() {
    let scene = Arc::new(Scene::new(|_| {}));
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let scene = Arc::clone(&scene);
        waiting.spawn(async move { scene.lease("a", "s1").await });
    }
    settle().await;
    gate.notify_one();
    let mut ids = std::collections::HashSet::new();
    while let Some(lease) = waiting.join_next().await {
        ids.insert(lease.unwrap().unwrap().id().clone());
    }
    assert_eq!((scene.calls(), ids.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_flight_lands_though_its_leader_hung_up() {
    let scene = Arc::new(Scene::new(|_| {}));
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    let leader = TaskTracker::new().spawn({
        let scene = Arc::clone(&scene);
        async move { scene.lease("a", "s1").await }
    });
    settle().await;
    let follower = TaskTracker::new().spawn({
        let scene = Arc::clone(&scene);
        async move { scene.lease("a", "s1").await }
    });
    settle().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.notify_one();
    assert!(follower.await.unwrap().is_ok());
    assert_eq!(scene.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_remembered_for_its_time_and_no_longer() {
    let scene = Scene::new(|_| {});
    scene.script(Err(IssueError::Refused));
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::Refused
    );
    scene.pass(4.9).await;
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::Refused
    );
    assert_eq!(scene.calls(), 1);
    assert!(
        scene.lease("a", "s2").await.is_ok(),
        "refused was s1, not the issuer"
    );
    scene.pass(0.2).await;
    assert!(scene.lease("a", "s1").await.is_ok());
    assert_eq!(scene.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_wins_where_it_is_longer_and_holds_for_the_whole_issuer() {
    let scene = Scene::new(|_| {});
    let after = |seconds| IssueError::Unavailable {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    scene.script(Err(after(60)));
    assert_eq!(scene.lease("a", "s1").await.unwrap_err(), after(60));
    scene.pass(59.0).await;
    assert_eq!(scene.lease("b", "s2").await.unwrap_err(), after(1));
    assert_eq!(scene.calls(), 1);
    scene.pass(1.0).await;
    assert!(scene.lease("b", "s2").await.is_ok());
    scene.script(Err(after(100_000)));
    assert!(scene.lease("a", "s3").await.is_err());
    scene.pass(300.0).await;
    assert!(scene.lease("a", "s3").await.is_ok(), "five minutes at most");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_a_time_is_remembered_for_that_or_for_longer() {
    let scene = Scene::new(|spec| spec.failure_ttl = Duration::from_secs(30));
    let refused = |seconds| IssueError::RefusedFor {
        retry_after: Duration::from_secs(seconds),
    };
    scene.script(Err(refused(60)));
    assert_eq!(scene.lease("a", "s1").await.unwrap_err(), refused(60));
    scene.pass(59.0).await;
    assert_eq!(scene.lease("a", "s1").await.unwrap_err(), refused(1));
    assert_eq!(scene.calls(), 1);
    assert!(
        scene.lease("a", "s2").await.is_ok(),
        "refused was s1, not the issuer"
    );
    scene.pass(1.0).await;
    scene.script(Err(refused(5)));
    assert!(scene.lease("a", "s1").await.is_err());
    scene.pass(29.0).await;
    assert!(
        scene.lease("a", "s1").await.is_err(),
        "failure-ttl is longer"
    );
    scene.pass(1.0).await;
    scene.script(Err(refused(100_000)));
    assert!(scene.lease("a", "s1").await.is_err());
    scene.pass(299.0).await;
    assert!(scene.lease("a", "s1").await.is_err());
    scene.pass(1.0).await;
    assert!(scene.lease("a", "s1").await.is_ok(), "five minutes at most");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_out_of_reach_is_tried_again_within_the_deadline() {
    let scene = Scene::new(|_| {});
    scene.script(Err(IssueError::Unavailable { retry_after: None }));
    scene.script(Err(IssueError::Unavailable { retry_after: None }));
    assert!(scene.lease("a", "s1").await.is_ok());
    assert_eq!(scene.calls(), 3);
    assert_eq!(scene.heard.of("failed").len(), 2, "each call is heard of");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_says_nothing_is_given_up_at_the_deadline() {
    let scene = Scene::new(|spec| spec.deadline = Duration::from_secs(3));
    *scene.fake.gate.lock() = Some(Arc::new(Notify::new()));
    let began = tokio::time::Instant::now();
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::TimedOut
    );
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(scene.heard.of("failed"), ["failed first broker-timeout"]);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_panics_leaves_no_waiter_behind() {
    #[derive(Debug)]
    struct Panics;
    #[async_trait]
    impl CredentialProvider for Panics {
        fn kind(&self) -> &'static str {
            "panics"
        }
        async fn issue(&self, _: &Scope) -> Result<Issued, IssueError> {
            panic!("a provider's bug")
        }
        async fn revoke(&self, _: &Handle) -> Result<(), RevokeError> {
            Ok(())
        }
    }
    let scene = Scene::new(|_| {});
    let mut changed = scene.spec.clone();
    changed.unscrubbed = true;
    scene.broker.reconfigure(vec![(changed, Arc::new(Panics))]);
    for _ in 0..2 {
        assert_eq!(
            scene.lease("a", "s1").await.unwrap_err().word(),
            "broker-unavailable"
        );
    }
}
