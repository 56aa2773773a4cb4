//! `[preset.NAME]`: services of the operator's own, as the built-in ones are written, and how routes name both.

use std::sync::Arc;

use serde::Deserialize as _;
use toml::de::ValueDeserializer;

use super::key::{Kind, Need, Section, key};
use super::reader::Reader;
use super::{PresetRoute, Presets};
use crate::preset::{self, File, Preset};

pub(super) static PRESET: Section = Section {
    title: "[preset.NAME]",
    keys: &[
        key(
            "title",
            Kind::Text("what people call it"),
            Need::Required,
            "What people call the service.",
        ),
        key(
            "hosts",
            Kind::List(&Kind::Text("a host")),
            Need::Optional,
            "Where it answers. Either this or `host-shape`.",
        ),
        key(
            "host-shape",
            Kind::Text("what the hosts look like"),
            Need::Optional,
            "What the route's own host looks like, where each customer has one.",
        ),
        key(
            "paths",
            Kind::List(&Kind::Text("a path pattern")),
            Need::Optional,
            "The paths that it speaks of; left out, every path of its hosts.",
        ),
        key(
            "key",
            Kind::Rows(&KEY),
            Need::Optional,
            "Its secrets; `credential` of the route fills the first.",
        ),
        key(
            "base-url",
            Kind::Table(&BASE),
            Need::Optional,
            "Where its SDKs take another base URL from.",
        ),
        key(
            "operations",
            Kind::List(&Kind::Table(&OPERATION)),
            Need::Optional,
            "What can be done there; the first that matches names the request.",
        ),
        key(
            "minting",
            Kind::List(&Kind::Table(&MINTING)),
            Need::Optional,
            "Requests whose answer is a new credential: refused unless the route grants them.",
        ),
        key(
            "login-files",
            Kind::List(&Kind::Text("a path from the home directory, `~/…`")),
            Need::Optional,
            "Files in which its command-line tools keep a login: `run` masks them.",
        ),
        key(
            "login",
            Kind::List(&Kind::Table(&LOGIN)),
            Need::Optional,
            "Where in such files a token stands: `run` without credentials of a file serves it.",
        ),
        key(
            "token-endpoints",
            Kind::List(&Kind::Table(&TOKEN_ENDPOINT)),
            Need::Optional,
            "Where its clients refresh a token by themselves: keyward answers with the placeholder, and nothing goes upstream.",
        ),
        key(
            "encoded-slash",
            Kind::Flag,
            Need::Default("false"),
            "Its clients write `%2F` into paths.",
        ),
        key(
            "note",
            Kind::Text("a sentence"),
            Need::Optional,
            "What the preset does not do.",
        ),
        key(
            "source",
            Kind::Text("a URL"),
            Need::Optional,
            "The vendor's page that says how requests are authenticated.",
        ),
        key(
            "checked",
            Kind::Text("a date, such as \"2026-11-21\""),
            Need::Optional,
            "The day on which this was compared with that page.",
        ),
    ],
};

static KEY: Section = Section {
    title: "[[preset.NAME.key]]",
    keys: &[
        key(
            "name",
            Kind::Text("a name"),
            Need::Default("\"token\""),
            "What it is called beside the service's other secrets.",
        ),
        key(
            "inject",
            Kind::Either(&[
                Kind::Choice(&["bearer"]),
                Kind::Table(&PLACE),
                Kind::List(&Kind::Either(&[
                    Kind::Choice(&["bearer"]),
                    Kind::Table(&PLACE),
                ])),
            ]),
            Need::Optional,
            "Where it goes: `\"bearer\"`, a table, or a list of both.",
        ),
        key(
            "env",
            Kind::List(&Kind::Text("a variable")),
            Need::Required,
            "The environment variables that carry it.",
        ),
        key(
            "user-env",
            Kind::List(&Kind::Text("a variable")),
            Need::Optional,
            "The environment variables of the user name that goes with it.",
        ),
        key(
            "placeholder",
            Kind::Text("what clients take for a key"),
            Need::Required,
            "What stands in the agent's environment instead.",
        ),
    ],
};

static PLACE: Section = Section {
    title: "inject of [preset.NAME]",
    keys: &[
        key(
            "header",
            Kind::Text("a field's name"),
            Need::OneOf,
            "This header field.",
        ),
        key(
            "format",
            Kind::Text("text with one {}"),
            Need::Optional,
            "With `header`: what stands around the secret.",
        ),
        key(
            "basic",
            Kind::Text("a user name"),
            Need::OneOf,
            "HTTP Basic with this user; empty: from `user-env`.",
        ),
        key(
            "query",
            Kind::Text("a parameter's name"),
            Need::OneOf,
            "This query parameter.",
        ),
        key(
            "cookie",
            Kind::Text("a cookie's name"),
            Need::OneOf,
            "This cookie.",
        ),
        key(
            "substitute",
            Kind::Text("a slot"),
            Need::OneOf,
            "The placeholder in this slot: `\"path\"`, `\"header:NAME\"`, `\"query:NAME\"`, `\"json:PATH\"` or `\"form:NAME\"`.",
        ),
    ],
};

