//! Credentials of OAuth issuers: against the certified OpenID provider where it is installed, and against fixtures
//! that do what no good issuer does.

mod bound;
mod cloud;
mod faults;
mod git;
mod grants;
mod jwt;
pub mod peer;
mod refresh;

use super::harness::{Harness, Setup};
use super::upstream::Upstream;

/// A credential `crm` of this kind, with a route that uses it at api.test.
fn setup(kind: &str, upstream: &Upstream) -> Setup {
    let text = format!(
        "[credential.crm]\ndeadline = \"5s\"\n{kind}\n[[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n"
    );
    Setup::new(&text).to("api.test:443", upstream)
}

/// What the audit says of issues and revocations: event, outcome, word.
fn records(harness: &Harness, event: &str) -> Vec<(String, Option<String>)> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let audit = harness.audit().into_iter();
    audit
        .filter(|record| record["event"] == event)
        .map(|record| (text(&record["outcome"]).unwrap(), text(&record["word"])))
        .collect()
}
