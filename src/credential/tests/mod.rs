mod end;
mod flight;
mod journal;
mod keys;
mod life;
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

#[tokio::test(start_paused = true)]
async fn a_permit_of_other_routes_is_not_served_from_their_slots() {
    let scene =
        Scene::new(|spec| spec.slots = vec![vec![Placement::Cookie { name: "sid".into() }]]);
    let error = scene.lease("a", "s1").await.unwrap_err();
    assert_eq!(error.word(), "broker-unavailable");
    assert_eq!(scene.calls(), 0);
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
