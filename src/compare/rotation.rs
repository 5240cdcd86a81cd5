//! Whose load it is that backends have: a strategy's own only once those it did not send have mostly left.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::strategy::StrategyKind;

/// Which strategy sends each pool's visitors, and since when.
#[derive(Debug, Default)]
pub(super) struct Rotation(HashMap<Box<str>, PoolRotation>);

#[derive(Clone, Copy, Debug)]
struct PoolRotation {
    live: StrategyKind,
    since: Instant,
    /// Whether it was the one already when it was first looked.
    is_first: bool,
}

/// How much of the beginning of a turn is another's load still; of turns below twice this half of each.
const CUT: Duration = Duration::from_secs(120);

impl Rotation {
    /// Returns whether what is seen now is the result of the live strategy alone, if strategies rotate at this interval.
    /// Must be called at each look, because it records the live strategy.
    pub(super) fn is_settled(
        &mut self,
        pool: &str,
        live: StrategyKind,
        rotation_interval: Option<Duration>,
        now: Instant,
    ) -> bool {
        let first = PoolRotation { live, since: now, is_first: true };
        let turn = self.0.entry(pool.into()).or_insert(first);
        if turn.live != live {
            *turn = PoolRotation { live, since: now, is_first: false };
        }
        let cut = match rotation_interval {
            Some(interval) => CUT.min(interval / 2),
            // What was before the start nobody knows; it is taken to have been the same.
            None if turn.is_first => Duration::ZERO,
            None => CUT,
        };
        now.saturating_duration_since(turn.since) >= cut
    }

    /// Forgets all pools but these.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|pool, _| is_there(pool));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_beginning_of_a_turn_is_not_its_own() {
        let (mut turns, start) = (Rotation::default(), Instant::now());
        let mut at = |live, rotation_interval: u64, seconds: u32| {
            let rotation_interval = (rotation_interval > 0).then(|| Duration::from_secs(rotation_interval));
            turns.is_settled("p", live, rotation_interval, start + SECOND * seconds)
        };
        assert!(!at(StrategyKind::Random, 600, 0), "who knows since when");
        assert!(!at(StrategyKind::Random, 600, 119));
        assert!(at(StrategyKind::Random, 600, 120));
        assert!(!at(StrategyKind::RoundRobin, 600, 121));
        assert!(at(StrategyKind::RoundRobin, 600, 241));
        assert!(at(StrategyKind::RoundRobin, 20, 242));
        assert!(
            !at(StrategyKind::Random, 20, 251) && at(StrategyKind::Random, 20, 261),
            "half of a short turn"
        );
    }

    #[test]
    fn who_was_there_from_the_start_is_settled() {
        let (mut turns, start) = (Rotation::default(), Instant::now());
        assert!(turns.is_settled("p", StrategyKind::Random, None, start));
        assert!(!turns.is_settled("p", StrategyKind::First, None, start + SECOND), "settings changed");
        assert!(turns.is_settled("p", StrategyKind::First, None, start + 121 * SECOND));
        turns.keep(|_| false);
        assert!(turns.is_settled("p", StrategyKind::Random, None, start + 122 * SECOND));
    }
}
