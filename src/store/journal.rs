//! The journal of leases: a row for each that could be revoked, and a row for each process that lives.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::database::{Component, Row, Value};
use super::{Store, StoreError};
use crate::agent::{Name, User};
use crate::credential::{
    Handle, Holder, Journal, LeaseId, Left, Note, OutOfReach, Owed, Pulse, Reason, Scope,
};
use crate::policy::Person;

pub(super) static TABLES: Component = Component {
    name: "journal",
    steps: &[
        "CREATE TABLE keyward_replica (id TEXT PRIMARY KEY, seen BIGINT NOT NULL);
         CREATE TABLE keyward_lease (
             id TEXT PRIMARY KEY, writer TEXT NOT NULL, credential TEXT NOT NULL,
             agent TEXT, session TEXT, login TEXT, person TEXT,
             issued BIGINT NOT NULL, ends BIGINT, sealed {blob} NOT NULL,
             reason TEXT, ordered_by TEXT, attempts BIGINT NOT NULL DEFAULT 0);
         CREATE INDEX keyward_lease_writer ON keyward_lease (writer)",
        "ALTER TABLE keyward_lease ADD COLUMN chain TEXT",
    ],
};

/// For the process that has SQLite's file alone: whoever is noted as alive is not.
pub(super) const NOBODY_LIVES: &str = "DELETE FROM keyward_replica";

const PUT: &str = "INSERT INTO keyward_lease (id, writer, credential, agent, session, login, person, issued, ends, sealed, chain)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    ON CONFLICT (id) DO UPDATE SET ends = excluded.ends, sealed = excluded.sealed
        WHERE keyward_lease.writer = excluded.writer";
const OWE: &str =
    "UPDATE keyward_lease SET reason = $2, ordered_by = $3, attempts = $4 WHERE id = $1";
const PROLONG: &str = "UPDATE keyward_lease SET ends = $2 WHERE id = $1";
const REMOVE: &str = "DELETE FROM keyward_lease WHERE id = $1";
const BEAT: &str = "UPDATE keyward_replica SET seen = {now} WHERE id = $1";
const ENROL: &str = "INSERT INTO keyward_replica (id, seen) VALUES ($1, {now}) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen";
/// A minute more than its end: clocks differ.
const FORGET: &str = "DELETE FROM keyward_lease WHERE ends IS NOT NULL AND ends < {now} - 60000";
/// A process that said nothing for a minute is dead; it would have said so six times.
const BURY: &str = "DELETE FROM keyward_replica WHERE seen < {now} - 60000";
const LEFT: &str = "SELECT id, writer, credential FROM keyward_lease
    WHERE id > $1 AND writer NOT IN (SELECT id FROM keyward_replica) ORDER BY id LIMIT 1000";
const ADOPT: &str = "UPDATE keyward_lease SET writer = $2 WHERE id = $1 AND writer = $3
    RETURNING id, credential, agent, session, login, person, issued, ends, sealed, reason, ordered_by, attempts, chain";
/// The limit of [`LEFT`].
const PAGE: usize = 1000;
const LEAVE: &str = "DELETE FROM keyward_replica WHERE id = $1";

#[async_trait]
impl Journal for Store {
    fn lasts(&self) -> bool {
        self.0.lasts
    }

