//! A round robin's cycle that is too long to be laid out: a wheel, of which every backend has its weight in marks. Each
//! turn goes on by the same step, and whose mark the wheel then shows is looked up.

use super::{WeightedBackend, Weights};

/// A wheel of S marks, S being the sum of the weights over their divisor. The step has no factor in common with S, so
/// any S turns on end come to each mark once, and every backend has exactly its weight of turns. It is near the golden
/// section of S, so that they are spread: the points that multiples of it reach divide a circle as evenly as any.
///
/// The wheel is cut into cells, so that a look-up is most often one read of one [`WheelCell`]. Ten thousand backends have 256
/// KiB of them, and turns go to and fro on the wheel; so the cells lie in the order in which turns come to them.
///
/// Memory and time to build it are O(number of backends), whatever the weights; a pick is O(1), and most read one
/// [`WheelCell`].
#[derive(Debug)]
pub(super) struct Wheel {
    /// How far a turn goes: the share of the wheel, in 2^-128 of it.
    step: u128,
    /// A power of two of even parts of the wheel: number c is at (c × `order`) modulo how many there are.
    cells: Box<[WheelCell]>,
    /// See `cells`.
    order: usize,
    /// What of a place, in 2^-64 of the wheel, is below the number of its cell: so many bits.
    shift: u32,
    /// The backends in the order of their marks.
    ends: Box<[BackendEnd]>,
}

/// A part of the wheel, in eight bytes.
#[derive(Clone, Copy, Debug)]
struct WheelCell {
    /// Where one backend's marks end and the next one's begin, in 2^-32 of the cell. 0: that happens more than once.
    edge: u32,
    /// Whose marks are below `edge`; where there are several edges, the first of [`Wheel::ends`] with marks here.
    below: u16,
    /// Whose marks are above; where there are several edges, the last of [`Wheel::ends`] with marks here.
    above: u16,
}

/// A backend and where its marks end, in 2^-64 of the wheel, rounded down; for the last one, which ends at 1, a little
/// below.
#[derive(Debug)]
struct BackendEnd {
    place: u64,
    backend: u16,
}

impl Wheel {
    /// Marks the wheel. `divisor` divides all weights; there are two marks or more.
    pub(super) fn new(weights: Weights<'_>, divisor: u32) -> Self {
        let marks: u64 = weights.iter().map(|share| u64::from(u32::from(share.weight.get()) / divisor)).sum();
        let mut sum = 0;
        let end = |WeightedBackend { backend, weight }: WeightedBackend| {
            sum += u128::from(u32::from(weight.get()) / divisor);
            let place = u64::try_from((sum << 64) / u128::from(marks)).unwrap_or(u64::MAX);
            BackendEnd { place, backend }
        };
        let ends: Box<[BackendEnd]> = weights.iter().map(end).collect();
        // Between two and four cells for a backend: where weights are alike, few have more than one edge. But no fewer than
        // a golden section of them is worth its name.
        let bits = (2 * ends.len()).next_power_of_two().max(1 << 10).ilog2();
        let shift = u64::BITS - bits;
        let stride = stride(1 << bits);
        let (order, mask) = (inverse(stride), (1 << bits) - 1);
        let mut cells = vec![WheelCell { edge: 0, below: 0, above: 0 }; 1 << bits];
        let mut first = 0;
        for number in 0..1 << bits {
            let until = (number << shift) | ((1 << shift) - 1);
            let mut last = first;
            while last + 1 < ends.len() && ends[last].place <= until {
                last += 1;
            }
            cells[(number.wrapping_mul(order) & mask) as usize] =
                WheelCell::between(&ends, first, last, shift);
            first = last;
        }
        // Rounded up by less than 1 before it is multiplied: after 2^64 turns a place is off by 2^-36 at the most, and
        // marks are 2^-31 apart.
        let step = (u128::MAX / u128::from(marks) + 1) * u128::from(step(marks, stride, 1 << bits));
        Self { step, cells: cells.into(), order: order as usize, shift, ends }
    }

