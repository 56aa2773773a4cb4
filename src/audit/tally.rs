//! Counts what goes into a trail, for the one line that ends a short session.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::record::{Event, Record};

/// What a trail holds so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were read, refused ones among them.
    pub requests: u64,
    /// Connections that were tunnelled untouched.
    pub tunnels: u64,
    /// Answers of keyward's own: requests and CONNECTs that it did not let through.
    pub refusals: u64,
    /// Their words.
    pub words: BTreeSet<String>,
    /// Hosts that were reached, or would have been but for their own fault.
    pub hosts: BTreeSet<String>,
    /// The credentials that went into requests, by name.
    pub credentials: BTreeSet<String>,
}

/// An agent chooses the hosts of its tunnels; past this many they are no longer told apart.
const MOST_HOSTS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

impl Tally {
    pub(super) fn note(&self, record: &Record<'_>) {
        match record.event {
            Event::Intent => {
                if let Some(credential) = record.credential {
                    self.0.lock().credentials.insert(credential.to_owned());
                }
            }
            Event::Request => {
                let mut counts = self.0.lock();
                counts.requests += 1;
                counts.end(record);
            }
            // The record of a tunnel is made at its end, with what it carried.
            Event::Connect if record.bytes_up.is_some() => {
                let mut counts = self.0.lock();
                counts.tunnels += 1;
                counts.end(record);
            }
            // 407 asks a client for the token that it was given: many wait to be asked.
            Event::Connect if record.word.is_some_and(|word| word != "unidentified") => {
                self.0.lock().end(record);
            }
            _ => {}
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.lock().clone()
    }
}

impl Counts {
    fn end(&mut self, record: &Record<'_>) {
        if let Some(word) = record.word {
            self.refusals += 1;
            self.words.insert(word.to_owned());
        }
        if record.decision == Some("allow")
            && let Some(host) = record.host
            && self.hosts.len() < MOST_HOSTS
        {
            self.hosts.insert(host.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Who;

    fn request<'a>(host: &'a str, word: Option<&'a str>) -> Record<'a> {
        let mut record = Record::request(Who::default(), (host, 443), "GET", "/");
        record.decision = Some(if word.is_some() { "deny" } else { "allow" });
        record.word = word;
        record
    }

    #[test]
    fn requests_tunnels_refusals_and_credentials_are_told_apart() {
        let tally = Tally::default();
        tally.note(&request("a.test", None));
        tally.note(&request("a.test", None));
        tally.note(&request("a.test", Some("denied")));
        let mut intent = Record::intent(Who::default(), ("a.test", 443), "GET", "/");
        intent.credential = Some("one");
        tally.note(&intent);
        let mut tunnel = Record::connect(Who::default(), "b.test", 443);
        (tunnel.decision, tunnel.bytes_up) = (Some("allow"), Some(7));
        tally.note(&tunnel);
        let mut refused = Record::connect(Who::default(), "c.test", 443);
        (refused.decision, refused.word) = (Some("deny"), Some("no-route"));
        tally.note(&refused);
        refused.word = Some("unidentified");
        tally.note(&refused);
        let mut opened = Record::connect(Who::default(), "a.test", 443);
        opened.decision = Some("allow");
        tally.note(&opened);
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(
            tally.counts(),
            Counts {
                requests: 3,
                tunnels: 1,
                refusals: 2,
                words: texts(&["denied", "no-route"]),
                hosts: texts(&["a.test", "b.test"]),
                credentials: texts(&["one"]),
            }
        );
    }
}
