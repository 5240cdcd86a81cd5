//! A round robin's cycle, laid out turn by turn.

use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};

use super::{WeightedBackend, Weights};

/// Lays out a cycle in which every backend has its weight of turns, divided by `divisor`. The weights' greatest common
/// divisor makes it the shortest. O(S log d): S is its length, d how many different weights there are.
pub(super) fn lay_out(weights: Weights<'_>, divisor: u32) -> Box<[u16]> {
    let mut by_weight: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
    for WeightedBackend { backend, weight } in weights.iter() {
        by_weight.entry(u32::from(weight.get()) / divisor).or_default().push(backend);
    }
    let groups: Vec<WeightGroup> = by_weight
        .into_iter()
        .rev()
        .map(|(weight, members)| WeightGroup { beats: u64::from(weight) * members.len() as u64, members })
        .collect();

    let mut cycle = Vec::with_capacity(groups.iter().map(|group| group.beats as usize).sum());
    let first = |(group, of): (usize, &WeightGroup)| Reverse(NextTurn { number: 0, of: of.beats, group });
    let mut next: BinaryHeap<_> = groups.iter().enumerate().map(first).collect();
    while let Some(mut top) = next.peek_mut() {
        let beat = &mut top.0;
        let members = &groups[beat.group].members;
        cycle.push(members[(beat.number % members.len() as u64) as usize]);
        beat.number += 1;
        if beat.number == beat.of {
            PeekMut::pop(top);
        }
    }
    cycle.into()
}

/// Backends of one weight, who share an even rhythm and take its beats by turns.
///
/// With turn k of each single backend at (k + ½) / weight, all backends of one weight would stand on the same
/// beat: ten backends of weight 1 beside one of weight 10 would all come in the middle of the cycle, and the
/// heavy one would have ten turns on end. So the rhythm is the group's, (k + ½) / (weight × members).
struct WeightGroup {
    members: Vec<u16>,
    beats: u64,
}

/// The next beat of a group; the earliest is first, and of two at once the heavier's.
#[derive(PartialEq, Eq)]
struct NextTurn {
    number: u64,
    of: u64,
    group: usize,
}

impl Ord for NextTurn {
    fn cmp(&self, other: &Self) -> Ordering {
        // (2a + 1) / 2b against (2c + 1) / 2d, multiplied out: at most 2^29 × 2^28.
        let left = (2 * self.number + 1) * other.of;
        let right = (2 * other.number + 1) * self.of;
        left.cmp(&right).then(other.of.cmp(&self.of)).then(self.group.cmp(&other.group))
    }
}

impl PartialOrd for NextTurn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::tests::{gcd_of, shares};

    fn cycle(weights: &[u16]) -> Box<[u16]> {
        lay_out(Weights::new(&shares(weights)).unwrap(), gcd_of(weights))
    }

    #[test]
    fn equal_backends_come_in_order() {
        assert_eq!(*cycle(&[5, 5, 5]), [0, 1, 2]);
    }

    #[test]
    fn a_heavy_backend_s_turns_are_spread() {
        assert_eq!(*cycle(&[3, 1]), [0, 0, 1, 0]);
        //          a  b  a  c  a  d  a  e
        assert_eq!(*cycle(&[4, 1, 1, 1, 1]), [0, 1, 0, 2, 0, 3, 0, 4]);
        assert_eq!(*cycle(&[5, 1, 1]), [0, 1, 0, 0, 0, 2, 0]);
    }

    proptest! {
        #[test]
        fn weights_are_exact(weights in prop::collection::vec(1u16..=256, 1..60)) {
            let cycle = cycle(&weights);
            let divisor = gcd_of(&weights);
            for (index, &weight) in weights.iter().enumerate() {
                let turns = cycle.iter().filter(|&&turn| usize::from(turn) == index).count();
                prop_assert_eq!(turns as u32, u32::from(weight) / divisor);
            }
        }

        /// Between two turns of a backend, over the end of a cycle too, every other group has its share of
        /// beats and at most two more, as each keeps an even rhythm.
        #[test]
        fn turns_are_spread_between_cycles(weights in prop::collection::vec(1u16..=256, 1..60)) {
            let cycle = cycle(&weights);
            let twice: Vec<u16> = cycle.iter().chain(&cycle).copied().collect();
            let groups = weights.iter().collect::<std::collections::BTreeSet<_>>().len();
            for index in 0..weights.len() {
                let turns: Vec<_> = (0..twice.len()).filter(|&at| usize::from(twice[at]) == index).collect();
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
