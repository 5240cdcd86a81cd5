//! The order of a round robin whose cycle is too long to lay out.

use super::{WeightedBackend, Weights};

/// Backends as intervals of a circle, as long as their weights, and turns that go around it by the golden ratio.
///
/// Multiples of the golden ratio divide a circle more evenly than those of any other number, so that after any number
/// of turns every backend has had its share of them, give or take a few, and waits for no more than twice its average
/// gap or so. (A laid out cycle is exact at its end; this order has no end, and needs none.)
///
/// A turn is looked up in a guide table (Chen and Asau, "On generating random variates from an empirical
/// distribution", 1974): two to four equal parts of the circle per backend, each with the first backend in it, from
/// which the search goes on; two steps on average. O(number of backends) to build and to store, whatever the weights:
/// 16 bytes per backend.
#[derive(Debug)]
pub(super) struct Stride {
    /// The last point of each backend's interval, in 2^-64 of the circle.
    ends: Box<[u64]>,
    /// The backend of each interval.
    backends: Box<[u16]>,
    /// The interval in which each part of the circle begins.
    guide: Box<[u16]>,
    /// How far a point is shifted to give its part of the circle.
    shift: u32,
}

/// The fraction of the golden ratio, in 2^-64, which is odd: no turn returns to a point within 2^64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stride {
    pub(super) fn new(weights: Weights<'_>) -> Self {
        let total = u128::from(weights.sum());
        let mut sum = 0;
        let end = |WeightedBackend { weight, .. }: WeightedBackend| {
            sum += u128::from(weight.get());
            // At most 2^64 - 1, because the sum is at most the total.
            ((sum << u64::BITS) / total - 1) as u64
        };
        let ends: Box<[u64]> = weights.iter().map(end).collect();
        let parts = (2 * ends.len() as u64).next_power_of_two();
        let shift = u64::BITS - parts.ilog2();
        let first = |part: u64| ends.partition_point(|&end| end < part << shift) as u16;
        let guide = (0..parts).map(first).collect();
        Self { backends: weights.iter().map(|backend| backend.backend).collect(), guide, shift, ends }
    }

    /// The backend of a turn.
    #[inline]
    pub(super) fn backend(&self, turn: u64) -> usize {
        let point = turn.wrapping_mul(GOLDEN);
        let mut at = usize::from(self.guide[(point >> self.shift) as usize]);
        // The last interval ends at 2^64 - 1.
        while self.ends[at] < point {
            at += 1;
        }
        self.backends[at].into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::tests::shares;

    fn stride(weights: &[u16]) -> Stride {
        Stride::new(Weights::new(&shares(weights)).unwrap())
    }

    /// Checks that a backend with a turn every `even` turns on average never waits for more than four times that,
    /// and that no stretch of turns has over eight more or fewer of its turns than its share.
    fn check_spread(weights: &[u16], turns: std::ops::Range<u64>) {
        let (stride, sum) = (stride(weights), weights.iter().map(|&weight| f64::from(weight)).sum::<f64>());
        let mut own = vec![Vec::new(); weights.len()];
        turns.clone().for_each(|turn| own[stride.backend(turn)].push(turn - turns.start));
        for (&weight, own) in weights.iter().zip(own) {
            let even = sum / f64::from(weight);
            let gap = own.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(gap as f64 <= 4.0 * even, "a gap of {gap} at weight {weight} of {weights:?}");
            // How far it is ahead of its share after each of its turns; it was one less just before.
            let ahead = own.iter().zip(1..).map(|(&turn, count)| f64::from(count) - (turn + 1) as f64 / even);
            let (least, most) =
                ahead.fold((1f64, 0f64), |(least, most), ahead| (least.min(ahead), most.max(ahead)));
            assert!(most - (least - 1.0) <= 8.0, "{most} ahead and {least} behind at weight {weight}");
        }
    }

    proptest! {
        #[test]
        fn spreads_turns_in_proportion(weights in prop::collection::vec(1u16..=2560, 2..30), begin in 0..u64::MAX / 2) {
            check_spread(&weights, begin..begin + 50_000);
        }

        #[test]
        fn spreads_turns_of_few_heavy_backends_among_light_ones(
            weights in prop::collection::vec(prop_oneof![40 => Just(1u16), 1 => 2000u16..=2560], 2..400),
        ) {
            check_spread(&weights, 0..100_000);
        }
    }

    #[test]
    fn spreads_turns_of_thousands_of_backends() {
        // Among them Fibonacci numbers, whose multiples of the golden ratio are nearly whole.
        for backends in [6765, 10_000, 28_657] {
            let weights: Vec<u16> = (0..backends).map(|i| 1 + i % 256).collect();
            check_spread(&weights, 1 << 40..(1 << 40) + 1_000_000);
        }
    }

    #[test]
    fn finds_the_interval_of_every_point() {
        let mut weights = vec![2560; 65_536];
        weights[7] = 1;
        let stride = stride(&weights);
        assert_eq!(stride.ends[65_535], u64::MAX);
        // The turn of a point: the inverse of an odd number modulo 2^64, by Newton's iteration.
        let inverse = (0..6)
            .fold(GOLDEN, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(GOLDEN.wrapping_mul(inverse))));
        for (backend, &end) in stride.ends.iter().enumerate() {
            assert_eq!(stride.backend(end.wrapping_mul(inverse)), backend, "its last point");
            let after = if backend == 65_535 { 0 } else { backend + 1 };
            assert_eq!(
                stride.backend(end.wrapping_add(1).wrapping_mul(inverse)),
                after,
                "the point after it"
            );
        }
    }
}
