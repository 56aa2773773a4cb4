//! The proxy variables of this environment: whether they lead to the file's listener, and what leads past it.

use super::Finding;
use crate::app::Environment;
use crate::config::Config;
use crate::proxy::ListenAddr;

const NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
const CHECK: &str = "variables";

/// Looks at what an agent started from this shell would be told.
pub(super) fn look(config: &Config, environment: &Environment) -> Vec<Finding> {
    let value = |name: &str| {
        let value = environment.get(name)?.to_str()?;
        (!value.is_empty()).then_some(value)
    };
    let set: Vec<(&str, &str)> = NAMES
        .iter()
        .filter_map(|name| Some((*name, value(name)?)))
        .collect();
    if set.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "no proxy variable is set in this shell: `keyward env` prints those of an agent, and they are tried below",
        )];
    }
    let mut found = Vec::new();
    for (name, url) in &set {
        if !url.starts_with("http://") {
            let message = format!("{name} is no http:// URL: several clients know no other kind");
            found.push(Finding::fail(
                CHECK,
                message,
                "http://AGENT:TOKEN@HOST:PORT",
            ));
        } else if !leads_here(config, url) {
            let message = format!("{name} leads to another proxy than this file's listeners");
            let help = "eval \"$(keyward env -c FILE)\" sets it for this shell";
            found.push(Finding::fail(CHECK, message, help));
        }
    }
    for (upper, lower) in [("HTTPS_PROXY", "https_proxy"), ("HTTP_PROXY", "http_proxy")] {
        if value(upper) != value(lower) {
            let message = format!("{upper} and {lower} differ: each client reads one of them");
            found.push(Finding::warn(CHECK, message, "set both to the same"));
        }
    }
    for name in ["ALL_PROXY", "all_proxy"] {
        if value(name).is_some() {
            let message = format!("{name} is set: some clients take it before the others");
            found.push(Finding::warn(CHECK, message, format!("unset {name}")));
        }
    }
    if value("NODE_TLS_REJECT_UNAUTHORIZED") == Some("0") {
        let message = "NODE_TLS_REJECT_UNAUTHORIZED=0: Node verifies no certificate at all";
        found.push(Finding::fail(
            CHECK,
            message,
            "unset NODE_TLS_REJECT_UNAUTHORIZED",
        ));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        for past in value(name)
            .map(|list| past(config, list))
            .unwrap_or_default()
        {
            let help = format!(
                "take it out of {name}: such requests go without keyward, and without the key"
            );
            found.push(Finding::fail(CHECK, format!("{name} has {past}"), help));
        }
    }
    if value("NODE_USE_ENV_PROXY") != Some("1") {
        let message = "NODE_USE_ENV_PROXY is not 1: fetch of Node 24 reads no proxy without it";
        found.push(Finding::warn(CHECK, message, "export NODE_USE_ENV_PROXY=1"));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            CHECK,
            "the proxy variables lead to this file's listener",
        ));
    }
    found
}

/// Whether a proxy URL names the port of one of the file's listeners, at an address that may be it.
fn leads_here(config: &Config, url: &str) -> bool {
    let place = url.trim_start_matches("http://").trim_end_matches('/');
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let port = place
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    (config
        .listeners
        .iter()
        .flat_map(|listener| &listener.listen))
    .any(|listen| match listen {
        ListenAddr::Tcp(address) => address.port() == 0 || Some(address.port()) == port,
        ListenAddr::Unix(_) => false,
        ListenAddr::Systemd(_) => true,
    })
}

/// The entries of a NO_PROXY list that cover a host of a route: clients match suffixes, with and without a dot before.
fn past(config: &Config, list: &str) -> Vec<String> {
    let hosts: Vec<String> = (config.routes.iter().flat_map(|route| &route.hosts))
        .map(|host| host.to_string().trim_start_matches("*.").to_owned())
        .collect();
    list.split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .filter_map(|entry| {
            let bare = entry
                .trim_start_matches('*')
                .trim_start_matches('.')
                .to_lowercase();
            let covers = |host: &&String| {
                let host = host.split(':').next().unwrap_or_default();
                bare.is_empty() || host == bare || host.ends_with(&format!(".{bare}"))
            };
            let host = hosts.iter().find(covers)?;
            Some(format!("`{entry}`, which covers {host}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::State;
    use super::*;
    use crate::config;
    use crate::preset::Presets;

    fn found(pairs: &[(&str, &str)]) -> Vec<Finding> {
        let text =
            "[proxy]\nlisten = [\"127.0.0.1:8180\"]\n[[route]]\nhosts = [\"api.openai.com\"]\n";
        let config = config::parse(text, "x", Path::new(""), &**Presets::shipped()).unwrap();
        let pairs = pairs.iter();
        let environment = pairs.map(|(name, value)| ((*name).to_owned(), (*value).into()));
        look(&config.config, &Arc::new(environment.collect()))
    }

    #[test]
    fn each_way_past_the_proxy_is_found() {
        let good = "http://a:t@127.0.0.1:8180";
        let all = |no_proxy: &'static str, more: (&'static str, &'static str)| {
            let mut pairs: Vec<(&str, &str)> = NAMES.iter().map(|name| (*name, good)).collect();
            pairs.extend([("NO_PROXY", no_proxy), ("NODE_USE_ENV_PROXY", "1"), more]);
            found(&pairs)
        };
        let none = ("X", "");
        assert_eq!(all("localhost,127.0.0.1,::1", none)[0].state, State::Ok);
        for trap in [
            "*",
            ".openai.com",
            "com",
            "openai.com",
            "a,api.openai.com",
            "*.openai.com",
        ] {
            let found = all(trap, none);
            assert_eq!(found[0].state, State::Fail, "{trap}");
            assert!(found[0].message.contains("api.openai.com"), "{trap}");
        }
        assert_eq!(all("penai.com", none)[0].state, State::Ok);
        for (more, state) in [
            (("ALL_PROXY", "socks5://x"), State::Warn),
            (("NODE_TLS_REJECT_UNAUTHORIZED", "0"), State::Fail),
            (("https_proxy", "http://127.0.0.1:3128"), State::Fail),
            (("https_proxy", "https://127.0.0.1:8180"), State::Fail),
            (("https_proxy", ""), State::Warn),
        ] {
            assert_eq!(all("", more)[0].state, state, "{more:?}");
        }
        assert_eq!(found(&[])[0].state, State::Ok);
    }
}
