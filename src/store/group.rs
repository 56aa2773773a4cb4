//! Writes to SQLite, many in one commit: a commit waits for the disk, and whoever comes meanwhile goes with the next.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::SqlStr;
use sqlx::sqlite::SqlitePool;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::StoreError;
use super::database::{Value, sqlite_query, within};

/// The writes of one database, in the order in which they came.
#[derive(Debug)]
pub(super) struct Group {
    pool: SqlitePool,
    waiting: Mutex<Waiting>,
    tracker: TaskTracker,
}

#[derive(Debug, Default)]
struct Waiting {
    writes: Vec<Write>,
    /// A task takes them.
    taken: bool,
}

#[derive(Debug)]
struct Write {
    sql: SqlStr,
    values: Vec<Value>,
    done: oneshot::Sender<Result<u64, StoreError>>,
}

impl Group {
    pub(super) fn new(pool: SqlitePool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            waiting: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    /// Runs a statement; how many rows it changed. When it returns `Ok`, that is on the disk. It may be run
    /// although nobody waits for it any more.
    pub(super) async fn execute(
        self: &Arc<Self>,
        sql: SqlStr,
        values: &[Value],
    ) -> Result<u64, StoreError> {
        let (done, outcome) = oneshot::channel();
        let write = Write {
            sql,
            values: values.to_vec(),
            done,
        };
        let begins = {
            let mut waiting = self.waiting.lock();
            waiting.writes.push(write);
            !std::mem::replace(&mut waiting.taken, true)
        };
        if begins {
            let this = Arc::clone(self);
            // It ends when nothing waits.
            self.tracker.spawn(async move { this.run().await });
        }
        let outcome = tokio::time::timeout(super::database::PATIENCE, outcome).await;
        outcome
            .map_err(|_| StoreError::slow())?
            .unwrap_or_else(|_| Err(StoreError::slow()))
    }

    async fn run(&self) {
        loop {
            let mut writes = {
                let mut waiting = self.waiting.lock();
                if waiting.writes.is_empty() {
                    waiting.taken = false;
                    return;
                }
                let some = waiting.writes.len().min(MOST);
                waiting.writes.drain(..some).collect::<Vec<_>>()
            };
            if let [_, _, ..] = writes.as_slice()
                && let Ok(counts) = self.together(&writes).await
            {
                for (write, count) in writes.into_iter().zip(counts) {
                    write.done.send(Ok(count)).ok();
                }
                continue;
            }
            // One that the database does not take must not keep the others out.
            for write in writes.drain(..) {
                let outcome = self.alone(&write).await;
                write.done.send(outcome).ok();
            }
        }
    }

    async fn together(&self, writes: &[Write]) -> Result<Vec<u64>, StoreError> {
        within(async {
            let mut work = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let mut counts = Vec::with_capacity(writes.len());
            for write in writes {
                let query = sqlite_query(write.sql.clone(), &write.values);
                counts.push(query.execute(&mut *work).await?.rows_affected());
            }
            work.commit().await?;
            Ok(counts)
        })
        .await
    }

    async fn alone(&self, write: &Write) -> Result<u64, StoreError> {
        let query = sqlite_query(write.sql.clone(), &write.values);
        let done = within(query.execute(&self.pool)).await?;
        Ok(done.rows_affected())
    }
}

/// The most writes of one commit.
const MOST: usize = 256;
