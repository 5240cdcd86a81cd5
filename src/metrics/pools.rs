//! The figures of pools and their backends.

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{PoolSources, counter, family, gauge, histogram};
use super::load_report_result::ReportResult;
use crate::fleet::{CheckProgress, CheckResult, EffectiveState, PinAction, Pool, Priority, StateReason};
use crate::request::pin_cookie::PinError;

impl PoolSources<'_> {
    /// Every family of pools and backends.
    pub(super) fn pool_families(&self) -> Vec<MetricFamily> {
        let mut families = vec![self.rejected_pins(), self.fail_open(), self.overflow()];
        families.extend(self.statuses());
        families.extend(self.loads());
        families.extend([self.probes(), self.probe_durations(), self.reports()]);
        families
    }

    fn probes(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (pool, counters) in self.fleet.counted_pools().filter(|(pool, _)| pool.config.is_probed) {
            for (index, backend) in pool.config.backends.iter().enumerate() {
                let probes = counters.backend(index).probes;
                metrics.extend(CheckResult::ALL.map(|result| {
                    let labels =
                        [("pool", &*pool.config.name), ("backend", &*backend.id), ("result", result.name())];
                    counter(&labels, self.sum(probes.of(result)))
                }));
            }
        }
        family("signpost_probes_total", "Health check probes, by result.", MetricType::COUNTER, metrics)
    }

    fn probe_durations(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (pool, counters) in self.fleet.counted_pools().filter(|(pool, _)| pool.config.is_probed) {
            metrics.extend(CheckResult::ALL.map(|result| {
                let labels = [("pool", &*pool.config.name), ("result", result.name())];
                histogram(&labels, self.counters, counters.own.probe_durations.of(result), 1e6)
            }));
        }
        family(
            "signpost_probe_duration_seconds",
            "Duration of health check probes, in seconds.",
            MetricType::HISTOGRAM,
            metrics,
        )
    }

    fn reports(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        let reports_load = |pool: &Pool| pool.config.reports_expire.is_some();
        for (pool, counters) in self.fleet.counted_pools().filter(|(pool, _)| reports_load(pool)) {
            for (index, backend) in pool.config.backends.iter().enumerate() {
                let reports = counters.backend(index).reports;
                metrics.extend(ReportResult::ALL.map(|result| {
                    let labels =
                        [("pool", &*pool.config.name), ("backend", &*backend.id), ("result", result.name())];
                    counter(&labels, self.sum(reports.of(result)))
                }));
            }
        }
        family(
            "signpost_load_reports_total",
            "Load reports of backends, by result.",
            MetricType::COUNTER,
            metrics,
        )
    }

    /// What is known of each backend's load.
    fn loads(&self) -> [MetricFamily; 3] {
        let now = self.now;
        let [mut loads, mut stale, mut shares] = [const { Vec::new() }; 3];
        for pool in self.fleet.pools.iter().filter(|pool| pool.config.reports_expire.is_some()) {
            let of_pool = ("pool", &*pool.config.name);
            shares.extend(pool.local_traffic_ratio.get().map(|share| gauge(&[of_pool], share)));
            for (index, backend) in pool.config.backends.iter().enumerate() {
                let labels = [of_pool, ("backend", &*backend.id)];
                let load = pool.load(pool.roles.live, index, now);
                stale.push(gauge(&labels, f64::from(u8::from(load.is_none()))));
                let utilization =
                    load.and_then(|load| load.utilization(pool.statuses[index].weight.get().into()));
                loads.extend(utilization.map(|utilization| gauge(&labels, utilization)));
            }
        }
        [
            family(
                "signpost_backend_load",
                "Estimated load of a backend as a ratio of its capacity, or of its weight if the capacity is unknown.",
                MetricType::GAUGE,
                loads,
            ),
            family(
                "signpost_backend_load_stale",
                "1 if a backend has sent no load report yet or its last one has expired, so that least_load goes by its weight, otherwise 0.",
                MetricType::GAUGE,
                stale,
            ),
            family(
                "signpost_pool_local_traffic_ratio",
                "Estimated share of a pool's requests that this process redirects, as a ratio from 0 to 1.",
                MetricType::GAUGE,
                shares,
            ),
        ]
    }

    /// Where each backend stands.
    fn statuses(&self) -> [MetricFamily; 7] {
        let [mut since, mut reasons, mut held] = [const { Vec::new() }; 3];
        let mut states = Vec::new();
        let mut eligible = Vec::new();
        let mut weights = Vec::new();
        let mut drained = Vec::new();
        for pool in &self.fleet.pools {
            for ((backend, status), keeps) in pool.config.backends.iter().zip(&pool.statuses).zip(&pool.keeps)
            {
                let [of_pool, of_backend] = [("pool", &*pool.config.name), ("backend", &*backend.id)];
                states.extend(EffectiveState::ALL.map(|state| {
                    let is = f64::from(u8::from(status.state() == state));
                    gauge(&[of_pool, of_backend, ("state", state.name())], is)
                }));
                let is = f64::from(u8::from(*keeps == PinAction::AndRenews));
                eligible.push(gauge(&[of_pool, of_backend], is));
                weights.push(gauge(&[of_pool, of_backend], status.weight_in_effect()));
                drained.extend(status.drained_at.map(|at| gauge(&[of_pool, of_backend], at as f64)));
                since.push(gauge(&[of_pool, of_backend], status.since as f64));
                let check = backend.check.get();
                let reason = StateReason::of(status, pool.config.is_probed, check.as_deref());
                reasons.push(gauge(&[of_pool, of_backend, ("reason", reason.name())], 1.0));
                held.extend(check.and_then(|check| match check.progress {
                    CheckProgress::Backoff { until, .. } => Some(gauge(&[of_pool, of_backend], until as f64)),
                    _ => None,
                }));
            }
        }
        [
            family(
                "signpost_backend_state",
                "1 for the current state of a backend, 0 for the other states.",
                MetricType::GAUGE,
                states,
            ),
            family(
                "signpost_backend_eligible",
                "1 if a backend may be picked for new clients, otherwise 0.",
                MetricType::GAUGE,
                eligible,
            ),
            family(
                "signpost_backend_weight",
                "Weight of a backend in effect, reduced during slow start.",
                MetricType::GAUGE,
                weights,
            ),
            family(
                "signpost_backend_drained_timestamp_seconds",
                "Unix time from which on no pin to a draining backend is valid, in seconds.",
                MetricType::GAUGE,
                drained,
            ),
            family(
                "signpost_backend_state_since_timestamp_seconds",
                "Unix time at which a backend entered its current state, in seconds.",
                MetricType::GAUGE,
                since,
            ),
            family(
                "signpost_backend_state_reason",
                "Always 1; the label is the reason for the current state of a backend.",
                MetricType::GAUGE,
                reasons,
            ),
            family(
                "signpost_backend_flap_backoff_until_timestamp_seconds",
                "Unix time until which flap_backoff keeps a backend down although its checks succeed, in seconds.",
                MetricType::GAUGE,
                held,
            ),
        ]
    }

    /// Which backends were full, and how often.
    fn overflow(&self) -> MetricFamily {
        let pools = self.fleet.counted_pools().filter(|(pool, _)| pool.config.may_overflow());
        let metrics = pools.flat_map(|(pool, counters)| {
            pool.config.backends.iter().enumerate().map(move |(index, backend)| {
                let labels = [("pool", &*pool.config.name), ("backend", &*backend.id)];
                counter(&labels, self.counters.overflow(counters, index))
            })
        });
        family(
            "signpost_overflow_total",
            "Requests redirected to another backend because this backend, their first choice, was full.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn fail_open(&self) -> MetricFamily {
        let metrics = self.fleet.pools.iter().map(|pool| {
            let is = f64::from(u8::from(pool.priority == Priority::FailOpen));
            gauge(&[("pool", &*pool.config.name)], is)
        });
        family(
            "signpost_pool_fail_open",
            "1 if a pool ignores health because too many of its backends are down, otherwise 0.",
            MetricType::GAUGE,
            metrics,
        )
    }

    fn rejected_pins(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (pool, counters) in self.fleet.counted_pools().filter(|(pool, _)| pool.config.pins.is_some()) {
            metrics.extend(PinError::ALL.map(|pin_error| {
                let labels = [("pool", &*pool.config.name), ("reason", pin_error.name())];
                counter(&labels, self.sum(counters.own.pins.of(pin_error)))
            }));
        }
        family(
            "signpost_pins_rejected_total",
            "Pin cookies rejected, by reason.",
            MetricType::COUNTER,
            metrics,
        )
    }
}
