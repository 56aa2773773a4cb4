//! Two databases behind three calls, so that every other file of this room is written once.
//!
//! Statements are PostgreSQL's, in the part that SQLite reads too: `$1`, `ON CONFLICT`, `RETURNING`. `{now}` is the
//! database's own time in milliseconds since 1970: replicas need not agree on the hour.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqlStr};
use tokio::sync::OnceCell;

use super::{COMPONENTS, StoreError};
use crate::secret::Secret;

/// A component's tables: each step takes them from one version to the next, and is never changed once released.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) name: &'static str,
    pub(super) steps: &'static [&'static str],
}

/// A value for a `$N`.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    MaybeText(Option<String>),
    Int(i64),
    MaybeInt(Option<i64>),
    Blob(Vec<u8>),
}

/// One row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A database, and its tables in this version.
#[derive(Debug)]
pub(super) struct Database {
    pool: Pool,
    migrated: OnceCell<()>,
}

#[derive(Debug)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// SQLite's file, and the lock that says whether another process lives on it.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock: File,
    /// Nobody else has the file open: whatever it says of others is of the dead.
    pub(super) alone: bool,
}

impl Database {
    /// A database in memory, of this process alone.
    pub(super) fn memory() -> Self {
        let options = SqliteConnectOptions::new()
            .in_memory(true)
            .disable_statement_logging();
        // The database is the connection: there is exactly one, and it stays.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        Self::new(Pool::Sqlite(pool))
    }

