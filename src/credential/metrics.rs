//! What is counted of credentials. Labels are names of the configuration and words, nothing else.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::agent::Name;

/// The room's metrics.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    issue_seconds: Family<Outcome, Histogram>,
    lease_age: Family<Of, Histogram>,
    hits: Family<Of, Counter>,
    waits: Family<Of, Counter>,
    failures: Family<Failure, Counter>,
    leases: Family<Of, Gauge>,
    pending: Family<Of, Gauge>,
    revocations: Family<Outcome, Counter>,
}

/// The metrics of one credential that are touched on the way of a request, looked up once.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    credential: String,
    all: Metrics,
    pub(super) hits: Counter,
    pub(super) waits: Counter,
    pub(super) leases: Gauge<i64, AtomicI64>,
    pub(super) pending: Gauge<i64, AtomicI64>,
    /// Observed when a lease is no longer used: how old it became.
    pub(super) age: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    credential: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    credential: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    credential: String,
    word: &'static str,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            issue_seconds: Family::new_with_constructor(|| Histogram::new(ISSUE_BUCKETS)),
            lease_age: Family::new_with_constructor(|| Histogram::new(AGE_BUCKETS)),
            hits: Family::default(),
            waits: Family::default(),
            failures: Family::default(),
            leases: Family::default(),
            pending: Family::default(),
            revocations: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_issue_seconds",
            "How long issuers took",
            self.issue_seconds.clone(),
        );
        registry.register(
            "keyward_lease_age_seconds",
            "How old leases were when they were last of use",
            self.lease_age.clone(),
        );
        registry.register(
            "keyward_lease_hits",
            "Requests that found a live lease",
            self.hits.clone(),
        );
        registry.register(
            "keyward_lease_waits",
            "Requests that waited for an issuer",
            self.waits.clone(),
        );
        registry.register(
            "keyward_issue_failures",
            "Calls to issuers that failed",
            self.failures.clone(),
        );
        registry.register("keyward_leases", "Live leases", self.leases.clone());
        registry.register(
            "keyward_revocations_pending",
            "Leases whose issuer has not confirmed the revocation yet",
            self.pending.clone(),
        );
        registry.register(
            "keyward_revocations",
            "Tries to revoke",
            self.revocations.clone(),
        );
    }

    pub(super) fn of(&self, credential: &Name) -> Meters {
        let of = Of {
            credential: credential.as_str().to_owned(),
        };
        Meters {
            hits: self.hits.get_or_create_owned(&of),
            waits: self.waits.get_or_create_owned(&of),
            leases: self.leases.get_or_create_owned(&of),
            pending: self.pending.get_or_create_owned(&of),
            age: self.lease_age.get_or_create_owned(&of),
            credential: of.credential,
            all: self.clone(),
        }
    }
}

impl Meters {
    pub(super) fn issue(&self, failure: Option<&'static str>, seconds: f64) {
        let outcome = if failure.is_some() {
            "failed"
        } else {
            "issued"
        };
        self.all
            .issue_seconds
            .get_or_create(&self.outcome(outcome))
            .observe(seconds);
        if let Some(word) = failure {
            let labels = Failure {
                credential: self.credential.clone(),
                word,
            };
            self.all.failures.get_or_create(&labels).inc();
        }
    }

    pub(super) fn revocation(&self, outcome: &'static str) {
        self.all
            .revocations
            .get_or_create(&self.outcome(outcome))
            .inc();
    }

    fn outcome(&self, outcome: &'static str) -> Outcome {
        Outcome {
            credential: self.credential.clone(),
            outcome,
        }
    }
}

const ISSUE_BUCKETS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
const AGE_BUCKETS: [f64; 9] = [
    1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 604_800.0,
];
