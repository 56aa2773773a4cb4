//! What operators said of agents, one row each.

use async_trait::async_trait;

use super::database::{Component, Value};
use super::{Store, StoreError};
use crate::agent::AgentId;
use crate::identity::{AgentStore, Said, Silent, Written};

pub(super) static TABLES: Component = Component {
    name: "agent",
    steps: &[
        "CREATE TABLE keyward_agent (id TEXT PRIMARY KEY, entry TEXT, suspended TEXT, changed BIGINT NOT NULL)",
    ],
};

const VERSION: &str = "SELECT COALESCE(MAX(changed), 0), COUNT(*) FROM keyward_agent";
const LOAD: &str = "SELECT id, entry, suspended FROM keyward_agent";
const KEEP: &str = "INSERT INTO keyward_agent (id, entry, suspended, changed) VALUES ($1, $2, $3, {now})
    ON CONFLICT (id) DO UPDATE SET entry = excluded.entry, suspended = excluded.suspended, changed = excluded.changed";
const FORGET: &str = "DELETE FROM keyward_agent WHERE id = $1";

#[async_trait]
impl AgentStore for Store {
    async fn version(&self) -> Result<(i64, i64), Silent> {
        let rows = self.database().fetch(VERSION, &[]).await.map_err(down)?;
        let row = rows.first().ok_or(Silent)?;
        Ok((row.int(0).map_err(down)?, row.int(1).map_err(down)?))
    }

    async fn load(&self) -> Result<Vec<(AgentId, Said)>, Silent> {
        let mut all = Vec::new();
        for row in self.database().fetch(LOAD, &[]).await.map_err(down)? {
            let damaged = || down(StoreError::Damaged);
            let id = row.text(0).map_err(down)?;
            let id: AgentId = id.parse().map_err(|_| damaged())?;
            let entry = match row.maybe_text(1).map_err(down)? {
                None => None,
                Some(text) => {
                    let written: Written = serde_json::from_str(&text).map_err(|_| damaged())?;
                    Some(written.entry(&id).map_err(|_| damaged())?)
                }
            };
            let suspended = row.maybe_text(2).map_err(down)?;
            all.push((id, Said { entry, suspended }));
        }
        Ok(all)
    }

    async fn keep(&self, agent: &AgentId, said: &Said) -> Result<(), Silent> {
        let entry = said.entry.as_ref().map(Written::from);
        let entry = entry.map(|entry| serde_json::to_string(&entry));
        let values = [
            agent.as_str().into(),
            Value::MaybeText(entry.transpose().map_err(|_| Silent)?),
            Value::MaybeText(said.suspended.clone()),
        ];
        self.database().execute(KEEP, &values).await.map_err(down)?;
        Ok(())
    }

    async fn forget(&self, agent: &AgentId) -> Result<(), Silent> {
        let values = [agent.as_str().into()];
        self.database()
            .execute(FORGET, &values)
            .await
            .map_err(down)?;
        Ok(())
    }
}

/// An operator reads what went wrong; the caller only needs to know that nothing is known.
#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> Silent {
    tracing::warn!(%error, "the store did not answer");
    Silent
}
