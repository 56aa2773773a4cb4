//! Passes of people and operators who signed in, by their digest.

use std::fmt::Write as _;

use async_trait::async_trait;
use jiff::Timestamp;

use super::database::{Component, Value};
use super::{Store, StoreError};
use crate::agent::User;
use crate::login::{Holder, Pass, PassStore, Silent};

pub(super) static TABLES: Component = Component {
    name: "pass",
    steps: &[
        "CREATE TABLE keyward_pass (id TEXT PRIMARY KEY, login TEXT, holder TEXT NOT NULL, browser BIGINT NOT NULL,
             expires BIGINT NOT NULL)",
    ],
};

const KEEP: &str =
    "INSERT INTO keyward_pass (id, login, holder, browser, expires) VALUES ($1, $2, $3, $4, $5)";
const FIND: &str = "SELECT login, holder, browser, expires FROM keyward_pass WHERE id = $1";
const END: &str = "DELETE FROM keyward_pass WHERE id = $1";
const FORGET: &str = "DELETE FROM keyward_pass WHERE expires < {now}";

#[async_trait]
impl PassStore for Store {
    async fn keep(&self, digest: &[u8; 32], pass: &Pass) -> Result<(), Silent> {
        self.database().execute(FORGET, &[]).await.map_err(down)?;
        let (login, name) = match &pass.holder {
            Holder::Operator(name) => (None, name),
            Holder::Person(user) => (Some(user.provider.to_string()), &user.name),
        };
        let values = [
            (&*hex(digest)).into(),
            Value::MaybeText(login),
            (&**name).into(),
            Value::Int(pass.browser.into()),
            Value::Int(pass.expires.as_millisecond()),
        ];
        self.database().execute(KEEP, &values).await.map_err(down)?;
        Ok(())
    }

    async fn find(&self, digest: &[u8; 32]) -> Result<Option<Pass>, Silent> {
        let rows = self.database().fetch(FIND, &[(&*hex(digest)).into()]).await;
        let rows = rows.map_err(down)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let damaged = || down(StoreError::Damaged);
        let login = row.maybe_text(0).map_err(down)?;
        let name = row.text(1).map_err(down)?.into();
        let holder = match login {
            None => Holder::Operator(name),
            Some(provider) => Holder::Person(User {
                provider: provider.parse().map_err(|_| damaged())?,
                name,
            }),
        };
        let expires = Timestamp::from_millisecond(row.int(3).map_err(down)?);
        Ok(Some(Pass {
            holder,
            browser: row.int(2).map_err(down)? != 0,
            expires: expires.map_err(|_| damaged())?,
        }))
    }

    async fn end(&self, digest: &[u8; 32]) -> Result<(), Silent> {
        let done = self
            .database()
            .execute(END, &[(&*hex(digest)).into()])
            .await;
        done.map_err(down)?;
        Ok(())
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err`")]
fn down(error: StoreError) -> Silent {
    tracing::warn!(%error, "the store did not answer");
    Silent
}
