//! The figures of pools: their backends, their strategies, their probes.

use prometheus::proto::{MetricFamily, MetricType};

use super::exporter::Signpost;
use super::family::{counter, family, gauge};
use super::{
    COMPARED_AT, Comparison, PICK_BOUNDS, PICKS_AT, PROBE_BOUNDS, PROBE_TIMES_SIZE, ReportResult, SHADOW_AT,
};
use crate::fleet::{
    Backend, CheckProgress, CheckResult, EffectiveState, Fleet, PinAction, Pool, Priority, Role, Slot,
    StateReason, StrategySlot,
};
use crate::request::outcome::Decision;
use crate::request::pin_cookie::PinError;
use crate::util::fairness::Measure;

impl Signpost {
    pub(super) fn redirects(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in &fleet.pools {
            for (arm, backend, slot) in counted(pool).filter(|(arm, ..)| sends(pool, *arm)) {
                metrics.extend(Decision::ALL.map(|decision| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.arms[arm].kind.name()),
                        ("backend", &*backend.id),
                        ("decision", decision.name()),
                    ];
                    counter(&labels, self.sum(slot, decision as usize))
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

    pub(super) fn picks(&self, fleet: &Fleet) -> MetricFamily {
        let metrics = arms(fleet).map(|(pool, _, arm)| {
            let labels = [("pool", &*pool.config.name), ("strategy", arm.kind.name())];
            self.histogram(&labels, arm.slot, PICKS_AT, &PICK_BOUNDS, 1e9)
        });
        family(
            "signpost_pick_duration_seconds",
            "Time that a strategy takes to pick a backend, in seconds; one pick in 61 is timed, and about 25 ns are the clock's own.",
            MetricType::HISTOGRAM,
            metrics,
        )
    }

    /// What each strategy of a pool has picked, and how that compares with what was chosen.
    pub(super) fn strategies(&self, fleet: &Fleet) -> [MetricFamily; 3] {
        let live = arms(fleet).map(|(pool, index, arm)| {
            let is = f64::from(u8::from(pool.roles.live == index));
            gauge(&[("pool", &*pool.config.name), ("strategy", arm.kind.name())], is)
        });
        let mut picks = Vec::new();
        for pool in &fleet.pools {
            for (arm, backend, slot) in counted(pool) {
                let of = |role: Role, count| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.arms[arm].kind.name()),
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
                        picked.map(|decision| self.sum(slot, decision as usize)).iter().sum(),
                    ));
                }
                if shadows(pool, arm) {
                    picks.push(of(Role::Shadow, self.sum(slot, SHADOW_AT)));
                }
            }
        }
        let compared = arms(fleet).filter(|(pool, index, _)| shadows(pool, *index));
        let compared = compared.flat_map(|(pool, _, arm)| {
            Comparison::ALL.map(|comparison| {
                let labels = [
                    ("pool", &*pool.config.name),
                    ("strategy", arm.kind.name()),
                    ("result", comparison.name()),
                ];
                counter(&labels, self.sum(arm.slot, COMPARED_AT + comparison as usize))
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
    pub(super) fn imbalances(&self) -> [MetricFamily; 4] {
        let [mut dispatches, mut now, mut sums, mut observed] = [const { Vec::new() }; 4];
        for figures in self.sources.imbalances.shown() {
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

    pub(super) fn probes(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.config.is_probed) {
            for backend in &pool.config.backends {
                metrics.extend(CheckResult::ALL.map(|result| {
                    let labels =
                        [("pool", &*pool.config.name), ("backend", &*backend.id), ("result", result.name())];
                    counter(&labels, self.sum(backend.probes, result as usize))
                }));
            }
        }
        family("signpost_probes_total", "Health check probes, by result.", MetricType::COUNTER, metrics)
    }

    pub(super) fn probe_times(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.config.is_probed) {
            metrics.extend(CheckResult::ALL.map(|result| {
                let labels = [("pool", &*pool.config.name), ("result", result.name())];
                let at = result as usize * PROBE_TIMES_SIZE;
                self.histogram(&labels, pool.config.probe_times, at, &PROBE_BOUNDS, 1e6)
            }));
        }
        family(
            "signpost_probe_duration_seconds",
            "Duration of health check probes, in seconds.",
            MetricType::HISTOGRAM,
            metrics,
        )
    }

    pub(super) fn reports(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.config.reports_expire.is_some()) {
            for backend in &pool.config.backends {
                metrics.extend(ReportResult::ALL.map(|told| {
                    let labels =
                        [("pool", &*pool.config.name), ("backend", &*backend.id), ("result", told.name())];
                    counter(&labels, self.sum(backend.reports, told as usize))
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
    pub(super) fn loads(&self, fleet: &Fleet) -> [MetricFamily; 3] {
        let now = self.sources.clock.now();
        let [mut loads, mut stale, mut shares] = [const { Vec::new() }; 3];
        for pool in fleet.pools.iter().filter(|pool| pool.config.reports_expire.is_some()) {
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
    pub(super) fn statuses(&self, fleet: &Fleet) -> [MetricFamily; 7] {
        let [mut since, mut reasons, mut held] = [const { Vec::new() }; 3];
        let mut states = Vec::new();
        let mut eligible = Vec::new();
        let mut weights = Vec::new();
        let mut drained = Vec::new();
        for pool in &fleet.pools {
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
    pub(super) fn overflow(&self, fleet: &Fleet) -> MetricFamily {
        let pools = fleet.pools.iter().filter(|pool| pool.config.may_overflow());
        let metrics = pools.flat_map(|pool| {
            let config = &*pool.config;
            config.backends.iter().enumerate().map(move |(index, backend)| {
                let labels = [("pool", &*config.name), ("backend", &*backend.id)];
                counter(&labels, self.sources.roll.overflow(config, index))
            })
        });
        family(
            "signpost_overflow_total",
            "Requests redirected to another backend because this backend, their first choice, was full.",
            MetricType::COUNTER,
            metrics,
        )
    }

    pub(super) fn rejected_pins(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.config.pins.is_some()) {
            metrics.extend(PinError::ALL.map(|pin_error| {
                let labels = [("pool", &*pool.config.name), ("reason", pin_error.name())];
                counter(&labels, self.sum(pool.config.slot, pin_error as usize))
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

/// Every strategy of every pool, with its place in the roster.
fn arms(fleet: &Fleet) -> impl Iterator<Item = (&Pool, usize, &StrategySlot)> {
    fleet
        .pools
        .iter()
        .flat_map(|pool| pool.config.arms.iter().enumerate().map(move |(index, arm)| (&**pool, index, arm)))
}

/// Every backend of a pool under each of its strategies, by its place in the roster, and where that is counted.
fn counted(pool: &Pool) -> impl Iterator<Item = (usize, &Backend, Slot)> {
    let arms = pool.config.arms.iter().enumerate();
    arms.flat_map(|(index, arm)| {
        pool.config.backends.iter().zip(&arm.counts).map(move |(backend, slot)| (index, backend, *slot))
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

pub(super) fn fail_open(fleet: &Fleet) -> MetricFamily {
    let metrics = fleet.pools.iter().map(|pool| {
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
