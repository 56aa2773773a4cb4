//! The broker's events, as audit records.

use std::sync::Arc;

use crate::agent::AgentId;
use crate::audit::{Audit, Record, Who};
use crate::credential::{Events, Failed, Issue, Revoking, Scope};

/// The broker's events, as audit records.
#[derive(Debug)]
pub(super) struct Recorder(pub(super) Arc<Audit>);

/// Who is behind a call to an issuer. A lease that serves several sessions has the chain of the one that caused the call.
fn who<'a>(scope: &'a Scope, chain: &'a [AgentId]) -> Who<'a> {
    Who {
        session: scope.holder.session().map(|session| &**session),
        agent: scope.holder.agent().map(AgentId::as_str),
        user: scope.person.as_ref().map(|person| &*person.user.name),
        chain: Some(chain)
            .filter(|chain| !chain.is_empty())
            .or_else(|| scope.holder.agent().map(std::slice::from_ref)),
        ..Who::default()
    }
}

impl Events for Recorder {
    fn issued(&self, issue: &Issue<'_>) {
        let mut record = Record::issue(
            who(issue.scope, issue.chain),
            issue.scope.credential.as_str(),
            issue.provider,
            "issued",
        );
        let scopes = issue.scopes.map(|scopes| {
            let texts = scopes.iter().map(ToString::to_string);
            texts.collect::<Vec<_>>()
        });
        record.scopes = scopes.as_deref();
        record.lease = Some(issue.lease.as_str());
        record.expires = issue.expires;
        record.cause = Some(issue.cause.word());
        record.duration = Some(issue.duration);
        self.0.append(&record);
    }

    fn failed(&self, failed: &Failed<'_>) {
        let mut record = Record::issue(
            who(failed.scope, failed.chain),
            failed.scope.credential.as_str(),
            failed.provider,
            "failed",
        );
        record.cause = Some(failed.cause.word());
        record.word = Some(failed.error.word());
        record.duration = Some(failed.duration);
        self.0.append(&record);
    }

    fn revoked(&self, revoking: &Revoking<'_>) {
        let credential = revoking.scope.credential.as_str();
        let mut record = Record::revoke(
            who(revoking.scope, revoking.chain),
            credential,
            revoking.lease.as_str(),
            revoking.outcome.word(),
        );
        record.provider = Some(revoking.provider);
        record.reason = Some(revoking.reason.word());
        record.attempt = Some(revoking.attempt);
        record.by = revoking.by;
        self.0.append(&record);
    }
}
