//! `[upstream]`: whom keyward trusts, and how it gets there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

use super::fault::{Desk, Named, Span};
use super::key::{Kind, Need, Section, key, millis, secs};
use super::reader::{self, Reader};
use super::text::quoted;
use super::values;
use crate::host::{Scheme, Target};
use crate::proxy::UpstreamSettings;
use crate::tls::TrustSettings;

pub(super) static UPSTREAM: Section = Section {
    title: "[upstream]",
    keys: &[
        key(
            "trust",
            Kind::List(&Kind::Text("\"system\" or a PEM file")),
            Need::Default("[\"system\"]"),
            "Whose certificates are trusted: `system` and PEM files.",
        ),
        key(
            "allow-private",
            Kind::List(&Kind::Text("a network, such as \"10.20.0.0/16\"")),
            Need::Optional,
            "Addresses otherwise refused: loopback, private, link-local. Cloud metadata and keyward's own listeners are refused whatever stands here.",
        ),
        key(
            "connect-to",
            Kind::Map(&Kind::Text("\"HOST:PORT\"")),
            Need::Optional,
            "`\"HOST:PORT\" = \"HOST:PORT\"`: dials the right side for the left; name and TLS checks stay those of the left. Private addresses are allowed here.",
        ),
        key(
            "via",
            Kind::Guarded("a proxy, such as \"http://proxy.example:3128\""),
            Need::Optional,
            "A parent proxy, `http://HOST:PORT`.",
        ),
        key(
            "connect-timeout",
            Kind::Duration(millis(100), secs(300)),
            Need::Default("\"10s\""),
            "For name, TCP and TLS together.",
        ),
    ],
};

pub(super) fn read(reader: &Reader<'_, '_>) -> UpstreamSettings {
    UpstreamSettings {
        trust: trust(reader),
        allow_private: networks(reader, "allow-private"),
        connect_to: connect_to(reader),
        via: via(reader),
        connect_timeout: reader.duration("connect-timeout"),
    }
}

fn trust(reader: &Reader<'_, '_>) -> TrustSettings {
    if !reader.has("trust") {
        return UpstreamSettings::default().trust;
    }
    let mut trust = TrustSettings {
        system: false,
        pem: Vec::new(),
    };
    for (text, span) in reader.texts("trust") {
        if text == "system" {
            trust.system = true;
        } else if let Some(path) = values::path(reader.desk, text, &span) {
            reader.desk.site(&span, Named::Certificates(path.clone()));
            trust.pem.push(path);
        }
    }
    trust
}

/// A list of networks; a bare address is a network of one.
pub(super) fn networks(reader: &Reader<'_, '_>, name: &str) -> Vec<IpNet> {
    let texts = reader.texts(name).into_iter();
    texts
        .filter_map(|(text, span)| network(reader.desk, text, &span))
        .collect()
}

fn network(desk: &Desk, text: &str, span: &Span) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let Ok(net) = text.parse::<IpNet>().or_else(|_| single()) else {
        let message = format!("{} is not a network", quoted(text));
        desk.fault_with(span, message, "such as \"10.20.0.0/16\" or \"fd00::/8\"");
        return None;
    };
    if net != net.trunc() {
        let message = format!("{net} has bits beyond its length");
        desk.fault_with(span, message, format!("did you mean \"{}\"?", net.trunc()));
        return None;
    }
    Some(net)
}

fn connect_to(reader: &Reader<'_, '_>) -> BTreeMap<Target, Target> {
    let mut map = BTreeMap::new();
    for (key, value) in reader.entries("connect-to") {
        let from = target(reader.desk, key.get_ref(), &key.span());
        let toml::de::DeValue::String(text) = value.get_ref() else {
            let message = format!(
                "\"connect-to\" leads to {}",
                reader::article(value.get_ref())
            );
            reader
                .desk
                .fault_with(&value.span(), message, "write it as text, \"HOST:PORT\"");
            continue;
        };
        let to = target(reader.desk, text, &value.span());
        if let Some((from, to)) = from.zip(to)
            && map.insert(from, to).is_some()
        {
            let message = "another spelling of this host and port stands here already";
            reader.desk.fault(&key.span(), message);
        }
    }
    map
}

fn target(desk: &Desk, text: &str, span: &Span) -> Option<Target> {
    match Target::from_connect(text) {
        Ok(target) => Some(target),
        Err(error) => {
            let message = format!("{} is not a host and a port: {error}", quoted(text));
            let help =
                "both sides of \"connect-to\" are \"HOST:PORT\", such as \"api.example.com:443\"";
            desk.fault_with(span, message, help);
            None
        }
    }
}

/// The text is never shown: `http://user:password@proxy` is a common spelling.
fn via(reader: &Reader<'_, '_>) -> Option<Target> {
    let (text, span) = reader.text("via")?;
    let fault = |message: &str| {
        let help = "write \"http://HOST:PORT\", without user, password and path";
        reader.desk.fault_with(&span, message, help);
    };
    let Ok(uri) = text.parse::<Uri>() else {
        fault("this is not the URL of a proxy");
        return None;
    };
    let authority = uri.authority().map_or("", |a| a.as_str());
    if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") || uri.query().is_some()
    {
        fault("a parent proxy is reached by http://, and its URL ends with the port");
        return None;
    }
    if authority.contains('@') {
        fault("a secret never stands in this file, and a parent proxy gets no user and password");
        return None;
    }
    match (uri.port(), Target::from_authority(Scheme::Http, authority)) {
        (Some(_), Ok(target)) => Some(target),
        (None, Ok(_)) => {
            fault("the parent proxy has no port");
            None
        }
        (_, Err(error)) => {
            fault(&format!("the parent proxy is no host: {error}"));
            None
        }
    }
}
