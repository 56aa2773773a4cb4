//! What the room counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Event;

/// The audit's counters; the one of each event is looked up once, here, and not on the request path.
#[derive(Debug)]
pub struct Metrics {
    records: Family<[(&'static str, &'static str); 1], Counter>,
    by_event: [Counter<u64, AtomicU64>; Event::ALL.len()],
    pub(super) failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let records = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let by_event =
            Event::ALL.map(|event| records.get_or_create(&[("event", event.as_str())]).clone());
        Self {
            records,
            by_event,
            failures: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds `keyward_audit_records_total{event}` and `keyward_audit_failures_total`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_audit_records",
            "Audit records made",
            self.records.clone(),
        );
        registry.register(
            "keyward_audit_failures",
            "Writes that the audit sink did not take, and intents refused for it",
            self.failures.clone(),
        );
    }

    pub(super) fn count(&self, event: Event) {
        if let Some(counter) = self.by_event.get(event as usize) {
            counter.inc();
        }
    }
}
