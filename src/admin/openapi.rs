//! `/openapi.json`: what `/api/v1` answers, for programs and for the people who write them (OpenAPI 3.1).
//!
//! One table of paths and one of objects; the document is made of them once, when somebody first asks.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// A path below `/api/v1` with one method.
struct Operation {
    path: &'static str,
    method: &'static str,
    what: &'static str,
    takes: &'static [(&'static str, &'static str)],
    gives: Gives,
    refuses: &'static [u16],
}

/// What an operation answers when it is done.
enum Gives {
    /// 204.
    Nothing,
    /// 200, with one object of this name.
    One(&'static str),
    /// 200, with a list of them.
    List(&'static str),
}

use Gives::{List, Nothing, One};

/// Why an agent is suspended, or let act again.
const REASON: &[(&str, &str)] = &[("reason", "text")];

const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/login",
        method: "get",
        what: "Who the caller is",
        takes: &[],
        gives: One("caller"),
        refuses: &[],
    },
    Operation {
        path: "/login",
        method: "post",
        what: "Begins a person's sign-in; needs no token. With `port` its answer comes to that port of the caller's own 127.0.0.1; with `device` a code is shown",
        takes: &[("login", "text"), ("port", "number"), ("device", "flag")],
        gives: One("begun"),
        refuses: &[400, 503],
    },
    Operation {
        path: "/login",
        method: "delete",
        what: "Ends the sign-in of the person who calls",
        takes: &[],
        gives: Nothing,
        refuses: &[409, 503],
    },
    Operation {
        path: "/login/finish",
        method: "post",
        what: "Goes on with a sign-in; needs no token. `answer` is the query that came to the port; without it, how a device's sign-in stands",
        takes: &[("handle", "text"), ("answer", "text")],
        gives: One("signed-in"),
        refuses: &[400, 503],
    },
    Operation {
        path: "/sessions",
        method: "get",
        what: "The sessions that live",
        takes: &[],
        gives: List("session"),
        refuses: &[503],
    },
    Operation {
        path: "/sessions/{session}",
        method: "get",
        what: "One session",
        takes: &[],
        gives: One("session"),
        refuses: &[404, 503],
    },
    Operation {
        path: "/sessions/{session}",
        method: "delete",
        what: "Ends a session and every session that came of it",
        takes: &[],
        gives: Nothing,
        refuses: &[404, 503],
    },
    Operation {
        path: "/agents",
        method: "get",
        what: "The registry: agents of the file and of the store",
        takes: &[],
        gives: List("agent"),
        refuses: &[],
    },
    Operation {
        path: "/agents/{agent}",
        method: "get",
        what: "One agent",
        takes: &[],
        gives: One("agent"),
        refuses: &[404],
    },
    Operation {
        path: "/agents/{agent}",
        method: "put",
        what: "Keeps an agent's entry in the store",
        takes: ENTRY,
        gives: One("agent"),
        refuses: &[400, 503],
    },
    Operation {
        path: "/agents/{agent}",
        method: "delete",
        what: "Takes an agent's entry out of the store",
        takes: &[],
        gives: Nothing,
        refuses: &[404, 409, 503],
    },
    Operation {
        path: "/agents/{agent}/suspend",
        method: "post",
        what: "Suspends an agent: its sessions end, its leases are revoked",
        takes: REASON,
        gives: One("agent"),
        refuses: &[404, 503],
    },
    Operation {
        path: "/agents/{agent}/resume",
        method: "post",
        what: "Lets a suspended agent act again",
        takes: REASON,
        gives: One("agent"),
        refuses: &[404, 409, 503],
    },
    Operation {
        path: "/leases",
        method: "get",
        what: "The leases that live, or are being revoked",
        takes: &[],
        gives: List("lease"),
        refuses: &[],
    },
    Operation {
        path: "/leases/{lease}",
        method: "delete",
        what: "Withdraws a lease and revokes it at its issuer",
        takes: &[],
        gives: Nothing,
        refuses: &[404],
    },
    Operation {
        path: "/credentials/{credential}/revoke",
        method: "post",
        what: "Withdraws all leases of a credential",
        takes: &[],
        gives: One("revoked"),
        refuses: &[404],
    },
    Operation {
        path: "/approvals",
        method: "get",
        what: "What agents ask of people, and what became of it",
        takes: &[],
        gives: List("approval"),
        refuses: &[400, 503],
    },
    Operation {
        path: "/approvals/{approval}",
        method: "get",
        what: "One approval",
        takes: &[],
        gives: One("approval"),
        refuses: &[404, 503],
    },
    Operation {
        path: "/approvals/{approval}/approve",
        method: "post",
        what: "Says yes, as an approver",
        takes: REASON,
        gives: One("approval"),
        refuses: &[400, 404, 409, 503],
    },
    Operation {
        path: "/approvals/{approval}/deny",
        method: "post",
        what: "Says no, as an approver",
        takes: REASON,
        gives: One("approval"),
        refuses: &[400, 404, 409, 503],
    },
    Operation {
        path: "/audit",
        method: "get",
        what: "The records of the trail that match, oldest first",
        takes: &[],
        gives: List("record"),
        refuses: &[400, 409, 503],
    },
    Operation {
        path: "/reload",
        method: "post",
        what: "Reads the configuration again, and takes it whole or not at all",
        takes: &[],
        gives: One("reloaded"),
        refuses: &[409],
    },
];

