//! `[admin]`: health and metrics for everybody, the API and the console for operators.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;

use super::key::{Kind, Need, Section, key};
use super::reader::{self, Reader};
use super::source;
use crate::agent::Name;
use crate::credential::Source;

pub(super) static ADMIN: Section = Section {
    title: "[admin]",
    keys: &[
        key(
            "listen",
            Kind::Text("an address, \"IP:PORT\""),
            Need::Optional,
            "Open: `/healthz`, `/readyz`, `/metrics`. The API and the console need an operator's token.",
        ),
        key(
            "socket",
            Kind::Path,
            Need::Optional,
            "A unix socket for the command line, mode 0600: keyward's own uid and root need no token.",
        ),
        key(
            "public-url",
            Kind::Guarded("a URL without a path"),
            Need::Optional,
            "How the admin side is reached from outside; left out, `http://` and `listen`.",
        ),
        key(
            "tokens",
            Kind::Map(&Kind::Source),
            Need::Optional,
            "Operators: NAME = the source of their token. NAME is who acts, in the audit.",
        ),
    ],
};

/// `[admin]`, resolved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Admin {
    /// `listen`.
    pub listen: Option<SocketAddr>,
    /// `socket`.
    pub socket: Option<PathBuf>,
    /// `public-url`, without a slash at its end.
    pub public_url: Option<String>,
    /// `tokens`, in the file's order.
    pub tokens: Vec<(Name, Source)>,
}

pub(super) fn read(reader: &Reader<'_, '_>) -> Admin {
    Admin {
        listen: listen(reader),
        socket: reader.path("socket"),
        public_url: public_url(reader),
        tokens: tokens(reader),
    }
}

fn listen(reader: &Reader<'_, '_>) -> Option<SocketAddr> {
    let (text, span) = reader.text("listen")?;
    let addr = text.parse().ok();
    if addr.is_none() {
        let message = format!(
            "{} is not an address to listen on",
            super::text::quoted(text)
        );
        let help =
            "write \"IP:PORT\", such as \"127.0.0.1:8181\"; a unix socket is the key \"socket\"";
        reader.desk.fault_with(&span, message, help);
    }
    addr
}

fn public_url(reader: &Reader<'_, '_>) -> Option<String> {
    let (text, span) = reader.text("public-url")?;
    let plain = text.parse::<Uri>().ok().filter(|uri| {
        let web = matches!(uri.scheme_str(), Some("https" | "http"));
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
        web && bare && authority && !text.contains('#')
    });
    if plain.is_none() {
        let message = "\"public-url\" is https:// or http:// and a host, without user, path, query or fragment";
        let help = "such as \"https://keyward.example.com\"";
        reader.desk.fault_with(&span, message, help);
    }
    plain.map(|_| text.trim_end_matches('/').to_owned())
}

/// Whether audit records call somebody so who has no token.
pub(super) fn is_taken(name: &str) -> bool {
    let uid = name.strip_prefix("uid-");
    name == "console" || uid.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

fn tokens(reader: &Reader<'_, '_>) -> Vec<(Name, Source)> {
    let mut tokens = Vec::new();
    for (key, value) in reader.entries("tokens") {
        let name = reader::parse_name(reader.desk, key).filter(|name| {
            let taken = is_taken(name.as_str());
            if taken {
                let message = format!("{} is keyward's own name for somebody", super::text::quoted(name.as_str()));
                let help = "`console` is whoever opens the URL of the log, and `uid-N` a user at the socket: choose another";
                reader.desk.fault_with(&key.span(), message, help);
            }
            !taken
        });
        let label = name.as_ref().map_or("tokens", Name::as_str);
        let source = source::value(reader.desk, label, value);
        tokens.extend(name.zip(source));
    }
    tokens
}
