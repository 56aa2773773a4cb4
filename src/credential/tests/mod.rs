mod journal;
mod keys;
mod metrics;
mod renew;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::head::Head;
use crate::host::{HostPattern, Target};
use crate::inject::Placement;
use crate::policy::{Conditions, Permit, Policy, Query, Verdict};
use crate::route::{Route, Table};

const CANARY: &str = "canary-0123456789abcdef";

/// An issuer that does what the test says, and remembers what it was asked.
#[derive(Debug)]
struct Fake {
    calls: AtomicUsize,
    /// What the next calls bring; when empty, a token with `life`.
    script: Mutex<VecDeque<Result<Issued, IssueError>>>,
    life: Mutex<Life>,
    /// Where set, a call waits for it.
    gate: Mutex<Option<Arc<Notify>>>,
    renews: Mutex<VecDeque<Result<Life, IssueError>>>,
    renewed: AtomicUsize,
    revokes: Mutex<VecDeque<Result<(), RevokeError>>>,
    revoked: Mutex<Vec<Vec<u8>>>,
    asked: Mutex<Vec<Scope>>,
}

#[async_trait]
impl CredentialProvider for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().push(scope.clone());
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        if let Some(scripted) = self.script.lock().pop_front() {
            return scripted;
        }
        Ok(token(&format!("{CANARY}-{number}"), *self.life.lock()))
    }

    async fn renew(&self, handle: &Handle) -> Result<Life, IssueError> {
        assert!(handle.renewable().is_some());
        self.renewed.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let scripted = self.renews.lock().pop_front();
        scripted.unwrap_or(Err(IssueError::Refused))
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        self.revoked.lock().push(handle.content().expose().to_vec());
        self.revokes.lock().pop_front().unwrap_or(Ok(()))
    }
}

fn token(text: &str, life: Life) -> Issued {
    let secret = Arc::new(Secret::from(text.to_owned()));
    Issued {
        material: Material::Token(Arc::clone(&secret)),
        life,
        handle: Some(Handle::new(secret)),
        superseded: None,
    }
}

#[derive(Debug, Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    chains: Mutex<Vec<Vec<AgentId>>>,
}

impl Events for Heard {
    fn issued(&self, issue: &Issue<'_>) {
        let line = format!("issued {} {}", issue.scope.credential, issue.cause.word());
        self.chains.lock().push(issue.chain.to_vec());
        self.lines.lock().push(line);
    }
    fn failed(&self, failed: &Failed<'_>) {
        let line = format!("failed {} {}", failed.cause.word(), failed.error.word());
        self.lines.lock().push(line);
    }
    fn orphaned(&self, orphan: &Orphan<'_>) {
        let line = format!("orphaned {} {:?}", orphan.lease, orphan.expires);
        self.lines.lock().push(line);
    }
    fn revoked(&self, revoking: &Revoking<'_>) {
        let (reason, outcome) = (revoking.reason.word(), revoking.outcome.word());
        let line = format!("revoked {reason} {outcome} {}", revoking.attempt);
        self.chains.lock().push(revoking.chain.to_vec());
        self.lines.lock().push(line);
    }
}

impl Heard {
    fn of(&self, kind: &str) -> Vec<String> {
        let all = self.lines.lock();
        all.iter()
            .filter(|line| line.starts_with(kind))
            .cloned()
            .collect()
    }
}

struct Scene {
    broker: Broker,
    fake: Arc<Fake>,
    clock: Arc<ManualClock>,
    heard: Arc<Heard>,
    spec: Spec,
}

fn spec(name: &str) -> Spec {
    Spec {
        name: name.parse().unwrap(),
        share: Share::Session,
        on_failure: OnFailure::Refuse,
        max_life: None,
        deadline: Duration::from_secs(10),
        failure_ttl: Duration::from_secs(5),
        unscrubbed: false,
        kind: Kind::Static {
            value: Source::Env("UNUSED".into()),
        },
        network: "".into(),
        slots: vec![vec![Placement::Bearer]],
    }
}

fn fake(life: u64) -> Arc<Fake> {
    Arc::new(Fake {
        calls: AtomicUsize::new(0),
        script: Mutex::default(),
        life: Mutex::new(Life::For(Duration::from_secs(life))),
        gate: Mutex::default(),
        renews: Mutex::default(),
        renewed: AtomicUsize::new(0),
        revokes: Mutex::default(),
        revoked: Mutex::default(),
        asked: Mutex::default(),
    })
}