    /// Whose turn it is. No division: the fraction of a 128-bit product is the place, and its upper bits the cell.
    #[inline]
    pub(super) fn backend(&self, turn: u64) -> usize {
        let place = (self.step.wrapping_mul(u128::from(turn)) >> 64) as u64;
        let number = (place >> self.shift) as usize;
        let cell = self.cells[number.wrapping_mul(self.order) & (self.cells.len() - 1)];
        if cell.edge == 0 {
            let ends = &self.ends[cell.below.into()..cell.above.into()];
            let at = usize::from(cell.below) + ends.partition_point(|end| end.place <= place);
            return self.ends[at].backend.into();
        }
        let within = (place >> (self.shift - u32::BITS)) as u32;
        if within < cell.edge { cell.below.into() } else { cell.above.into() }
    }
}

impl WheelCell {
    /// The cell in which those from `first` to `last` have marks.
    fn between(ends: &[BackendEnd], first: usize, last: usize, shift: u32) -> Self {
        let edge = (ends[first].place >> (shift - u32::BITS)) as u32;
        match last - first {
            0 => Self { edge: 1, below: ends[last].backend, above: ends[last].backend },
            // It has no mark here: it ended just where the cell begins.
            1 if edge == 0 => Self { edge: 1, below: ends[last].backend, above: ends[last].backend },
            1 => Self { edge, below: ends[first].backend, above: ends[last].backend },
            _ => Self { edge: 0, below: first as u16, above: last as u16 },
        }
    }
}

/// How many cells a turn goes on, about: an odd number near the golden section of how many there are, and of those the
/// one that spreads turns best.
fn stride(cells: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let near = (cells as f64 * GOLDEN) as u64 | 1;
    let tried = (near..near + 64).step_by(2).filter(|&stride| stride < cells);
    tried.min_by_key(|&stride| largest_term(cells, stride)).unwrap_or(1)
}

/// How many marks a turn goes on: about as far as `stride` of the cells, and of what is near that what spreads turns best.
/// Near is some marks, or an eighth of a cell, so that most turns come to the cell that lies next to the last one.
fn step(marks: u64, stride: u64, cells: u64) -> u64 {
    let middle = marks * stride / cells;
    let near = (marks / cells / 8).clamp(16, 64);
    let tried = middle.saturating_sub(near).max(1)..(middle + near).min(marks);
    tried.min_by_key(|&step| largest_term(marks, step)).unwrap_or(1)
}

/// What times an odd number is 1, modulo 2^64 and so modulo each lower power of two: Newton's iteration, in which each
/// round doubles how many bits are right, beginning with three.
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse))))
}

