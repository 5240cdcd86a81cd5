//! `consistent_hash`: who the visitor is says where it goes, on every replica alike; and where a backend has more than
//! its share of the dispatches, to the next one in the visitor's own order.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bounded_load::LoadBound;
use super::explain::Candidate;
use super::hash_table::{HashTable, nth};
use super::{Accept, PickContext, StrategyConfig, StrategyState, TriedBackends, Weights};
use crate::util::clock::Moment;

/// What every hash begins with: "signpost". With another one all visitors would go elsewhere.
const SEED: u64 = u64::from_be_bytes(*b"signpost");

/// The hash by which visitors and backends are known, on every replica and in every version: XXH3 of 64 bits.
pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, SEED)
}

/// A visitor's key gives a sequence of slots, the same for ever; whose they are is its order of backends. The first is
/// where it goes. See `HashTable` for what becomes of that when backends come and go.
#[derive(Debug)]
pub struct ConsistentHash {
    slots: HashTable,
    bound: Option<LoadBound>,
}

impl ConsistentHash {
    /// Builds the table: some milliseconds, see [`HashTable`].
    pub(super) fn build(rules: &StrategyConfig, weights: Weights<'_>, memory: &StrategyState) -> Self {
        let slots = HashTable::new(weights, |backend| rules.name(backend));
        let bound = (rules.balance_factor > 0).then(|| LoadBound::new(rules.balance_factor, weights, memory));
        Self { slots, bound }
    }

    /// The first in the visitor's order who is within the bound and has room.
    pub(super) fn pick_of(&self, turn: &PickContext<'_>, accept: &mut Accept<'_>) -> Option<usize> {
        let bound = self.bound.as_ref().map(|bound| (bound, bound.all(turn.now)));
        let is_full = |backend| bound.is_some_and(|(bound, all)| !bound.takes(backend, all, turn.now));
        self.order(turn.key).find(|&backend| accept(backend, is_full(backend)))
    }

    /// The first in the visitor's order who is within the bound, else the very first.
    pub(super) fn pick(&self, turn: &mut PickContext<'_>) -> usize {
        let first = self.slots.at(nth(turn.key, 0));
        if self.bound.is_none() {
            return first;
        }
        let picked = self.pick_of(turn, &mut |_, is_full| !is_full).unwrap_or(first);
        // The first is full if another is picked.
        turn.note_overflow(Some(first), picked);
        picked
    }

