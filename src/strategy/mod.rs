//! How a pool picks. A strategy does no I/O and has no clock: it is given a [`Turn`] and returns an index.
//!
//! A strategy is an enum twice: [`Kind`] is what the settings say, [`Strategy`] is the live state, and
//! [`Strategy::build`] is the one match that leads from one to the other. To add one: a file beside this one, a
//! variant in each enum, and the compiler lists the rest.

mod random;
mod round_robin;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_utils::CachePadded;
use rand::rngs::SmallRng;
use serde::Serialize;

pub use random::Random;
pub use round_robin::RoundRobin;

use crate::listed::listed;

listed! {
    /// A strategy as the settings name it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Kind {
        /// Each pick is a throw of weighted dice.
        Random,
        /// Backends take turns; weights are exact over each cycle.
        #[default]
        RoundRobin,
    }
}

impl Kind {
    /// Its name in settings, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
        }
    }
}

/// The weights of those who may be picked: never empty, never 0.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a>(&'a [NonZeroU16]);

impl<'a> Weights<'a> {
    /// `None` where there is nobody to pick.
    pub fn new(weights: &'a [NonZeroU16]) -> Option<Self> {
        (!weights.is_empty()).then_some(Self(weights))
    }

    /// The weights, in order of the index that a pick returns.
    fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.iter().map(|weight| u32::from(weight.get()))
    }

    fn count(self) -> usize {
        self.0.len()
    }
}

/// What of a strategy outlives a fleet. The keeper hands the same one to the next fleet, so that a round robin
/// goes on where it was. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Turns taken so far, by all workers together. Alone on its cache line: it is the one value that they
    /// all write.
    turns: Arc<CachePadded<AtomicU64>>,
}

/// What one pick may use.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The worker's own generator.
    pub rng: &'a mut SmallRng,
}

/// A strategy at work.
#[derive(Debug)]
pub enum Strategy {
    /// See [`Random`].
    Random(Random),
    /// See [`RoundRobin`].
    RoundRobin(RoundRobin),
}

impl Strategy {
    /// Builds the tables. O(sum of weights) at most; see each strategy.
    pub fn build(kind: Kind, weights: Weights<'_>, memory: &Memory) -> Self {
        match kind {
            Kind::Random => Self::Random(Random::build(weights)),
            Kind::RoundRobin => Self::RoundRobin(RoundRobin::build(weights, memory)),
        }
    }

    /// Picks one: an index below the number of weights it was built with. O(1), no lock, no allocation.
    pub fn pick(&self, turn: &mut Turn<'_>) -> usize {
        match self {
            Self::Random(random) => random.pick(turn),
            Self::RoundRobin(round_robin) => round_robin.pick(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! One table for every strategy: what is said here holds for each variant of [`Kind`].

    use proptest::{prop_assert, proptest};
    use rand::SeedableRng;

    use super::*;

    fn build(kind: Kind, weights: &[u16]) -> Strategy {
        let weights: Vec<_> = weights.iter().map(|&weight| NonZeroU16::new(weight).unwrap()).collect();
        Strategy::build(kind, Weights::new(&weights).unwrap(), &Memory::default())
    }

    fn picks(strategy: &Strategy, seed: u64, count: usize) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..count).map(|_| strategy.pick(&mut Turn { rng: &mut rng })).collect()
    }

    #[test]
    fn nobody_is_not_a_choice() {
        assert!(Weights::new(&[]).is_none());
    }

    #[test]
    fn one_backend_gets_every_pick() {
        for kind in Kind::ALL {
            assert!(picks(&build(kind, &[7]), 1, 100).iter().all(|&index| index == 0), "{}", kind.name());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_picks() {
        for kind in Kind::ALL {
            let weights = [3, 1, 256, 2];
            assert_eq!(picks(&build(kind, &weights), 5, 1000), picks(&build(kind, &weights), 5, 1000));
        }
    }

    #[test]
    fn names_are_those_that_settings_print() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u16..=256, 1..40), seed: u64) {
            for kind in Kind::ALL {
                let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
                let count = 200_000;
                let mut seen = vec![0u32; weights.len()];
                for index in picks(&build(kind, &weights), seed, count) {
                    seen[index] += 1;
                }
                for (&weight, &seen) in weights.iter().zip(&seen) {
                    let share = f64::from(weight) / f64::from(total);
                    let expected = share * count as f64;
                    // Six standard deviations of a binomial, and one whole cycle for a round robin.
                    let slack = 6.0 * (expected * (1.0 - share)).sqrt() + f64::from(weight);
                    prop_assert!((f64::from(seen) - expected).abs() <= slack, "{} {seen} {expected}", kind.name());
                }
            }
        }
    }
}