/// The largest term of the continued fraction of `step / marks`: it bounds how uneven the points are that multiples of
/// `step` reach. None is as large as where they have a common factor and some points are never reached.
fn largest_term(marks: u64, step: u64) -> u64 {
    let (mut a, mut b, mut largest) = (marks, step, 0);
    while b != 0 {
        largest = largest.max(a / b);
        (a, b) = (b, a % b);
    }
    if a == 1 { largest } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::tests::{gcd_of, shares};

    fn wheel(weights: &[u16]) -> Wheel {
        Wheel::new(Weights::new(&shares(weights)).unwrap(), gcd_of(weights))
    }

    /// How often each of so many backends comes in these turns.
    fn counts(wheel: &Wheel, backends: usize, turns: std::ops::Range<u64>) -> Vec<u64> {
        let mut counts = vec![0; backends];
        turns.for_each(|turn| counts[wheel.backend(turn)] += 1);
        counts
    }

    /// The marks of each, as numbers of turns.
    fn marks(weights: &[u16]) -> Vec<u64> {
        let divisor = gcd_of(weights);
        weights.iter().map(|&weight| u64::from(u32::from(weight) / divisor)).collect()
    }

    proptest! {
        #[test]
        fn any_cycle_is_exact(weights in prop::collection::vec(1u16..=2560, 2..40), begin: u64) {
            let marks = marks(&weights);
            let cycle: u64 = marks.iter().sum();
            // The counter's own end is centuries away.
            let begin = begin.min(u64::MAX - cycle);
            prop_assert_eq!(counts(&wheel(&weights), weights.len(), begin..begin + cycle), marks);
        }

        /// Whatever is between the marks of a cell, equal, tiny or huge: some cells have many edges, some none.
        #[test]
        fn few_heavy_ones_among_many_light_ones_are_exact(
            weights in prop::collection::vec(prop_oneof![40 => Just(1u16), 1 => 2000u16..=2560], 2..400),
        ) {
            let marks = marks(&weights);
            prop_assert_eq!(counts(&wheel(&weights), weights.len(), 0..marks.iter().sum()), marks);
        }

        /// A backend of which turn comes every `even` turns on average never waits for more than four times that, and
        /// in no stretch of turns has it over eight more or fewer than its share.
        #[test]
        fn turns_are_spread(weights in prop::collection::vec(1u16..=2560, 2..30)) {
            let (wheel, marks) = (wheel(&weights), marks(&weights));
            let cycle: u64 = marks.iter().sum();
            let mut turns = vec![Vec::new(); marks.len()];
            (0..2 * cycle).for_each(|turn| turns[wheel.backend(turn)].push(turn));
            for (mark, turns) in marks.into_iter().zip(turns) {
                let even = cycle as f64 / mark as f64;
                let gap = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
                prop_assert!(gap as f64 <= 4.0 * even, "{gap} where {even} are even");
                // How far it is ahead of its share after each of its turns; it was one less just before.
                let ahead = turns.iter().zip(1..).map(|(&turn, count)| f64::from(count) - (turn + 1) as f64 / even);
                let (least, most) = ahead.fold((1f64, 0f64), |(least, most), ahead| (least.min(ahead), most.max(ahead)));
                prop_assert!(most - (least - 1.0) <= 8.0, "{most} ahead and {least} behind");
            }
        }
    }

    #[test]
    fn ten_thousand_of_all_weights_are_exact() {
        let weights: Vec<u16> = (0..10_000).map(|i| 1 + i % 256).collect();
        let marks = marks(&weights);
        assert_eq!(
            counts(&wheel(&weights), weights.len(), 1 << 40..(1 << 40) + marks.iter().sum::<u64>()),
            marks
        );
    }

    #[test]
    fn weights_drive_up_no_memory() {
        for (backends, weight) in [(100, 2560), (10_000, 256), (10_000, 2560), (65_536, 2560)] {
            let mut weights = vec![weight; backends];
            weights[0] = 1;
            let wheel = wheel(&weights);
            let bytes = size_of_val(&*wheel.cells) + size_of_val(&*wheel.ends);
            assert!(bytes <= (backends * 48).max(1 << 14), "{bytes} for {backends}");
        }
    }

    #[test]
    fn the_last_turns_before_the_counter_wraps_are_exact() {
        let mut weights = vec![2560; 65_536];
        weights[7] = 2559;
        let (wheel, cycle) = (wheel(&weights), 65_536 * 2560 - 1);
        // The one turn of each mark: of the marks next to each other at an edge, each is shown to whom it belongs.
        let edges = (0..65_535)
            .map(|backend| if backend < 7 { (backend + 1) * 2560 } else { (backend + 1) * 2560 - 1 });
        let inverse = inverse_modulo(step(cycle, stride(1 << 17), 1 << 17), cycle);
        let last = u64::MAX - u64::MAX % cycle - cycle;
        for (backend, edge) in edges.enumerate() {
            let turn = |mark: u64| last + (u128::from(mark) * u128::from(inverse) % u128::from(cycle)) as u64;
            assert_eq!([turn(edge - 1), turn(edge)].map(|turn| wheel.backend(turn)), [backend, backend + 1]);
        }
    }

    /// What times `a` is 1, counted modulo `modulus`.
    fn inverse_modulo(a: u64, modulus: u64) -> u64 {
        let (mut rest, mut x) = ((modulus as i64, a as i64), (0i64, 1i64));
        while rest.1 != 0 {
            let times = rest.0 / rest.1;
            (rest, x) = ((rest.1, rest.0 - times * rest.1), (x.1, x.0 - times * x.1));
        }
        x.0.rem_euclid(modulus as i64) as u64
    }
}
