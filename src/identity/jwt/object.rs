//! A JSON object whose names are each there once: of two equal names one program takes the first, another the last.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The members of a header, of claims or of a key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::identity) struct Object(Map<String, Value>);

impl Object {
    /// Whether there is a member of this name, of whatever type.
    pub(in crate::identity) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(in crate::identity) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A member that is a text.
    pub(in crate::identity) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Seconds since the epoch (`NumericDate`, RFC 7519 §2), a fraction cut off. `Err`: there is one, and it is none.
    pub(in crate::identity) fn date(&self, name: &str) -> Result<Option<i64>, super::Bad> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let number = value.as_f64().ok_or(super::Bad)?;
        if !(0.0..LAST_DATE).contains(&number) {
            return Err(super::Bad);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the range was checked, and a fraction of a second is cut off"
        )]
        Ok(Some(number as i64))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut members = Map::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Object(members))
    }
}

/// 9999-12-31T23:59:59Z: a date beyond is no date.
const LAST_DATE: f64 = 253_402_300_799.0;
