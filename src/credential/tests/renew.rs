//! Leases that their issuer lets live on.

use super::*;

const LIFE: Duration = Duration::from_mins(10);

/// A lease of ten minutes that can be renewed.
fn renewable(text: &str) -> Issued {
    let mut issued = token(text, Life::For(LIFE));
    issued.handle = issued.handle.map(|handle| {
        handle.renewed_by(Renewable {
            seconds: 600,
            mark: 7,
        })
    });
    issued
}

fn begun(change: impl FnOnce(&mut Spec)) -> Scene {
    let scene = Scene::new(change);
    scene.script(Ok(renewable("renewable-secret-0")));
    scene
}

fn will(scene: &Scene, outcomes: impl IntoIterator<Item = Result<Life, IssueError>>) {
    scene.fake.renews.lock().extend(outcomes);
}

fn renewed(scene: &Scene) -> usize {
    scene.fake.renewed.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_lease_lives_on_with_its_secret_and_is_revoked_once() {
    let scene = begun(|_| {});
    let life = Life::For(LIFE);
    will(&scene, [Ok(life), Ok(life)]);
    let first = scene.lease("a", "s1").await.unwrap();
    for round in 1..=2 {
        scene.pass(480.0).await;
        let live = scene.lease("a", "s1").await.unwrap();
        assert_eq!((renewed(&scene), scene.calls()), (round, 1));
        assert_eq!((live.id(), exposed(&live)), (first.id(), exposed(&first)));
        let left = live.expires().left(scene.clock.now()).unwrap();
        assert!(left > Duration::from_secs(595), "{left:?}");
        assert!(!first.is_usable(scene.clock.now()) || round == 1);
        assert_eq!(scene.broker.snapshot().len(), 1);
    }
    // Nothing of it is over: no revocation before the session's end, and then one.
    assert_eq!(scene.heard.of("revoked"), [""; 0]);
    assert_eq!(
        scene.heard.of("issued"),
        [
            "issued crm first",
            "issued crm refresh",
            "issued crm refresh"
        ]
    );
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&first)]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_its_longest_life_there_is_another() {
    let scene = begun(|_| {});
    // A Vault gives less and less as the longest life comes near: ten minutes, six, two.
    let short = |seconds| Ok(Life::For(Duration::from_secs(seconds)));
    will(&scene, [short(600), short(360), short(120)]);
    let first = scene.lease("a", "s1").await.unwrap();
    for (seconds, same) in [(480.0, true), (480.0, true), (290.0, false)] {
        scene.pass(seconds).await;
        let live = scene.lease("a", "s1").await.unwrap();
        assert_eq!(live.id() == first.id(), same);
    }
    assert_eq!((renewed(&scene), scene.calls()), (3, 2));
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!(
        scene.fake.revoked.lock().len(),
        2,
        "both live at the issuer"
    );
}

#[tokio::test(start_paused = true)]
async fn max_life_is_counted_from_the_first_issue() {
    let scene = begun(|spec| spec.max_life = Some(Duration::from_mins(14)));
    will(&scene, [Ok(Life::For(LIFE)), Ok(Life::For(LIFE))]);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    let live = scene.lease("a", "s1").await.unwrap();
    assert_eq!(live.id(), first.id());
    let left = live.expires().left(scene.clock.now()).unwrap();
    assert!(left <= Duration::from_mins(6), "{left:?}");
    scene.pass(290.0).await;
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    assert_eq!(
        (renewed(&scene), scene.calls()),
        (1, 2),
        "not asked in vain"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_renewed_is_issued_anew_and_a_sealed_issuer_is_sealed() {
    let scene = begun(|_| {});
    will(&scene, [Err(IssueError::Refused)]);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    let second = scene.lease("a", "s1").await.unwrap();
    assert_ne!(second.id(), first.id());
    assert_eq!(scene.heard.of("failed"), [""; 0], "nobody was refused");

    let scene = begun(|spec| spec.failure_ttl = Duration::ZERO);
    will(&scene, [Err(IssueError::Sealed)]);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    assert_eq!(scene.heard.of("failed"), ["failed refresh broker-sealed"]);
    assert_eq!(scene.calls(), 1, "no second call into a sealed issuer");
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!(scene.fake.revoked.lock().len(), 2);

    // With `stale` it is used on, and renewed when that is possible again.
    let scene = begun(|spec| {
        spec.failure_ttl = Duration::from_secs(5);
        spec.on_failure = OnFailure::Stale;
    });
    will(&scene, [Err(IssueError::Sealed), Ok(Life::For(LIFE))]);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    assert_eq!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    scene.pass(6.0).await;
    let live = scene.lease("a", "s1").await.unwrap();
    assert_eq!((live.id(), renewed(&scene)), (first.id(), 2));
    assert!(live.expires().left(scene.clock.now()).unwrap() > Duration::from_secs(590));
}

#[tokio::test(start_paused = true)]
async fn what_lives_on_after_its_session_is_revoked() {
    let scene = begun(|_| {});
    will(&scene, [Ok(Life::For(LIFE))]);
    let first = scene.lease("a", "s1").await.unwrap();
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    scene.pass(480.0).await;
    assert_eq!(renewed(&scene), 1, "under way");
    scene.broker.end_session(&"s1".into());
    settle().await;
    gate.notify_one();
    settle().await;
    // Once for the session's end, and once because the issuer may have let it live on after that.
    assert_eq!(
        *scene.fake.revoked.lock(),
        [exposed(&first), exposed(&first)]
    );
    assert!(scene.broker.snapshot().is_empty());
}

/// Its issuer may have let it live on: it is believed to end early for use, and late for revocation.
#[tokio::test(start_paused = true)]
async fn a_lease_whose_renewal_was_not_answered_is_revoked_though_its_old_end_has_passed() {
    for lost in [IssueError::TimedOut, IssueError::Lost] {
        let scene = begun(|_| {});
        will(&scene, [Err(lost); 3]);
        let first = scene.lease("a", "s1").await.unwrap();
        scene.pass(480.0).await;
        settle().await;
        assert!(renewed(&scene) > 0, "asked for");
        assert_eq!(
            scene.heard.of("failed")[0],
            "failed refresh ".to_owned() + lost.word()
        );
        scene.pass(10.0).await;
        assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
        scene.pass(109.0).await;
        assert_eq!(scene.heard.of("revoked"), [""; 0], "who has it may use it");
        scene.pass(2.0).await;
        assert_eq!(*scene.fake.revoked.lock(), [exposed(&first)]);
        assert_eq!(scene.heard.of("revoked"), ["revoked renewal revoked 1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lives_on_too_short_to_be_used_on_is_revoked_as_long_as_it_lives() {
    let scene = begun(|_| {});
    // Less than half of the first life is not used on, and is longer than what was left.
    will(&scene, [Ok(Life::For(Duration::from_secs(250)))]);
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    scene.pass(121.0).await;
    assert_eq!(*scene.fake.revoked.lock(), [exposed(&first)]);
}

#[tokio::test(start_paused = true)]
async fn what_may_live_on_after_its_session_is_revoked_again() {
    let scene = begun(|_| {});
    will(&scene, [Err(IssueError::TimedOut)]);
    let first = scene.lease("a", "s1").await.unwrap();
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    scene.pass(480.0).await;
    assert_eq!(renewed(&scene), 1, "under way");
    scene.broker.end_session(&"s1".into());
    settle().await;
    gate.notify_one();
    settle().await;
    assert_eq!(
        *scene.fake.revoked.lock(),
        [exposed(&first), exposed(&first)]
    );
}
