//! How unevenly something is spread over backends of different sizes.

use serde::Serialize;

use crate::util::enum_all;

/// How uneven levels are: utilizations of backends by their capacities, or dispatches per weight by their weights. What
/// is even has 1, 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Imbalance {
    /// The highest level over the mean: 1 and more. What decides when the first backend is full.
    pub highest_over_mean: f64,
    /// The coefficient of variation: the standard deviation over the mean.
    pub variation: f64,
    /// Jain's index of fairness, from 1 down to a smallest part's share where that has everything (Jain, Chiu, Hawe: "A
    /// Quantitative Measure of Fairness", 1984).
    pub jain: f64,
}

enum_all! {
    /// One of the figures of an [`Imbalance`].
    pub enum Measure {
        /// [`Imbalance::highest_over_mean`].
        HighestOverMean = "highest_over_mean",
        /// [`Imbalance::variation`].
        Variation = "variation",
        /// [`Imbalance::jain`].
        Jain = "jain",
    }
}

impl Imbalance {
    /// Of levels, each with the size of what it is the level of, which is how much it counts: the mean of utilizations
    /// by capacities is all load over all capacity. `None` where there is nothing, or nothing in it.
    pub fn of(levels: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let (mut sizes, mut sum, mut squares, mut highest) = (0.0, 0.0, 0.0, 0.0f64);
        for (level, size) in levels {
            sizes += size;
            sum += size * level;
            squares += size * level * level;
            highest = highest.max(level);
        }
        if !(sizes > 0.0 && sum > 0.0) {
            return None;
        }
        let (mean, mean_square) = (sum / sizes, squares / sizes);
        Some(Self {
            highest_over_mean: highest / mean,
            // Rounding may leave a little less than nothing.
            variation: (mean_square / (mean * mean) - 1.0).max(0.0).sqrt(),
            jain: mean * mean / mean_square,
        })
    }

    /// One of its figures.
    pub fn get(&self, measure: Measure) -> f64 {
        match measure {
            Measure::HighestOverMean => self.highest_over_mean,
            Measure::Variation => self.variation,
            Measure::Jain => self.jain,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_even_is_even_whatever_the_sizes() {
        let even = Imbalance::of([(0.5, 1.0), (0.5, 4.0), (0.5, 2.0)]).unwrap();
        assert_eq!(even, Imbalance { highest_over_mean: 1.0, variation: 0.0, jain: 1.0 });
        assert_eq!(Imbalance::of([]), None);
        assert_eq!(Imbalance::of([(0.0, 1.0), (0.0, 1.0)]), None);
    }

    #[test]
    fn one_of_four_with_everything() {
        let one = Imbalance::of([(8.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0)]).unwrap();
        assert_eq!((one.highest_over_mean, one.jain), (4.0, 0.25));
        assert!((one.variation - 3f64.sqrt()).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn one_of_size_two_is_two_of_size_one(levels in proptest::collection::vec((0.0..1e3f64, 0.1..10.0f64), 1..20)) {
            let halves = levels.iter().flat_map(|&(level, size)| [(level, size / 2.0), (level, size / 2.0)]);
            match (Imbalance::of(levels.iter().copied()), Imbalance::of(halves)) {
                (None, None) => {}
                (Some(whole), Some(halves)) => {
                    for measure in Measure::ALL {
                        prop_assert!((whole.get(measure) - halves.get(measure)).abs() < 1e-6);
                    }
                    prop_assert!(whole.highest_over_mean >= 1.0 - 1e-12 && whole.jain <= 1.0 + 1e-12);
                    prop_assert!((whole.jain * (1.0 + whole.variation.powi(2)) - 1.0).abs() < 1e-6);
                }
                _ => prop_assert!(false),
            }
        }
    }
}
