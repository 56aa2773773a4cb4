//! What a record costs on the request path: the trail as it is, beside a thread that writes for all and one lock for all.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "its answer is printed")]
#![allow(missing_docs, reason = "a benchmark has no readers of its interface")]

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use keyward::audit::{Audit, Durability, Record, Settings, Sink, Who};
use keyward::clock::SystemClock;
use tokio::sync::oneshot;

const TASKS: usize = 32;
const WORKERS: usize = 2;

fn main() {
    let exchanges = if std::env::args().any(|arg| arg == "--quick") {
        200
    } else {
        8000
    };
    println!("{WORKERS} workers, {TASKS} tasks; each exchange is one intent and one outcome");
    for round in 1..=3 {
        println!("round {round}");
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        trail("keyward, os", folder, Durability::Os, exchanges);
        trail("keyward, disk", folder, Durability::Disk, exchanges / 40);
        thread_for_all(folder, exchanges);
        lock_for_all(folder, exchanges);
    }
}

fn record(n: usize) -> String {
    format!("0198d2c4-6f3e-7000-8000-{n:012x}")
}

fn trail(name: &str, folder: &Path, durability: Durability, exchanges: usize) {
    let path = folder.join(format!("{}.jsonl", name.replace([' ', ','], "")));
    let settings = Settings {
        durability,
        ..Settings::new(Sink::File(path))
    };
    let audit = Arc::new(Audit::open(settings, Arc::new(SystemClock)).unwrap());
    measure(name, exchanges, move |n| {
        let audit = Arc::clone(&audit);
        async move {
            let id = record(n);
            let who = Who {
                request_id: Some(&id),
                session: Some("0198d2c4-5a11-7000-8000-00000000002a"),
                agent: Some("calendar"),
                user: Some("alice@example.com"),
                chain: None,
            };
            let target = ("api.crm.example.com", 443);
            let intent = Record {
                route: Some("crm-read"),
                decision: Some("allow"),
                credential: Some("crm"),
                lease: Some("l-0198d2c4"),
                ..Record::intent(who, target, "GET", "/v1/contacts/81273")
            };
            let begun = Instant::now();
            audit.intent(&intent).await.unwrap();
            let took = begun.elapsed();
            audit.append(&Record {
                event: keyward::audit::Event::Request,
                status: Some(200),
                bytes_up: Some(312),
                bytes_down: Some(1377),
                duration: Some(Duration::from_millis(12)),
                ..intent
            });
            took
        }
    });
}

/// 560 bytes, hashed by whoever writes: as long as a record.
fn line(n: usize) -> Vec<u8> {
    format!(
        "{{\"request-id\":\"{}\",\"rest\":\"{}\"}}\n",
        record(n),
        "x".repeat(500)
    )
    .into_bytes()
}

fn hash(line: &[u8]) {
    std::hint::black_box(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, line));
}

fn append_to(folder: &Path, name: &str) -> std::fs::File {
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(folder.join(name))
        .unwrap()
}

/// The alternative: every intent crosses to one thread and back, which writes what has gathered.
fn thread_for_all(folder: &Path, exchanges: usize) {
    type Job = (Vec<u8>, Option<oneshot::Sender<()>>);
    let mut file = append_to(folder, "thread.jsonl");
    let (jobs, inbox) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        while let Ok(first) = inbox.recv() {
            let mut batch = Vec::new();
            let mut waiting = Vec::new();
            for (line, done) in std::iter::once(first).chain(inbox.try_iter()) {
                hash(&line);
                batch.extend_from_slice(&line);
                waiting.extend(done);
            }
            file.write_all(&batch).unwrap();
            for done in waiting {
                done.send(()).unwrap();
            }
        }
    });
    measure("a thread for all, os", exchanges, move |n| {
        let jobs = jobs.clone();
        async move {
            let begun = Instant::now();
            let (done, written) = oneshot::channel();
            jobs.send((line(n), Some(done))).unwrap();
            written.await.unwrap();
            let took = begun.elapsed();
            jobs.send((line(n), None)).unwrap();
            took
        }
    });
}

/// The other alternative: one lock, and one write for each record.
fn lock_for_all(folder: &Path, exchanges: usize) {
    let file = Arc::new(parking_lot::Mutex::new(append_to(folder, "lock.jsonl")));
    measure("a lock for all, os", exchanges, move |n| {
        let file = Arc::clone(&file);
        async move {
            let put = |line: &[u8]| {
                let mut file = file.lock();
                hash(line);
                file.write_all(line).unwrap();
            };
            let begun = Instant::now();
            put(&line(n));
            let took = begun.elapsed();
            put(&line(n));
            took
        }
    });
}

fn measure<F, Fut>(name: &str, exchanges: usize, exchange: F)
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Duration> + Send,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .unwrap();
    let before = cpu();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let exchange = exchange.clone();
            runtime.spawn(async move {
                let mut took = Vec::with_capacity(exchanges);
                for n in 0..exchanges {
                    took.push(exchange(task * exchanges + n).await);
                    tokio::task::yield_now().await;
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = runtime.block_on(async {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let (wall, cpu) = (begun.elapsed(), cpu().saturating_sub(before));
    took.sort();
    let records = took.len() * 2;
    let each =
        |time: Duration| time.as_secs_f64() * 1e6 / f64::from(u32::try_from(records).unwrap());
    let at = |share: usize| took.get(took.len() * share / 1000).unwrap().as_secs_f64() * 1e6;
    println!(
        "{name:22} {:6.2} µs CPU and {:6.2} µs wall a record; intent p50 {:7.1} p99 {:7.1} p99.9 {:8.1} µs",
        each(cpu),
        each(wall),
        at(500),
        at(990),
        at(999),
    );
}

/// The process's CPU time.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}
