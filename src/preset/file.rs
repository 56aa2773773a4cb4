//! A preset as it is written: each value is parsed where it stands, so that a fault has a line and a column.

use std::fmt;
use std::str::FromStr;

use http::{HeaderName, Method};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor, value};

use super::{Action, BaseUrl, Key, Login, Minting, Operation, Part, Preset, TokenEndpoint};
use crate::agent::Name;
use crate::host::HostPattern;
use crate::inject::{Format, Placement, Slot};
use crate::route::PathPattern;

/// One file of `presets/`, or one `[preset.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    title: String,
    #[serde(default)]
    hosts: Vec<Text<HostPattern>>,
    host_shape: Option<String>,
    #[serde(default)]
    paths: Vec<Text<PathPattern>>,
    #[serde(default, rename = "key")]
    keys: Vec<KeyTable>,
    base_url: Option<BaseUrlTable>,
    #[serde(default)]
    operations: Vec<OperationTable>,
    #[serde(default)]
    minting: Vec<MintingTable>,
    #[serde(default)]
    login_files: Vec<String>,
    #[serde(default, rename = "login")]
    logins: Vec<LoginTable>,
    #[serde(default)]
    token_endpoints: Vec<TokenEndpointTable>,
    #[serde(default)]
    encoded_slash: bool,
    note: Option<String>,
    #[serde(default)]
    source: String,
    checked: Option<Text<jiff::civil::Date>>,
}

/// What is wrong with a preset whose values are each well written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPreset {
    /// Neither `hosts` nor `host-shape`, or both.
    #[error("preset {0} needs either `hosts` or, where each customer has their own, `host-shape`")]
    Hosts(Name),
    /// A key has no environment variable, or an empty placeholder.
    #[error(
        "key {key} of preset {preset} needs at least one variable in `env` and a `placeholder`"
    )]
    Key {
        /// The preset.
        preset: Name,
        /// The key.
        key: Name,
    },
    /// Two keys have one name.
    #[error("preset {preset} has two keys called {key}")]
    TwoKeys {
        /// The preset.
        preset: Name,
        /// The key.
        key: Name,
    },
}

impl File {
    /// The preset of this name.
    ///
    /// # Errors
    /// [`BadPreset`] where parts do not fit each other.
    pub fn named(self, name: Name) -> Result<Preset, BadPreset> {
        if self.hosts.is_empty() != self.host_shape.is_some() {
            return Err(BadPreset::Hosts(name));
        }
        let keys: Vec<Key> = self.keys.into_iter().map(KeyTable::resolve).collect();
        for (place, key) in keys.iter().enumerate() {
            let (preset, key_name) = (name.clone(), key.name.clone());
            if key.env.is_empty() || key.placeholder.is_empty() {
                return Err(BadPreset::Key {
                    preset,
                    key: key_name,
                });
            }
            if keys.iter().take(place).any(|other| other.name == key.name) {
                return Err(BadPreset::TwoKeys {
                    preset,
                    key: key_name,
                });
            }
        }
        Ok(Preset {
            name,
            title: self.title.into(),
            hosts: self.hosts.into_iter().map(|host| host.0).collect(),
            host_shape: self.host_shape.map(Into::into),
            paths: self.paths.into_iter().map(|path| path.0).collect(),
            keys,
            base_url: self.base_url.map(|base| BaseUrl {
                env: boxed(base.env),
                url: base.url.into(),
            }),
            operations: self.operations.into_iter().map(Into::into).collect(),
            minting: self
                .minting
                .iter()
                .filter_map(|minting| {
                    Minting::new(
                        minting.method.as_ref().map(|m| m.0.clone()),
                        &minting.path.0,
                    )
                })
                .collect(),
            login_files: boxed(self.login_files),
            logins: self.logins.into_iter().map(Into::into).collect(),
            token_endpoints: self.token_endpoints.into_iter().map(Into::into).collect(),
            encoded_slash: self.encoded_slash,
            note: self.note.map(Into::into),
            source: self.source.into(),
            checked: self.checked.map(|day| day.0),
        })
    }
}

