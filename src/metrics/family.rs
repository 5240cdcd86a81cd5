//! Families of metrics as the crate `prometheus` has them, made of labels and numbers.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::counter_registry::CounterRegistry;
use super::imbalances::Imbalances;
use super::pool_counters::CountedFleet;
use super::thread_counters::{CounterId, HistogramCounters};
use crate::util::clock::Moment;

/// What the figures of pools are read from.
pub(super) struct PoolSources<'a> {
    pub(super) fleet: &'a CountedFleet,
    pub(super) counters: &'a CounterRegistry,
    pub(super) imbalances: &'a Imbalances,
    pub(super) now: Moment,
}

impl PoolSources<'_> {
    /// One count, over all threads.
    pub(super) fn sum(&self, id: CounterId) -> u64 {
        self.counters.sum(id)
    }
}

pub(super) fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl IntoIterator<Item = Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

pub(super) fn counter(labels: &[(&str, &str)], value: impl CounterValue) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value.number());
    let mut metric = Metric::default();
    metric.set_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

/// What a counter takes.
pub(super) trait CounterValue {
    fn number(self) -> f64;
}

impl CounterValue for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl CounterValue for f64 {
    fn number(self) -> f64 {
        self
    }
}

pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(pairs(labels));
    metric
}

/// A histogram of sums over all threads; `unit` of its values are a second.
pub(super) fn histogram(
    labels: &[(&str, &str)],
    registry: &CounterRegistry,
    counters: HistogramCounters,
    unit: f64,
) -> Metric {
    let mut count = 0;
    let mut buckets = Vec::new();
    for (bound, id) in counters.buckets() {
        count += registry.sum(id);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound as f64 / unit);
        bucket.set_cumulative_count(count);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(count + registry.sum(counters.over()));
    histogram.set_sample_sum(registry.sum(counters.sum()) as f64 / unit);
    let mut metric = Metric::default();
    metric.set_label(pairs(labels));
    metric.set_histogram(histogram);
    metric
}
