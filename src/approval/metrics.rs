//! What approvals count: each step, by the table's name and its outcome.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    approval: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    approval: String,
    outcome: &'static str,
}

/// The room's metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pending: Family<Asked, Gauge>,
    total: Family<Settled, Counter>,
}

impl Metrics {
    /// Makes them known to the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_approvals_pending",
            "Questions that nobody has decided yet",
            self.pending.clone(),
        );
        registry.register(
            "keyward_approvals",
            "Steps of approvals, by outcome",
            self.total.clone(),
        );
    }

    pub(super) fn pending(&self, approval: &str, count: i64) {
        let approval = approval.to_owned();
        let gauge = self.pending.get_or_create_owned(&Asked { approval });
        gauge.set(count);
    }

    pub(super) fn count(&self, approval: &str, outcome: &'static str) {
        let approval = approval.to_owned();
        let counter = self
            .total
            .get_or_create_owned(&Settled { approval, outcome });
        counter.inc();
    }
}
