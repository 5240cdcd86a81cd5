//! How many keys of a hash move beyond those that must where a backend goes, and how even shares are.

use std::num::NonZeroU16;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use signpost::strategy::{
    self, PickContext, Strategy, StrategyConfig, StrategyKind, StrategyState, WeightedBackend, Weights,
};
use signpost::util::clock::Moment;

use crate::table::{Bound, Table};

const KEYS: u64 = 500_000;
/// How many backends are taken away, one at a time.
const TAKEN: usize = 6;

pub fn run(table: &mut Table) {
    for (backends, weights) in [(10, 1), (100, 1), (100, 256), (1000, 12), (10_000, 1)] {
        let shares: Vec<_> = (0..backends)
            .map(|backend: u16| WeightedBackend {
                backend,
                weight: NonZeroU16::new(1 + backend * 7 % weights).unwrap(),
            })
            .collect();
        let before = BackendOfKey::of(&shares);
        let moved: Vec<_> = (1..=TAKEN)
            .map(|number| {
                let gone = number * (shares.len() / TAKEN).max(1) - 1;
                let rest: Vec<_> =
                    shares.iter().copied().filter(|share| usize::from(share.backend) != gone).collect();
                100.0 * before.moved(&BackendOfKey::of(&rest), gone)
            })
            .collect();
        let what = format!("{backends} of weights 1 to {weights}, one goes: others' keys that move");
        table.row(&what, "%", &moved, Bound::AtMost(1.5));
        let uneven: Vec<_> = before.unevenness(&shares);
        table.row("  each backend's keys against its share", "", &uneven, Bound::None);
    }
}

/// Where each key goes.
struct BackendOfKey(Vec<u16>);

impl BackendOfKey {
    fn of(shares: &[WeightedBackend]) -> Self {
        let most = shares.iter().map(|share| share.backend).max().unwrap();
        let names = (0..=most).map(|backend| strategy::hash(format!("b{backend}").as_bytes())).collect();
        let rules = StrategyConfig { names, ..StrategyConfig::default() };
        let weights = Weights::new(shares).unwrap();
        let strategy =
            Strategy::build(StrategyKind::ConsistentHash, &rules, weights, &StrategyState::default());
        let mut rng = SmallRng::seed_from_u64(0);
        let place = |number: u64| {
            let key = strategy::hash(&number.to_le_bytes());
            strategy.pick(&mut PickContext::new(&mut rng, key, Moment::default())) as u16
        };
        Self((0..KEYS).map(place).collect())
    }

    /// The part of all keys that others than `gone` had and that moved.
    fn moved(&self, after: &Self, gone: usize) -> f64 {
        let pairs = self.0.iter().zip(&after.0);
        pairs.filter(|&(&was, &is)| was != is && usize::from(was) != gone).count() as f64 / KEYS as f64
    }

    /// What each has of its share.
    fn unevenness(&self, shares: &[WeightedBackend]) -> Vec<f64> {
        let sum: f64 = shares.iter().map(|share| f64::from(share.weight.get())).sum();
        let mut counts = vec![0.0; shares.len()];
        self.0.iter().for_each(|&place| counts[usize::from(place)] += 1.0);
        let part = |(share, count): (&WeightedBackend, f64)| {
            count / KEYS as f64 / (f64::from(share.weight.get()) / sum)
        };
        shares.iter().zip(counts).map(part).collect()
    }
}