impl Scene {
    fn new(change: impl FnOnce(&mut Spec)) -> Self {
        let mut spec = spec("crm");
        change(&mut spec);
        let fake = fake(600);
        let clock = Arc::new(ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()));
        let heard = Arc::new(Heard::default());
        let broker = Broker::new(
            vec![(spec.clone(), fake.clone())],
            clock.clone(),
            heard.clone(),
        );
        Self {
            broker,
            fake,
            clock,
            heard,
            spec,
        }
    }

    async fn lease(&self, agent: &str, session: &str) -> Result<Arc<Live>, IssueError> {
        self.broker.lease(&permit(agent, session, "crm")).await
    }

    fn calls(&self) -> usize {
        self.fake.calls.load(Ordering::SeqCst)
    }

    /// Moves the clock, and lets the sweep and what it starts run. Tokio's own time stands still but for that.
    async fn pass(&self, seconds: f64) {
        self.clock.advance(Duration::from_secs_f64(seconds));
        settle().await;
    }

    fn script(&self, outcome: Result<Issued, IssueError>) {
        self.fake.script.lock().push_back(outcome);
    }
}

/// Under `start_paused` this costs no time: the runtime jumps to the next timer when nothing else is to do.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

fn permit(agent: &str, session: &str, credential: &str) -> Permit {
    permit_for((agent, session, credential), None, Arc::default())
}

fn permit_for(
    (agent, session, credential): (&str, &str, &str),
    person: Option<&Arc<Person>>,
    narrow: Arc<Narrow>,
) -> Permit {
    let target = Arc::new(Target::from_connect("api.test:443").unwrap());
    let route = Route {
        name: "route-1".into(),
        index: 0,
        hosts: vec!["api.test".parse::<HostPattern>().unwrap()],
        methods: None,
        paths: vec![],
        agents: vec![],
        credential: Some(credential.parse().unwrap()),
        placements: vec![Placement::Bearer],
        slot: 0,
        ranges: false,
        encoded_slash: false,
        empty_segments: false,
        websocket: true,
        preset: None,
        narrow,
        answer: None,
        peers: None,
    };
    let agent: AgentId = agent.parse().unwrap();
    let table = Table::new(vec![route]);
    let request = http::Request::get("/x").header("host", "api.test");
    let head = Head::clean(request.body(()).unwrap().into_parts().0, &target).unwrap();
    let query = Query {
        agent: &agent,
        session: &Arc::from(session),
        chain: std::slice::from_ref(&agent),
        person,
        scope: &crate::delegation::Scope::ALL,
        permissions: &crate::delegation::Scope::ALL,
        target: &target,
        source: None,
        now: crate::clock::SystemClock.now(),
        candidates: &table.candidates(&target, &agent),
    };
    match Policy::new(vec![Conditions::default()]).evaluate(&query, head) {
        Verdict::Allow(permit) => permit,
        Verdict::Ask(_) => panic!("nobody is asked"),
        Verdict::Deny(denial, _) => panic!("{denial}"),
    }
}

fn exposed(live: &Live) -> Vec<u8> {
    live.material().secrets().next().unwrap().expose().to_vec()
}

fn unavailable() -> IssueError {
    IssueError::Unavailable {
        retry_after: Some(Duration::from_secs(1)),
    }
}

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

