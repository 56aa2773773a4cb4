//! Sessions, their ends, and the keys that their tokens are signed with.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::database::{Component, Row, Value};
use super::{Store, StoreError};
use crate::agent::{AgentId, Name, User};
use crate::delegation::{Bounds, Scope};
use crate::policy::{Person, UserToken, UserTokenType};
use crate::secret::Secret;
use crate::session::{
    self, Digest, Kept, Key, News, Opening, Reason, Session, SessionStore, Unknown,
};

pub(super) static TABLES: Component = Component {
    name: "session",
    steps: &[
        "CREATE TABLE keyward_session (
             id TEXT PRIMARY KEY, chain TEXT NOT NULL, trust TEXT NOT NULL, login TEXT, person TEXT,
             token {blob} NOT NULL, scope TEXT, parent TEXT, depth BIGINT NOT NULL, bound TEXT,
             idles BIGINT NOT NULL, created BIGINT NOT NULL, expires BIGINT, seen BIGINT NOT NULL,
             reason TEXT, changed BIGINT NOT NULL);
         CREATE INDEX keyward_session_changed ON keyward_session (changed);
         CREATE INDEX keyward_session_parent ON keyward_session (parent);
         CREATE TABLE keyward_evidence (id TEXT PRIMARY KEY, until BIGINT NOT NULL, changed BIGINT NOT NULL);
         CREATE INDEX keyward_evidence_changed ON keyward_evidence (changed);
         CREATE TABLE keyward_signing_key (id TEXT PRIMARY KEY, made BIGINT NOT NULL, sealed {blob} NOT NULL)",
    ],
};

const BEGIN: &str = "INSERT INTO keyward_session (id, chain, trust, login, person, token, scope, parent, depth, bound, idles, created, expires, seen, changed)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, {now})";
/// A session whose parent ended is over, whoever was quicker, and so is all below it: one that a replica handed on
/// before it heard of the end was not there to be ended with the tree.
const FIND: &str = "WITH RECURSIVE line (id, parent, reason) AS (
        SELECT id, parent, reason FROM keyward_session WHERE id = $1
        UNION SELECT p.id, p.parent, p.reason FROM keyward_session p JOIN line l ON p.id = l.parent)
    SELECT id, chain, trust, login, person, token, scope, parent, depth, bound, idles, created, expires
    FROM keyward_session WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM line WHERE reason IS NOT NULL)
    AND EXISTS (SELECT 1 FROM line WHERE parent IS NULL)";
const LIVE: &str = "WITH RECURSIVE alive (id) AS (
        SELECT id FROM keyward_session WHERE parent IS NULL AND reason IS NULL
        UNION SELECT s.id FROM keyward_session s JOIN alive a ON s.parent = a.id WHERE s.reason IS NULL)
    SELECT id, chain, trust, login, person, token, scope, parent, depth, bound, idles, created, expires
    FROM keyward_session WHERE id IN (SELECT id FROM alive) AND (expires IS NULL OR expires > {now}) ORDER BY created, id";
const END: &str = "WITH RECURSIVE tree (id) AS (
        SELECT id FROM keyward_session WHERE id = $1
        UNION SELECT s.id FROM keyward_session s JOIN tree t ON s.parent = t.id)
    UPDATE keyward_session SET reason = CASE WHEN id = $1 THEN $2 ELSE 'parent' END, changed = {now}
    WHERE reason IS NULL AND id IN (SELECT id FROM tree)";
const END_AGENT: &str = "UPDATE keyward_session SET reason = $2, changed = {now}
    WHERE reason IS NULL AND REPLACE(' ' || chain || ' ', ' ' || $1 || ' ', '') <> ' ' || chain || ' '";
const USED: &str = "UPDATE keyward_session SET seen = $2, changed = {now} WHERE id = $1 AND reason IS NULL AND seen < $2";
const BLOCK: &str = "INSERT INTO keyward_evidence (id, until, changed) VALUES ($1, $2, {now})
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, changed = excluded.changed";
const NOW: &str = "SELECT {now}";
const CHANGED: &str = "SELECT id, reason, seen FROM keyward_session WHERE changed > $1";
const BLOCKED: &str = "SELECT id, until FROM keyward_evidence WHERE changed > $1";
const KEY_IDS: &str = "SELECT id FROM keyward_signing_key ORDER BY id";
const KEYS: &str = "SELECT id, made, sealed FROM keyward_signing_key";
const ADD_KEY: &str = "INSERT INTO keyward_signing_key (id, made, sealed) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
/// Two days after a key was made its last token is past.
const OLD_KEYS: &str = "DELETE FROM keyward_signing_key WHERE made < {now} - 3 * 86400000";
/// What ended is kept until its token is past, and a day more for what has no end.
const FORGET: &str =
    "DELETE FROM keyward_session WHERE (expires IS NOT NULL AND expires < {now} - 60000)
    OR (reason IS NOT NULL AND changed < {now} - 86400000)";
