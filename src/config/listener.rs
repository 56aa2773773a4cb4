//! `[proxy]` and `[listener.NAME]`: where agents connect, and what is asked of them.

use std::net::SocketAddr;

use super::fault::{Named, Span};
use super::key::{DAY, Kind, Need, Section, key, millis, secs};
use super::reader::Reader;
use super::source;
use super::values;
use crate::agent::Name;
use crate::proxy::{Identify, Limits, ListenAddr, ListenerSettings, ListenerTls, Unmatched};

pub(super) const DEFAULT_LISTEN: &str = "127.0.0.1:8180";

pub(super) static LISTENER: Section = Section {
    title: "[proxy]",
    keys: &[
        key(
            "listen",
            Kind::List(&Kind::Text("an address")),
            Need::Default("[\"127.0.0.1:8180\"]"),
            "Addresses: `IP:PORT` (port 0 picks one), `tls:IP:PORT` (asks agents for a certificate; needs `tls`), `unix:PATH`, `systemd` or `systemd:NAME` for sockets that systemd hands over. `[listener.NAME]` must name its own.",
        ),
        key(
            "unmatched",
            Kind::Choice(&["refuse", "tunnel"]),
            Need::Default("\"refuse\""),
            "What happens to hosts that no route names. A host that any route names, for whatever agent and port, is never tunnelled.",
        ),
        key(
            "identify",
            Kind::Choice(&["required", "open"]),
            Need::Default("\"required\""),
            "Whether agents must prove who they are. `open` asks nothing: only on loopback and unix sockets, with at most one `[agent.ID]`.",
        ),
        key(
            "base-url",
            Kind::Flag,
            Need::Default("false"),
            "Serves the services of routes with a `preset` under `http://ADDRESS/PRESET/…`, for SDKs that know no proxy; the agent's token is their key. Only on loopback and unix sockets, with `identify = \"required\"`.",
        ),
        key(
            "max-connections",
            Kind::Count(1, 1_000_000),
            Need::Default("10000"),
            "Connections at once, in all.",
        ),
        key(
            "max-connections-per-agent",
            Kind::Count(1, 1_000_000),
            Need::Default("2048"),
            "Connections at once of one agent.",
        ),
        key(
            "header-timeout",
            Kind::Duration(millis(100), secs(600)),
            Need::Default("\"10s\""),
            "From the first byte of a request's head to its last; also for a TLS handshake.",
        ),
        key(
            "idle-timeout",
            Kind::Duration(secs(1), DAY),
            Need::Default("\"5m\""),
            "Time without a byte in either direction.",
        ),
        key(
            "total-timeout",
            Kind::Duration(secs(1), secs(30 * 24 * 3600)),
            Need::Default("\"1h\""),
            "For one request, its answer included. Event streams and upgraded connections are held to idleness only.",
        ),
        key(
            "tls",
            Kind::Table(&TLS),
            Need::Optional,
            "What `tls:` addresses show to agents.",
        ),
    ],
};

pub(super) static TLS: Section = Section {
    title: "[proxy.tls]",
    keys: &[
        key(
            "cert",
            Kind::Path,
            Need::Required,
            "The chain in PEM, the listener's own certificate first.",
        ),
        key(
            "key",
            Kind::Source,
            Need::Required,
            "Its private key, in PEM.",
        ),
    ],
};

/// The listener of a file without `[proxy]` and `[listener.NAME]`.
pub(super) fn unwritten() -> ListenerSettings {
    ListenerSettings {
        name: default_name(),
        listen: DEFAULT_LISTEN
            .parse()
            .map(ListenAddr::Tcp)
            .into_iter()
            .collect(),
        unmatched: Unmatched::Refuse,
        identify: Identify::Required,
        base_url: false,
        limits: Limits::default(),
        tls: None,
    }
}

/// The name of `[proxy]`.
pub(super) fn default_name() -> Name {
    "default".parse().expect("a static name is valid")
}

