//! Rotating secrets: the newest of each, sealed, replaced by compare-and-set.

use std::time::Duration;

use async_trait::async_trait;

use super::database::{Component, Value};
use super::{Store, StoreError};
use crate::credential::{Kept, OutOfReach, Vessel};
use crate::secret::Secret;

pub(super) static TABLES: Component = Component {
    name: "vessel",
    steps: &[
        "CREATE TABLE keyward_secret (id TEXT PRIMARY KEY, version BIGINT NOT NULL, sealed {blob} NOT NULL);
         CREATE TABLE keyward_turn (id TEXT PRIMARY KEY, writer TEXT NOT NULL, until BIGINT NOT NULL)",
    ],
};

const LOAD: &str = "SELECT version, sealed FROM keyward_secret WHERE id = $1";
const FIRST: &str = "INSERT INTO keyward_secret (id, version, sealed) VALUES ($1, 1, $2) ON CONFLICT (id) DO NOTHING";
const NEXT: &str =
    "UPDATE keyward_secret SET version = version + 1, sealed = $2 WHERE id = $1 AND version = $3";
const REMOVE: &str = "DELETE FROM keyward_secret WHERE id = $1";
const CLAIM: &str = "INSERT INTO keyward_turn (id, writer, until) VALUES ($1, $2, {now} + $3)
    ON CONFLICT (id) DO UPDATE SET writer = excluded.writer, until = excluded.until
    WHERE keyward_turn.until < {now}";
const RELEASE: &str = "DELETE FROM keyward_turn WHERE id = $1 AND writer = $2";

#[async_trait]
impl Vessel for Store {
    fn lasts(&self) -> bool {
        self.0.lasts
    }

    async fn load(&self, id: &str) -> Result<Option<Kept>, OutOfReach> {
        let rows = self.database().fetch(LOAD, &[id.into()]).await;
        let rows = rows.map_err(down)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let version = row.int(0).map_err(down)?;
        let sealed = row.blob(1).map_err(down)?;
        let secret = self
            .key()
            .open("secret", id, &sealed)
            .map_err(|_| down(StoreError::Damaged))?;
        Ok(Some(Kept { secret, version }))
    }

    async fn replace(
        &self,
        id: &str,
        version: Option<i64>,
        next: &Secret,
    ) -> Result<bool, OutOfReach> {
        let sealed = self.key().seal("secret", id, next.expose());
        let sealed = Value::Blob(sealed.map_err(|_| OutOfReach)?);
        let done = match version {
            None => self.database().execute(FIRST, &[id.into(), sealed]).await,
            Some(version) => {
                let values = [id.into(), sealed, Value::Int(version)];
                self.database().execute(NEXT, &values).await
            }
        };
        Ok(done.map_err(down)? == 1)
    }

    async fn forget(&self, id: &str) -> Result<bool, OutOfReach> {
        let done = self.database().execute(REMOVE, &[id.into()]).await;
        Ok(done.map_err(down)? == 1)
    }

    async fn claim(&self, id: &str, most: Duration) -> Result<bool, OutOfReach> {
        let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        let values = [id.into(), (*self.0.writer).into(), Value::Int(most)];
        let done = self.database().execute(CLAIM, &values).await;
        Ok(done.map_err(down)? == 1)
    }

    async fn release(&self, id: &str) -> Result<(), OutOfReach> {
        let values = [id.into(), (*self.0.writer).into()];
        self.database()
            .execute(RELEASE, &values)
            .await
            .map_err(down)?;
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> OutOfReach {
    tracing::warn!(%error, "the store did not answer");
    OutOfReach
}
