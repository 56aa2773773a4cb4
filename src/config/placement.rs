//! `inject`: where a route puts its credential.

use http::HeaderName;
use toml::de::DeValue;

use super::aws::{self, SIGV4};
use super::fault::{Desk, Span};
use super::key::{Kind, Need, Section, key};
use super::reader::{self, Reader, Value};
use super::text::{nearest, quoted};
use crate::inject::{Format, Placement, SigningScope, Slot};

pub(super) static INJECT: Section = Section {
    title: "inject",
    keys: &[
        key(
            "header",
            Kind::Text("the name of a header"),
            Need::OneOf,
            "A header; `format` says what stands around the secret.",
        ),
        key(
            "basic",
            Kind::Text("a user name"),
            Need::OneOf,
            "`Authorization: Basic` with this user name and the secret as password.",
        ),
        key(
            "query",
            Kind::Text("the name of a query parameter"),
            Need::OneOf,
            "A query parameter; one of the same name that the agent sent is removed.",
        ),
        key(
            "cookie",
            Kind::Text("the name of a cookie"),
            Need::OneOf,
            "A cookie; one of the same name that the agent sent is removed.",
        ),
        key(
            "placeholder",
            Kind::Text("the text that the agent writes"),
            Need::OneOf,
            "The text that the agent writes in the slot `in`, and that becomes the secret there and only there.",
        ),
        key(
            "sigv4",
            Kind::Table(&SIGV4),
            Need::OneOf,
            "An AWS signature, with the service and region that the host does not tell.",
        ),
        key(
            "format",
            Kind::Text("text with one `{}`"),
            Need::Default("\"{}\""),
            "With `header`: text with one `{}` where the secret goes, such as `token {}`.",
        ),
        key(
            "in",
            Kind::Either(&[Kind::Choice(&["path"]), Kind::Table(&SLOT)]),
            Need::Optional,
            "With `placeholder`, required: `\"path\"`, or a table that names the slot.",
        ),
    ],
};

pub(super) static SLOT: Section = Section {
    title: "the slot \"in\"",
    keys: &[
        key(
            "header",
            Kind::Text("the name of a header"),
            Need::OneOf,
            "In the value of this header.",
        ),
        key(
            "query",
            Kind::Text("the name of a query parameter"),
            Need::OneOf,
            "In the value of this query parameter.",
        ),
        key(
            "json",
            Kind::Text("a dotted path, such as \"auth.token\""),
            Need::OneOf,
            "The text at this dotted path of a JSON body.",
        ),
        key(
            "form",
            Kind::Text("the name of a form field"),
            Need::OneOf,
            "The value of this field of a form-encoded body.",
        ),
    ],
};

const FORMS: &str = "write \"bearer\", \"client-certificate\", { header = \"x-api-key\" }, { basic = \"USER\" }, { query = \"key\" }, { cookie = \"sid\" }, { placeholder = \"TEXT\", in = \"path\" }, or a list of them";

/// The placements below a key: a word, a table, or a list of both.
pub(super) fn read(reader: &Reader<'_, '_>, name: &str) -> Vec<Placement> {
    let Some(value) = reader.raw(name) else {
        return Vec::new();
    };
    let items: &[Value<'_>] = match value.get_ref() {
        DeValue::Array(_) => reader.list(name).unwrap_or_default(),
        _ => std::slice::from_ref(value),
    };
    let mut found: Vec<Placement> = Vec::new();
    for item in items {
        let Some(placement) = placement(reader.desk, item) else {
            continue;
        };
        if let Some(place) = found.iter().find_map(|other| clash(other, &placement)) {
            let message = format!("two placements write {place}");
            reader.desk.fault(&item.span(), message);
        }
        found.push(placement);
    }
    found
}

fn placement(desk: &Desk, value: &Value<'_>) -> Option<Placement> {
    match value.get_ref() {
        DeValue::String(word) if word == "bearer" => Some(Placement::Bearer),
        DeValue::String(word) if word == "client-certificate" => Some(Placement::ClientCertificate),
        DeValue::String(word) if word == "sigv4" => Some(Placement::SigV4(SigningScope::default())),
        DeValue::String(word) => {
            let message = format!("{} is not a placement", quoted(word));
            let help = match nearest(word, ["bearer", "client-certificate", "sigv4"]) {
                Some("bearer") => "did you mean \"bearer\"?",
                Some("sigv4") => "did you mean \"sigv4\"?",
                Some(_) => "did you mean \"client-certificate\"?",
                None => FORMS,
            };
            desk.fault_with(&value.span(), message, help);
            None
        }
        DeValue::Table(_) => {
            let reader = Reader::open_value(desk, &INJECT, "inject".into(), value.span(), value)?;
            from_table(&reader)
        }
        other => {
            let message = format!(
                "a placement is a word or a table, not {}",
                reader::article(other)
            );
            desk.fault_with(&value.span(), message, FORMS);
            None
        }
    }
}

fn from_table(reader: &Reader<'_, '_>) -> Option<Placement> {
    let kind = reader.chosen()?;
    belongs(reader, "format", "header", kind);
    belongs(reader, "in", "placeholder", kind);
    match kind {
        "header" => Some(Placement::Header {
            name: header(reader)?,
            format: if reader.has("format") {
                reader.parsed("format")?
            } else {
                Format::bare()
            },
        }),
        "basic" => basic(reader),
        "query" => Some(Placement::Query {
            name: field(reader, "query")?,
        }),
        "cookie" => cookie(reader),
        "sigv4" => aws::signature(reader),
        _ => substitute(reader),
    }
}

