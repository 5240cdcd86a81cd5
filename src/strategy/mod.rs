//! How a pool picks. A strategy does no I/O and has no clock: it is given a [`PickContext`] and returns an index.
//!
//! A strategy is an enum twice: [`StrategyKind`] is what the settings say, [`Strategy`] is the live state, and
//! [`Strategy::build`] is the one match that leads from one to the other. To add one: a file beside this one, a
//! variant in each enum, and the compiler lists the rest.

mod random;
mod round_robin;
mod interleave;
mod stride;
mod consistent_hash;
mod bounded_load;
mod hash_table;
mod first;
mod rate_meter;
mod least_load;
mod explain;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_utils::CachePadded;
use rand::rngs::SmallRng;

pub use consistent_hash::{ConsistentHash, hash};
pub use explain::{Candidate, Explanation, Score};
pub use first::First;
pub use least_load::LeastLoad;
pub use random::Random;
pub use rate_meter::{RateMeter, RateMeters};
pub use round_robin::RoundRobin;

use explain::DecidedBy;

use crate::estimate::Estimates;
use crate::util::clock::Moment;
use crate::util::enum_all;

enum_all! {
    /// A strategy as the settings name it.
    #[derive(Default, Hash)]
    pub enum StrategyKind {
        /// Each pick is a throw of weighted dice.
        Random = "random",
        /// Backends take turns; weights are exact over each cycle.
        #[default]
        RoundRobin = "round_robin",
        /// The least loaded of a few; see [`LeastLoad`].
        LeastLoad = "least_load",
        /// Who the visitor is says where it goes.
        ConsistentHash = "consistent_hash",
        /// The first backend in order that has room.
        First = "first",
    }
}

impl StrategyKind {
    /// Whether a pick depends on who the visitor is.
    pub const fn reads_key(self) -> bool {
        match self {
            Self::Random | Self::RoundRobin | Self::LeastLoad | Self::First => false,
            Self::ConsistentHash => true,
        }
    }

    /// Whether a pick depends on what was sent lately.
    pub fn is_metered(self, rules: &StrategyConfig) -> bool {
        self == Self::ConsistentHash && rules.balance_factor > 0
    }

    /// Whether a pick depends on the time.
    pub fn reads_clock(self, rules: &StrategyConfig) -> bool {
        match self {
            Self::LeastLoad => true,
            Self::Random | Self::RoundRobin => false,
            Self::ConsistentHash => self.is_metered(rules),
            Self::First => true,
        }
    }
}

/// A backend that may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// What a pick of it returns: its place in the roster, which has 65 536 at the most.
    pub backend: u16,
    /// Its share of picks relative to the others': at most a hundred times 256, as weights may count in hundredths.
    pub weight: NonZeroU16,
}

/// Those who may be picked: somebody, and at most 65 536, so that all their weights together are below 2^31.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a>(&'a [WeightedBackend]);

impl<'a> Weights<'a> {
    /// `None` where there is nobody to pick.
    pub fn new(shares: &'a [WeightedBackend]) -> Option<Self> {
        (!shares.is_empty()).then_some(Self(shares))
    }

