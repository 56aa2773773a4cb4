//! Who writes: the caller of an intent itself while the sink is quick, a thread of its own otherwise.
//!
//! Waking a thread costs more than the write: on two crowded cores an intent's median is 100 to 130 µs against 2.5
//! (`benches/audit.rs`). So with durability "os" the task that needs a record writes whatever is queued, in one call,
//! and goes on; one that finds another writing only queues and awaits, and no lock is waited for. In a crowd it lets
//! the other tasks of its worker queue theirs first, so that one write serves them all. Once a write stalls,
//! the thread writes until the sink is quick again: a stalled disk holds one worker of the runtime for one write. With
//! durability "disk" the thread writes always, and every `fdatasync` serves all that queued during the one before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::clock::Clock;

use super::chain::{Chain, Hex};
use super::checkpoint::Signer;
use super::out::Out;
use super::sink::Output;
use super::{AuditError, Durability, Event, Metrics, Record, Settings, Who};

/// What callers and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// A random id of this process.
    pub(super) writer: String,
    /// Taken to append a line; nothing under it but copying and the hash of a hundred bytes.
    pub(super) chain: Mutex<Chain>,
    /// Taken to write. Lock order: `out`, then `chain`.
    pub(super) out: Mutex<Out>,
    /// Used by the thread alone, after it let `out` go: signing takes longer than a write.
    signer: Mutex<Option<Signer>>,
    /// The last record that is as durable as the settings ask.
    durable: AtomicU64,
    /// The sink did not take the last write.
    broken: AtomicBool,
    /// The sink is slow: leave it to the thread.
    slow: AtomicBool,
    /// Callers may write themselves: with durability "os", and never to a pipe, whose reader could stall a worker.
    inline: bool,
    /// The thread sleeps until it is rung.
    idle: AtomicBool,
    /// There are records that no checkpoint covers.
    unsigned: AtomicBool,
    settled: Notify,
    bell: Mutex<Bell>,
    ring: Condvar,
}

#[derive(Debug, Default)]
struct Bell {
    rung: bool,
    urgent: bool,
    closing: bool,
}

