//! What outlasts the process: SQLite or PostgreSQL behind the store traits of the ports.
//!
//! `database` knows the two databases, `seal` the encryption; every other file implements one port's trait once, for
//! both. A port's secrets are sealed before they come near a statement. Without `[store]` there is a database in
//! memory, so that no port has a second way of working.

mod agent;
mod approval;
mod database;
mod group;
mod journal;
mod pass;
mod seal;
mod session;
mod vessel;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;

use crate::credential::{Env, Source, SourceError};
use crate::secret::Secret;
use database::{Claim, Component, Database};
use seal::Key;

/// The tables of every port. One more file of this room is one more line here.
const COMPONENTS: &[&Component] = &[
    &CHECK,
    &journal::TABLES,
    &vessel::TABLES,
    &session::TABLES,
    &agent::TABLES,
    &approval::TABLES,
    &pass::TABLES,
];

/// `[store]`, resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Settings {
    /// Neither `sqlite` nor `postgres`: everything ends with the process.
    #[default]
    Memory,
    /// `sqlite`: a file of this machine.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// `key`: 32 bytes in base64.
        key: Source,
    },
    /// `postgres`: a server that several replicas share.
    Postgres {
        /// The connection's URL.
        url: Source,
        /// `key`: 32 bytes in base64.
        key: Source,
    },
}

impl Settings {
    /// Whether what is stored outlives the process.
    pub fn lasts(&self) -> bool {
        !matches!(self, Self::Memory)
    }

    /// The sources of secrets that are named.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let (one, two) = match self {
            Self::Memory => (None, None),
            Self::Sqlite { key, .. } => (Some(key), None),
            Self::Postgres { url, key } => (Some(url), Some(key)),
        };
        one.into_iter().chain(two)
    }
}

/// Why there is no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A source of `[store]` gives nothing.
    #[error("\"{0}\": {1}")]
    Source(&'static str, String),
    /// The key is no key.
    #[error("the key is not 32 bytes in base64")]
    BadKey,
    /// The store was made under another key.
    #[error("the store was made with another key; nothing in it can be read with this one")]
    WrongKey,
    /// The URL of the server is none.
    #[error(
        "the source of \"postgres\" holds no URL such as postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    BadUrl,
    /// The file cannot be used.
    #[error("{} cannot be used: {kind}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// A later keyward was here.
    #[error(
        "the store is of a later keyward: its tables of {component} have version {found}, and this one knows {known}"
    )]
    Newer {
        /// Whose tables.
        component: &'static str,
        /// The version that stands there.
        found: usize,
        /// The latest that is known here.
        known: usize,
    },
    /// A record does not hold what it must.
    #[error("a record of the store is damaged")]
    Damaged,
    /// The database does not answer, or says no.
    #[error("the database cannot be used: {0}")]
    Unreachable(String),
}

impl StoreError {
    /// What a database said, without anything that it was asked.
    fn of(error: &sqlx::Error) -> Self {
        Self::Unreachable(match error {
            sqlx::Error::Database(said) => said.message().to_owned(),
            sqlx::Error::Io(error) => error.kind().to_string(),
            sqlx::Error::Tls(_) => "the TLS handshake failed".into(),
            sqlx::Error::PoolTimedOut => "no connection in time".into(),
            sqlx::Error::PoolClosed => "it is closed".into(),
            _ => "it does not answer as it should".into(),
        })
    }

    fn slow() -> Self {
        Self::Unreachable("it did not answer in time".into())
    }

    /// Whether the configuration is at fault, not the database.
    pub fn is_of_configuration(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::File { .. })
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    key: Key,
    /// This process among those that share the store: random, new at each start.
    writer: String,
    lasts: bool,
    /// Held for as long as the process lives.
    _lock: Option<File>,
}