    fn iter(self) -> impl Iterator<Item = WeightedBackend> + 'a {
        self.0.iter().copied()
    }

    fn count(self) -> usize {
        self.0.len()
    }

    fn sum(self) -> u32 {
        self.iter().map(|share| u32::from(share.weight.get())).sum()
    }

    /// The greatest common divisor of the weights.
    fn divisor(self) -> u32 {
        self.iter().fold(0, |divisor, share| gcd(divisor, share.weight.get().into()))
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What the settings say of strategies beyond which it is. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StrategyConfig {
    /// The [`hash`] of each backend's id, by roster index; one that is missing is known by its index.
    pub names: Arc<[u64]>,
    /// Of `consistent_hash`: how much load a backend may have, in percent of its share; 0: any.
    pub balance_factor: u16,
    /// Of `first`: the share of its capacity in use at which a backend is full, where that is known.
    pub max_utilization: f64,
}

impl StrategyConfig {
    fn name(&self, backend: u16) -> u64 {
        self.names.get(usize::from(backend)).copied().unwrap_or_else(|| hash(&backend.to_le_bytes()))
    }
}

/// What of a strategy outlives a fleet. The controller hands the same one to the next fleet, so that a round robin
/// goes on where it was. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct StrategyState {
    /// The next turn, counted by all workers together. Alone on its cache line: it is the one value that they all write.
    turns: Arc<CachePadded<AtomicU64>>,
    /// What it has sent each backend lately, where it asks.
    pub meters: RateMeters,
    /// What is known of the backends' load, by their place in the roster; of nobody where they report none. For a shadow
    /// it is what would be, were its picks those that are made.
    loads: Estimates,
}

impl StrategyState {
    /// Begins at this turn, for a round robin. A random one keeps replicas that start together, and fleets that restart
    /// often, from sending their first clients to the same backends.
    pub fn from_turn(turn: u64) -> Self {
        Self { turns: Arc::new(CachePadded::new(AtomicU64::new(turn))), ..Self::default() }
    }

    /// The estimates of the load.
    pub fn loads(&self) -> &Estimates {
        &self.loads
    }

    /// With these estimates of the load.
    pub fn with_loads(self, loads: Estimates) -> Self {
        Self { loads, ..self }
    }
}

/// What one pick may use.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// The worker's own generator.
    pub rng: &'a mut SmallRng,
    /// A hash of what the visitor is known by; 0 where no strategy of the pool asks ([`StrategyKind::reads_key`]).
    pub key: u64,
    /// The time; the beginning of the clock where no strategy of the pool asks ([`StrategyKind::reads_clock`]).
    pub now: Moment,
    /// Set by a pick that did not return its first choice because that backend was full: the first choice.
    pub overflowed: Option<usize>,
}

impl<'a> PickContext<'a> {
    /// For a pick by a key at a time.
    pub fn new(rng: &'a mut SmallRng, key: u64, now: Moment) -> Self {
        Self { rng, key, now, overflowed: None }
    }

    /// Notes the first backend that was full, unless it was picked nevertheless.
    pub(crate) fn note_overflow(&mut self, full: Option<usize>, picked: usize) {
        self.overflowed = full.filter(|&full| full != picked);
    }
}

/// The backends that were asked for one visitor, so that none is asked, and counted, twice.
#[derive(Debug)]
pub struct TriedBackends {
    backends: [u16; Self::MOST],
    count: usize,
}

impl TriedBackends {
    /// How many are remembered.
    pub const MOST: usize = 64;

    /// Whether a backend was not asked before. It is from now on.
    pub fn is_new(&mut self, backend: usize) -> bool {
        let backend = backend as u16;
        let is_new = !self.backends[..self.count].contains(&backend);
        if is_new && self.count < Self::MOST {
            self.backends[self.count] = backend;
            self.count += 1;
        }
        is_new
    }
}

impl Default for TriedBackends {
    fn default() -> Self {
        Self { backends: [0; Self::MOST], count: 0 }
    }
}

/// A strategy at work.
#[derive(Debug)]
pub enum Strategy {
    /// See [`Random`].
    Random(Random),
    /// See [`RoundRobin`].
    RoundRobin(RoundRobin),
    /// See [`LeastLoad`].
    LeastLoad(LeastLoad),
    /// See [`ConsistentHash`].
    ConsistentHash(ConsistentHash),
    /// See [`First`].
    First(First),
}

/// Whether a pick takes a backend that it comes to, and that is full by the strategy's own measure or not.
pub type Accept<'a> = dyn FnMut(usize, bool) -> bool + 'a;

/// How often a strategy without an order of its own picks again for somebody with room.
const TRIES: usize = 16;

