//! `first`: as few backends as do. A visitor goes to the first backend, in the order of the settings, that has room.

use std::sync::atomic::{AtomicU64, Ordering};

use super::explain::Candidate;
use super::{Random, Share, Turn, Weights};
use crate::clock::Moment;

/// Backends in order, and what is sent on where none has room: by weights, at random, so that it is everybody's.
///
/// Where the first few have no room a pick asks them all. Where that is more than [`NEAR`], it is remembered for
/// [`LASTS`] nanoseconds how far it was, and picks begin there: one in a hundredth of a second looks at all.
#[derive(Debug)]
pub struct First {
    order: Box<[u16]>,
    overflow: Random,
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
    pub(super) fn build(weights: Weights<'_>) -> Self {
        let order = weights.iter().map(|share| share.backend).collect();
        Self { order, overflow: Random::build(weights), hint: AtomicU64::new(0) }
    }

    /// The first with room.
    pub(super) fn pick_of(&self, turn: &Turn<'_>, has_room: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        let (begin, until) = self.hint(turn.now);
        let found = self.order[begin..].iter().position(|&backend| has_room(backend.into()));
        let place = found.map_or(self.order.len(), |found| begin + found);
        if place > begin.max(NEAR) {
            let bits = until.0 >> PLACE_BITS << PLACE_BITS | place as u64;
            self.hint.store(bits, Ordering::Relaxed);
        }
        self.order.get(place).map(|&backend| backend.into())
    }

    /// Somebody, where nobody has room.
    pub(super) fn overflow(&self, turn: &mut Turn<'_>) -> usize {
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

/// The order.
pub(super) fn explain(weights: Weights<'_>) -> Vec<Candidate> {
    let candidate = |(share, place): (Share, u32)| {
        Candidate::new(share.backend.into(), Some(place.into()), format!("number {place} in order"))
    };
    weights.iter().zip(1..).map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::strategy::tests::shares;

    /// One pick at a time in milliseconds, where those from `room` on have room; and how many were asked.
    fn pick(first: &First, millis: u64, room: usize) -> (Option<usize>, usize) {
        let mut asked = 0;
        let mut rng = SmallRng::seed_from_u64(millis);
        let turn = &mut Turn { rng: &mut rng, key: 0, now: Moment(millis * 1_000_000) };
        let picked = first.pick_of(turn, &mut |backend| {
            asked += 1;
            backend >= room
        });
        (picked, asked)
    }

    #[test]
    fn the_next_is_taken_where_the_first_is_full() {
        let first = First::build(Weights::new(&shares(&[1, 9, 1])).unwrap());
        for room in 0..3 {
            assert_eq!(pick(&first, 1000, room), (Some(room), room + 1));
        }
        assert_eq!(pick(&first, 1000, 0), (Some(0), 1));
        assert_eq!(pick(&first, 1000, 3), (None, 3));
    }

    #[test]
    fn a_long_way_is_gone_once_in_a_while() {
        let first = First::build(Weights::new(&shares(&[1; 10_000])).unwrap());
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