    async fn put(&self, note: &Note) -> Result<(), OutOfReach> {
        let scope = &note.scope;
        let place = place(note.lease.as_str(), scope.credential.as_str());
        let sealed = match &note.handle {
            Some(handle) => {
                let sealed = self.key().seal("lease", &place, handle.content().expose());
                sealed.map_err(|_| OutOfReach)?
            }
            // About to be issued: what is sealed is never empty.
            None => Vec::new(),
        };
        let user = scope.person.as_ref().map(|person| &person.user);
        let values = [
            note.lease.as_str().into(),
            (*self.0.writer).into(),
            scope.credential.as_str().into(),
            Value::MaybeText(scope.holder.agent().map(ToString::to_string)),
            Value::MaybeText(scope.holder.session().map(ToString::to_string)),
            Value::MaybeText(user.map(|user| user.provider.to_string())),
            Value::MaybeText(user.map(|user| user.name.to_string())),
            Value::Int(note.issued.as_millisecond()),
            Value::MaybeInt(note.ends.map(Timestamp::as_millisecond)),
            Value::Blob(sealed),
            // No name holds a blank.
            Value::Text(
                note.chain
                    .iter()
                    .map(Name::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        ];
        let written = self.database().execute(PUT, &values).await;
        match written.map_err(down)? {
            // Somebody has taken it over meanwhile.
            0 => Err(OutOfReach),
            _ => Ok(()),
        }
    }

    async fn owe(&self, lease: &LeaseId, owed: &Owed) -> Result<(), OutOfReach> {
        let values = [
            lease.as_str().into(),
            owed.reason.word().into(),
            Value::MaybeText(owed.by.as_deref().map(str::to_owned)),
            Value::Int(owed.attempts.into()),
        ];
        self.database().execute(OWE, &values).await.map_err(down)?;
        Ok(())
    }

    async fn prolong(&self, lease: &LeaseId, ends: Option<Timestamp>) -> Result<(), OutOfReach> {
        let values = [
            lease.as_str().into(),
            Value::MaybeInt(ends.map(Timestamp::as_millisecond)),
        ];
        let database = self.database();
        database.execute(PROLONG, &values).await.map_err(down)?;
        Ok(())
    }

    async fn remove(&self, lease: &LeaseId) -> Result<(), OutOfReach> {
        let values = [lease.as_str().into()];
        self.database()
            .execute(REMOVE, &values)
            .await
            .map_err(down)?;
        Ok(())
    }

    async fn beat(&self) -> Result<Pulse, OutOfReach> {
        let me = [Value::from(&*self.0.writer)];
        let database = self.database();
        let known = database.execute(BEAT, &me).await.map_err(down)? > 0;
        if !known {
            database.execute(ENROL, &me).await.map_err(down)?;
        }
        database.execute(FORGET, &[]).await.map_err(down)?;
        Ok(if known { Pulse::Known } else { Pulse::New })
    }

    async fn adopt(
        &self,
        credentials: &[Name],
        after: Option<&LeaseId>,
    ) -> Result<Left, OutOfReach> {
        let database = self.database();
        database.execute(BURY, &[]).await.map_err(down)?;
        let mut notes = Vec::new();
        let after = [after.map_or("", LeaseId::as_str).into()];
        let page = database.fetch(LEFT, &after).await.map_err(down)?;
        let last = page.last().filter(|_| page.len() >= PAGE);
        let last = last.map(|row| row.text(0)).transpose().map_err(down)?;
        for left in page {
            let (id, writer) = (left.text(0).map_err(down)?, left.text(1).map_err(down)?);
            let credential = left.text(2).map_err(down)?;
            if !credentials.iter().any(|known| known.as_str() == credential) {
                continue;
            }
            // Whoever changes the writer first has it.
            let values = [(*id).into(), (*self.0.writer).into(), (*writer).into()];
            for row in database.fetch(ADOPT, &values).await.map_err(down)? {
                match self.note(&row) {
                    Ok(note) => notes.push(note),
                    Err(error) => {
                        tracing::error!(lease = id, %credential, %error, "a note of the journal cannot be read; the lease is not revoked");
                    }
                }
            }
        }
        Ok(Left {
            notes,
            next: last.map(|id| LeaseId::from(&*id)),
        })
    }

    async fn leave(&self) -> Result<(), OutOfReach> {
        let me = [Value::from(&*self.0.writer)];
        self.database().execute(LEAVE, &me).await.map_err(down)?;
        Ok(())
    }
}

impl Store {
    fn note(&self, row: &Row) -> Result<Note, StoreError> {
        let name = |text: String| text.parse::<Name>().map_err(|_| StoreError::Damaged);
        let (id, credential) = (row.text(0)?, row.text(1)?);
        let agent = row.maybe_text(2)?.map(name).transpose()?;
        let holder = match (agent, row.maybe_text(3)?) {
            (Some(agent), Some(session)) => Holder::Session {
                agent,
                session: session.into(),
            },
            (Some(agent), None) => Holder::Agent(agent),
            (None, _) => Holder::All,
        };
        let person = match (row.maybe_text(4)?, row.maybe_text(5)?) {
            (Some(provider), Some(person)) => {
                let user = User {
                    provider: name(provider)?,
                    name: person.into(),
                };
                Some(Arc::new(Person::new(user, Vec::new())))
            }
            _ => None,
        };
        let moment = |ms| Timestamp::from_millisecond(ms).map_err(|_| StoreError::Damaged);
        let issued = moment(row.int(6)?)?;
        let ends = row.maybe_int(7)?.map(moment).transpose()?;
        let sealed = row.blob(8)?;
        let handle = if sealed.is_empty() {
            None
        } else {
            let open = self.key().open("lease", &place(&id, &credential), &sealed);
            Some(open.map_err(|_| StoreError::Damaged)?)
        };
        let reason = row.maybe_text(9)?.and_then(|word| Reason::of(&word));
        let (by, attempts) = (row.maybe_text(10)?, row.int(11)?);
        let chain = row.maybe_text(12)?.unwrap_or_default();
        let chain = chain.split_whitespace().map(|one| name(one.to_owned()));
        Ok(Note {
            lease: LeaseId::from(&*id),
            scope: Scope {
                credential: name(credential)?,
                holder,
                person,
                narrow: Arc::default(),
            },
            chain: chain.collect::<Result<_, _>>()?,
            handle: handle.map(|handle| Handle::new(Arc::new(handle))),
            issued,
            ends,
            owed: reason.map(|reason| Owed {
                reason,
                by: by.map(Into::into),
                attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            }),
        })
    }
}

/// The handle is bound to its credential too: it goes to that credential's issuer and to no other.
fn place(lease: &str, credential: &str) -> String {
    format!("{lease} {credential}")
}

/// An operator reads what went wrong; the caller only needs to know that nothing is known.
#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> OutOfReach {
    tracing::warn!(%error, "the store did not answer");
    OutOfReach
}
