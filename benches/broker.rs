//! How many leases one core hands out: the hit path, with one key and with ten thousand sessions.
//!
//! `cargo bench --bench broker`. The last lines put the map beside the two that could stand in its place, and say what
//! resident leases cost: each of ten thousand agents holds one of every credential, each with a secret of its own.
//! `cargo bench --bench broker -- 100` makes it a hundred credentials (10 where nothing is said); with `resident` behind
//! it, nothing else is measured.

#![allow(clippy::indexing_slicing, reason = "a benchmark may panic")]

use std::collections::HashMap;
use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keyward::clock::{Clock as _, SystemClock};
use keyward::credential::{
    Broker, CredentialProvider, Events, Failed, Handle, Issue, IssueError, Issued, Kind, Life,
    OnFailure, Orphan, RevokeError, Revoking, Scope, Share, Source, Spec,
};
use keyward::head::Head;
use keyward::host::Target;
use keyward::inject::{Material, Placement};
use keyward::policy::{Conditions, Permit, Policy, Query, Verdict};
use keyward::route::{Route, Table};
use keyward::secret::Secret;

const SESSIONS: usize = 10_000;
const ROUNDS: usize = 5_000_000;

static ISSUED: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Issuer;

#[async_trait]
impl CredentialProvider for Issuer {
    fn kind(&self) -> &'static str {
        "bench"
    }
    async fn issue(&self, _: &Scope) -> Result<Issued, IssueError> {
        let number = ISSUED.fetch_add(1, Ordering::Relaxed);
        let secret = format!("secret-{number:033x}").into_bytes();
        Ok(Issued {
            material: Material::Token(Arc::new(Secret::new(secret))),
            life: Life::For(Duration::from_hours(1)),
            handle: None,
            superseded: None,
        })
    }
    async fn revoke(&self, _: &Handle) -> Result<(), RevokeError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Silent;