static BASE: Section = Section {
    title: "base-url of [preset.NAME]",
    keys: &[
        key(
            "env",
            Kind::List(&Kind::Text("a variable")),
            Need::Required,
            "The environment variables that change it.",
        ),
        key(
            "url",
            Kind::Text("a URL"),
            Need::Required,
            "What it is where none is set.",
        ),
    ],
};

static OPERATION: Section = Section {
    title: "operations of [preset.NAME]",
    keys: &[
        key("name", Kind::Text("a name"), Need::Required, "Its name."),
        key(
            "action",
            Kind::Choice(&["read", "write", "delete", "admin"]),
            Need::Required,
            "What it does.",
        ),
        key(
            "method",
            Kind::Text("a method"),
            Need::Required,
            "Its method.",
        ),
        key(
            "path",
            Kind::Text("a path pattern"),
            Need::Required,
            "Its path.",
        ),
    ],
};

static LOGIN: Section = Section {
    title: "login of [preset.NAME]",
    keys: &[
        key(
            "file",
            Kind::Text("a path from the home directory, `~/…`"),
            Need::Required,
            "One of `login-files`. With nothing else here, all of it is the token.",
        ),
        key(
            "json",
            Kind::Text("a dotted path"),
            Need::Optional,
            "The token is the text at this path of a JSON object.",
        ),
        key(
            "line",
            Kind::Text("how a line begins"),
            Need::Optional,
            "The token follows these words in the first line that begins so.",
        ),
        key(
            "after",
            Kind::Text("a line"),
            Need::Optional,
            "With `line`: only lines below this one are looked at.",
        ),
        key(
            "expires",
            Kind::Text("a dotted path"),
            Need::Optional,
            "With `json`: where the token's end stands, in milliseconds since 1970.",
        ),
    ],
};

static TOKEN_ENDPOINT: Section = Section {
    title: "token-endpoints of [preset.NAME]",
    keys: &[
        key("host", Kind::Text("a host"), Need::Required, "Its host."),
        key(
            "path",
            Kind::Text("a path pattern"),
            Need::Required,
            "Its path; asked by `POST`.",
        ),
    ],
};

static MINTING: Section = Section {
    title: "minting of [preset.NAME]",
    keys: &[
        key(
            "method",
            Kind::Text("a method"),
            Need::Optional,
            "Its method; left out, every method.",
        ),
        key(
            "path",
            Kind::Text("a path pattern"),
            Need::Required,
            "Its path.",
        ),
    ],
};

/// The file's own services, before those that were there.
#[derive(Debug)]
pub(super) struct Own<'a> {
    services: Vec<Arc<Preset>>,
    others: &'a dyn Presets,
}

impl<'a> Own<'a> {
    /// Reads every `[preset.NAME]`; one that does not hold is told, and left out.
    pub(super) fn read(root: &Reader<'_, '_>, others: &'a dyn Presets) -> Self {
        let tables = root.named("preset").into_iter();
        let services = tables.filter_map(|(name, below)| {
            // Unknown keys were told by the reader; the rest is for the parser of the built-in ones.
            if (below.table.iter()).any(|(key, _)| PRESET.find(key.get_ref()).is_none()) {
                return None;
            }
            let (_, value) = (root.entries("preset").into_iter())
                .find(|(key, _)| key.get_ref().as_ref() == name.as_str())?;
            let read = File::deserialize(ValueDeserializer::from(value.clone()));
            let file = read.map_err(|error| {
                let span = error.span().unwrap_or_else(|| below.span.clone());
                let message = format!("{} does not hold: {}", below.title, error.message());
                root.desk.fault(&span, message);
            });
            let preset = file.ok()?.named(name).map_err(|error| {
                root.desk.fault(&below.span, error.to_string());
            });
            preset.ok().map(Arc::new)
        });
        Self {
            services: services.collect(),
            others,
        }
    }

    /// The services themselves.
    pub(super) fn into_services(self) -> Vec<Preset> {
        let services = self.services.into_iter();
        services.map(|preset| Preset::clone(&preset)).collect()
    }
}

impl Presets for Own<'_> {
    fn find(&self, name: &str) -> Option<PresetRoute> {
        let own = self.services.iter().find(|own| own.name.as_str() == name);
        own.map_or_else(|| self.others.find(name), |own| Some(gives(own)))
    }

    fn names(&self) -> Vec<&str> {
        let own = self.services.iter().map(|own| own.name.as_str());
        own.chain(self.others.names()).collect()
    }
}

impl Presets for preset::Presets {
    fn find(&self, name: &str) -> Option<PresetRoute> {
        self.get(name).map(gives)
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|preset| preset.name.as_str()).collect()
    }
}

fn gives(preset: &Arc<Preset>) -> PresetRoute {
    PresetRoute {
        hosts: preset.hosts.clone(),
        paths: preset.paths.clone(),
        placements: match &*preset.keys {
            [key] => key.placements.clone(),
            _ => Vec::new(),
        },
        encoded_slash: preset.encoded_slash,
        token_endpoints: preset.token_endpoints.clone(),
        placeholder: preset.keys.first().map(|key| key.placeholder.clone()),
        minting: Some(Arc::clone(preset)),
    }
}
