//! The JSON Schema of the file, for editors: written from the tables of keys that the reader itself uses.

use serde_json::{Map, Value, json};

use super::file::ROOT;
use super::key::{self, Key, Kind, Need, Section};
use super::source::SOURCE;

/// The schema (draft 7, which the TOML language servers read).
pub fn schema() -> Value {
    let mut definitions = Map::new();
    for section in key::sections() {
        if !std::ptr::eq(section, &raw const ROOT) {
            definitions.insert(id(section), object(section));
        }
    }
    let mut root = object(&ROOT);
    if let Value::Object(root) = &mut root {
        root.insert(
            "$schema".into(),
            json!("http://json-schema.org/draft-07/schema#"),
        );
        root.insert("title".into(), json!("keyward configuration"));
        root.insert("definitions".into(), Value::Object(definitions));
    }
    root
}

/// `[credential.NAME.static]` → `credential-name-static`.
fn id(section: &Section) -> String {
    let word = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let words: String = section.title.chars().map(word).collect();
    words
        .split('-')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

fn object(section: &Section) -> Value {
    let properties: Map<String, Value> = section
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let mut object = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    let named = |need| {
        section
            .keys
            .iter()
            .filter(move |key| key.need == need)
            .map(|key| key.name)
    };
    let required: Vec<_> = named(Need::Required).collect();
    let one_of: Vec<_> = named(Need::OneOf)
        .map(|name| json!({ "required": [name] }))
        .collect();
    if let Value::Object(object) = &mut object {
        if !required.is_empty() {
            object.insert("required".into(), json!(required));
        }
        if !one_of.is_empty() {
            object.insert("oneOf".into(), json!(one_of));
        }
    }
    object
}

fn property(key: &Key) -> Value {
    let mut schema = of_kind(&key.kind);
    // Beside `$ref` draft 7 ignores all else.
    if schema.get("$ref").is_some() {
        schema = json!({ "allOf": [schema] });
    }
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".into(), json!(key.meaning));
        if let Some(default) = default(key) {
            schema.insert("default".into(), default);
        }
    }
    schema
}

/// The default in JSON: numbers, texts, booleans and lists of texts are written alike in TOML.
fn default(key: &Key) -> Option<Value> {
    match key.need {
        Need::Default(text) => serde_json::from_str(text).ok(),
        Need::Required | Need::Optional | Need::OneOf => None,
    }
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text(_) | Kind::Guarded(_) | Kind::Path => json!({ "type": "string" }),
        // A TOML date has no type in JSON Schema; language servers hand it on as text.
        Kind::Date => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Count(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::Duration(..) => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Kind::Size(..) => json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Source => reference(&SOURCE),
        Kind::List(kind) => json!({ "type": "array", "minItems": 1, "items": of_kind(kind) }),
        Kind::Map(kind) => json!({ "type": "object", "additionalProperties": of_kind(kind) }),
        Kind::Table(section) => reference(section),
        Kind::Named(section) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z0-9_-]{1,64}$" },
            "additionalProperties": reference(section),
        }),
        Kind::Rows(section) => json!({ "type": "array", "items": reference(section) }),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(of_kind).collect::<Vec<_>>() }),
    }
}

fn reference(section: &Section) -> Value {
    json!({ "$ref": format!("#/definitions/{}", id(section)) })
}