fn belongs(reader: &Reader<'_, '_>, name: &str, to: &str, kind: &str) {
    if reader.has(name) && kind != to {
        let message = format!("\"{name}\" belongs to a placement with \"{to}\"");
        reader.desk.fault(&reader.key_span(name), message);
    }
}

/// What keyward writes itself, or what only one hop may see: a secret there would break the framing or be dropped.
const OWN_HEADERS: [&str; 15] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "cookie",
    "range",
    "content-type",
];

fn header(reader: &Reader<'_, '_>) -> Option<HeaderName> {
    let (text, span) = reader.text("header")?;
    let Ok(name) = text.parse::<HeaderName>() else {
        let message = format!("{} is not the name of a header", quoted(text));
        let help =
            "the name alone, such as \"x-api-key\"; what stands around the secret is \"format\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    };
    if OWN_HEADERS.contains(&name.as_str()) {
        let message = format!("the header \"{name}\" cannot carry a credential");
        let help = match name.as_str() {
            "cookie" => "write { cookie = \"NAME\" }",
            "proxy-authorization" => "did you mean \"authorization\"?",
            _ => {
                "keyward or the agent's library writes this header: it frames or steers the request"
            }
        };
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(name)
}

fn basic(reader: &Reader<'_, '_>) -> Option<Placement> {
    let (user, span) = reader.text("basic")?;
    // RFC 7617 §2: a user-id holds no colon, and neither part a control character.
    if user.contains(':') || user.chars().any(char::is_control) {
        let help = "write the user name alone; the password is the credential";
        let message = "the user name of \"basic\" holds a colon or a control character";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(Placement::Basic { user: user.into() })
}

fn cookie(reader: &Reader<'_, '_>) -> Option<Placement> {
    let (name, span) = reader.text("cookie")?;
    // RFC 6265 §4.1.1: a cookie's name is a token, and so is a header's.
    if name.parse::<HeaderName>().is_err() {
        let message = format!("{} is not the name of a cookie", quoted(name));
        reader.desk.fault(&span, message);
        return None;
    }
    Some(Placement::Cookie { name: name.into() })
}

/// A name that is not empty and holds no control character.
fn field(reader: &Reader<'_, '_>, name: &str) -> Option<Box<str>> {
    reader.plain_text(name).map(String::into_boxed_str)
}

/// A shorter placeholder could stand in a request by chance.
const SHORTEST: usize = 8;

fn substitute(reader: &Reader<'_, '_>) -> Option<Placement> {
    let (text, span) = reader.text("placeholder")?;
    if text.len() < SHORTEST || text.len() > 512 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let message =
            format!("a placeholder is {SHORTEST} to 512 visible ASCII characters without blanks");
        let help = "a text that stands in no request by chance, such as \"KEYWARD-PLACEHOLDER\"";
        reader.desk.fault_with(&span, message, help);
        return None;
    }
    Some(Placement::Substitute {
        placeholder: text.into(),
        slot: slot(reader)?,
    })
}

fn slot(reader: &Reader<'_, '_>) -> Option<Slot> {
    const FORMS: &str = "write in = \"path\", { header = \"x-token\" }, { query = \"key\" }, { json = \"auth.token\" } or { form = \"token\" }";
    let Some(value) = reader.raw("in") else {
        let message = "a placement with \"placeholder\" needs the key \"in\"";
        reader
            .desk
            .missing(&reader.key_span("placeholder"), message, FORMS);
        return None;
    };
    match value.get_ref() {
        DeValue::String(word) if word == "path" => Some(Slot::Path),
        DeValue::Table(_) => {
            let reader = Reader::open_value(
                reader.desk,
                &SLOT,
                "the slot \"in\"".into(),
                value.span(),
                value,
            )?;
            Some(match reader.chosen()? {
                "header" => Slot::Header(header(&reader)?),
                "query" => Slot::Query(field(&reader, "query")?),
                "json" => Slot::Json(json_path(&reader)?),
                _ => Slot::Form(field(&reader, "form")?),
            })
        }
        other => {
            let message = match other {
                DeValue::String(word) => format!("{} is not a slot", quoted(word)),
                other => format!("a slot is not {}", reader::article(other)),
            };
            reader.desk.fault_with(&value.span(), message, FORMS);
            None
        }
    }
}

fn json_path(reader: &Reader<'_, '_>) -> Option<Box<str>> {
    let path = field(reader, "json")?;
    if path.split('.').any(str::is_empty) {
        let span: Span = reader.raw("json")?.span();
        let help = "the keys on the way, such as \"auth.token\"";
        reader
            .desk
            .fault_with(&span, "a dotted path has an empty part", help);
        return None;
    }
    Some(path)
}

/// The place that both write, if there is one.
fn clash(one: &Placement, other: &Placement) -> Option<String> {
    let place = |placement: &Placement| match placement {
        Placement::Bearer | Placement::Basic { .. } | Placement::SigV4(_) => {
            "the header \"authorization\"".to_owned()
        }
        Placement::Header { name, .. } => format!("the header \"{name}\""),
        Placement::ClientCertificate => "the TLS handshake".to_owned(),
        Placement::Query { name } => format!("the query parameter \"{name}\""),
        Placement::Cookie { name } => format!("the cookie \"{name}\""),
        Placement::Substitute { slot, .. } => match slot {
            Slot::Header(name) => format!("the header \"{name}\""),
            Slot::Query(name) => format!("the query parameter \"{name}\""),
            Slot::Path => "the path".into(),
            // A body is read and edited once.
            Slot::Json(_) | Slot::Form(_) => "the body".into(),
        },
    };
    let place_of_one = place(one);
    (place_of_one == place(other)).then_some(place_of_one)
}
