//! The hosts of a route: what was written or what its preset gives, and whether strangers could own one of them.

use toml::Spanned;

use super::PresetRoute;
use super::fault::Span;
use super::reader::Reader;
use super::text::quoted;
use crate::host::{HostMatch, HostPattern};

/// Hosts, each with the place in the file that gave it.
pub(super) fn read(
    reader: &Reader<'_, '_>,
    preset: Option<&PresetRoute>,
) -> Vec<(HostPattern, Span)> {
    if !reader.has("hosts") {
        if let Some(preset) = preset.filter(|preset| !preset.hosts.is_empty()) {
            let span = reader
                .raw("preset")
                .map_or(reader.span.clone(), Spanned::span);
            return preset
                .hosts
                .iter()
                .map(|host| (host.clone(), span.clone()))
                .collect();
        }
        if !reader.has("preset") || preset.is_some() {
            let message = "the route names no hosts";
            let help = "add hosts = [\"api.example.com\"], or a preset that has hosts of its own";
            reader.desk.missing(&reader.span, message, help);
        }
        return Vec::new();
    }
    let mut found: Vec<(HostPattern, Span)> = Vec::new();
    for (text, span) in reader.texts("hosts") {
        let pattern = match text.parse::<HostPattern>() {
            Ok(pattern) => pattern,
            Err(error) => {
                let message = if text.contains("://") {
                    format!("{} is a URL; a route names hosts", quoted(text))
                } else {
                    format!("{} is not a host: {error}", quoted(text))
                };
                match host_help(text) {
                    Some(help) => reader.desk.fault_with(&span, message, help),
                    None => reader.desk.fault(&span, message),
                }
                continue;
            }
        };
        if found.iter().any(|(known, _)| *known == pattern) {
            reader.desk.warn(
                &span,
                format!("{pattern} stands in the list twice"),
                "leave one of them out",
            );
        } else {
            found.push((pattern, span));
        }
    }
    found
}

/// The host of a URL, or the star's right place.
fn host_help(text: &str) -> Option<String> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.split(['/', '?', '#']).next()?.trim_end_matches('.');
    let likely = match bare.strip_prefix('.') {
        Some(rest) => format!("*.{rest}"),
        None => bare.to_ascii_lowercase(),
    };
    let fits = likely != text && likely.parse::<HostPattern>().is_ok();
    let star = "`*.` stands first and is exactly one label: \"*.example.com\"";
    if fits {
        Some(format!("did you mean {}?", quoted(&likely)))
    } else {
        text.contains('*').then(|| star.into())
    }
}

/// A wildcard over a zone in which strangers own names would hand them the credential.
pub(super) fn look_at(
    reader: &Reader<'_, '_>,
    host: &HostPattern,
    span: &Span,
    credentialed: bool,
) {
    if credentialed && host.port == 80 {
        let message = format!("{host}: nothing is ever injected over cleartext");
        reader
            .desk
            .warn(span, message, "leave the port out, or the credential");
    }
    let HostMatch::OneLabel(parent) = &host.kind else {
        return;
    };
    let suffix = psl::suffix(parent.as_bytes());
    let public = suffix.is_some_and(|suffix| suffix.is_known() && suffix == parent.as_bytes());
    if !public {
        return;
    }
    let message = format!("anybody can own a name under \"{parent}\" (the public suffix list)");
    if credentialed {
        let help = "name the hosts that the credential is for: a stranger's host would receive it";
        reader.desk.fault_with(span, message, help);
    } else {
        reader
            .desk
            .warn(span, message, "name the hosts that are meant");
    }
}
