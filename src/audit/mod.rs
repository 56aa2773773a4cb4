//! The audit trail: one JSON object a line, hash-chained, written ahead of every use of a credential.
//!
//! [`Audit::intent`] returns once the record is as durable as the settings ask; only then may the request leave.
//! Outcomes go by [`Audit::append`]. A sink that fails is latched: every intent is refused until a write succeeds,
//! and what was queued meanwhile is written first. `docs/audit.md` has the format.

mod chain;
mod checkpoint;
mod json;
mod marks;
mod metrics;
mod out;
mod query;
mod record;
mod sink;
mod tail;
mod tally;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::clock::Clock;

pub use metrics::Metrics;
pub use query::{Filter, files, moment, query};
pub use record::{Event, Record, Who};
pub use tally::Counts;
pub use verify::{Fault, FaultKind, Options, Report, verify};

use chain::{Chain, GENESIS, text};
use checkpoint::{Checkpoint, Signer};
use sink::{LogFile, Output};
use tail::Tail;
use tally::Tally;
use writer::Shared;

/// `[audit]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where records go.
    pub sink: Sink,
    /// What an intent survives.
    pub durability: Durability,
    /// The size in bytes past which the file is rotated; 0 never.
    pub rotate_at: u64,
    /// How many rotated files are kept; 0 keeps all.
    pub keep: usize,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, appended to; rotated by size.
    File(PathBuf),
    /// Nowhere but memory: `demo` and tests read it back.
    Memory,
}

/// What a record survives once written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A kill of keyward: the bytes are with the kernel.
    #[default]
    Os,
    /// A power cut: group commit (`fdatasync`) before the request leaves.
    Disk,
}

impl Settings {
    /// The defaults: durability "os", files of 100 MiB, all of them kept.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            durability: Durability::Os,
            rotate_at: 100 * 1024 * 1024,
            keep: 0,
        }
    }
}

/// Why a record is not durable, or the trail not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A file cannot be opened or read.
    #[error("the audit file {} cannot be used", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process writes to the file.
    #[error("the audit file {} has another writer", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The file holds something else, which is left as it is.
    #[error("the file {} holds something other than the end of this audit trail", path.display())]
    NotATrail {
        /// Which.
        path: PathBuf,
    },
    /// The sink takes no records now; refuse, and try again.
    #[error("the audit sink takes no records")]
    Unavailable,
    /// The sink did not answer in time; refuse, and try again.
    #[error("the audit sink did not take the record in time")]
    TimedOut,
}

/// The open trail. Share it by `Arc`; [`Audit::close`] or the last drop ends it in order.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    memory: Option<Arc<Mutex<Vec<u8>>>>,
    tally: Option<Tally>,
}