/// One listener. `agents` is the number of `[agent.ID]`, which bounds `identify = "open"`.
pub(super) fn read(reader: &Reader<'_, '_>, name: Name, agents: usize) -> ListenerSettings {
    let listen = addresses(reader, &name);
    let identify = match reader.choice("identify") {
        Some("open") => Identify::Open,
        _ => Identify::Required,
    };
    if identify == Identify::Open {
        look_at_open(reader, &listen, agents);
    }
    let base_url = reader.flag("base-url");
    if base_url {
        look_at_base_url(reader, &listen, identify);
    }
    let tls = tls(reader, &listen);
    ListenerSettings {
        name,
        tls,
        identify,
        base_url,
        unmatched: match reader.choice("unmatched") {
            Some("tunnel") => Unmatched::Tunnel,
            _ => Unmatched::Refuse,
        },
        limits: Limits {
            max_connections: reader.count("max-connections"),
            max_connections_per_agent: reader.count("max-connections-per-agent"),
            header_timeout: reader.duration("header-timeout"),
            idle_timeout: reader.duration("idle-timeout"),
            total_timeout: reader.duration("total-timeout"),
        },
        listen: listen.into_iter().map(|(addr, _)| addr).collect(),
    }
}

fn tls(reader: &Reader<'_, '_>, listen: &[(ListenAddr, Span)]) -> Option<ListenerTls> {
    let wanting = listen
        .iter()
        .find(|(addr, _)| matches!(addr, ListenAddr::Tls(_)));
    let Some(below) = reader.table("tls") else {
        if let Some((_, span)) = wanting.filter(|_| !reader.has("tls")) {
            let message = "a tls: address needs the listener's certificate";
            let help = format!(
                "write [{}.tls] with cert and key",
                reader.title.trim_matches(['[', ']'])
            );
            reader.desk.fault_with(span, message, help);
        }
        return None;
    };
    if wanting.is_none() {
        let message = "no address of this listener begins with `tls:`";
        let help = "write listen = [\"tls:127.0.0.1:8543\"], or leave `tls` out";
        reader
            .desk
            .fault_with(&reader.key_span("tls"), message, help);
    }
    let cert = below.path("cert");
    if let (Some(cert), Some(value)) = (&cert, below.raw("cert")) {
        let site = Named::Certificates(cert.clone());
        below.desk.site(&value.span(), site);
    }
    let key = source::read(&below, "key");
    cert.zip(key).map(|(cert, key)| ListenerTls { cert, key })
}

fn addresses(reader: &Reader<'_, '_>, name: &Name) -> Vec<(ListenAddr, Span)> {
    if !reader.has("listen") {
        if *name == default_name() {
            return unwritten()
                .listen
                .into_iter()
                .map(|addr| (addr, reader.span.clone()))
                .collect();
        }
        let message = format!("{} needs the key \"listen\"", reader.title);
        reader.desk.missing(
            &reader.span,
            message,
            "for example: listen = [\"127.0.0.1:8280\"]",
        );
    }
    let mut found: Vec<(ListenAddr, Span)> = Vec::new();
    for (text, span) in reader.texts("listen") {
        let Some(addr) = address(reader, text, &span) else {
            continue;
        };
        let picks =
            matches!(addr, ListenAddr::Tcp(addr) | ListenAddr::Tls(addr) if addr.port() == 0);
        if !picks && found.iter().any(|(known, _)| *known == addr) {
            reader
                .desk
                .fault(&span, "this address stands in the list twice");
        } else {
            found.push((addr, span));
        }
    }
    found
}