    /// Opens a file, which is made where there is none, mode 0600.
    pub(super) async fn sqlite(claim: &Claim) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(&claim.path)
            .journal_mode(SqliteJournalMode::Wal)
            // A note is on the disk before its lease is used: a power cut must not lose it.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .disable_statement_logging();
        // One writer at a time is SQLite's own rule; a second connection would only wait in it.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        let database = Self::new(Pool::Sqlite(pool));
        database.ready().await?;
        Ok(database)
    }

    /// Connects to a server once, and leaves.
    pub(super) async fn greet(url: &Secret) -> Result<(), StoreError> {
        Self::first(url).await.map(drop)
    }

    /// Connects once without the pool, which would hide why there is no connection; with what it did so.
    async fn first(url: &Secret) -> Result<PgConnectOptions, StoreError> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| StoreError::BadUrl)?;
        let options = PgConnectOptions::from_str(text)
            .map_err(|_| StoreError::BadUrl)?
            .application_name("keyward")
            .disable_statement_logging();
        let first = tokio::time::timeout(PATIENCE, options.connect()).await;
        first
            .map_err(|_| StoreError::slow())?
            .map_err(|error| StoreError::of(&error))?;
        Ok(options)
    }

    /// Connects to a server.
    pub(super) async fn postgres(url: &Secret) -> Result<Self, StoreError> {
        let options = Self::first(url).await?;
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        let database = Self::new(Pool::Postgres(pool));
        database.ready().await?;
        Ok(database)
    }

    fn new(pool: Pool) -> Self {
        Self {
            pool,
            migrated: OnceCell::new(),
        }
    }

    /// Runs a statement; how many rows it changed.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, StoreError> {
        self.ready().await?;
        let text = self.dialect(sql);
        let done = async {
            match &self.pool {
                Pool::Sqlite(pool) => sqlite_query(text, values)
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()),
                Pool::Postgres(pool) => postgres_query(text, values)
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()),
            }
        };
        within(done).await
    }

    /// Runs a statement; the rows that it gives.
    pub(super) async fn fetch(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Row>, StoreError> {
        self.ready().await?;
        let text = self.dialect(sql);
        let done = async {
            match &self.pool {
                Pool::Sqlite(pool) => sqlite_query(text, values)
                    .fetch_all(pool)
                    .await
                    .map(|rows| rows.into_iter().map(Row::Sqlite).collect()),
                Pool::Postgres(pool) => postgres_query(text, values)
                    .fetch_all(pool)
                    .await
                    .map(|rows| rows.into_iter().map(Row::Postgres).collect()),
            }
        };
        within(done).await
    }

    /// Closes every connection; what was acknowledged is kept.
    pub(super) async fn close(&self) {
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    /// The tables are there, in this version.
    async fn ready(&self) -> Result<(), StoreError> {
        self.migrated
            .get_or_try_init(|| async {
                for component in COMPONENTS {
                    self.migrate(component).await?;
                }
                Ok(())
            })
            .await
            .copied()
    }

    /// Takes a component's tables to this version, one process at a time.
    async fn migrate(&self, component: &Component) -> Result<(), StoreError> {
        let known = component.steps.len();
        let found = match &self.pool {
            Pool::Sqlite(pool) => {
                within(async {
                    let mut work = pool.begin_with("BEGIN IMMEDIATE").await?;
                    sqlx::query(self.dialect(SCHEMA))
                        .execute(&mut *work)
                        .await?;
                    let found: Option<i64> = sqlx::query_scalar(VERSION)
                        .bind(component.name)
                        .fetch_optional(&mut *work)
                        .await?;
                    let found = usize::try_from(found.unwrap_or_default()).unwrap_or(usize::MAX);
                    for step in component.steps.iter().skip(found) {
                        sqlx::raw_sql(self.dialect(step))
                            .execute(&mut *work)
                            .await?;
                    }
                    if found < known {
                        sqlx::query(NOTE_VERSION)
                            .bind(component.name)
                            .bind(i64::try_from(known).unwrap_or(i64::MAX))
                            .execute(&mut *work)
                            .await?;
                    }
                    work.commit().await?;
                    Ok(found)
                })
                .await?
            }
            Pool::Postgres(pool) => {
                within(async {
                    let mut work = pool.begin().await?;
                    sqlx::query("SELECT pg_advisory_xact_lock($1)")
                        .bind(MIGRATING)
                        .execute(&mut *work)
                        .await?;
                    sqlx::query(self.dialect(SCHEMA))
                        .execute(&mut *work)
                        .await?;
                    let found: Option<i64> = sqlx::query_scalar(VERSION)
                        .bind(component.name)
                        .fetch_optional(&mut *work)
                        .await?;
                    let found = usize::try_from(found.unwrap_or_default()).unwrap_or(usize::MAX);
                    for step in component.steps.iter().skip(found) {
                        sqlx::raw_sql(self.dialect(step))
                            .execute(&mut *work)
                            .await?;
                    }
                    if found < known {
                        sqlx::query(NOTE_VERSION)
                            .bind(component.name)
                            .bind(i64::try_from(known).unwrap_or(i64::MAX))
                            .execute(&mut *work)
                            .await?;
                    }
                    work.commit().await?;
                    Ok(found)
                })
                .await?
            }
        };
        if found > known {
            return Err(StoreError::Newer {
                component: component.name,
                found,
                known,
            });
        }
        Ok(())
    }

    /// The statement in this database's words.
    fn dialect(&self, sql: &'static str) -> SqlStr {
        use sqlx::SqlSafeStr as _;
        let (now, blob) = match &self.pool {
            Pool::Sqlite(_) => ("CAST(unixepoch('subsec') * 1000 AS INTEGER)", "BLOB"),
            Pool::Postgres(_) => (
                "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT",
                "BYTEA",
            ),
        };
        if !sql.contains("{now}") && !sql.contains("{blob}") {
            return sql.into_sql_str();
        }
        // Both parts are ours.
        AssertSqlSafe(sql.replace("{now}", now).replace("{blob}", blob)).into_sql_str()
    }
}

/// Whether SQLite could use this file, or make it.
pub(super) fn look_at_file(path: &Path) -> Result<(), StoreError> {
    use rustix::fs::{Access, access};
    let unusable = |kind| StoreError::File {
        path: path.to_owned(),
        kind,
    };
    if path.exists() {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        return opened.map(drop).map_err(|error| unusable(error.kind()));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| unusable(std::io::Error::from(error).kind()))
}

impl Claim {
    /// Makes the file where there is none, and finds out whether anybody else lives on it.
    pub(super) fn on(path: &Path) -> Result<Self, StoreError> {
        let unusable = |error: std::io::Error| StoreError::File {
            path: path.to_owned(),
            kind: error.kind(),
        };
        let open = |path: &Path| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            }
            Ok(file)
        };
        open(path).map_err(unusable)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let lock = open(Path::new(&beside)).map_err(unusable)?;
        let alone = lock.try_lock().is_ok();
        Ok(Self {
            path: path.to_owned(),
            lock,
            alone,
        })
    }

    /// Says for the rest of the process's life that it lives on the file.
    pub(super) async fn share(self) -> Result<File, StoreError> {
        let Self { path, lock, .. } = self;
        tokio::task::spawn_blocking(move || {
            lock.lock_shared().map_err(|error| StoreError::File {
                path,
                kind: error.kind(),
            })?;
            Ok(lock)
        })
        .await
        .map_err(|_| StoreError::slow())?
    }
}