/// How many batches a task writes for others before it goes on with its own request.
const TURNS: usize = 8;
/// A write that takes longer marks the sink slow.
const STALL: Duration = Duration::from_millis(5);
/// How long an outcome may wait for an intent to take it along.
const LINGER: Duration = Duration::from_millis(10);
/// More records than these waiting are not of one agent's requests in turn: its last outcome, and its intent.
const CROWD: u64 = 2;
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long an intent may take before the request is refused.
const DEADLINE: Duration = Duration::from_secs(10);
/// A checkpoint is signed after this many records,
const CHECKPOINT_RECORDS: u64 = 1024;
/// or this long after the first record that none covers.
const CHECKPOINT_AGE: Duration = Duration::from_secs(10);
/// How often the file's place and length are looked at while it is written.
const LOOK: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        writer: String,
        chain: Chain,
        output: Output,
        signer: Option<Signer>,
    ) -> Self {
        let now = clock.now().mono;
        let inline = settings.durability == Durability::Os && !matches!(output, Output::Stdout(_));
        let out = Out {
            output,
            signs: signer.is_some(),
            batch: Vec::with_capacity(64 * 1024),
            done: 0,
            unsynced: false,
            misplaced: false,
            end: (chain.seq, chain.prev),
            signed: (chain.seq, now),
            looked: now,
        };
        Self {
            settings,
            clock,
            metrics: Metrics::default(),
            writer,
            durable: AtomicU64::new(chain.seq),
            chain: Mutex::new(chain),
            out: Mutex::new(out),
            signer: Mutex::new(signer),
            broken: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            inline,
            idle: AtomicBool::new(false),
            unsigned: AtomicBool::new(false),
            settled: Notify::new(),
            bell: Mutex::new(Bell::default()),
            ring: Condvar::new(),
        }
    }

    /// Queues an outcome. A full queue counts it as lost, which the next record that fits will tell.
    pub(super) fn append(&self, record: &Record<'_>) {
        if self.enqueue(record).is_none() {
            self.chain.lock().lost += 1;
        }
        if self.idle.load(Ordering::SeqCst) {
            self.wake(false);
        }
    }

    /// Queues a record and sees to it that it is durable.
    pub(super) async fn commit(&self, record: &Record<'_>) -> Result<(), AuditError> {
        if !self.healthy() {
            self.metrics.failures.inc();
            return Err(AuditError::Unavailable);
        }
        let Some(seq) = self.enqueue(record) else {
            self.metrics.failures.inc();
            return Err(AuditError::Unavailable);
        };
        if self.inline && !self.slow.load(Ordering::Acquire) {
            if seq > self.durable.load(Ordering::Acquire) + CROWD {
                // Should this task end meanwhile, the thread writes.
                if self.idle.load(Ordering::SeqCst) {
                    self.wake(false);
                }
                tokio::task::yield_now().await;
            }
            if self.durable.load(Ordering::Acquire) < seq {
                self.write_inline();
            }
            if self.durable.load(Ordering::Acquire) >= seq {
                return Ok(());
            }
        } else {
            self.wake(true);
        }
        let Ok(settled) = tokio::time::timeout(DEADLINE, self.settle(seq)).await else {
            self.metrics.failures.inc();
            return Err(AuditError::TimedOut);
        };
        settled
    }

    /// Whether an intent can be recorded now.
    pub(super) fn healthy(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// Appends the record to the chain; the slow part, writing and hashing its members, is outside the lock.
    fn enqueue(&self, record: &Record<'_>) -> Option<u64> {
        thread_local! {
            static LINE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            record.write(self.clock.wall(), &self.writer, line);
            let mut hashed = Context::new(&SHA256);
            hashed.update(line);
            let seq = self.chain.lock().push(line, hashed)?;
            self.metrics.count(record.event);
            Some(seq)
        })
    }

    /// Writes what is queued, unless somebody is writing already: whoever that is looks at the queue again once the
    /// lock is free, so a record that was queued in between is never left behind, and nobody waits for a lock.
    fn write_inline(&self) {
        for _ in 0..TURNS {
            let Some(mut out) = self.out.try_lock() else {
                return;
            };
            let took = self.flush(&mut out);
            drop(out);
            if !took || self.chain.lock().queue.is_empty() {
                return;
            }
        }
        // Others queue faster than one can write: that is the thread's work.
        self.wake(true);
    }

    /// For an intent that may have found the lock taken.
    pub(super) fn look_again(&self) {
        if self.inline {
            self.write_inline();
        } else {
            self.wake(true);
        }
    }

    async fn settle(&self, seq: u64) -> Result<(), AuditError> {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.durable.load(Ordering::Acquire) >= seq {
                return Ok(());
            }
            if !self.healthy() {
                return Err(AuditError::Unavailable);
            }
            settled.await;
        }
    }

    /// Writes all that is queued. Returns whether the sink took it.
    pub(super) fn flush(&self, out: &mut Out) -> bool {
        let begun = Instant::now();
        let done = self.drain(out);
        self.slow.store(begun.elapsed() > STALL, Ordering::Release);
        match &done {
            Ok(()) => {
                self.durable.store(out.end.0, Ordering::Release);
                if self.broken.swap(false, Ordering::AcqRel) {
                    tracing::info!("the audit sink takes records again");
                }
            }
            Err(error) => {
                self.metrics.failures.inc();
                if !self.broken.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "the audit sink takes no records: nothing with a credential is sent");
                }
                self.wake(false);
            }
        }
        self.note_unsigned(out);
        self.settled.notify_waiters();
        done.is_ok()
    }

    fn note_unsigned(&self, out: &Out) {
        self.unsigned
            .store(out.signs && out.signed.0 < out.end.0, Ordering::Release);
    }

    fn drain(&self, out: &mut Out) -> io::Result<()> {
        if out.misplaced {
            out.swap_file().map_err(io::Error::other)?;
        }
        loop {
            if out.batch.is_empty() {
                let mut chain = self.chain.lock();
                if chain.queue.is_empty() {
                    return Ok(());
                }
                std::mem::swap(&mut chain.queue, &mut out.batch);
                out.end = (chain.seq, chain.prev);
            }
            out.put()?;
            if self.settings.durability == Durability::Disk {
                out.sync()?;
            }
            out.batch.clear();
            out.batch.shrink_to(1024 * 1024);
            out.done = 0;
            if !self.broken.load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }

    /// Rings the thread; `urgent` where a request waits.
    fn wake(&self, urgent: bool) {
        let mut bell = self.bell.lock();
        bell.rung = true;
        bell.urgent |= urgent;
        self.ring.notify_one();
    }

    /// Tells the thread to write what is left and end.
    pub(super) fn hang_up(&self) {
        self.bell.lock().closing = true;
        self.ring.notify_one();
    }

    /// The thread's life.
    pub(super) fn run(&self) {
        loop {
            let closing = self.listen();
            let mut out = self.out.lock();
            let mut due = None;
            if self.flush(&mut out) {
                self.tell_lost();
                due = self.keep_house(&mut out);
                if closing {
                    self.flush(&mut out);
                    due = out.take_due(0, self.clock.now().mono).or(due);
                }
            }
            self.note_unsigned(&out);
            drop(out);
            // An intent that found the lock taken relies on this look.
            if !self.chain.lock().queue.is_empty() && self.healthy() {
                self.write_inline();
            }
            if let Some((seq, hash)) = due {
                self.checkpoint(seq, &hash);
            }
            if closing {
                return;
            }
        }
    }

    /// Sleeps until there is something to write, sign or try again. Returns whether the trail is being closed.
    fn listen(&self) -> bool {
        self.idle.store(true, Ordering::SeqCst);
        // Whoever queues after this look finds `idle` set, and rings.
        let waiting = !self.chain.lock().queue.is_empty();
        let due = self.next_chore();
        let mut bell = self.bell.lock();
        if !waiting && !bell.rung && !bell.closing {
            match due {
                Some(wait) => {
                    let _ended = self.ring.wait_for(&mut bell, wait);
                }
                None => self.ring.wait(&mut bell),
            }
        }
        self.idle.store(false, Ordering::SeqCst);
        bell.rung = false;
        let linger = if self.healthy() { LINGER } else { RETRY };
        if !bell.closing && (!bell.urgent || !self.healthy()) {
            let _ended = self.ring.wait_for(&mut bell, linger);
        }
        bell.urgent = false;
        bell.closing
    }

    /// How long the thread may sleep.
    fn next_chore(&self) -> Option<Duration> {
        if !self.healthy() {
            return Some(RETRY);
        }
        // Not by taking `out`: an intent that found it taken would be left to nobody.
        self.unsigned
            .load(Ordering::Acquire)
            .then_some(CHECKPOINT_AGE)
    }

    /// Records how many records a failing sink cost.
    fn tell_lost(&self) {
        let lost = std::mem::take(&mut self.chain.lock().lost);
        if lost > 0 {
            let told = Record {
                outcome: Some("recovered"),
                lost: Some(lost),
                ..Record::new(Event::Start, Who::default())
            };
            if self.enqueue(&told).is_none() {
                self.chain.lock().lost += lost;
            }
        }
    }

    /// What is not urgent: rotation, the file's place, checkpoints.
    /// Returns the record to sign for, if that is due.
    fn keep_house(&self, out: &mut Out) -> Option<(u64, Hex)> {
        let now = self.clock.now().mono;
        if now.saturating_duration_since(out.looked) >= LOOK {
            out.looked = now;
            self.look(out);
        }
        let seq = out.end.0;
        if let Some(log) = out.output.file_mut()
            && self.settings.rotate_at > 0
            && log.size >= self.settings.rotate_at
        {
            match log.rotate(seq, self.settings.durability) {
                Ok(()) => log.prune(self.settings.keep),
                Err(error) => tracing::warn!(%error, "the audit file is not rotated"),
            }
        }
        let old = now.saturating_duration_since(out.signed.1) >= CHECKPOINT_AGE;
        out.take_due(if old { 0 } else { CHECKPOINT_RECORDS - 1 }, now)
    }

    /// Notices what others did to the file.
    fn look(&self, out: &mut Out) {
        let Some(log) = out.output.file_mut() else {
            return;
        };
        if let Some(cut) = log.cut() {
            tracing::warn!(bytes = cut, "the audit file was cut by somebody else");
            self.append(&Record {
                outcome: Some("cut"),
                torn_bytes: Some(cut),
                ..Record::new(Event::Start, Who::default())
            });
        }
        if !log.in_place()
            && let Err(error) = self.reopen(out)
        {
            tracing::error!(%error, "the audit file was moved, and no new one can be opened");
        }
    }

    /// Opens the configured path anew where it no longer leads to the open file.
    pub(super) fn reopen(&self, out: &mut Out) -> Result<(), AuditError> {
        self.flush(out);
        let swapped = out.swap_file();
        self.flush(out);
        swapped
    }

    fn checkpoint(&self, seq: u64, hash: &Hex) {
        let mut signer = self.signer.lock();
        let Some(signer) = signer.as_mut() else {
            return;
        };
        let now = self.clock.now().wall;
        if let Err(error) = signer.sign(now, &self.writer, seq, hash) {
            self.metrics.failures.inc();
            tracing::warn!(%error, "the audit checkpoint is not written");
        }
    }
}
