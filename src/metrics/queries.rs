//! Single figures, for the operator's API and page: the same sums that a scrape shows.

use super::{COMPARED_AT, Comparison, PICK_BOUNDS, PICK_SUM_AT, PICKS_AT, Registry, StrategyFigures};
use crate::fleet::{Pool, PoolConfig, Role, StrategySlot};
use crate::request::outcome::Decision;

impl Registry {
    /// Visitors sent to a backend so far by all strategies of its pool, in the order of [`Decision::ALL`].
    pub fn redirects(&self, config: &PoolConfig, backend: usize) -> [u64; 3] {
        let of = |decision| config.arms.iter().map(move |arm| self.roll.sum(arm.counts[backend], decision));
        Decision::ALL.map(|decision| of(decision as usize).sum())
    }

    /// Requests that went elsewhere because a backend, their first choice, was full, by all strategies of its pool.
    pub fn overflow(&self, config: &PoolConfig, backend: usize) -> u64 {
        self.roll.overflow(config, backend)
    }

    /// Where one of a pool's strategies has sent visitors so far, by backend; of a shadow, where it would have.
    pub fn dispatches(&self, pool: &Pool, arm: usize) -> Vec<u64> {
        let is_shadow = pool.roles.of(arm) == Role::Shadow;
        let count = |&slot| if is_shadow { self.roll.shadow_picks(slot) } else { self.roll.redirects(slot) };
        pool.config.arms[arm].counts.iter().map(count).collect()
    }

    /// What a strategy's picks came to while it was a shadow, in the order of [`Comparison::ALL`].
    pub fn comparisons(&self, arm: &StrategySlot) -> [u64; 4] {
        Comparison::ALL.map(|comparison| self.roll.sum(arm.slot, COMPARED_AT + comparison as usize))
    }

    /// What a pick of a strategy takes, in nanoseconds: the mean of those that were timed; `None` before there is one.
    pub fn pick_nanoseconds(&self, arm: &StrategySlot) -> Option<f64> {
        let timed: u64 =
            (0..=PICK_BOUNDS.len()).map(|bucket| self.roll.sum(arm.slot, PICKS_AT + bucket)).sum();
        (timed > 0).then(|| self.roll.sum(arm.slot, PICK_SUM_AT) as f64 / timed as f64)
    }

    /// How many pinned requests reached a draining backend lately, those of a minute ago counting as 1/e each; `None` if it
    /// is not draining.
    pub fn pinned_lately(&self, config: &PoolConfig, backend: usize) -> Option<f64> {
        self.imbalances.pinned(config.arms.first()?.counts[backend])
    }

    /// How evenly strategies spread visitors and load lately.
    pub fn imbalances(&self) -> Vec<StrategyFigures> {
        self.imbalances.shown()
    }
}
