//! Approvals and what was said to them. Every step is one statement with its condition in it: of two replicas that try
//! the same, the database lets one through.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::database::{Component, Row, Value};
use super::{Store, StoreError};
use crate::agent::{AgentId, User};
use crate::approval::{ApprovalStore, Decision, Entry, Kept, Room, Status, Unknown};

pub(super) static TABLES: Component = Component {
    name: "approval",
    steps: &[
        "CREATE TABLE keyward_approval (
             id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, session TEXT NOT NULL, agent TEXT NOT NULL,
             login TEXT, person TEXT, chain TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL, code TEXT NOT NULL,
             requested BIGINT NOT NULL, expires BIGINT NOT NULL, needed BIGINT NOT NULL, asks BIGINT NOT NULL,
             holds BIGINT NOT NULL);
         CREATE UNIQUE INDEX keyward_approval_asked ON keyward_approval (name, agent, digest) WHERE status = 'pending';
         CREATE INDEX keyward_approval_open ON keyward_approval (status, expires);
         CREATE TABLE keyward_decision (
             approval TEXT NOT NULL, approver TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT, made BIGINT NOT NULL,
             PRIMARY KEY (approval, approver))",
        "CREATE INDEX keyward_approval_of ON keyward_approval (agent, status, requested);
         CREATE INDEX keyward_approval_old ON keyward_approval (status, requested)",
    ],
};

const ASK: &str = "INSERT INTO keyward_approval (id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks, holds)
    SELECT $1, $2, 'pending', $3, $4, $5, $6, $7, $8, $9, $10, CAST($11 AS BIGINT), CAST($12 AS BIGINT), CAST($13 AS BIGINT), 1, CAST($14 AS BIGINT)
    WHERE ((SELECT COUNT(*) FROM keyward_approval WHERE name = $2 AND agent = $4 AND status = 'pending') < CAST($15 AS BIGINT)
        AND (SELECT COUNT(*) FROM keyward_approval WHERE agent = $4 AND status = 'pending') < CAST($16 AS BIGINT)
        AND (SELECT COUNT(*) FROM keyward_approval WHERE status = 'pending') < CAST($17 AS BIGINT))
    OR EXISTS (SELECT 1 FROM keyward_approval WHERE name = $2 AND agent = $4 AND digest = $9 AND status = 'pending')
    ON CONFLICT (name, agent, digest) WHERE status = 'pending'
    DO UPDATE SET asks = keyward_approval.asks + 1, holds = keyward_approval.holds + excluded.holds
    WHERE excluded.holds = 0 OR keyward_approval.holds < 16
    RETURNING id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks";
const FIND: &str = "SELECT id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks
    FROM keyward_approval WHERE id = $1";
const LIST: &str = "SELECT id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks
    FROM (SELECT *, ROW_NUMBER() OVER (
            PARTITION BY agent, CASE status WHEN 'pending' THEN 0 ELSE 1 END ORDER BY requested DESC, id) AS place
        FROM keyward_approval WHERE $1 = '' OR status = $1) AS ranked
    ORDER BY CASE status WHEN 'pending' THEN 0 ELSE 1 END, place, requested DESC, id LIMIT 1000";
const DECISIONS: &str = "SELECT approval, approver, verdict, reason, made FROM keyward_decision WHERE approval = $1 ORDER BY made, approver";
const ALL_DECISIONS: &str = "SELECT approval, approver, verdict, reason, made FROM keyward_decision ORDER BY made, approver";
const SAY: &str = "INSERT INTO keyward_decision (approval, approver, verdict, reason, made)
    SELECT $1, $2, $3, $4, CAST($5 AS BIGINT)
    WHERE EXISTS (SELECT 1 FROM keyward_approval WHERE id = $1 AND status = 'pending' AND expires > CAST($5 AS BIGINT))
    ON CONFLICT (approval, approver) DO NOTHING";
const SETTLE: &str = "UPDATE keyward_approval SET status = CASE
        WHEN EXISTS (SELECT 1 FROM keyward_decision WHERE approval = $1 AND verdict = 'deny') THEN 'denied' ELSE 'approved' END
    WHERE id = $1 AND status = 'pending' AND (
        EXISTS (SELECT 1 FROM keyward_decision WHERE approval = $1 AND verdict = 'deny')
        OR (SELECT COUNT(*) FROM keyward_decision WHERE approval = $1 AND verdict = 'approve') >= needed)";
const TAKE: &str = "UPDATE keyward_approval SET status = 'used'
    WHERE id = $1 AND digest = $2 AND status = 'approved' AND expires > $3
    AND NOT EXISTS (SELECT 1 FROM keyward_decision WHERE approval = $1 AND verdict = 'deny')";
const WITHDRAW: &str = "UPDATE keyward_approval SET holds = holds - 1, status = CASE WHEN holds <= 1 THEN 'expired' ELSE status END
    WHERE id = $1 AND holds > 0 AND status IN ('pending', 'approved') RETURNING status";