impl Audit {
    /// Opens the trail, goes on with its chain, and records a `start`.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        survive_file_size_limit();
        let mut memory = None;
        let mut signer = None;
        let mut chain = Chain::after(0, GENESIS);
        let mut torn = None;
        let output = match &settings.sink {
            Sink::Stdout => Output::stdout().map_err(|source| AuditError::Open {
                path: PathBuf::from("stdout"),
                source,
            })?,
            Sink::Memory => Output::Memory(Arc::clone(memory.insert(Arc::default()))),
            Sink::File(path) => {
                let log = LogFile::open(path)?;
                (chain, torn) = go_on(&log)?;
                signer = Some(Signer::open(path)?);
                if settings.durability == Durability::Disk {
                    sink::sync_folder(path);
                }
                Output::File(log)
            }
        };
        let key = signer.as_ref().map(|signer| signer.public().to_owned());
        let shared = Shared::new(settings, clock, random_id(), chain, output, signer);
        let shared = Arc::new(shared);
        let digest = torn.as_ref().map(|(_, digest)| text(digest));
        shared.append(&Record {
            outcome: Some(if torn.is_some() { "torn" } else { "clean" }),
            torn_bytes: torn.as_ref().map(|(bytes, _)| *bytes),
            digest,
            key: key.as_deref(),
            ..Record::new(Event::Start, Who::default())
        });
        if !shared.flush(&mut shared.out.lock()) {
            return Err(AuditError::Unavailable);
        }
        let thread = spawn(&shared)?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            memory,
            tally: None,
        })
    }

    /// Opens the trail, or, where another process writes to the file, one beside it: `audit-2.jsonl` and so on.
    pub fn open_beside(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Self, AuditError> {
        let mut tried = Self::open(settings.clone(), Arc::clone(clock));
        let Sink::File(path) = &settings.sink else {
            return tried;
        };
        for n in 2..=64 {
            if !matches!(tried, Err(AuditError::InUse { .. })) {
                break;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let sink = Sink::File(path.with_file_name(format!("{stem}-{n}.jsonl")));
            tried = Self::open(
                Settings {
                    sink,
                    ..settings.clone()
                },
                Arc::clone(clock),
            );
        }
        tried
    }

    /// Counts from here on what [`Audit::counts`] tells.
    #[must_use]
    pub fn counting(mut self) -> Self {
        self.tally = Some(Tally::default());
        self
    }

    /// What went into the trail since [`Audit::counting`].
    pub fn counts(&self) -> Option<Counts> {
        self.tally.as_ref().map(Tally::counts)
    }

    /// Records what is about to happen; the request may leave once this returned `Ok`.
    pub async fn intent(&self, record: &Record<'_>) -> Result<(), AuditError> {
        self.shared.commit(record).await?;
        self.note(record);
        Ok(())
    }

    /// Records what happened. It is written with the next intent, or within some milliseconds.
    pub fn append(&self, record: &Record<'_>) {
        self.note(record);
        self.shared.append(record);
    }

    fn note(&self, record: &Record<'_>) {
        if let Some(tally) = &self.tally {
            tally.note(record);
        }
    }

    /// Whether the sink takes records, and none was lost untold.
    pub fn healthy(&self) -> bool {
        self.shared.healthy() && self.shared.chain.lock().lost == 0
    }

    /// Opens the configured path anew, after a log rotation by another program renamed the file.
    pub fn reopen(&self) -> Result<(), AuditError> {
        let reopened = self.shared.reopen(&mut self.shared.out.lock());
        // For an intent that came while the file was being opened.
        self.shared.look_again();
        reopened
    }

    /// The room's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// All lines of a trail in memory.
    pub fn lines(&self) -> Option<Vec<u8>> {
        let memory = self.memory.as_ref()?;
        self.shared.flush(&mut self.shared.out.lock());
        Some(memory.lock().clone())
    }

    /// Writes what is queued and a `stop`, signs the last checkpoint, and ends. Later records go to no one.
    pub fn close(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        self.shared
            .append(&Record::new(Event::Stop, Who::default()));
        self.shared.hang_up();
        if thread.join().is_err() {
            tracing::error!("the audit writer panicked");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where the chain of `log` stands, and what lies torn behind it.
fn go_on(log: &LogFile) -> Result<(Chain, Option<(u64, chain::Hex)>), AuditError> {
    let read = |file: &std::fs::File, path: &Path| {
        Tail::read(file)
            .map_err(|source| AuditError::Open {
                path: path.to_owned(),
                source,
            })?
            .ok_or_else(|| AuditError::NotATrail {
                path: path.to_owned(),
            })
    };
    let tail = read(&log.file, &log.path)?;
    let mut last = tail.last.map(|sealed| (sealed.seq, sealed.hash));
    if last.is_none()
        && let Some((_, path)) = sink::rotated(&log.path).pop()
    {
        // Killed between the renaming and the first record of the new file.
        let fault = |source| AuditError::Open {
            path: path.clone(),
            source,
        };
        let old = read(&std::fs::File::open(&path).map_err(fault)?, &path)?;
        last = old.last.map(|sealed| (sealed.seq, sealed.hash));
    }
    if last.is_none() {
        // Another program took the file away while keyward was down; a clean stop signed its last record.
        last = Checkpoint::last(&log.path)
            .and_then(|signed| Some((signed.seq, signed.hash.as_bytes().try_into().ok()?)));
    }
    let (seq, prev) = last.unwrap_or((0, GENESIS));
    let mut chain = Chain::after(seq, prev);
    if tail.open_line {
        chain.queue.push(b'\n');
    }
    Ok((chain, tail.torn))
}

fn spawn(shared: &Arc<Shared>) -> Result<JoinHandle<()>, AuditError> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || shared.run())
        .map_err(|source| AuditError::Open {
            path: PathBuf::from("the writer thread"),
            source,
        })
}

/// RLIMIT_FSIZE sends SIGXFSZ, which kills, before `write` may answer EFBIG. Any handler averts that; the one of the
/// runtime's signal driver stays for the life of the process, and is set from a thread that may own a runtime.
fn survive_file_size_limit() {
    use tokio::signal::unix::{SignalKind, signal};
    let set = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let _inside = runtime.enter();
        signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
    });
    if !matches!(set.join(), Ok(Ok(()))) {
        tracing::warn!("SIGXFSZ is not handled: a file size limit would end the process");
    }
}

fn random_id() -> String {
    let mut bytes = [0; 32];
    // A writer's id only tells processes apart; were there no randomness, its process id would do.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = [0; 32];
        bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    }
    text(&chain::hex(&bytes)).chars().take(16).collect()
}