impl Events for Silent {
    fn issued(&self, _: &Issue<'_>) {}
    fn failed(&self, _: &Failed<'_>) {}
    fn orphaned(&self, _: &Orphan<'_>) {}
    fn revoked(&self, _: &Revoking<'_>) {}
}

fn spec(share: Share) -> Spec {
    named("crm", share)
}

fn named(name: &str, share: Share) -> Spec {
    Spec {
        name: name.parse().expect("a name"),
        share,
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

fn permits(count: usize) -> Vec<Permit> {
    permits_for(count, "crm")
}

fn permits_for(count: usize, credential: &str) -> Vec<Permit> {
    let target = Arc::new(Target::from_connect("api.test:443").expect("a target"));
    let route = Route {
        name: "route-1".into(),
        index: 0,
        hosts: vec!["api.test".parse().expect("a host")],
        methods: None,
        paths: vec![],
        agents: vec![],
        credential: Some(credential.parse().expect("a name")),
        placements: vec![Placement::Bearer],
        slot: 0,
        ranges: false,
        encoded_slash: false,
        empty_segments: false,
        websocket: true,
        preset: None,
        narrow: Arc::default(),
        peers: None,
        answer: None,
    };
    let agent = "agent".parse().expect("a name");
    let candidates = Table::new(vec![route]).candidates(&target, &agent);
    let policy = Policy::new(vec![Conditions::default()]);
    (0..count)
        .map(|number| {
            let request = http::Request::get("/x").header("host", "api.test");
            let parts = request.body(()).expect("a request").into_parts().0;
            let head = Head::clean(parts, &target).expect("a clean head");
            let query = Query {
                agent: &agent,
                session: &session(number),
                chain: std::slice::from_ref(&agent),
                person: None,
                scope: &keyward::delegation::Scope::ALL,
                permissions: &keyward::delegation::Scope::ALL,
                target: &target,
                source: None,
                now: SystemClock.now(),
                candidates: &candidates,
            };
            let Verdict::Allow(permit) = policy.evaluate(&query, head) else {
                unreachable!("the route covers every request")
            };
            permit
        })
        .collect()
}

fn session(number: usize) -> Arc<str> {
    format!("{:024x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
}

/// Runs `step` for each of [`ROUNDS`] and prints its rate.
async fn measure<F: Future<Output = ()>>(what: &str, mut step: impl FnMut(usize) -> F) {
    for round in 0..ROUNDS / 10 {
        step(round).await;
    }
    let began = Instant::now();
    for round in 0..ROUNDS {
        step(round).await;
    }
    let each = began.elapsed().as_secs_f64() / f64::from(u32::try_from(ROUNDS).expect("fits"));
    report(&format!(
        "{what:<44} {:6.1} ns   {:5.2} M/s",
        each * 1e9,
        1e-6 / each
    ));
}

#[expect(clippy::print_stdout, reason = "a benchmark's answer")]
fn report(line: &str) {
    println!("{line}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if std::env::args().any(|word| word == "resident") {
        return resident().await;
    }
    let few = permits(1);
    let many = permits(SESSIONS);
    for (share, permits, what) in [
        (Share::All, &few, "lease, share = all"),
        (Share::Session, &few, "lease, one session"),
        (Share::Session, &many, "lease, 10,000 sessions in turn"),
    ] {
        let broker = Broker::new(
            vec![(spec(share), Arc::new(Issuer))],
            Arc::new(SystemClock),
            Arc::new(Silent),
        );
        let began = Instant::now();
        for permit in permits {
            broker.lease(permit).await.expect("a lease");
        }
        let first = began.elapsed() / u32::try_from(permits.len()).expect("fits");
        measure(what, |round| {
            let (broker, permit) = (&broker, &permits[round % permits.len()]);
            async move {
                black_box(broker.lease(permit).await.expect("a lease"));
            }
        })
        .await;
        report(&format!("{:<44} {first:?}", "  first lease of a key"));
        let name = spec(share).name;
        measure("  patterns for an answer", |round| {
            let permit = &permits[round % permits.len()];
            black_box(broker.patterns(permit.agent(), permit.session(), None, [&name]));
            async {}
        })
        .await;
    }
    measure("  the clock alone", |_| {
        black_box(SystemClock.now());
        async {}
    })
    .await;
    alternatives().await;
    drop((few, many));
    resident().await;
}

/// Ten thousand sessions with a lease of every credential: how much memory each takes, and what a lookup among them
/// costs.
async fn resident() {
    let count: usize = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(10);
    let names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    let permits: Vec<Vec<Permit>> = names
        .iter()
        .map(|name| permits_for(SESSIONS, name))
        .collect();
    let before_all = resident_bytes();
    let entries = names
        .iter()
        .map(|name| {
            let provider = Arc::new(Issuer) as Arc<dyn CredentialProvider>;
            (named(name, Share::Session), provider)
        })
        .collect();
    let broker = Broker::new(entries, Arc::new(SystemClock), Arc::new(Silent));
    let began = Instant::now();
    for permit in permits.iter().flatten() {
        broker.lease(permit).await.expect("a lease");
    }
    let took = began.elapsed();
    let leases = SESSIONS * count;
    let each = resident_bytes().saturating_sub(before_all) / leases.max(1) as u64;
    report(&format!(
        "{leases} resident leases: {each} bytes each, issued in {took:?}"
    ));
    let before = (processor_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let share = (processor_seconds() - before.0) / before.1.elapsed().as_secs_f64();
    report(&format!(
        "{leases} resident leases, nobody asks: {:.1} % of a core",
        share * 100.0
    ));
    measure("lease, among the resident", |round| {
        let permit = &permits[round % count][round / count % SESSIONS];
        let broker = &broker;
        async move {
            black_box(broker.lease(permit).await.expect("a lease"));
        }
    })
    .await;
    let names: Vec<_> = names
        .iter()
        .map(|name| name.parse().expect("a name"))
        .collect();
    let began = Instant::now();
    let asked = leases.min(200_000);
    for round in 0..asked {
        let permit = &permits[round % count][round / count % SESSIONS];
        let name = [&names[round % count]];
        black_box(broker.patterns(permit.agent(), permit.session(), None, name));
    }
    let took = began.elapsed() / u32::try_from(asked).expect("fits");
    report(&format!(
        "  patterns for the first answer of each: {took:?}"
    ));
    let each = resident_bytes().saturating_sub(before_all) / (1 << 20);
    report(&format!("  resident memory after that: {each} MiB"));
}

/// The processor time that this process has used (`/proc/self/stat`, a hundred ticks a second).
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks = fields
        .skip(12)
        .take(2)
        .filter_map(|text| text.parse::<u32>().ok());
    f64::from(ticks.sum::<u32>()) / 100.0
}

/// The process's resident memory (`/proc/self/statm`, pages of 4 KiB); 0 where the system does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// The lookup of one of ten thousand keys, without what a lease adds to it.
async fn alternatives() {
    let keys: Vec<Arc<str>> = (0..SESSIONS).map(session).collect();
    let locked: parking_lot::RwLock<HashMap<Arc<str>, Arc<usize>>> =
        parking_lot::RwLock::new(keys.iter().cloned().map(|key| (key, Arc::new(1))).collect());
    measure("map: RwLock<HashMap>", |round| {
        black_box(locked.read().get(&keys[round % SESSIONS]).cloned());
        async {}
    })
    .await;
    let swapped = arc_swap::ArcSwap::from_pointee(locked.read().clone());
    measure("map: ArcSwap<HashMap>, as the broker's shards", |round| {
        black_box(swapped.load().get(&keys[round % SESSIONS]).cloned());
        async {}
    })
    .await;
    let moka = moka::future::Cache::new(100_000);
    for key in &keys {
        moka.insert(Arc::clone(key), Arc::new(1_usize)).await;
    }
    measure("map: moka::future::Cache", |round| {
        let (moka, key) = (&moka, &keys[round % SESSIONS]);
        async move {
            black_box(moka.get(key).await);
        }
    })
    .await;
}
