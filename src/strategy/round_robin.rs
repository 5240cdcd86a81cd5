//! `round_robin`: one counter over an order that is worked out beforehand.
//!
//! A textbook weighted round robin changes a value per backend at each pick, and so needs a lock. Here the
//! whole cycle is laid out when the pool is built; a pick is one `fetch_add` and one look-up.

use std::cmp::{Ordering as Order, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::{Memory, Weights};

/// Backends take turns. Over each cycle every backend has exactly its weight of turns, divided by the weights'
/// greatest common divisor, and they are spread over the cycle.
#[derive(Debug)]
pub struct RoundRobin {
    cycle: Box<[u32]>,
    turns: Arc<CachePadded<AtomicU64>>,
}

impl RoundRobin {
    /// Lays out a cycle in O(S log d): S is the sum of the weights over their greatest common divisor, d how
    /// many different weights there are (256 at the most).
    pub(super) fn build(weights: Weights<'_>, memory: &Memory) -> Self {
        Self { cycle: lay_out(weights).into(), turns: Arc::clone(&memory.turns) }
    }

    /// Takes the next turn. The counter wraps after 2^64 picks, five centuries of a thousand million a second.
    pub(super) fn pick(&self) -> usize {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        self.cycle[(turn % self.cycle.len() as u64) as usize] as usize
    }
}

/// Backends of one weight, who share an even rhythm and take its beats by turns.
///
/// With turn k of each single backend at (k + ½) / weight, all backends of one weight would stand on the same
/// beat: ten backends of weight 1 beside one of weight 10 would all come in the middle of the cycle, and the
/// heavy one would have ten turns on end. So the rhythm is the group's, (k + ½) / (weight × members).
struct Group {
    members: Vec<u32>,
    beats: u64,
}

/// The next beat of a group; the earliest is first, and of two at once the heavier's.
#[derive(PartialEq, Eq)]
struct Beat {
    number: u64,
    of: u64,
    group: usize,
}

impl Ord for Beat {
    fn cmp(&self, other: &Self) -> Order {
        // (2a + 1) / 2b against (2c + 1) / 2d, multiplied out: at most 2^25 × 2^25.
        let left = (2 * self.number + 1) * other.of;
        let right = (2 * other.number + 1) * self.of;
        left.cmp(&right).then(other.of.cmp(&self.of)).then(self.group.cmp(&other.group))
    }
}

impl PartialOrd for Beat {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

fn lay_out(weights: Weights<'_>) -> Vec<u32> {
    let divisor = weights.iter().fold(0, gcd);
    let mut by_weight: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, weight) in weights.iter().enumerate() {
        by_weight.entry(weight / divisor).or_default().push(index as u32);
    }
    let groups: Vec<Group> = by_weight
        .into_iter()
        .rev()
        .map(|(weight, members)| Group { beats: u64::from(weight) * members.len() as u64, members })
        .collect();

    let mut cycle = Vec::with_capacity(groups.iter().map(|group| group.beats as usize).sum());
    let first = |(group, of): (usize, &Group)| Reverse(Beat { number: 0, of: of.beats, group });
    let mut next: BinaryHeap<_> = groups.iter().enumerate().map(first).collect();
    while let Some(mut top) = next.peek_mut() {
        let beat = &mut top.0;
        let members = &groups[beat.group].members;
        cycle.push(members[(beat.number % members.len() as u64) as usize]);
        beat.number += 1;
        if beat.number == beat.of {
            std::collections::binary_heap::PeekMut::pop(top);
        }
    }
    cycle
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;

    fn cycle(weights: &[u16]) -> Vec<u32> {
        let weights: Vec<_> = weights.iter().map(|&weight| NonZeroU16::new(weight).unwrap()).collect();
        lay_out(Weights::new(&weights).unwrap())
    }

    #[test]
    fn equal_backends_come_in_order() {
        assert_eq!(cycle(&[5, 5, 5]), [0, 1, 2]);
    }

    #[test]
    fn a_heavy_backend_s_turns_are_spread() {
        assert_eq!(cycle(&[3, 1]), [0, 0, 1, 0]);
        //          a  b  a  c  a  d  a  e
        assert_eq!(cycle(&[4, 1, 1, 1, 1]), [0, 1, 0, 2, 0, 3, 0, 4]);
        assert_eq!(cycle(&[5, 1, 1]), [0, 1, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn ten_thousand_backends_fit_in_a_cycle() {
        let weights: Vec<u16> = (0..10_000).map(|i| 1 + i % 12).collect();
        let sum: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        assert_eq!(cycle(&weights).len(), sum);
    }

    #[test]
    fn a_new_fleet_goes_on_where_the_old_one_was() {
        let memory = Memory::default();
        let weights = [NonZeroU16::MIN; 3];
        let old = RoundRobin::build(Weights::new(&weights).unwrap(), &memory);
        assert_eq!([old.pick(), old.pick()], [0, 1]);
        let new = RoundRobin::build(Weights::new(&weights).unwrap(), &memory);
        assert_eq!([new.pick(), new.pick()], [2, 0]);
    }

    proptest! {
        #[test]
        fn weights_are_exact_in_every_cycle(weights in prop::collection::vec(1u16..=256, 1..60)) {
            let cycle = cycle(&weights);
            let divisor = weights.iter().map(|&weight| u32::from(weight)).fold(0, gcd);
            for (index, &weight) in weights.iter().enumerate() {
                let turns = cycle.iter().filter(|&&turn| turn as usize == index).count();
                prop_assert_eq!(turns as u32, u32::from(weight) / divisor);
            }
        }

        /// Between two turns of a backend, over the end of a cycle too, every other group has its share of
        /// beats and at most two more, as each keeps an even rhythm.
        #[test]
        fn turns_are_spread_between_cycles(weights in prop::collection::vec(1u16..=256, 1..60)) {
            let cycle = cycle(&weights);
            let twice: Vec<u32> = cycle.iter().chain(&cycle).copied().collect();
            let groups = weights.iter().collect::<std::collections::BTreeSet<_>>().len();
            for index in 0..weights.len() {
                let turns: Vec<_> = (0..twice.len()).filter(|&at| twice[at] as usize == index).collect();
                let even = cycle.len() as f64 / (turns.len() / 2) as f64;
                for pair in turns.windows(2) {
                    let gap = (pair[1] - pair[0]) as f64;
                    prop_assert!(gap <= even + 2.0 * groups as f64, "{gap} against {even}");
                    prop_assert!(gap >= even - 2.0 * groups as f64, "{gap} against {even}");
                }
            }
        }
    }
}