const EXPIRE: &str = "UPDATE keyward_approval SET status = 'expired' WHERE id = $1 AND status IN ('pending', 'approved')
    RETURNING id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks";
const LAPSE: &str = "UPDATE keyward_approval SET status = 'expired' WHERE status IN ('pending', 'approved') AND expires <= $1
    RETURNING id, name, status, session, agent, login, person, chain, subject, digest, code, requested, expires, needed, asks";
const TRIM_AGENT: &str = "DELETE FROM keyward_approval WHERE id IN (
    SELECT id FROM keyward_approval WHERE agent = $1 AND status = 'expired' ORDER BY requested DESC, id LIMIT 1000000 OFFSET $2)";
const TRIM: &str = "DELETE FROM keyward_approval WHERE id IN (
    SELECT id FROM keyward_approval WHERE status = 'expired' ORDER BY requested DESC, id LIMIT 1000000 OFFSET $1)";
const OPEN: &str =
    "SELECT name, COUNT(*) FROM keyward_approval WHERE status = 'pending' GROUP BY name";
const FORGET: &str =
    "DELETE FROM keyward_approval WHERE status NOT IN ('pending', 'approved') AND expires < $1";
const FORGET_DECISIONS: &str =
    "DELETE FROM keyward_decision WHERE approval NOT IN (SELECT id FROM keyward_approval)";

#[async_trait]
impl ApprovalStore for Store {
    async fn ask(&self, fresh: &Entry, room: &Room, held: bool) -> Result<Kept, Unknown> {
        let chain: Vec<&str> = fresh.chain.iter().map(AgentId::as_str).collect();
        let user = fresh.user.as_ref();
        let subject = serde_json::to_string(&fresh.subject).map_err(|_| Unknown)?;
        let values = [
            Value::from(&*fresh.id),
            fresh.name.as_str().into(),
            Value::from(&*fresh.session),
            fresh.agent.as_str().into(),
            Value::MaybeText(user.map(|user| user.provider.to_string())),
            Value::MaybeText(user.map(|user| user.name.to_string())),
            Value::Text(chain.join(" ")),
            Value::Text(subject),
            Value::Text(fresh.digest.to_string()),
            Value::from(&*fresh.code),
            Value::Int(fresh.requested.as_millisecond()),
            Value::Int(fresh.expires.as_millisecond()),
            Value::Int(fresh.needed.into()),
            Value::Int(held.into()),
            Value::Int(room.of_name.into()),
            Value::Int(room.of_agent.into()),
            Value::Int(room.in_all.into()),
        ];
        let rows = self.database().fetch(ASK, &values).await.map_err(down)?;
        let Some(row) = rows.first() else {
            return Ok(Kept::Full);
        };
        let mut entry = asked(row).map_err(down)?;
        if entry.id != fresh.id {
            entry.decisions = self.decisions(&entry.id).await?;
        }
        Ok(Kept::Entry(Box::new(entry)))
    }

    async fn find(&self, id: &str) -> Result<Option<Entry>, Unknown> {
        let rows = self.database().fetch(FIND, &[id.into()]).await;
        let rows = rows.map_err(down)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let mut entry = asked(row).map_err(down)?;
        entry.decisions = self.decisions(id).await?;
        Ok(Some(entry))
    }

    async fn list(&self, status: Option<Status>) -> Result<Vec<Entry>, Unknown> {
        let word = status.map_or("", Status::word);
        let rows = self.database().fetch(LIST, &[word.into()]).await;
        let rows = rows.map_err(down)?;
        let mut said: HashMap<String, Vec<Decision>> = HashMap::new();
        let decisions = self.database().fetch(ALL_DECISIONS, &[]).await;
        for row in decisions.map_err(down)? {
            let (approval, decision) = decision(&row).map_err(down)?;
            said.entry(approval).or_default().push(decision);
        }
        let entry = |row: &Row| {
            let mut entry = asked(row)?;
            entry.decisions = said.remove(&*entry.id).unwrap_or_default();
            Ok(entry)
        };
        let all: Result<Vec<Entry>, _> = rows.iter().map(entry).collect();
        let mut all = all.map_err(down)?;
        // The order of the statement says which are left out, not how they are read.
        all.sort_by_key(|entry| std::cmp::Reverse(entry.requested));
        Ok(all)
    }

    async fn decide(&self, id: &str, decision: &Decision) -> Result<bool, Unknown> {
        let verdict = if decision.approve { "approve" } else { "deny" };
        let values = [
            id.into(),
            Value::from(&*decision.approver),
            verdict.into(),
            Value::MaybeText(decision.reason.clone()),
            Value::Int(decision.made.as_millisecond()),
        ];
        let said = self.database().execute(SAY, &values).await;
        if said.map_err(down)? == 0 {
            return Ok(false);
        }
        // Whoever speaks last sees all that was said before, since each word is there before it is counted.
        let settled = self.database().execute(SETTLE, &[id.into()]).await;
        settled.map(|_| true).map_err(down)
    }

