//! What the data path counts. Counters of one route are looked up when a tunnel opens, not at each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// Labels of `keyward_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    route: String,
    decision: &'static str,
    word: &'static str,
}

/// Labels of `keyward_agent_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AgentLabels {
    agent: String,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// The room's metrics. Labels hold names of the configuration and our own words, never text of an agent.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    agent_requests: Family<AgentLabels, Counter>,
    seconds: Family<RouteLabels, Seconds>,
    /// Open connections of agents.
    pub(super) connections: Gauge,
    /// Live sessions.
    pub(super) sessions: Gauge,
    /// CONNECTs that were tunnelled untouched.
    pub(super) tunnels: Counter,
}

/// The counters that allowed requests of one route and agent touch.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    requests: Counter,
    agent: Counter,
    seconds: Seconds,
}

impl Allowed {
    /// Counts one request that was answered by its upstream.
    pub(super) fn count(&self, took: Duration) {
        self.requests.inc();
        self.agent.inc();
        self.seconds.observe(took);
    }
}

impl Metrics {
    /// Makes the metrics known to the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_requests",
            "Requests by route, decision and word",
            self.requests.clone(),
        );
        registry.register(
            "keyward_agent_requests",
            "Requests by agent and decision",
            self.agent_requests.clone(),
        );
        registry.register(
            "keyward_request_seconds",
            "Time from head to end of answer",
            self.seconds.clone(),
        );
        registry.register(
            "keyward_connections",
            "Open connections of agents",
            self.connections.clone(),
        );
        registry.register("keyward_sessions", "Live sessions", self.sessions.clone());
        registry.register(
            "keyward_tunnels",
            "Connections tunnelled untouched",
            self.tunnels.clone(),
        );
    }

    pub(super) fn allowed(&self, route: &str, agent: &str) -> Allowed {
        let labels = RequestLabels {
            route: route.to_owned(),
            decision: "allow",
            word: "",
        };
        Allowed {
            requests: self.requests.get_or_create_owned(&labels),
            agent: self.agent_requests.get_or_create_owned(&AgentLabels {
                agent: agent.to_owned(),
                decision: "allow",
            }),
            seconds: self.seconds.get_or_create_owned(&RouteLabels {
                route: route.to_owned(),
            }),
        }
    }

    /// Counts a refusal. `route` and `agent` are empty where none is known.
    pub(super) fn refused(
        &self,
        route: &str,
        agent: &str,
        decision: &'static str,
        word: &'static str,
    ) {
        self.requests
            .get_or_create(&RequestLabels {
                route: route.to_owned(),
                decision,
                word,
            })
            .inc();
        self.agent_requests
            .get_or_create(&AgentLabels {
                agent: agent.to_owned(),
                decision,
            })
            .inc();
    }
}

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];

/// A histogram of seconds without a lock: one atomic add for the bucket, one for the sum.
#[derive(Debug, Clone, Default)]
pub(super) struct Seconds(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Seconds {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        if let Some(count) = self.0.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.micros.fetch_add(
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts: Vec<u64> = self
            .0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum of microseconds is read as a rate, not to the last digit"
        )]
        let sum = self.0.micros.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