impl Strategy {
    /// Builds the tables, in time and memory that weights don't drive up; see each strategy.
    pub fn build(
        kind: StrategyKind,
        rules: &StrategyConfig,
        weights: Weights<'_>,
        memory: &StrategyState,
    ) -> Self {
        match kind {
            StrategyKind::Random => Self::Random(Random::build(weights)),
            StrategyKind::RoundRobin => Self::RoundRobin(RoundRobin::build(weights, memory)),
            StrategyKind::LeastLoad => Self::LeastLoad(LeastLoad::build(weights, memory)),
            StrategyKind::ConsistentHash => {
                Self::ConsistentHash(ConsistentHash::build(rules, weights, memory))
            }
            StrategyKind::First => Self::First(First::build(rules, weights, memory)),
        }
    }

    /// Picks one: the `backend` of a [`WeightedBackend`] it was built with. O(1), no lock, no allocation.
    // The two that cost next to nothing are a part of whoever picks; beside them a call would be half of it.
    #[inline]
    pub fn pick(&self, turn: &mut PickContext<'_>) -> usize {
        match self {
            Self::Random(random) => random.pick(turn),
            Self::RoundRobin(round_robin) => round_robin.pick(),
            Self::LeastLoad(_) | Self::ConsistentHash(_) | Self::First(_) => self.pick_slow(turn),
        }
    }

    #[inline(never)]
    fn pick_slow(&self, turn: &mut PickContext<'_>) -> usize {
        match self {
            Self::LeastLoad(least_load) => least_load.pick(turn),
            Self::ConsistentHash(hash) => hash.pick(turn),
            Self::First(first) => first.pick(turn),
            Self::Random(_) | Self::RoundRobin(_) => self.pick(turn),
        }
    }

    /// Picks the first backend that `accept` accepts, in the strategy's own order; `None` if it accepts none. Offers some
    /// backends, not all, and some of them twice. The second argument of `accept` is whether the backend is full by the
    /// strategy's own measure; such a backend must not be accepted.
    pub fn pick_of(&self, turn: &mut PickContext<'_>, accept: &mut Accept<'_>) -> Option<usize> {
        let accepts = |backend: &usize| accept(*backend, false);
        match self {
            Self::Random(random) => (0..TRIES).map(|_| random.pick(turn)).find(accepts),
            Self::RoundRobin(round_robin) => (0..TRIES).map(|_| round_robin.pick()).find(accepts),
            Self::LeastLoad(least_load) => (0..TRIES).map(|_| least_load.pick(turn)).find(accepts),
            Self::ConsistentHash(hash) => hash.pick_of(turn, accept),
            Self::First(first) => {
                let picked = first.pick_of(turn, accept);
                picked.or_else(|| {
                    (0..TRIES).map(|_| first.overflow(turn)).find(|&backend| accept(backend, false))
                })
            }
        }
    }

    /// Picks one where nobody has room: whom it would pick without limits, but for `first`, which would send all to one.
    pub fn overflow(&self, turn: &mut PickContext<'_>) -> usize {
        match self {
            Self::First(first) => first.overflow(turn),
            Self::Random(_) | Self::RoundRobin(_) | Self::LeastLoad(_) | Self::ConsistentHash(_) => {
                self.pick(turn)
            }
        }
    }

    /// What it would do with a visitor of this key who came now. `weights` are those it was built with, and `has_room` is
    /// whether the settings' limits let a backend have one more. Changes nothing. O(number of backends), some
    /// milliseconds.
    pub fn explain(
        &self,
        weights: Weights<'_>,
        key: u64,
        now: Moment,
        has_room: &dyn Fn(usize) -> bool,
    ) -> Explanation {
        let (decides, score, candidates) = match self {
            Self::Random(_) => (DecidedBy::Chance, Score::Probability, random::explain(weights)),
            Self::RoundRobin(round_robin) => {
                (DecidedBy::Order { within: TRIES as f64 }, Score::TurnsAhead, round_robin.explain(weights))
            }
            Self::LeastLoad(least_load) => {
                let (certain, candidates) = least_load.explain(weights, now);
                (DecidedBy::Only(certain), Score::Load, candidates)
            }
            Self::ConsistentHash(hash) => {
                (DecidedBy::Order { within: f64::INFINITY }, Score::Position, hash.explain(weights, key, now))
            }
            Self::First(first) => (DecidedBy::OrderThenChance, Score::Position, first.explain(weights, now)),
        };
        Explanation::new(decides, score, candidates, has_room)
    }