    async fn take(&self, entry: &Entry, now: i64) -> Result<bool, Unknown> {
        let values = [
            Value::from(&*entry.id),
            Value::Text(entry.digest.to_string()),
            Value::Int(now),
        ];
        let taken = self.database().execute(TAKE, &values).await;
        Ok(taken.map_err(down)? == 1)
    }

    async fn withdraw(&self, id: &str) -> Result<bool, Unknown> {
        let rows = self.database().fetch(WITHDRAW, &[id.into()]).await;
        let rows = rows.map_err(down)?;
        let status = rows.first().map(|row| row.text(0)).transpose();
        Ok(status.map_err(down)?.as_deref() == Some(Status::Expired.word()))
    }

    async fn expire(&self, id: &str) -> Result<Option<Entry>, Unknown> {
        let rows = self.database().fetch(EXPIRE, &[id.into()]).await;
        let ended = rows.map_err(down)?.first().map(asked).transpose();
        ended.map_err(down)
    }

    async fn lapse(&self, now: i64) -> Result<Vec<Entry>, Unknown> {
        let rows = self.database().fetch(LAPSE, &[Value::Int(now)]).await;
        let ended: Result<Vec<Entry>, _> = rows.map_err(down)?.iter().map(asked).collect();
        ended.map_err(down)
    }

    async fn trim(&self, agent: &AgentId, of_agent: u32, in_all: u32) -> Result<(), Unknown> {
        let database = self.database();
        let own = [agent.as_str().into(), Value::Int(of_agent.into())];
        database.execute(TRIM_AGENT, &own).await.map_err(down)?;
        let gone = database.execute(TRIM, &[Value::Int(in_all.into())]).await;
        gone.map(drop).map_err(down)
    }

    async fn open(&self) -> Result<Vec<(String, i64)>, Unknown> {
        let rows = self.database().fetch(OPEN, &[]).await.map_err(down)?;
        let counts = rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?)));
        let counts: Result<Vec<_>, _> = counts.collect();
        counts.map_err(down)
    }

    async fn forget(&self, before: i64) -> Result<(), Unknown> {
        let database = self.database();
        let gone = database.execute(FORGET, &[Value::Int(before)]).await;
        gone.map_err(down)?;
        let gone = database.execute(FORGET_DECISIONS, &[]).await;
        gone.map(drop).map_err(down)
    }
}

impl Store {
    async fn decisions(&self, id: &str) -> Result<Vec<Decision>, Unknown> {
        let rows = self.database().fetch(DECISIONS, &[id.into()]).await;
        let rows = rows.map_err(down)?;
        let said = rows.iter().map(|row| Ok(decision(row)?.1));
        let said: Result<Vec<Decision>, _> = said.collect();
        said.map_err(down)
    }
}

fn moment(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|_| StoreError::Damaged)
}

fn small(number: i64) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|_| StoreError::Damaged)
}

/// An entry without its decisions.
fn asked(row: &Row) -> Result<Entry, StoreError> {
    let damaged = || StoreError::Damaged;
    let user = match (row.maybe_text(5)?, row.maybe_text(6)?) {
        (Some(provider), Some(name)) => Some(User {
            provider: provider.parse().map_err(|_| damaged())?,
            name: name.into(),
        }),
        _ => None,
    };
    let chain = row.text(7)?;
    let chain: Result<Vec<AgentId>, _> = chain.split(' ').map(str::parse).collect();
    Ok(Entry {
        id: row.text(0)?.into(),
        name: row.text(1)?.parse().map_err(|_| damaged())?,
        status: row.text(2)?.parse().map_err(|_| damaged())?,
        session: row.text(3)?.into(),
        agent: row.text(4)?.parse().map_err(|_| damaged())?,
        user,
        chain: chain.map_err(|_| damaged())?,
        subject: serde_json::from_str(&row.text(8)?).map_err(|_| damaged())?,
        digest: row.text(9)?.parse().map_err(|_| damaged())?,
        code: row.text(10)?.into(),
        requested: moment(row.int(11)?)?,
        expires: moment(row.int(12)?)?,
        needed: small(row.int(13)?)?,
        asks: small(row.int(14)?)?,
        decisions: Vec::new(),
    })
}

/// Whose, and what was said.
fn decision(row: &Row) -> Result<(String, Decision), StoreError> {
    let decision = Decision {
        approver: row.text(1)?.into(),
        approve: match &*row.text(2)? {
            "approve" => true,
            "deny" => false,
            _ => return Err(StoreError::Damaged),
        },
        reason: row.maybe_text(3)?,
        made: moment(row.int(4)?)?,
    };
    Ok((row.text(0)?, decision))
}

/// An operator reads what went wrong; the caller only needs to know that nothing is known.
#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> Unknown {
    tracing::warn!(%error, "the store did not answer");
    Unknown
}