impl Row {
    pub(super) fn text(&self, at: usize) -> Result<String, StoreError> {
        self.maybe_text(at)?.ok_or(StoreError::Damaged)
    }

    pub(super) fn maybe_text(&self, at: usize) -> Result<Option<String>, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(at),
            Self::Postgres(row) => row.try_get(at),
        }
        .map_err(|_| StoreError::Damaged)
    }

    pub(super) fn int(&self, at: usize) -> Result<i64, StoreError> {
        self.maybe_int(at)?.ok_or(StoreError::Damaged)
    }

    pub(super) fn maybe_int(&self, at: usize) -> Result<Option<i64>, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(at),
            Self::Postgres(row) => row.try_get(at),
        }
        .map_err(|_| StoreError::Damaged)
    }

    pub(super) fn blob(&self, at: usize) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(at),
            Self::Postgres(row) => row.try_get(at),
        }
        .map_err(|_| StoreError::Damaged)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn sqlite_query<'q>(
    sql: SqlStr,
    values: &[Value],
) -> Query<'q, Sqlite, sqlx::sqlite::SqliteArguments> {
    let mut query = sqlx::query::<Sqlite>(sql);
    for value in values {
        query = match value.clone() {
            Value::Text(text) => query.bind(text),
            Value::MaybeText(text) => query.bind(text),
            Value::Int(number) => query.bind(number),
            Value::MaybeInt(number) => query.bind(number),
            Value::Blob(bytes) => query.bind(bytes),
        };
    }
    query
}

fn postgres_query<'q>(
    sql: SqlStr,
    values: &[Value],
) -> Query<'q, Postgres, sqlx::postgres::PgArguments> {
    let mut query = sqlx::query::<Postgres>(sql);
    for value in values {
        query = match value.clone() {
            Value::Text(text) => query.bind(text),
            Value::MaybeText(text) => query.bind(text),
            Value::Int(number) => query.bind(number),
            Value::MaybeInt(number) => query.bind(number),
            Value::Blob(bytes) => query.bind(bytes),
        };
    }
    query
}

/// What takes longer than [`PATIENCE`] did not happen, as far as the caller may rely on it.
async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| StoreError::slow())?
        .map_err(|error| StoreError::of(&error))
}

/// How long a database may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// The advisory lock of migrations: any number that others are unlikely to use.
const MIGRATING: i64 = 0x006b_6579_7761_7264;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS keyward_schema (component TEXT PRIMARY KEY, version BIGINT NOT NULL)";
const VERSION: &str = "SELECT version FROM keyward_schema WHERE component = $1";
const NOTE_VERSION: &str = "INSERT INTO keyward_schema (component, version) VALUES ($1, $2) ON CONFLICT (component) DO UPDATE SET version = excluded.version";