impl Store {
    /// Opens what `settings` name, brings its tables to this version, and makes sure that the key is its key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(settings: &Settings, env: Env<'_>) -> Result<Self, StoreError> {
        match settings {
            Settings::Memory => Self::memory(),
            Settings::Sqlite { path, key } => {
                let key = read_key(key, env).await?;
                let claim = Claim::on(path)?;
                let database = Database::sqlite(&claim).await?;
                check_key(&database, &key).await?;
                if claim.alone {
                    database.execute(journal::NOBODY_LIVES, &[]).await?;
                }
                let lock = claim.share().await?;
                Self::of(database, key, Some(lock), true)
            }
            Settings::Postgres { url, key } => {
                let key = read_key(key, env).await?;
                let url = url
                    .read(env)
                    .await
                    .map_err(|error| source("postgres", &error))?;
                let database = Database::postgres(&url).await?;
                check_key(&database, &key).await?;
                Self::of(database, key, None, true)
            }
        }
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn memory() -> Result<Self, StoreError> {
        Self::of(Database::memory(), Key::random()?, None, false)
    }

    fn of(
        database: Database,
        key: Key,
        lock: Option<File>,
        lasts: bool,
    ) -> Result<Self, StoreError> {
        let mut random = [0; 12];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| StoreError::BadKey)?;
        let writer = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
        Ok(Self(Arc::new(Inner {
            database,
            key,
            writer,
            lasts,
            _lock: lock,
        })))
    }

    /// Whether what is stored outlives the process.
    pub fn lasts(&self) -> bool {
        self.0.lasts
    }

    /// Closes it. What was acknowledged is kept.
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    fn database(&self) -> &Database {
        &self.0.database
    }

    fn key(&self) -> &Key {
        &self.0.key
    }
}

/// Whether a store can be opened with these settings. Nothing is made, and tables are left as they are.
///
/// # Errors
/// [`StoreError`].
pub async fn reach(settings: &Settings, env: Env<'_>) -> Result<(), StoreError> {
    match settings {
        Settings::Memory => Ok(()),
        Settings::Sqlite { path, key } => {
            read_key(key, env).await?;
            database::look_at_file(path)
        }
        Settings::Postgres { url, key } => {
            read_key(key, env).await?;
            let url = url
                .read(env)
                .await
                .map_err(|error| source("postgres", &error))?;
            Database::greet(&url).await
        }
    }
}

/// Whether a file with this content holds a key.
///
/// # Errors
/// [`StoreError::BadKey`].
pub fn look_at_key(content: &Secret) -> Result<(), StoreError> {
    let text = content.expose().trim_ascii_end();
    Key::parse(&Secret::new(text.to_vec())).map(drop)
}

async fn read_key(key: &Source, env: Env<'_>) -> Result<Key, StoreError> {
    let text = key.read(env).await.map_err(|error| source("key", &error))?;
    Key::parse(&text)
}

fn source(name: &'static str, error: &SourceError) -> StoreError {
    StoreError::Source(name, error.to_string())
}

/// Opens what the store's first key sealed, or seals it with this one where this is the first.
async fn check_key(database: &Database, key: &Key) -> Result<(), StoreError> {
    let sealed = key.seal("check", "key", b"keyward");
    let sealed = sealed.map_err(|_| StoreError::BadKey)?;
    database
        .execute(
            "INSERT INTO keyward_check (id, sealed) VALUES ('key', $1) ON CONFLICT (id) DO NOTHING",
            &[database::Value::Blob(sealed)],
        )
        .await?;
    let rows = database
        .fetch("SELECT sealed FROM keyward_check WHERE id = 'key'", &[])
        .await?;
    let sealed = rows.first().ok_or(StoreError::Damaged)?.blob(0)?;
    key.open("check", "key", &sealed)
        .map(drop)
        .map_err(|_| StoreError::WrongKey)
}

static CHECK: Component = Component {
    name: "check",
    steps: &["CREATE TABLE keyward_check (id TEXT PRIMARY KEY, sealed {blob} NOT NULL)"],
};
