//! The figures of strategies: what they pick, how they compare, and how evenly they spread requests and load.

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{PoolSources, counter, family, gauge, histogram};
use super::labels::Comparison;
use super::pool_counters::{DispatchCounters, PoolCounters};
use crate::fleet::{Backend, Pool, Role};
use crate::request::outcome::Decision;
use crate::strategy::StrategyKind;
use crate::util::fairness::Measure;

impl PoolSources<'_> {
    /// Every family of strategies.
    pub(super) fn strategy_families(&self) -> Vec<MetricFamily> {
        let mut families = vec![self.redirects(), self.picks()];
        families.extend(self.strategies());
        families.extend(self.imbalances());
        families
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
            for (slot, backend, counters) in
                dispatches(pool, counters).filter(|(slot, ..)| sends(pool, *slot))
            {
                metrics.extend(Decision::ALL.map(|decision| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.strategies[slot].name()),
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
            for (slot, backend, counters) in dispatches(pool, counters) {
                let of = |role: Role, count| {
                    let labels = [
                        ("pool", &*pool.config.name),
                        ("strategy", pool.config.strategies[slot].name()),
                        ("role", role.name()),
                        ("backend", &*backend.id),
                    ];
                    counter(&labels, count)
                };
                if sends(pool, slot) {
                    let role = if pool.roles.of(slot) == Role::Split { Role::Split } else { Role::Live };
                    let picked = [Decision::Picked, Decision::Reassigned];
                    picks.push(of(
                        role,
                        picked.map(|decision| self.sum(counters.redirects.of(decision))).iter().sum(),
                    ));
                }
                if shadows(pool, slot) {
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
fn sends(pool: &Pool, slot: usize) -> bool {
    pool.roles.of(slot) != Role::Shadow || pool.config.rotation_interval.is_some()
}

/// Whether it only runs beside, now or while another has its turn.
fn shadows(pool: &Pool, slot: usize) -> bool {
    pool.roles.of(slot) == Role::Shadow || pool.config.rotation_interval.is_some()
}
