//! Families of metrics as the crate `prometheus` has them, made of labels and numbers.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

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

pub(super) fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
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