const FORGET_EVIDENCE: &str = "DELETE FROM keyward_evidence WHERE until < {now} - 60000";

/// How far a look reaches back behind the last one, in milliseconds: what was written then may be committed only now.
const OVERLAP: i64 = 6_000;

#[async_trait]
impl SessionStore for Store {
    fn lasts(&self) -> bool {
        self.0.lasts
    }

    async fn begin(&self, session: &Session) -> Result<(), Unknown> {
        let chain: Vec<&str> = session.chain().iter().map(AgentId::as_str).collect();
        let (person, bounds) = (session.person(), session.bounds());
        let user = person.map(|person| &person.user);
        let token = match person.and_then(|person| person.token(None)) {
            None => Vec::new(),
            Some(token) => self.seal_token(session.id(), &token)?,
        };
        let scope = (!bounds.scope.is_all()).then(|| bounds.scope.to_string());
        let values = [
            Value::from(&**session.id()),
            Value::Text(chain.join(" ")),
            Value::from(&**session.trust()),
            Value::MaybeText(user.map(|user| user.provider.to_string())),
            Value::MaybeText(user.map(|user| user.name.to_string())),
            Value::Blob(token),
            Value::MaybeText(scope),
            Value::MaybeText(session.parent().map(ToString::to_string)),
            Value::Int(bounds.depth.into()),
            Value::MaybeText(session.bound().map(str::to_owned)),
            Value::Int(session.idles().into()),
            Value::Int(session.created().as_millisecond()),
            Value::MaybeInt(bounds.expires.map(Timestamp::as_millisecond)),
            Value::Int(session.last_used().as_millisecond()),
        ];
        self.database()
            .execute(BEGIN, &values)
            .await
            .map_err(down)?;
        Ok(())
    }

    async fn find(&self, id: &str) -> Result<Option<Kept>, Unknown> {
        let rows = self.database().fetch(FIND, &[id.into()]).await;
        let rows = rows.map_err(down)?;
        let found = rows.first().map(|row| self.kept(row));
        found.transpose().map_err(down)
    }

    async fn live(&self) -> Result<Vec<Kept>, Unknown> {
        let rows = self.database().fetch(LIVE, &[]).await.map_err(down)?;
        let kept: Result<Vec<Kept>, _> = rows.iter().map(|row| self.kept(row)).collect();
        kept.map_err(down)
    }

    async fn end(&self, id: &str, reason: Reason) -> Result<bool, Unknown> {
        let values = [id.into(), reason.into()];
        let ended = self.database().execute(END, &values).await.map_err(down)?;
        Ok(ended > 0)
    }

    async fn end_agent(&self, agent: &str, reason: Reason) -> Result<(), Unknown> {
        let values = [agent.into(), reason.into()];
        self.database()
            .execute(END_AGENT, &values)
            .await
            .map_err(down)?;
        Ok(())
    }

    async fn used(&self, sessions: &[(Arc<str>, i64)]) -> Result<(), Unknown> {
        for (id, at) in sessions {
            let values = [Value::from(&**id), Value::Int(*at)];
            self.database().execute(USED, &values).await.map_err(down)?;
        }
        Ok(())
    }

    async fn block(&self, evidence: &Digest, until: Timestamp) -> Result<(), Unknown> {
        let values = [
            Value::Text(hex(evidence)),
            Value::Int(until.as_millisecond()),
        ];
        self.database()
            .execute(BLOCK, &values)
            .await
            .map_err(down)?;
        Ok(())
    }

    async fn news(&self, mark: i64) -> Result<News, Unknown> {
        let database = self.database();
        let now = database.fetch(NOW, &[]).await.map_err(down)?;
        let now = now.first().ok_or(Unknown)?.int(0).map_err(down)?;
        let since = [Value::Int(mark.saturating_sub(OVERLAP))];
        let mut news = News {
            mark: now,
            ..News::default()
        };
        for row in database.fetch(CHANGED, &since).await.map_err(down)? {
            let id = row.text(0).map_err(down)?;
            match row.maybe_text(1).map_err(down)? {
                Some(word) => news.ended.push((id, session::reason(&word))),
                None => news.used.push((id, row.int(2).map_err(down)?)),
            }
        }
        for row in database.fetch(BLOCKED, &since).await.map_err(down)? {
            let id = unhex(&row.text(0).map_err(down)?).ok_or(Unknown)?;
            news.blocked.push((id, row.int(1).map_err(down)?));
        }
        for row in database.fetch(KEY_IDS, &[]).await.map_err(down)? {
            news.keys.push(row.text(0).map_err(down)?);
        }
        Ok(news)
    }