fn boxed(texts: Vec<String>) -> Vec<Box<str>> {
    texts.into_iter().map(Into::into).collect()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeyTable {
    #[serde(default = "token")]
    name: Text<Name>,
    #[serde(default)]
    inject: Inject,
    env: Vec<String>,
    #[serde(default)]
    user_env: Vec<String>,
    placeholder: String,
}

fn token() -> Text<Name> {
    Text("token".parse().expect("a static name is in the grammar"))
}

impl KeyTable {
    fn resolve(self) -> Key {
        let placeholder: Box<str> = self.placeholder.into();
        Key {
            name: self.name.0,
            placements: self
                .inject
                .0
                .into_iter()
                .map(|place| place.resolve(&placeholder))
                .collect(),
            env: boxed(self.env),
            user_env: boxed(self.user_env),
            placeholder,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BaseUrlTable {
    env: Vec<String>,
    url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LoginTable {
    file: String,
    json: Option<String>,
    line: Option<String>,
    after: Option<String>,
    expires: Option<String>,
}

impl From<LoginTable> for Login {
    fn from(table: LoginTable) -> Self {
        let after = table.after.map(Into::into);
        Self {
            file: table.file.into(),
            part: match (table.json, table.line) {
                (Some(path), _) => Part::Json(path.into()),
                (None, Some(begins)) => Part::Line {
                    begins: begins.into(),
                    after,
                },
                (None, None) => Part::Whole,
            },
            expires: table.expires.map(Into::into),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TokenEndpointTable {
    host: Text<HostPattern>,
    path: Text<PathPattern>,
}

impl From<TokenEndpointTable> for TokenEndpoint {
    fn from(table: TokenEndpointTable) -> Self {
        Self {
            host: table.host.0,
            path: table.path.0,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OperationTable {
    name: String,
    action: Text<Action>,
    method: Text<Method>,
    path: Text<PathPattern>,
}

impl From<OperationTable> for Operation {
    fn from(table: OperationTable) -> Self {
        Self {
            name: table.name.into(),
            action: table.action.0,
            method: table.method.0,
            path: table.path.0,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MintingTable {
    method: Option<Text<Method>>,
    path: Text<PathPattern>,
}

/// A value that is written as text.
#[derive(Debug, Clone)]
struct Text<T>(T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

/// `inject`: one place or a list of them. A visitor and not an untagged enum: that would lose the position of a fault.
#[derive(Debug, Clone, Default)]
struct Inject(Vec<Place>);

/// A placement, before the placeholder is known.
#[derive(Debug, Clone)]
enum Place {
    Ready(Placement),
    Substitute(Slot),
}

impl Place {
    fn resolve(self, placeholder: &str) -> Placement {
        match self {
            Self::Ready(placement) => placement,
            Self::Substitute(slot) => Placement::Substitute {
                placeholder: placeholder.into(),
                slot,
            },
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PlaceTable {
    header: Option<Text<HeaderName>>,
    format: Option<Text<Format>>,
    basic: Option<String>,
    query: Option<String>,
    cookie: Option<String>,
    substitute: Option<Text<SlotText>>,
}

const PLACE: &str = "\"bearer\", or a table with exactly one of `header` (and `format`), `basic`, `query`, `cookie`, `substitute`";

impl PlaceTable {
    fn place(self) -> Option<Place> {
        let bare = self.format.is_none();
        let mut places = [
            self.header.map(|name| {
                Place::Ready(Placement::Header {
                    name: name.0,
                    format: self.format.map_or_else(Format::bare, |format| format.0),
                })
            }),
            self.basic
                .filter(|_| bare)
                .map(|user| Place::Ready(Placement::Basic { user: user.into() })),
            self.query
                .filter(|_| bare)
                .map(|name| Place::Ready(Placement::Query { name: name.into() })),
            self.cookie
                .filter(|_| bare)
                .map(|name| Place::Ready(Placement::Cookie { name: name.into() })),
            self.substitute
                .filter(|_| bare)
                .map(|slot| Place::Substitute(slot.0.0)),
        ]
        .into_iter()
        .flatten();
        match (places.next(), places.next()) {
            (Some(place), None) => Some(place),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }
}

/// `path`, `header:NAME`, `query:NAME`, `json:DOTTED.PATH` or `form:NAME`.
#[derive(Debug, Clone)]
struct SlotText(Slot);

impl FromStr for SlotText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad =
            "a slot is `path`, `header:NAME`, `query:NAME`, `json:DOTTED.PATH` or `form:NAME`";
        let slot = match text.split_once(':') {
            None if text == "path" => Slot::Path,
            Some(("header", name)) => Slot::Header(name.parse().map_err(|_| bad)?),
            Some((_, "")) | None => return Err(bad),
            Some(("query", name)) => Slot::Query(name.into()),
            Some(("json", path)) => Slot::Json(path.into()),
            Some(("form", name)) => Slot::Form(name.into()),
            Some(_) => return Err(bad),
        };
        Ok(Self(slot))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PLACE)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Place, E> {
                match text {
                    "bearer" => Ok(Place::Ready(Placement::Bearer)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Place, A::Error> {
                PlaceTable::deserialize(value::MapAccessDeserializer::new(map))?
                    .place()
                    .ok_or_else(|| de::Error::custom(format_args!("expected {PLACE}")))
            }
        }
        deserializer.deserialize_any(One)
    }
}

impl<'de> Deserialize<'de> for Inject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Many;
        impl<'de> Visitor<'de> for Many {
            type Value = Inject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{PLACE}, or a list of these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inject, E> {
                Place::deserialize(value::StrDeserializer::new(text)).map(|one| Inject(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Inject, A::Error> {
                Place::deserialize(value::MapAccessDeserializer::new(map))
                    .map(|one| Inject(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Inject, A::Error> {
                Vec::deserialize(value::SeqAccessDeserializer::new(list)).map(Inject)
            }
        }
        deserializer.deserialize_any(Many)
    }
}
