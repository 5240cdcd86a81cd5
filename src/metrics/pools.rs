//! The figures of pools: their backends, their strategies, their probes.

use prometheus::proto::{MetricFamily, MetricType};

use super::counter_registry::CounterRegistry;
use super::family::{counter, family, gauge, histogram};
use super::imbalances::Imbalances;
use super::labels::Comparison;
use super::load_report_result::ReportResult;
use super::pool_counters::{CountedFleet, DispatchCounters, PoolCounters};
use super::thread_counters::CounterId;
use crate::fleet::{
    Backend, CheckProgress, CheckResult, EffectiveState, PinAction, Pool, Priority, Role, StateReason,
};
use crate::request::outcome::Decision;
use crate::request::pin_cookie::PinError;
use crate::strategy::StrategyKind;
use crate::util::clock::Moment;
use crate::util::fairness::Measure;

/// What the figures of pools are read from.
pub(super) struct PoolFamilies<'a> {
    pub(super) fleet: &'a CountedFleet,
    pub(super) counters: &'a CounterRegistry,
    pub(super) imbalances: &'a Imbalances,
    pub(super) now: Moment,
}

impl PoolFamilies<'_> {
    /// All of them.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let mut families = vec![self.redirects(), self.picks()];
        families.extend(self.strategies());
        families.extend(self.imbalances());
        families.extend(self.statuses());
        families.extend(self.loads());
        families.extend([self.rejected_pins(), self.fail_open(), self.overflow()]);
        families.extend([self.probes(), self.probe_durations(), self.reports()]);
        families
    }

    fn sum(&self, id: CounterId) -> u64 {
        self.counters.sum(id)
    }

    /// Every strategy of every pool, with its index and the counters of the pool.
    fn strategies_of_pools(&self) -> impl Iterator<Item = (&Pool, &PoolCounters, usize, StrategyKind)> {
        let pools = self.fleet.counted_pools();
        pools.flat_map(|(pool, counters)| {
            pool.config.strategies.iter().enumerate().map(move |(index, &kind)| (pool, counters, index, kind))
        })
    }

    fn redirects(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (pool, counters) in self.fleet.counted_pools() {
            for (arm, backend, counters) in dispatches(pool, counters).filter(|(arm, ..)| sends(pool, *arm)) {
                metrics.extend(Decision::ALL.map(|decision| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.strategies[arm].name()),
                        ("backend", &*backend.id),
                        ("decision", decision.name()),
                    ];
                    counter(&labels, self.sum(counters.redirects.of(decision)))
                }));
            }
        }
        family(
            "signpost_redirects_total",
            "Requests redirected to a backend, by strategy and decision.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn picks(&self) -> MetricFamily {
        let metrics = self.strategies_of_pools().map(|(pool, counters, index, kind)| {
            let labels = [("pool", &*pool.config.name), ("strategy", kind.name())];
            histogram(&labels, self.counters, counters.strategies[index].own.picks, 1e9)
        });
        family(
            "signpost_pick_duration_seconds",
            "Time that a strategy takes to pick a backend, in seconds; one pick in 61 is timed, and about 25 ns are the clock's own.",
            MetricType::HISTOGRAM,
            metrics,
        )
    }

    /// What each strategy of a pool has picked, and how that compares with what was chosen.
    fn strategies(&self) -> [MetricFamily; 3] {
        let live = self.strategies_of_pools().map(|(pool, _, index, kind)| {
            let is = f64::from(u8::from(pool.roles.live == index));
            gauge(&[("pool", &*pool.config.name), ("strategy", kind.name())], is)
        });
        let mut picks = Vec::new();
        for (pool, counters) in self.fleet.counted_pools() {
            for (arm, backend, counters) in dispatches(pool, counters) {
                let of = |role: Role, count| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.strategies[arm].name()),
                        ("role", role.name()),
                        ("backend", &*backend.id),
                    ];
                    counter(&labels, count)
                };
                if sends(pool, arm) {
                    let role = if pool.roles.of(arm) == Role::Split { Role::Split } else { Role::Live };
                    let picked = [Decision::Picked, Decision::Reassigned];
                    picks.push(of(
                        role,
                        picked.map(|decision| self.sum(counters.redirects.of(decision))).iter().sum(),
                    ));
                }
                if shadows(pool, arm) {
                    picks.push(of(Role::Shadow, self.sum(counters.shadow_picks)));
                }
            }
        }
        let compared = self.strategies_of_pools().filter(|(pool, _, index, _)| shadows(pool, *index));
        let compared = compared.flat_map(|(pool, counters, index, kind)| {
            let comparisons = counters.strategies[index].own.comparisons;
            Comparison::ALL.map(|comparison| {
                let labels =
                    [("pool", &*pool.config.name), ("strategy", kind.name()), ("result", comparison.name())];
                counter(&labels, self.sum(comparisons.of(comparison)))
            })
        });
        [
            family(
                "signpost_strategy_live",
                "1 for the live strategy of a pool, 0 for its other strategies.",
                MetricType::GAUGE,
                live,
            ),
            family(
                "signpost_strategy_picks_total",
                "Picks by each strategy in each role; the picks of a shadow route no traffic.",
                MetricType::COUNTER,
                picks,
            ),
            family(
                "signpost_shadow_comparisons_total",
                "Picks of a shadow compared with the backend that the request was redirected to, by result.",
                MetricType::COUNTER,
                compared,
            ),
        ]
    }

    /// How evenly strategies spread visitors, and how even the load is that comes of it.
    fn imbalances(&self) -> [MetricFamily; 4] {
        let [mut dispatches, mut now, mut sums, mut observed] = [const { Vec::new() }; 4];
        for figures in self.imbalances.shown() {
            let of = [("pool", &*figures.pool), ("strategy", figures.strategy.name())];
            let measured = |measure: Measure| ("measure", measure.name());
            dispatches.extend(figures.dispatches.into_iter().flat_map(|imbalance| {
                let role = ("role", figures.role.name());
                Measure::ALL
                    .map(|measure| gauge(&[of[0], of[1], role, measured(measure)], imbalance.get(measure)))
            }));
            let Some(load) = &figures.load else { continue };
            let source = ("source", load.source.name());
            now.extend(load.now.into_iter().flat_map(|imbalance| {
                Measure::ALL
                    .map(|measure| gauge(&[of[0], of[1], source, measured(measure)], imbalance.get(measure)))
            }));
            sums.extend(Measure::ALL.map(|measure| {
                let sum = load.so_far.sums[measure as usize];
                counter(&[of[0], of[1], source, measured(measure)], sum)
            }));
            observed.push(counter(&[of[0], of[1], source], load.so_far.observed));
        }
        [
            family(
                "signpost_dispatch_imbalance",
                "Imbalance of the requests that a strategy distributed in about the last minute, relative to weight, as a ratio.",
                MetricType::GAUGE,
                dispatches,
            ),
            family(
                "signpost_load_imbalance",
                "Imbalance of the load under a strategy, relative to capacity, as a ratio; for a shadow it is modeled.",
                MetricType::GAUGE,
                now,
            ),
            family(
                "signpost_load_imbalance_seconds_total",
                "Load imbalance integrated over time without the beginning of each rotation turn, in seconds.",
                MetricType::COUNTER,
                sums,
            ),
            family(
                "signpost_load_imbalance_observed_seconds_total",
                "Time over which signpost_load_imbalance_seconds_total is integrated, in seconds.",
                MetricType::COUNTER,
                observed,
            ),
        ]
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

/// Every backend of a pool under each of its strategies, by the strategy's index, with its counters.
fn dispatches<'a>(
    pool: &'a Pool,
    counters: &'a PoolCounters,
) -> impl Iterator<Item = (usize, &'a Backend, DispatchCounters)> {
    let strategies = (0..pool.config.strategies.len()).map(|index| (index, counters.dispatches(index)));
    strategies.flat_map(|(index, counters)| {
        pool.config.backends.iter().zip(counters).map(move |(backend, counters)| (index, backend, *counters))
    })
}

/// Whether a strategy sends visitors, now or in its turn.
fn sends(pool: &Pool, arm: usize) -> bool {
    pool.roles.of(arm) != Role::Shadow || pool.config.rotation_interval.is_some()
}

/// Whether it only runs beside, now or while another has its turn.
fn shadows(pool: &Pool, arm: usize) -> bool {
    pool.roles.of(arm) == Role::Shadow || pool.config.rotation_interval.is_some()
}
