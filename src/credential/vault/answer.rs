//! What a Vault answers: every text of it is wiped, since any may be a secret.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::call::Fault;
use super::{Handle, Life, Renewable, VaultRead};
use crate::credential::given::Wiped;
use crate::secret::Secret;

/// An answer with a lease, or without one (`lease_id` empty).
#[derive(Debug, Deserialize)]
pub(super) struct Lease {
    #[serde(rename = "lease_id")]
    id: Option<Wiped>,
    /// In seconds.
    #[serde(rename = "lease_duration")]
    duration: Option<f64>,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    pub(super) data: Tree,
    pub(super) auth: Option<Auth>,
}

/// What a login gives.
#[derive(Debug, Deserialize)]
pub(super) struct Auth {
    pub(super) client_token: Wiped,
    /// In seconds; 0 where the token has no end.
    #[serde(default)]
    pub(super) lease_duration: u32,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// JSON of which nothing is left unwiped. Numbers and the like are no secrets that could be injected.
#[derive(Debug, Default)]
pub(super) enum Tree {
    #[default]
    Other,
    Text(Secret),
    List(Vec<Tree>),
    Object(BTreeMap<String, Tree>),
}

impl Lease {
    /// What revokes it, where there is a lease at all, and renews it under the login of this mark.
    pub(super) fn handle(&self, mark: u64) -> Option<Handle> {
        let id = self.id.as_ref().filter(|id| !id.0.is_empty())?;
        let copy = Secret::new(id.0.expose().to_vec());
        let handle = Handle::new(Arc::new(copy));
        let whole = |seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .ok()?
                .as_secs()
                .try_into()
                .ok()
        };
        Some(match self.duration.and_then(whole) {
            Some(seconds) if self.renewable => handle.renewed_by(Renewable { seconds, mark }),
            _ => handle,
        })
    }

    /// How long it is good. What has no lease (KV, certificates without one) is read again every five minutes.
    pub(super) fn life(&self, read: &VaultRead) -> Result<Life, Fault> {
        let leased = self.id.as_ref().is_some_and(|id| !id.0.is_empty());
        match (read, self.duration) {
            (VaultRead::Engine { .. }, Some(seconds)) if leased || seconds > 0.0 => {
                let life = Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|life| !life.is_zero())
                    .ok_or(Fault::NoLife)?;
                Ok(Life::For(if leased { life } else { life.min(UNLEASED) }))
            }
            (VaultRead::Engine { .. }, None) if leased => Err(Fault::NoLife),
            _ => Ok(Life::For(UNLEASED)),
        }
    }
}

impl Tree {
    /// Takes a member out of an object.
    pub(super) fn take(self, name: &str) -> Option<Self> {
        match self {
            Self::Object(mut members) => members.remove(name),
            _ => None,
        }
    }

    /// Takes a text out of an object.
    pub(super) fn text(&mut self, name: &str) -> Option<Secret> {
        match self {
            Self::Object(members) => match members.remove(name) {
                Some(Self::Text(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Takes a list of texts out of an object; empty where there is none.
    pub(super) fn texts(&mut self, name: &str) -> Vec<Secret> {
        let Self::Object(members) = self else {
            return Vec::new();
        };
        let Some(Self::List(items)) = members.remove(name) else {
            return Vec::new();
        };
        let texts = items.into_iter().filter_map(|item| match item {
            Self::Text(text) => Some(text),
            _ => None,
        });
        texts.collect()
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Leaf)
    }
}

struct Leaf;

impl<'de> Visitor<'de> for Leaf {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(Secret::new(text.as_bytes().to_vec())))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            match object.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(members.next_value()?);
                }
                // Of two readings neither is right.
                Entry::Occupied(mut place) => {
                    members.next_value::<IgnoredAny>()?;
                    place.insert(Tree::Other);
                }
            }
        }
        Ok(Tree::Object(object))
    }
}

/// How long something without a lease is used before it is read again.
const UNLEASED: Duration = Duration::from_mins(5);