/// The registry's keys.
const ENTRY: &[(&str, &str)] = &[
    ("purpose", "text or null"),
    ("owner", "text or null"),
    ("permissions", "texts or null"),
    ("tools", "texts or null"),
    ("data-class", "text or null"),
    ("environment", "text or null"),
    ("created", "day or null"),
    ("last-audit", "day or null"),
    ("status", "active, suspended or deprecated"),
];

/// The members of each object, with their kinds; of a `record` docs/audit.md tells them.
const OBJECTS: &[(&str, &[(&str, &str)])] = &[
    (
        "session",
        &[
            ("session", "text"),
            ("agent", "text"),
            ("user", "text or null"),
            ("chain", "texts"),
            ("trust", "text"),
            ("depth", "number"),
            ("parent", "text or null"),
            ("scope", "text"),
            ("created", "time"),
            ("expires", "time or null"),
            ("last-used", "time"),
            ("bound", "text or null"),
            ("leases", "texts"),
        ],
    ),
    (
        "agent",
        &[
            ("agent", "text"),
            ("last-used", "time or null"),
            ("stale", "flag"),
            ("source", "text"),
        ],
    ),
    (
        "lease",
        &[
            ("lease", "text"),
            ("credential", "text"),
            ("provider", "text"),
            ("agent", "text or null"),
            ("user", "text or null"),
            ("session", "text or null"),
            ("scopes", "texts or null"),
            ("issued", "time"),
            ("expires", "time or null"),
            ("state", "live or revoking"),
        ],
    ),
    (
        "approval",
        &[
            ("approval", "text"),
            ("name", "text"),
            ("status", "pending, approved, denied, expired or used"),
            ("session", "text"),
            ("agent", "text"),
            ("user", "text or null"),
            ("chain", "texts"),
            ("method", "text or null"),
            ("url", "text or null"),
            ("scopes", "texts or null"),
            ("headers", "objects"),
            ("body-sha256", "text or null"),
            ("sub-agent", "text or null"),
            ("life", "number or null"),
            ("digest", "text"),
            ("code", "text"),
            ("requested", "time"),
            ("expires", "time"),
            ("needed", "number"),
            ("decisions", "objects"),
            ("asks", "number"),
        ],
    ),
    (
        "caller",
        &[
            ("operator", "text or null"),
            ("user", "text or null"),
            ("provider", "text or null"),
        ],
    ),
    (
        "begun",
        &[
            ("handle", "text"),
            ("state", "text or null"),
            ("url", "text or null"),
            ("user-code", "text or null"),
            ("verification-uri", "text or null"),
            ("verification-uri-complete", "text or null"),
            ("interval", "number or null"),
            ("expires", "time or null"),
        ],
    ),
    (
        "signed-in",
        &[
            ("status", "pending or done"),
            ("interval", "number or null"),
            ("token", "text or null"),
            ("user", "text or null"),
            ("provider", "text or null"),
            ("expires", "time or null"),
        ],
    ),
    ("revoked", &[("credential", "text"), ("leases", "texts")]),
    (
        "reloaded",
        &[("outcome", "loaded"), ("needs-restart", "texts")],
    ),
    ("record", &[]),
];

