//! Whether the file's hosts and issuers can be reached and verified from here, and this clock against theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::header::DATE;
use http::{HeaderMap, Method, Request};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::task::JoinSet;

use super::{Finding, issuers};
use crate::app::Environment;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::host::HostMatch;
use crate::issuer::{Client, Network};
use crate::tls::Connector;

const PATIENCE: Duration = Duration::from_secs(8);
/// More are not asked.
const MOST: usize = 32;
/// What a certificate's and a token's issuer forgives, in seconds.
const FORGIVEN: i64 = 30;

/// Calls issuers and hosts, without a credential, and compares this clock with theirs.
pub(super) async fn look(config: &Config, environment: &Environment) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let connector = match Connector::new(&config.upstream.trust, None, Arc::clone(&clock)) {
        Ok(connector) => connector,
        Err(error) => {
            let help = "look at trust in [upstream]";
            return vec![Finding::fail("reach", error.to_string(), help)];
        }
    };
    let client = Network::new(connector, config.upstream.connect_to.clone()).client();
    let (mut found, mut offsets) = issuers::look(config, &client, environment).await;
    if config.upstream.via.is_some() {
        let message = "upstreams are reached through the parent proxy `via`: hosts are not tried";
        found.push(Finding::ok("reach", message));
    } else {
        let (of_hosts, theirs) = hosts(config, &client).await;
        found.extend(of_hosts);
        offsets.extend(theirs);
    }
    offsets.sort_unstable();
    // One wrong server among many must not accuse this clock.
    found.extend(offsets.get(offsets.len() / 2).copied().map(clock_finding));
    found
}

/// Asks each single host of the routes for `/`: any answer will do.
async fn hosts(config: &Config, client: &Client) -> (Vec<Finding>, Vec<i64>) {
    let hosts: BTreeSet<String> = (config.routes.iter().flat_map(|route| &route.hosts))
        .filter(|host| matches!(host.kind, HostMatch::Exact(_)))
        .map(ToString::to_string)
        .collect();
    let mut asked = JoinSet::new();
    for host in hosts.into_iter().take(MOST) {
        let client = client.clone();
        asked.spawn(async move {
            let request = Request::builder()
                .method(Method::HEAD)
                .uri(format!("https://{host}/"))
                .body(Bytes::new());
            let Ok(request) = request else {
                return (host, None);
            };
            let answer = tokio::time::timeout(PATIENCE, client.send(request)).await;
            let answer = answer.ok().and_then(Result::ok);
            (host, answer.map(|answer| offset(&answer.headers)))
        });
    }
    let mut answers: Vec<(String, Option<Option<i64>>)> = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort();
    let mut found: Vec<Finding> = Vec::new();
    for (host, answer) in &answers {
        found.push(match answer {
            Some(_) => Finding::ok("reach", format!("{host} answers, and its certificate verifies")),
            None => Finding::fail(
                "reach",
                format!("{host} cannot be reached, or its certificate does not verify"),
                "look at name resolution and firewall; a company's root belongs in trust of [upstream], its proxy in via",
            ),
        });
    }
    let offsets = answers.iter().filter_map(|(_, answer)| (*answer)?);
    let offsets = offsets.collect();
    (found, offsets)
}

/// How far this clock is ahead of an answer's `Date`, in seconds.
pub(super) fn offset(headers: &HeaderMap) -> Option<i64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(Timestamp::now().as_second() - theirs.as_second())
}

fn clock_finding(offset: i64) -> Finding {
    if offset.abs() <= FORGIVEN {
        let message = format!("this clock is within {FORGIVEN} s of the services' own");
        return Finding::ok("clock", message);
    }
    let way = if offset > 0 { "ahead of" } else { "behind" };
    let message = format!("this clock is {} s {way} the services' own", offset.abs());
    let help = "set it, and keep it with NTP (chrony, systemd-timesyncd): certificates and tokens depend on it";
    Finding::fail("clock", message, help)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_with_its_way() {
        assert_eq!(clock_finding(-30).state, State::Ok);
        let ahead = clock_finding(3600);
        assert_eq!(ahead.state, State::Fail);
        assert!(ahead.message.contains("3600 s ahead"));
        assert!(clock_finding(-31).message.contains("31 s behind"));
    }
}
