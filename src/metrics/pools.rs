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
            "Visitors sent to a backend, and why there.",
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
            "What a pick by the strategy takes, one in 61 timed; some 25 ns of it are the clock's own.",
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
                    let picked = [Decision::Picked, Decision::Repinned];
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
                "1 for the strategy that sends a pool's visitors now, those of a split aside.",
                MetricType::GAUGE,
                live,
            ),
            family(
                "signpost_strategy_picks_total",
                "Picks by each strategy: a shadow's change nothing for the visitor.",
                MetricType::COUNTER,
                picks,
            ),
            family(
                "signpost_shadow_comparisons_total",
                "A shadow's picks beside where the visitor was sent: by another strategy, or by a pin.",
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
                "How unevenly a strategy sent visitors of the last minute or so, per weight; a shadow: would have.",
                MetricType::GAUGE,
                dispatches,
            ),
            family(
                "signpost_load_imbalance",
                "How uneven the load is that a strategy makes, over capacity; modelled: would make.",
                MetricType::GAUGE,
                now,
            ),
            family(
                "signpost_load_imbalance_seconds_total",
                "The same summed up over time, the beginning of each turn left out.",
                MetricType::COUNTER,
                sums,
            ),
            family(
                "signpost_load_observed_seconds_total",
                "For how long that was summed up.",
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
        family("signpost_probes_total", "Health checks, and how they ended.", MetricType::COUNTER, metrics)
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
        family("signpost_probe_duration_seconds", "What health checks took.", MetricType::HISTOGRAM, metrics)
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
            "Load reports of backends, and what became of them.",
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
            shares.extend(pool.own_share.get().map(|share| gauge(&[of_pool], share)));
            for (index, backend) in pool.config.backends.iter().enumerate() {
                let labels = [of_pool, ("backend", &*backend.id)];
                let load = pool.load(pool.roles.live, index, now);
                stale.push(gauge(&labels, f64::from(u8::from(load.is_none()))));
                let utilisation =
                    load.and_then(|load| load.utilisation(pool.statuses[index].weight.get().into()));
                loads.extend(utilisation.map(|utilisation| gauge(&labels, utilisation)));
            }
        }
        [
            family(
                "signpost_backend_load",
                "The load of a backend as it is estimated now: what is in use over capacity, or weight where that is unknown.",
                MetricType::GAUGE,
                loads,
            ),
            family(
                "signpost_backend_load_stale",
                "1 if a backend has not reported its load yet or its last report has expired (load.expires); least_load then picks it by its weight.",
                MetricType::GAUGE,
                stale,
            ),
            family(
                "signpost_pool_own_share",
                "The share of a pool's visitors that this process sends, as it is learnt.",
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
                "1 for the state that a backend is in.",
                MetricType::GAUGE,
                states,
            ),
            family(
                "signpost_backend_eligible",
                "1 for a backend that new visitors may be sent to.",
                MetricType::GAUGE,
                eligible,
            ),
            family(
                "signpost_backend_weight",
                "A backend's weight in effect: in slow start some tenths of it.",
                MetricType::GAUGE,
                weights,
            ),
            family(
                "signpost_backend_drained_timestamp_seconds",
                "When no pin to a draining backend can be valid any more.",
                MetricType::GAUGE,
                drained,
            ),
            family(
                "signpost_backend_state_since_timestamp_seconds",
                "When a backend entered the state that it is in, in seconds since 1970.",
                MetricType::GAUGE,
                since,
            ),
            family(
                "signpost_backend_reason",
                "Always 1; the label is the reason of a backend's state at present.",
                MetricType::GAUGE,
                reasons,
            ),
            family(
                "signpost_backend_flap_backoff_until_timestamp_seconds",
                "When a backend that answers again but fell too often is admitted, in seconds since 1970.",
                MetricType::GAUGE,
                held,
            ),
        ]
    }

    pub(super) fn rejected_pins(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.config.pins.is_some()) {
            metrics.extend(PinError::ALL.map(|pin_error| {
                let labels = [("pool", &*pool.config.name), ("reason", pin_error.reason())];
                counter(&labels, self.sum(pool.config.slot, pin_error as usize))
            }));
        }
        family("signpost_pins_rejected_total", "Pins that did not count.", MetricType::COUNTER, metrics)
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
    pool.roles.of(arm) != Role::Shadow || pool.config.rotate.is_some()
}

/// Whether it only runs beside, now or while another has its turn.
fn shadows(pool: &Pool, arm: usize) -> bool {
    pool.roles.of(arm) == Role::Shadow || pool.config.rotate.is_some()
}

pub(super) fn fail_open(fleet: &Fleet) -> MetricFamily {
    let metrics = fleet.pools.iter().map(|pool| {
        let is = f64::from(u8::from(pool.priority == Priority::FailOpen));
        gauge(&[("pool", &*pool.config.name)], is)
    });
    family(
        "signpost_pool_fail_open",
        "1 while a pool sends clients to backends whether they are up or down.",
        MetricType::GAUGE,
        metrics,
    )
}

pub(super) fn spilled(fleet: &Fleet) -> MetricFamily {
    let pools = fleet.pools.iter().filter(|pool| pool.config.may_spill());
    let metrics = pools.flat_map(|pool| {
        let backends = pool.config.backends.iter().enumerate();
        backends.map(|(index, backend)| {
            counter(&[("pool", &*pool.config.name), ("backend", &*backend.id)], pool.spilled(index))
        })
    });
    family(
        "signpost_spilled_total",
        "Visitors who went elsewhere as a backend had no room for them.",
        MetricType::COUNTER,
        metrics,
    )
}