/// What `GET /audit` asks by.
const QUERY: [&str; 8] = [
    "agent", "user", "host", "word", "since", "until", "after", "limit",
];

/// The document, as it is sent.
pub(super) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths
            .entry(format!("/api/v1{}", operation.path))
            .or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.to_owned(), operation.shown());
        }
    }
    let schemas: Map<String, Value> = OBJECTS
        .iter()
        .map(|(name, members)| {
            let (entry, reason) = if *name == "agent" {
                (ENTRY, REASON)
            } else {
                (&[][..], &[][..])
            };
            (
                (*name).to_owned(),
                object(members.iter().chain(entry).chain(reason), members),
            )
        })
        .chain([("problem".to_owned(), problem())])
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "keyward",
            "summary": "The operators' side",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A token of [admin] tokens" },
            },
            "schemas": schemas,
        },
    })
}

impl Operation {
    fn shown(&self) -> Value {
        let named = self
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = named
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        if self.path == "/approvals" {
            parameters
                .push(json!({ "name": "status", "in": "query", "schema": { "type": "string" } }));
        }
        if self.path == "/audit" {
            parameters.extend(QUERY.map(
                |name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }),
            ));
        }
        let mut responses = Map::new();
        let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        match self.gives {
            Nothing => {
                responses.insert("204".into(), json!({ "description": "Done" }));
            }
            One(name) => {
                responses.insert(
                    "200".into(),
                    json!({
                        "description": "Done",
                        "content": { "application/json": { "schema": reference(name) } },
                    }),
                );
            }
            List(name) => {
                let list = json!({
                    "type": "object",
                    "required": ["items", "next"],
                    "properties": { "items": { "type": "array", "items": reference(name) }, "next": {} },
                });
                responses.insert(
                    "200".into(),
                    json!({
                        "description": "A list",
                        "content": { "application/json": { "schema": list } },
                    }),
                );
            }
        }
        for status in [401, 403].iter().chain(self.refuses) {
            responses.insert(
                status.to_string(),
                json!({
                    "description": "Refused (RFC 9457)",
                    "content": { "application/problem+json": { "schema": reference("problem") } },
                }),
            );
        }
        let mut shown =
            json!({ "summary": self.what, "parameters": parameters, "responses": responses });
        if let (Some(shown), false) = (shown.as_object_mut(), self.takes.is_empty()) {
            let body = json!({ "content": { "application/json": { "schema": object(self.takes.iter(), &[]) } } });
            shown.insert("requestBody".into(), body);
        }
        shown
    }
}

fn object<'a>(
    members: impl Iterator<Item = &'a (&'a str, &'a str)>,
    required: &[(&str, &str)],
) -> Value {
    let properties: Map<String, Value> = members
        .map(|(name, kind)| ((*name).to_owned(), member(kind)))
        .collect();
    let required: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn member(kind: &str) -> Value {
    let (kind, nullable) = match kind.strip_suffix(" or null") {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let name = match kind {
        "number" => "integer",
        "flag" => "boolean",
        "texts" | "objects" => "array",
        _ => "string",
    };
    let mut shown = if nullable {
        json!({ "type": [name, "null"] })
    } else {
        json!({ "type": name })
    };
    let more = match kind {
        "time" => Some(("format", json!("date-time"))),
        "day" => Some(("format", json!("date"))),
        "texts" => Some(("items", json!({ "type": "string" }))),
        "objects" => Some(("items", json!({ "type": "object" }))),
        "text" | "number" | "flag" => None,
        other => Some(("description", json!(other))),
    };
    if let (Some(shown), Some((key, value))) = (shown.as_object_mut(), more) {
        shown.insert(key.into(), value);
    }
    shown
}

fn problem() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "urn:keyward:refusal:WORD" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "what to do next" },
        },
        "required": ["type", "status", "detail"],
    })
}