    /// Notes that a visitor was sent to a backend, whoever chose it.
    pub fn sent(&self, backend: usize, now: Moment) {
        match self {
            Self::ConsistentHash(hash) => hash.sent(backend, now),
            Self::Random(_) | Self::RoundRobin(_) | Self::LeastLoad(_) | Self::First(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    //! One table for every strategy: what is said here holds for each variant of [`StrategyKind`].

    use proptest::{prop_assert, proptest};
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Backends 0, 1, 2, … with these weights.
    pub(super) fn shares(weights: &[u16]) -> Vec<WeightedBackend> {
        let share = |(backend, &weight): (usize, &u16)| WeightedBackend {
            backend: backend.try_into().unwrap(),
            weight: NonZeroU16::new(weight).unwrap(),
        };
        weights.iter().enumerate().map(share).collect()
    }

    pub(super) fn gcd_of(weights: &[u16]) -> u32 {
        Weights::new(&shares(weights)).unwrap().divisor()
    }

    fn build(kind: StrategyKind, weights: &[u16]) -> Strategy {
        let shares = shares(weights);
        Strategy::build(
            kind,
            &StrategyConfig::default(),
            Weights::new(&shares).unwrap(),
            &StrategyState::default(),
        )
    }

    /// All but `first`, whose purpose it is to leave those behind without visitors.
    fn spreading() -> impl Iterator<Item = StrategyKind> {
        StrategyKind::ALL.into_iter().filter(|&kind| kind != StrategyKind::First)
    }

    /// How many of so many picks are the least that a strategy can give away: a slot of a table.
    fn grain(kind: StrategyKind, picks: usize) -> f64 {
        if kind == StrategyKind::ConsistentHash { picks as f64 / 65_536.0 } else { 0.0 }
    }

    /// Visitors one after the other, a millisecond apart, each with a key of its own.
    fn picks(strategy: &Strategy, seed: u64, count: usize) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let pick = |number| {
            let key = rng.next_u64();
            strategy.pick(&mut PickContext::new(&mut rng, key, Moment(number * 1_000_000)))
        };
        (0..count as u64).map(pick).collect()
    }

    #[test]
    fn nobody_is_not_a_choice() {
        assert!(Weights::new(&[]).is_none());
    }

    #[test]
    fn one_backend_gets_every_pick() {
        for kind in StrategyKind::ALL {
            assert!(picks(&build(kind, &[7]), 1, 100).iter().all(|&index| index == 0), "{}", kind.name());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_picks() {
        for kind in StrategyKind::ALL {
            let weights = [3, 1, 256, 2];
            assert_eq!(picks(&build(kind, &weights), 5, 1000), picks(&build(kind, &weights), 5, 1000));
        }
    }

    #[test]
    fn a_pick_returns_places_in_the_roster() {
        let share = |(backend, weight)| WeightedBackend { backend, weight: NonZeroU16::new(weight).unwrap() };
        // Laid out, and as a stride.
        for shares in [[(5, 3), (70, 1), (65_535, 2)], [(5, 2560), (70, 1), (65_535, 2559)]] {
            let shares = shares.map(share);
            for kind in spreading() {
                let weights = Weights::new(&shares).unwrap();
                let strategy =
                    Strategy::build(kind, &StrategyConfig::default(), weights, &StrategyState::default());
                let seen: std::collections::BTreeSet<_> = picks(&strategy, 1, 100_000).into_iter().collect();
                assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 70, 65_535], "{}", kind.name());
            }
        }
    }

    /// Of a visitor who could go anywhere, and of one who finds the first two full.
    #[test]
    fn a_pick_is_as_it_was_explained() {
        for kind in StrategyKind::ALL {
            for weights in [&[3, 1, 256, 2][..], &[7], &[1; 100]] {
                let (strategy, shares) = (build(kind, weights), shares(weights));
                let weights = Weights::new(&shares).unwrap();
                let mut rng = SmallRng::seed_from_u64(3);
                for number in 0..200 {
                    let (key, now) = (rng.next_u64(), Moment(number * 1_000_000));
                    let has_room = |backend: usize| number.is_multiple_of(2) || backend > 1;
                    let explained = strategy.explain(weights, key, now, &has_room);
                    assert_eq!(
                        explained,
                        strategy.explain(weights, key, now, &has_room),
                        "it changes nothing"
                    );
                    let mut seen: Vec<_> = explained.candidates.iter().map(|one| one.backend).collect();
                    seen.sort_unstable();
                    assert!(seen.into_iter().eq(0..weights.count()), "{}: each once", kind.name());

                    let turn = &mut PickContext::new(&mut rng, key, now);
                    let picked =
                        strategy.pick_of(turn, &mut |backend, is_full| !is_full && has_room(backend));
                    let picked = picked.unwrap_or_else(|| strategy.overflow(turn));
                    match explained.picked {
                        Some(backend) => assert_eq!(picked, backend, "{} {explained:?}", kind.name()),
                        None => assert!(
                            matches!(kind, StrategyKind::Random | StrategyKind::LeastLoad),
                            "{explained:?}"
                        ),
                    }
                    let of_picked = explained.candidates.iter().find(|one| one.backend == picked).unwrap();
                    assert!(!of_picked.why.contains("before"), "{of_picked:?}");
                }
            }
        }
    }

    /// One weight, twelve, all, and all in slow start; many and few light ones.
    #[test]
    fn ten_thousand_backends_get_their_shares() {
        let weights: [&dyn Fn(usize) -> usize; 5] =
            [&|_| 1, &|i| 1 + i % 12, &|i| 1 + i % 256, &|i| 10 * (1 + i * 7 % 256), &|i| {
                1 + 2559 * (i % 100 / 99)
            }];
        for weights in weights {
            let weights: Vec<u16> = (0..10_000).map(|i| weights(i).try_into().unwrap()).collect();
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for kind in spreading() {
                let count = 500_000;
                let mut seen = vec![0u32; weights.len()];
                for index in picks(&build(kind, &weights), 11, count) {
                    seen[index] += 1;
                }
                for (&weight, &seen) in weights.iter().zip(&seen) {
                    let expected = f64::from(weight) / total * count as f64;
                    // Seven standard deviations, and what a few light ones may be off by.
                    let grain = grain(kind, count);
                    let slack = 7.0 * (expected + grain).sqrt() + 4.0 + grain;
                    assert!((f64::from(seen) - expected).abs() <= slack, "{} {seen} {expected}", kind.name());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u16..=2560, 1..40), seed: u64) {
            for kind in spreading() {
                let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
                let count = 30_000;
                let mut seen = vec![0u32; weights.len()];
                for index in picks(&build(kind, &weights), seed, count) {
                    seen[index] += 1;
                }
                for (&weight, &seen) in weights.iter().zip(&seen) {
                    let share = f64::from(weight) / f64::from(total);
                    let expected = share * count as f64;
                    // Six standard deviations of a binomial, and what a light one may be off by.
                    let slack = 6.0 * (expected * (1.0 - share)).sqrt() + 8.0 + grain(kind, count);
                    prop_assert!((f64::from(seen) - expected).abs() <= slack, "{} {seen} {expected}", kind.name());
                }
            }
        }
    }
}