    /// The visitor's order, each backend once, as far as it is gone.
    fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        let mut asked = TriedBackends::default();
        let backends = (0..TriedBackends::MOST as u64).map(move |count| self.slots.at(nth(key, count)));
        backends.filter(move |&backend| asked.is_new(backend))
    }

    /// The visitor's order, and who in it is at the bound.
    pub(super) fn explain(&self, weights: Weights<'_>, key: u64, now: Moment) -> Vec<Candidate> {
        let mut rest: BTreeSet<usize> = weights.iter().map(|share| share.backend.into()).collect();
        let ordered = self.order(key).zip(1u32..).map(|(backend, place)| {
            rest.remove(&backend);
            let why = format!("number {place} in this visitor's order");
            let mut candidate = Candidate::new(backend, Some(place.into()), why);
            if let Some(why) = self.bound.as_ref().and_then(|bound| bound.why_not(backend, now)) {
                candidate.pass_over(&why);
            }
            candidate
        });
        let mut candidates: Vec<_> = ordered.collect();
        let far = |backend| Candidate::new(backend, None, "far down this visitor's order".to_owned());
        candidates.extend(rest.into_iter().map(far));
        candidates
    }

    /// Notes who was sent a visitor.
    pub(super) fn sent(&self, backend: usize, now: Moment) {
        if let Some(bound) = &self.bound {
            bound.sent(backend, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::strategy::RateMeters;
    use crate::strategy::tests::shares;

    fn build(weights: &[u16], balance_factor: u16) -> ConsistentHash {
        let names = (0..weights.len()).map(|index| hash(format!("b{index}").as_bytes())).collect();
        let rules = StrategyConfig { names, balance_factor, ..StrategyConfig::default() };
        let memory = StrategyState {
            meters: RateMeters::default().of_roster(&rules.names),
            ..StrategyState::default()
        };
        ConsistentHash::build(&rules, Weights::new(&shares(weights)).unwrap(), &memory)
    }

    /// Sends visitors with these keys, so many milliseconds apart, and says how many went to each.
    fn send(hash: &ConsistentHash, backends: usize, apart: f64, keys: impl Iterator<Item = u64>) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(0);
        let mut sent = vec![0; backends];
        for (key, number) in keys.zip(0..) {
            let now = Moment(1_000_000_000_000 + (f64::from(number) * apart * 1e6) as u64);
            let backend = hash.pick(&mut PickContext::new(&mut rng, key, now));
            hash.sent(backend, now);
            sent[backend] += 1;
        }
        sent
    }

    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(hash(b""), 15_090_176_727_520_524_825);
        assert_eq!(hash(b"signpost"), 17_447_443_022_901_798_860);
    }

    #[test]
    fn a_key_goes_to_one_backend() {
        let hash = build(&[1, 2, 3], 0);
        assert_eq!(
            send(&hash, 3, 1.0, std::iter::repeat_n(77, 60)).iter().filter(|&&sent| sent == 60).count(),
            1
        );
    }

    #[test]
    fn a_hot_key_is_spread_as_far_as_is_set() {
        for (weights, balance_factor, most) in [
            (&[1, 1, 1][..], 125, vec![25, 25, 25]),
            (&[1; 6], 150, vec![15; 6]),
            (&[2, 1, 1], 110, vec![33, 17, 17]),
        ] {
            let sent = send(&build(weights, balance_factor), weights.len(), 1.0, std::iter::repeat_n(77, 60));
            assert!(sent.iter().zip(&most).all(|(sent, most)| sent <= most), "{sent:?}");
            assert!(sent.iter().zip(&most).any(|(sent, most)| sent == most), "{sent:?} fills the first");
        }
        // In the long run too: the last second of ten.
        let hash = build(&[1; 5], 120);
        let before: u32 = send(&hash, 5, 1.0, std::iter::repeat_n(5, 10_000)).iter().sum();
        assert_eq!(before, 10_000);
        let rates: Vec<_> =
            (0..5).map(|index| hash.bound.as_ref().unwrap().rate(index, Moment(1_009_999_000_000))).collect();
        assert!(rates.iter().all(|&rate| rate <= 242.0), "{rates:?}");
    }

    #[test]
    fn what_spills_of_a_key_goes_the_same_way() {
        let hash = build(&[1; 50], 125);
        let order: Vec<_> = hash.order(77).take(3).collect();
        let sent = send(&hash, 50, 0.1, std::iter::repeat_n(77, 12));
        assert_eq!(order.iter().map(|&backend| sent[backend]).collect::<Vec<_>>(), [4, 4, 4]);
    }

    #[test]
    fn a_pool_that_is_cold_or_even_does_not_spill() {
        // Each of four comes back every second, where it was.
        let hash = build(&[1; 100], 105);
        let first: Vec<_> = (0..4).map(|key| hash.slots.at(nth(key, 0))).collect();
        let sent = send(&hash, 100, 250.0, (0..4).cycle().take(400));
        assert!(first.iter().all(|&backend| sent[backend] >= 100), "{sent:?}");
        // Visitors of all kinds, and hardly any of them elsewhere than without a bound.
        let (bounded, free) = (build(&[1; 10], 150), build(&[1; 10], 0));
        let keys = || (0..20_000).map(|key| nth(9, key));
        let (bounded, free) = (send(&bounded, 10, 1.0, keys()), send(&free, 10, 1.0, keys()));
        let moved: u32 = bounded.iter().zip(&free).map(|(a, b)| a.abs_diff(*b)).sum();
        assert!(moved <= 20, "{moved}");
    }
}