#[tokio::test(start_paused = true)]
async fn a_shared_lease_has_the_chain_of_the_session_that_caused_the_call() {
    let scene = Scene::new(|spec| spec.share = Share::All);
    let chain = |names: &[&str]| -> Arc<[AgentId]> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    };
    let (first, second) = (chain(&["boss", "a"]), chain(&["b"]));
    let (asked, other) = (permit("a", "s1", "crm"), permit("b", "s2", "crm"));
    scene.broker.lease_for(&asked, &first).await.unwrap();
    scene.broker.lease_for(&other, &second).await.unwrap();
    scene.pass(480.0).await;
    assert_eq!(scene.calls(), 2, "refreshed");
    scene.pass(600.0).await;
    scene.pass(1.0).await;
    scene.broker.lease_for(&other, &second).await.unwrap();
    scene
        .broker
        .revoke(Order::Credential(&scene.spec.name), Reason::Order, None);
    settle().await;
    let heard = scene.heard.lines.lock().clone();
    let chains = scene.heard.chains.lock().clone();
    let last = chains.last().unwrap().clone();
    assert_eq!(chains[..2], [first.to_vec(), first.to_vec()], "{heard:?}");
    assert_eq!(last, second.to_vec(), "{heard:?}");
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
async fn a_lease_serves_exactly_those_who_share_it() {
    for (share, expected) in [(Share::Session, 3), (Share::Agent, 2), (Share::All, 1)] {
        let scene = Scene::new(|spec| spec.share = share);
        let mut ids = std::collections::HashSet::new();
        for (agent, session) in [("a", "s1"), ("a", "s2"), ("b", "s3"), ("a", "s1")] {
            ids.insert(scene.lease(agent, session).await.unwrap().id().clone());
        }
        assert_eq!(ids.len(), expected, "{share:?}");
        let asked = scene.fake.asked.lock();
        let named = |scope: &&Scope| scope.holder.session().is_some();
        assert_eq!(
            asked.iter().filter(named).count(),
            if expected == 3 { 3 } else { 0 }
        );
    }
}

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

#[tokio::test(start_paused = true)]
async fn patterns_are_those_of_the_principal_and_are_made_once() {
    let scene = Scene::new(|_| {});
    let other = spec("mail");
    scene.broker.reconfigure(vec![
        (scene.spec.clone(), scene.fake.clone()),
        (other.clone(), scene.fake.clone()),
    ]);
    let agent: AgentId = "a".parse().unwrap();
    let both = [&scene.spec.name, &other.name];
    assert!(scene.broker.patterns(&agent, "s1", None, both).is_empty());
    let crm = scene.lease("a", "s1").await.unwrap();
    let mail = scene
        .broker
        .lease(&permit("a", "s1", "mail"))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(
        &scene.broker.patterns(&agent, "s1", None, [&other.name]),
        &mail.sought().patterns()
    ));
    let union = scene.broker.patterns(&agent, "s1", None, both);
    assert!(!Arc::ptr_eq(&union, &crm.sought().patterns()) && !union.is_empty());
    assert!(Arc::ptr_eq(
        &union,
        &scene.broker.patterns(&agent, "s1", None, both)
    ));
    assert!(scene.broker.patterns(&agent, "s2", None, both).is_empty());
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
async fn a_permit_of_other_routes_is_not_served_from_their_slots() {
    let scene =
        Scene::new(|spec| spec.slots = vec![vec![Placement::Cookie { name: "sid".into() }]]);
    let error = scene.lease("a", "s1").await.unwrap_err();
    assert_eq!(error.word(), "broker-unavailable");
    assert_eq!(scene.calls(), 0);
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
async fn a_secret_too_short_to_scrub_is_refused_unless_told_otherwise() {
    for unscrubbed in [false, true] {
        let scene = Scene::new(|spec| spec.unscrubbed = unscrubbed);
        scene.script(Ok(token("elevenbytes", Life::Endless)));
        assert_eq!(scene.lease("a", "s1").await.is_ok(), unscrubbed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_stand_in_a_header_and_what_has_no_life_is_refused() {
    let scene = Scene::new(|_| {});
    for bad in ["twelve-bytes\r\nx: y", "twelve-bytes\0and-more"] {
        scene.script(Ok(token(bad, Life::Endless)));
        assert_eq!(
            scene.lease("a", bad).await.unwrap_err(),
            IssueError::Refused
        );
    }
    scene.script(Ok(token(CANARY, Life::For(Duration::ZERO))));
    assert_eq!(
        scene.lease("a", "s3").await.unwrap_err(),
        IssueError::Refused
    );
}

#[tokio::test(start_paused = true)]
async fn debug_of_everything_shows_no_secret() {
    let scene = Scene::new(|_| {});
    let live = scene.lease("a", "s1").await.unwrap();
    let issued = token(CANARY, Life::Endless);
    let text = format!(
        "{:?} {live:?} {:?} {issued:?} {:?}",
        scene.broker,
        live.material(),
        scene.broker.snapshot()
    );
    assert!(!text.contains("canary") && text.contains("crm"), "{text}");
    let bytes = format!("{:?}", CANARY.as_bytes());
    assert!(!text.contains(bytes.trim_matches(['[', ']'])));
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
