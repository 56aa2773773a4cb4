//! What the trust providers count: each judgement, by the table's name and its outcome.

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{AttestError, Attested, Evidence, TrustProvider};

/// Labels of `keyward_attestations_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    trust: String,
    outcome: &'static str,
}

/// The room's metrics; they outlive a configuration. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Family<Labels, Counter>);

impl Metrics {
    /// Makes them known to the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_attestations",
            "Judgements of evidence, by trust provider and outcome",
            self.0.clone(),
        );
    }
}

/// A provider whose judgements are counted. What is not its kind of evidence is no judgement.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn TrustProvider>,
    attested: Counter,
    refused: Counter,
    unavailable: Counter,
}

impl Counted {
    /// Counts the judgements of this provider under this name.
    pub fn new(inner: Arc<dyn TrustProvider>, trust: &str, metrics: &Metrics) -> Self {
        let of = |outcome| {
            metrics.0.get_or_create_owned(&Labels {
                trust: trust.to_owned(),
                outcome,
            })
        };
        Self {
            inner,
            attested: of("attested"),
            refused: of("refused"),
            unavailable: of("unavailable"),
        }
    }
}

#[async_trait]
impl TrustProvider for Counted {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let judged = self.inner.attest(evidence).await;
        match &judged {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.attested.inc();
            }
            Err(AttestError::Bad) => {
                self.refused.inc();
            }
            Err(AttestError::Unavailable) => {
                self.unavailable.inc();
            }
        }
        judged
    }

    fn hears_relays(&self) -> bool {
        self.inner.hears_relays()
    }
}
