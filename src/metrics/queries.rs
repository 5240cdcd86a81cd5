//! Single figures, for the operator's API and page: the same sums that a scrape shows.

use super::labels::Comparison;
use super::pool_counters::PoolCounters;
use super::{Registry, StrategyFigures};
use crate::fleet::{Pool, Role};
use crate::request::outcome::Decision;

impl Registry {
    /// Visitors sent to a backend so far by all strategies of its pool, in the order of [`Decision::ALL`].
    pub fn redirects(&self, pool: &PoolCounters, backend: usize) -> [u64; 3] {
        Decision::ALL.map(|decision| {
            pool.by_strategy(backend).map(|counters| self.counters.sum(counters.redirects.of(decision))).sum()
        })
    }

    /// Requests that went elsewhere because a backend, their first choice, was full, by all strategies of its pool.
    pub fn overflow(&self, pool: &PoolCounters, backend: usize) -> u64 {
        self.counters.overflow(pool, backend)
    }

    /// Where one of a pool's strategies has sent visitors so far, by backend; of a shadow, where it would have.
    pub fn dispatches(&self, pool: &Pool, counters: &PoolCounters, strategy: usize) -> Vec<u64> {
        let is_shadow = pool.roles.of(strategy) == Role::Shadow;
        let registry = &self.counters;
        let count = |&of| if is_shadow { registry.shadow_picks(of) } else { registry.redirects(of) };
        counters.dispatches(strategy).iter().map(count).collect()
    }

    /// What a strategy's picks came to while it was a shadow, in the order of [`Comparison::ALL`].
    pub fn comparisons(&self, pool: &PoolCounters, strategy: usize) -> [u64; 4] {
        let comparisons = pool.strategies[strategy].own.comparisons;
        Comparison::ALL.map(|comparison| self.counters.sum(comparisons.of(comparison)))
    }

    /// What a pick of a strategy takes, in nanoseconds: the mean of those that were timed; `None` before there is one.
    pub fn pick_nanoseconds(&self, pool: &PoolCounters, strategy: usize) -> Option<f64> {
        let picks = pool.strategies[strategy].own.picks;
        let within: u64 = picks.buckets().map(|(_, bucket)| self.counters.sum(bucket)).sum();
        let timed = within + self.counters.sum(picks.over());
        (timed > 0).then(|| self.counters.sum(picks.sum()) as f64 / timed as f64)
    }

    /// How many pinned requests reached a draining backend lately, those of a minute ago counting as 1/e each; `None` if it
    /// is not draining.
    pub fn pinned_lately(&self, pool: &PoolCounters, backend: usize) -> Option<f64> {
        self.imbalances.pinned(pool.by_strategy(backend).next()?.key())
    }

    /// How evenly strategies spread visitors and load lately.
    pub fn imbalances(&self) -> Vec<StrategyFigures> {
        self.imbalances.shown()
    }
}
