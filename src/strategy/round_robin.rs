//! `round_robin`: one counter over an order that is worked out beforehand.
//!
//! A textbook weighted round robin changes a value per backend at each pick, and so needs a lock. Here the order is
//! worked out when the pool is built; a pick is one `fetch_add` and one look-up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::explain::{Candidate, percent};
use super::interleave::lay_out;
use super::stride::Stride;
use super::{StrategyState, WeightedBackend, Weights};

/// Backends take turns. Over each cycle every backend has exactly its weight of turns, divided by the weights'
/// greatest common divisor, and they are spread over the cycle. Beyond 65 536 turns there is no cycle, but
/// an endless order with shares as even.
#[derive(Debug)]
pub struct RoundRobin {
    order: Order,
    turns: Arc<CachePadded<AtomicU64>>,
}

/// Whose turn is when.
#[derive(Debug)]
enum Order {
    /// Every turn of a cycle.
    Cycle(Box<[u16]>),
    /// In place of a cycle longer than [`LONGEST`].
    Stride(Stride),
}

/// The longest cycle that is laid out, in turns: 128 KiB of them, which stay in a core's own cache and are laid out
/// within a few milliseconds. Cycles are longer where a pool has thousands of backends of all weights, or hundreds one
/// of which is in slow start, when weights count in tenths.
const LONGEST: u32 = 1 << 16;

impl RoundRobin {
    /// Works the order out in O(S log d): S is the sum of the weights over their greatest common divisor, d how many
    /// different weights there are; where S is above 65 536, in O(number of backends).
    pub(super) fn build(weights: Weights<'_>, memory: &StrategyState) -> Self {
        let divisor = weights.divisor();
        let order = if weights.sum() / divisor <= LONGEST {
            Order::Cycle(lay_out(weights, divisor))
        } else {
            Order::Stride(Stride::new(weights))
        };
        Self { order, turns: Arc::clone(&memory.turns) }
    }

    /// Takes the next turn. The counter wraps after 2^64 picks, five centuries of a thousand million a second.
    #[inline]
    pub(super) fn pick(&self) -> usize {
        self.whose(self.turns.fetch_add(1, Ordering::Relaxed))
    }

    /// Whose turn is next.
    pub(super) fn next(&self) -> usize {
        self.whose(self.turns.load(Ordering::Relaxed))
    }

    #[inline]
    fn whose(&self, turn: u64) -> usize {
        match &self.order {
            Order::Cycle(cycle) => cycle[(turn % cycle.len() as u64) as usize].into(),
            Order::Stride(stride) => stride.backend(turn),
        }
    }
}

impl RoundRobin {
    /// When each one's next turn is. Who has none among the next [`LONGEST`] is last.
    pub(super) fn explain(&self, weights: Weights<'_>) -> Vec<Candidate> {
        let next = self.turns.load(Ordering::Relaxed);
        let mut away = HashMap::new();
        for ahead in 0..LONGEST {
            away.entry(self.whose(next + u64::from(ahead))).or_insert(ahead);
            if away.len() == weights.count() {
                break;
            }
        }
        let sum = f64::from(weights.sum());
        let candidate = |share: WeightedBackend| {
            let away = away.get(&share.backend.into());
            let when = match away {
                Some(0) => "its turn is next".to_owned(),
                Some(away) => format!("its turn comes after {away} of others"),
                None => format!("its turn comes after more than {LONGEST} of others"),
            };
            let why = format!("{when}; {} of turns are its own", percent(share.weight.get().into(), sum));
            Candidate::new(share.backend.into(), away.copied().map(f64::from), why)
        };
        let mut candidates: Vec<_> = weights.iter().map(candidate).collect();
        candidates.sort_by(|a, b| {
            let away = |one: &Candidate| one.score.unwrap_or(f64::INFINITY);
            away(a).total_cmp(&away(b))
        });
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::tests::shares;

    fn build(weights: &[u16], memory: &StrategyState) -> RoundRobin {
        RoundRobin::build(Weights::new(&shares(weights)).unwrap(), memory)
    }

    #[test]
    fn a_new_fleet_goes_on_where_the_old_one_was() {
        let memory = StrategyState::default();
        let old = build(&[1; 3], &memory);
        assert_eq!([old.pick(), old.pick()], [0, 1]);
        let new = build(&[1; 3], &memory);
        assert_eq!([new.pick(), new.pick()], [2, 0]);
    }

    #[test]
    fn begins_at_the_turn_that_it_is_given() {
        let picks = |turn| {
            let round_robin = build(&[1; 3], &StrategyState::from_turn(turn));
            [round_robin.pick(), round_robin.pick(), round_robin.pick()]
        };
        assert_eq!([picks(0), picks(1), picks(3_000_002)], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }

    #[test]
    fn only_a_short_cycle_is_laid_out() {
        let mut weights = [256; 256];
        weights[0] = 255;
        let is_laid_out = |weights: &[u16]| match build(weights, &StrategyState::default()).order {
            Order::Cycle(cycle) => cycle.len() <= LONGEST as usize,
            Order::Stride(_) => false,
        };
        assert!(is_laid_out(&weights));
        // One in slow start, and all others' weights ten times as many tenths.
        let mut tenths = weights.map(|weight| 10 * weight);
        tenths[1] = 256 * 9;
        tenths[0] = 255;
        assert!(!is_laid_out(&tenths));
        assert!(is_laid_out(&[256; 10_000]));
    }
}
