//! `first`: as few backends as do. A visitor goes to the first backend, in the order of the settings, that has room.

use std::sync::atomic::{AtomicU64, Ordering};

use super::explain::Candidate;
use super::{Accept, PickContext, Random, StrategyConfig, StrategyState, WeightedBackend, Weights};
use crate::estimate::Estimates;
use crate::util::clock::Moment;

/// Backends in order, and what is sent on where none has room: by weights, at random, so that it is everybody's.
///
/// Where the first few have no room a pick asks them all. Where that is more than 64, it is remembered for a hundredth of
/// a second how far it was, and picks begin there: one in that time looks at all.
#[derive(Debug)]
pub struct First {
    order: Box<[u16]>,
    overflow: Random,
    max_utilization: f64,
    loads: Estimates,
    hint: AtomicU64,
}

/// How many backends are asked at each pick.
const NEAR: usize = 64;
/// How long it is believed that those before had no room, in nanoseconds.
const LASTS: u64 = 10_000_000;

/// How many bits of a hint are the place; the others are the time until which it holds, without its lowest as many bits.
const PLACE_BITS: u32 = 17;

impl First {
    /// In O(number of backends).
    pub(super) fn build(rules: &StrategyConfig, weights: Weights<'_>, memory: &StrategyState) -> Self {
        Self {
            order: weights.iter().map(|share| share.backend).collect(),
            overflow: Random::build(weights),
            max_utilization: rules.max_utilization,
            loads: memory.loads.clone(),
            hint: AtomicU64::new(0),
        }
    }

    /// Whether a backend says of itself that it is full, and is believed.
    fn is_full(&self, backend: usize, now: Moment) -> bool {
        let load = self.loads.get(backend).and_then(|load| load.load(now));
        let utilization = load.and_then(|load| Some(load.level / load.capacity?));
        utilization.is_some_and(|utilization| utilization >= self.max_utilization)
    }

    /// The first with room, or any backend if none has room.
    pub(super) fn pick(&self, turn: &mut PickContext<'_>) -> usize {
        let mut full = None;
        let picked = self.pick_of(turn, &mut |backend, is_full| {
            full = full.or(is_full.then_some(backend));
            !is_full
        });
        let picked = picked.unwrap_or_else(|| self.overflow(turn));
        turn.note_overflow(full, picked);
        picked
    }

    /// The first with room.
    pub(super) fn pick_of(&self, turn: &PickContext<'_>, accept: &mut Accept<'_>) -> Option<usize> {
        let (begin, until) = self.hint(turn.now);
        // Those before are known to be full, and the very first would have been picked.
        if begin > 0 {
            accept(self.order[0].into(), true);
        }
        let mut accepts = |backend| accept(backend, self.is_full(backend, turn.now));
        let found = self.order[begin..].iter().position(|&backend| accepts(backend.into()));
        let place = found.map_or(self.order.len(), |found| begin + found);
        if place > begin.max(NEAR) {
            let bits = until.0 >> PLACE_BITS << PLACE_BITS | place as u64;
            self.hint.store(bits, Ordering::Relaxed);
        }
        self.order.get(place).map(|&backend| backend.into())
    }

    /// Somebody, where nobody has room.
    pub(super) fn overflow(&self, turn: &mut PickContext<'_>) -> usize {
        self.overflow.pick(turn)
    }

    /// Where to begin, and until when it is known that nobody before that has room.
    fn hint(&self, now: Moment) -> (usize, Moment) {
        let bits = self.hint.load(Ordering::Relaxed);
        let until = bits >> PLACE_BITS << PLACE_BITS;
        if now.0 < until {
            ((bits & ((1 << PLACE_BITS) - 1)) as usize, Moment(until))
        } else {
            (0, Moment(now.0 + LASTS))
        }
    }
}

impl First {
    /// The order, and who in it is full.
    pub(super) fn explain(&self, weights: Weights<'_>, now: Moment) -> Vec<Candidate> {
        let candidate = |(share, place): (WeightedBackend, u32)| {
            let (backend, why) = (share.backend.into(), format!("number {place} in order"));
            let mut candidate = Candidate::new(backend, Some(place.into()), why);
            if self.is_full(backend, now) {
                candidate.pass_over("full by its own report: over first.max_utilization");
            }
            candidate
        };
        weights.iter().zip(1..).map(candidate).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::estimate::{LoadModel, RawReport, Report};
    use crate::strategy::tests::shares;

    fn build(weights: &[u16]) -> First {
        let shares = shares(weights);
        First::build(&StrategyConfig::default(), Weights::new(&shares).unwrap(), &StrategyState::default())
    }

    /// One pick at a time in milliseconds, where those from `room` on have room; and how many were asked.
    fn pick(first: &First, millis: u64, room: usize) -> (Option<usize>, usize) {
        let mut asked = 0;
        let mut rng = SmallRng::seed_from_u64(millis);
        let turn = &mut PickContext::new(&mut rng, 0, Moment(millis * 1_000_000));
        let picked = first.pick_of(turn, &mut |backend, is_full| {
            asked += usize::from(!is_full);
            !is_full && backend >= room
        });
        (picked, asked)
    }

    #[test]
    fn the_next_is_taken_where_the_first_is_full() {
        let first = build(&[1, 9, 1]);
        for room in 0..3 {
            assert_eq!(pick(&first, 1000, room), (Some(room), room + 1));
        }
        assert_eq!(pick(&first, 1000, 0), (Some(0), 1));
        assert_eq!(pick(&first, 1000, 3), (None, 3));
    }

    #[test]
    fn who_reports_to_be_full_is_passed_over() {
        let expires = Duration::from_secs(60);
        let mut learner = LoadModel::new(3, expires);
        for (backend, utilization) in [(0, 0.9), (1, 0.7)] {
            let claim = RawReport { utilization: Some(utilization), ..RawReport::default() };
            learner.report(backend, &Report::new(claim, expires).unwrap(), Moment(0));
        }
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let picks = |max_utilization| {
            let rules = StrategyConfig { max_utilization, ..StrategyConfig::default() };
            let shares = shares(&[1; 3]);
            pick(&First::build(&rules, Weights::new(&shares).unwrap(), &memory), 1, 0).0
        };
        assert_eq!([0.95, 0.8, 0.5].map(picks), [Some(0), Some(1), Some(2)], "nothing is known of the third");
    }

    #[test]
    fn a_long_way_is_gone_once_in_a_while() {
        let first = build(&[1; 10_000]);
        assert_eq!(pick(&first, 1000, 9000), (Some(9000), 9001));
        assert_eq!(pick(&first, 1001, 9000), (Some(9000), 1));
        assert_eq!(pick(&first, 1001, 9005), (Some(9005), 6));
        assert_eq!(pick(&first, 1002, 9005), (Some(9005), 1));
        assert_eq!(pick(&first, 1002, 0), (Some(9005), 1), "not yet known");
        assert_eq!(pick(&first, 1011, 0), (Some(0), 1));
        assert_eq!(pick(&first, 1011, 10_000).1, 10_000);
        assert_eq!(pick(&first, 1012, 10_000).1, 0);
    }
}