    async fn keys(&self) -> Result<Vec<Key>, Unknown> {
        let database = self.database();
        for old in [OLD_KEYS, FORGET, FORGET_EVIDENCE] {
            database.execute(old, &[]).await.map_err(down)?;
        }
        let mut keys = Vec::new();
        for row in database.fetch(KEYS, &[]).await.map_err(down)? {
            let id = row.text(0).map_err(down)?;
            let sealed = row.blob(2).map_err(down)?;
            let pkcs8 = self.key().open("signing", &id, &sealed);
            let pkcs8 = pkcs8.map_err(|_| down(StoreError::Damaged))?;
            let made = row.int(1).map_err(down)?;
            let key = Key::restore(&pkcs8, made).map_err(|_| down(StoreError::Damaged))?;
            keys.push(key);
        }
        Ok(keys)
    }

    async fn add_key(&self, key: &Key) -> Result<(), Unknown> {
        let pkcs8 = key.to_pkcs8().map_err(|_| Unknown)?;
        let sealed = self.key().seal("signing", key.id(), pkcs8.expose());
        let values = [
            key.id().into(),
            Value::Int(key.made_ms()),
            Value::Blob(sealed.map_err(|_| Unknown)?),
        ];
        self.database()
            .execute(ADD_KEY, &values)
            .await
            .map_err(down)?;
        Ok(())
    }
}

impl Store {
    /// A person's token, sealed: its kind in one byte, then the token.
    fn seal_token(&self, id: &str, token: &UserToken) -> Result<Vec<u8>, Unknown> {
        let kind = match token.kind {
            UserTokenType::AccessToken => b'a',
            UserTokenType::IdToken => b'i',
        };
        let whole = Secret::new([&[kind], token.value.expose()].concat());
        let sealed = self.key().seal("person", id, whole.expose());
        sealed.map_err(|_| Unknown)
    }

    fn open_token(&self, id: &str, sealed: &[u8]) -> Result<Option<UserToken>, StoreError> {
        if sealed.is_empty() {
            return Ok(None);
        }
        let whole = self.key().open("person", id, sealed);
        let whole = whole.map_err(|_| StoreError::Damaged)?;
        let (kind, value) = whole.expose().split_first().ok_or(StoreError::Damaged)?;
        Ok(Some(UserToken {
            value: Secret::new(value.to_vec()),
            kind: match kind {
                b'a' => UserTokenType::AccessToken,
                b'i' => UserTokenType::IdToken,
                _ => return Err(StoreError::Damaged),
            },
        }))
    }

    fn kept(&self, row: &Row) -> Result<Kept, StoreError> {
        let damaged = || StoreError::Damaged;
        let moment = |ms| Timestamp::from_millisecond(ms).map_err(|_| damaged());
        let id = row.text(0)?;
        let chain = row.text(1)?;
        let chain: Result<Vec<AgentId>, _> = chain.split(' ').map(str::parse).collect();
        let person = match (row.maybe_text(3)?, row.maybe_text(4)?) {
            (Some(provider), Some(name)) => {
                let user = User {
                    provider: provider.parse::<Name>().map_err(|_| damaged())?,
                    name: name.into(),
                };
                let token = self.open_token(&id, &row.blob(5)?)?;
                Some(Arc::new(Person::new(user, token.into_iter().collect())))
            }
            _ => None,
        };
        let scope = match row.maybe_text(6)? {
            None => Scope::ALL,
            Some(words) => Scope::of(words.split(' ').filter(|word| !word.is_empty())),
        };
        let bounds = Bounds {
            scope,
            expires: row.maybe_int(12)?.map(moment).transpose()?,
            depth: u32::try_from(row.int(8)?).map_err(|_| damaged())?,
        };
        Ok(Kept {
            created: moment(row.int(11)?)?,
            opening: Opening {
                chain: chain.map_err(|_| damaged())?,
                trust: row.text(2)?.into(),
                person,
                bounds,
                parent: row.maybe_text(7)?.map(Into::into),
                bound: row.maybe_text(9)?.map(Into::into),
                idles: row.int(10)? != 0,
            },
            id: id.into(),
        })
    }
}

fn hex(bytes: &Digest) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
}

fn unhex(text: &str) -> Option<Digest> {
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (place, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(out)
}

/// An operator reads what went wrong; the caller only needs to know that nothing is known.
#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> Unknown {
    tracing::warn!(%error, "the store did not answer");
    Unknown
}