fn address(reader: &Reader<'_, '_>, text: &str, span: &Span) -> Option<ListenAddr> {
    if let Some(path) = text.strip_prefix("unix:") {
        return values::path(reader.desk, path, span).map(ListenAddr::Unix);
    }
    if let Some(addr) = text.strip_prefix("tls:").and_then(|rest| rest.parse().ok()) {
        return Some(ListenAddr::Tls(addr));
    }
    if text == "systemd" {
        return Some(ListenAddr::Systemd(None));
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        // sd_listen_fds_with_names(3): what FileDescriptorName= allows, as far as anybody uses it.
        let clean = |b: u8| b.is_ascii_graphic() && b != b':';
        if name.is_empty() || name.len() > 255 || !name.bytes().all(clean) {
            let message = "the name of a systemd socket is 1 to 255 visible characters without `:`";
            reader.desk.fault(span, message);
            return None;
        }
        return Some(ListenAddr::Systemd(Some(name.to_owned())));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(ListenAddr::Tcp(addr));
    }
    let message = format!(
        "{} is not an address to listen on",
        super::text::quoted(text)
    );
    reader.desk.fault_with(span, message, address_help(text));
    None
}

/// What was probably meant by something that is no address.
fn address_help(text: &str) -> String {
    let forms = "write \"IP:PORT\" such as \"127.0.0.1:8180\", \"tls:IP:PORT\", \"unix:PATH\" or \"systemd\"";
    let port = text
        .strip_prefix(':')
        .or_else(|| text.strip_prefix("localhost:"))
        .unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => format!("did you mean \"127.0.0.1:{port}\"?"),
        Err(_) if text.starts_with('/') => format!("did you mean \"unix:{text}\"?"),
        Err(_) => forms.into(),
    }
}

/// Base URLs are spoken in clear text, so the token on them must not leave the machine; and without a token any web page
/// could try.
fn look_at_base_url(reader: &Reader<'_, '_>, listen: &[(ListenAddr, Span)], identify: Identify) {
    let span = reader.key_span("base-url");
    for (addr, _) in listen {
        let message = match addr {
            ListenAddr::Tcp(addr) if !addr.ip().is_loopback() => {
                format!("base-url = true would have tokens sent to {addr} without TLS")
            }
            ListenAddr::Systemd(_) => {
                "base-url = true needs an address that is known to be local, and systemd's is not"
                    .into()
            }
            ListenAddr::Tls(_) => {
                "base-url = true on a `tls:` address: SDKs with a base URL know no certificate of ours"
                    .into()
            }
            ListenAddr::Tcp(_) | ListenAddr::Unix(_) => continue,
        };
        let help = "listen on 127.0.0.1, [::1] or a unix socket, or leave base-url out";
        reader.desk.fault_with(&span, message, help);
    }
    if identify == Identify::Open {
        let message = "base-url = true needs an agent's token in place of the key".to_owned();
        let help = "write identify = \"required\", or leave base-url out";
        reader.desk.fault_with(&span, message, help);
    }
}

/// Whoever reaches an open listener uses the credentials: it must be out of reach of others.
fn look_at_open(reader: &Reader<'_, '_>, listen: &[(ListenAddr, Span)], agents: usize) {
    let help = "write identify = \"required\", or listen on 127.0.0.1, [::1] or a unix socket";
    for (addr, span) in listen {
        let message = match addr {
            ListenAddr::Tcp(addr) | ListenAddr::Tls(addr) if !addr.ip().is_loopback() => {
                format!("identify = \"open\" would lend the credentials to whoever reaches {addr}")
            }
            ListenAddr::Systemd(_) => {
                "identify = \"open\" needs an address that is known to be local, and systemd's is not".into()
            }
            ListenAddr::Tcp(_) | ListenAddr::Tls(_) | ListenAddr::Unix(_) => continue,
        };
        reader.desk.fault_with(span, message, help);
    }
    if agents > 1 {
        let message = format!("identify = \"open\" cannot tell {agents} agents apart");
        let help =
            "write identify = \"required\" and give each agent a token, or keep one [agent.ID]";
        let span = reader
            .raw("identify")
            .map_or(reader.span.clone(), toml::Spanned::span);
        reader.desk.fault_with(&span, message, help);
    }
}
