//! The table behind `consistent_hash`: 65 536 slots shared out among backends, so that few change hands when backends
//! come, go or change their weight.
//!
//! # How it is made
//! Each backend throws darts at the slots, the same ones wherever and whenever it is done: where they go, and when, is
//! worked out of its name alone. One of twice the weight throws twice as fast. A slot belongs to the earliest dart that
//! hit it. That alone is weighted rendezvous hashing for each slot: who leaves sets free its own slots and no others.
//! Yet it leaves shares to chance, some 3 % off where there are a hundred backends. So each has a quota, its share of
//! the slots rounded up: who has that many waits, and who loses a slot to an earlier dart throws on. The result is the
//! same in whatever order backends take their turns, for it is the stable matching in which slots like early darts and
//! backends throw theirs in order (Gale and Shapley, "College admissions and the stability of marriage", 1962).
//!
//! # Figures
//! Of the slots, beyond those that had to move, this many moved where one backend of so many was taken away (mean and
//! worst of six); beside it Maglev (Eisenbud et al., NSDI 2016) with 65 537 slots, whose shares are as even:
//!
//! | backends, weights | this table | Maglev | to build |
//! | --- | --- | --- | --- |
//! | 10, equal | 0.17 %, 0.19 % | 0.27 %, 0.39 % | 3 ms |
//! | 100, equal | 0.28 %, 0.31 % | 0.54 %, 0.58 % | 3 ms |
//! | 100, 1 to 256 | 0.27 %, 0.32 % | 0.59 %, 0.70 % | 3 ms |
//! | 1 000, 1 to 12 | 0.23 %, 0.37 % | 0.60 %, 0.94 % | 4 ms |
//! | 10 000, equal | 0.01 %, 0.01 % | 0.08 %, 0.09 % | 6 ms |
//!
//! Shares of a hundred equal backends are within 1.4 % of even, with a spread of 0.3 %. The number of slots never
//! changes with the number of backends: a step in it would move half of all keys. So of ten thousand each has one to
//! seven slots, and one whose share is less than a slot has it, or none, by chance. Twice the slots would halve that,
//! and take three times as long to build.
//!
//! All is whole numbers, so that every machine makes the same table; `a_table_is_the_same_for_ever` holds it.

use super::{WeightedBackend, Weights};

/// How many bits a slot's number has.
const BITS: u32 = 16;
const SLOTS: usize = 1 << BITS;

/// Whose each slot is.
#[derive(Debug)]
pub(super) struct HashTable(Box<[u16]>);

impl HashTable {
    /// Shares the slots out. `name` is a hash of what a backend is called, by its place in the roster. Some twelve darts
    /// a slot, whatever the number of backends and their weights; 1.2 MB while it lasts.
    pub(super) fn new(weights: Weights<'_>, name: impl Fn(u16) -> u64) -> Self {
        let sum = weights.sum();
        let players = weights.iter().map(|share| Proposer::new(share, name(share.backend), sum)).collect();
        let slots = Matching::new(players, sum).play();
        Self(slots)
    }

    /// Whose slot a hash falls into: its uppermost bits are the slot.
    pub(super) fn at(&self, hash: u64) -> usize {
        self.0[(hash >> (u64::BITS - BITS)) as usize].into()
    }
}

/// Every bit of the result depends on every bit of the number: the end of SplitMix64 (Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", 2014) with the factors of Stafford's variant 13.
pub(super) const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Number `count` of a sequence that a seed begins: SplitMix64.
pub(super) const fn nth(seed: u64, count: u64) -> u64 {
    mixed(seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// What times are made of: a dart's number, so many bits of chance below it, times what a dart takes.
const CHANCE_BITS: u32 = 16;
/// What a dart of a backend of weight 1 takes, so that one of weight 25 600 is still within a thousandth.
const PACE: u64 = 1 << 24;

/// A backend that throws.
struct Proposer {
    backend: u16,
    name: u64,
    /// What a dart takes.
    pace: u64,
    /// How many slots it may have.
    quota: u32,
    /// How many it has.
    has: u32,
    /// The number of its next dart.
    next: u64,
}

impl Proposer {
    fn new(WeightedBackend { backend, weight }: WeightedBackend, name: u64, sum: u32) -> Self {
        let quota = (u64::from(weight.get()) << BITS).div_ceil(sum.into());
        let quota = u32::try_from(quota).unwrap_or(u32::MAX);
        Self { backend, name, pace: PACE / u64::from(weight.get()), quota, has: 0, next: 0 }
    }

    /// Its next dart.
    fn dart(&self) -> Proposal {
        let chance = nth(self.name, self.next);
        let at = self.next << CHANCE_BITS | chance & ((1 << CHANCE_BITS) - 1);
        Proposal { time: at.saturating_mul(self.pace), slot: (chance >> (u64::BITS - BITS)) as usize }
    }
}

struct Proposal {
    time: u64,
    slot: usize,
}

/// A slot while the darts fly: when it was hit, and by which player.
#[derive(Clone, Copy)]
struct BestProposal {
    time: u64,
    player: u16,
}

struct Matching {
    players: Vec<Proposer>,
    hits: Vec<BestProposal>,
    free: usize,
    /// When as many darts are thrown as there are slots.
    round: u64,
}

impl Matching {
    fn new(players: Vec<Proposer>, sum: u32) -> Self {
        let hits = vec![BestProposal { time: u64::MAX, player: 0 }; SLOTS];
        Self { players, hits, free: SLOTS, round: (PACE << (BITS + CHANCE_BITS)) / u64::from(sum) }
    }

    /// Throws until every slot is hit and no dart to come could be the earliest. Quotas add up to all slots or more, so
    /// somebody always throws.
    fn play(mut self) -> Box<[u16]> {
        // After eight rounds one slot in three thousand is free.
        let mut until = 8 * self.round;
        let mut waiting = Vec::new();
        while self.free > 0 {
            waiting.extend(0..self.players.len());
            while let Some(player) = waiting.pop() {
                self.throw(player, until, &mut waiting);
            }
            until = until.saturating_add(until / 4);
        }
        self.hits.iter().map(|hit| self.players[usize::from(hit.player)].backend).collect()
    }

    /// Has a player throw all it may up to a time. Whom that puts below its quota comes to `waiting`.
    fn throw(&mut self, number: usize, until: u64, waiting: &mut Vec<usize>) {
        while self.players[number].has < self.players[number].quota {
            let player = &mut self.players[number];
            let Proposal { time, slot } = player.dart();
            if time >= until {
                return;
            }
            player.next += 1;
            let (name, hit) = (player.name, self.hits[slot]);
            let holder = usize::from(hit.player);
            if time > hit.time || (time == hit.time && name >= self.players[holder].name) {
                continue;
            }
            self.players[number].has += 1;
            self.hits[slot] = BestProposal { time, player: number as u16 };
            if hit.time == u64::MAX {
                self.free -= 1;
                continue;
            }
            let holder_is_full = self.players[holder].has == self.players[holder].quota;
            self.players[holder].has -= 1;
            if holder_is_full {
                waiting.push(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::tests::shares;

    /// Of backends 0, 1, 2, … with these weights, those of weight 0 left out.
    fn slots(weights: &[u16]) -> HashTable {
        let all: Vec<_> = weights.iter().map(|&weight| weight.max(1)).collect();
        let mut shares = shares(&all);
        shares.retain(|share| weights[usize::from(share.backend)] > 0);
        HashTable::new(Weights::new(&shares).unwrap(), |backend| mixed(u64::from(backend) + 1))
    }

    fn counts(slots: &HashTable, backends: usize) -> Vec<u32> {
        let mut counts = vec![0; backends];
        slots.0.iter().for_each(|&backend| counts[usize::from(backend)] += 1);
        counts
    }

    /// How many slots went from somebody who is in both to somebody else, but for those that `may` move.
    fn moved(before: &HashTable, after: &HashTable, may: impl Fn(u16, u16) -> bool) -> f64 {
        let pairs = before.0.iter().zip(&after.0).filter(|&(&from, &to)| from != to && !may(from, to));
        pairs.count() as f64 / SLOTS as f64
    }

    #[test]
    fn a_table_is_the_same_for_ever() {
        let weights: Vec<u16> = (0..300).map(|number| 1 + number * 7 % 2560).collect();
        let digest =
            |slots: &HashTable| slots.0.iter().fold(0, |digest, &slot| mixed(digest ^ u64::from(slot)));
        // Replicas of two versions would else disagree for as long as an upgrade lasts.
        assert_eq!(digest(&slots(&[1, 1, 1])), 2_377_024_293_856_109_989);
        assert_eq!(digest(&slots(&weights)), 16_989_837_541_956_236_934);
    }

    #[test]
    fn the_order_of_backends_is_nothing() {
        let names = [90, 20, 70, 10];
        let build = |order: [u16; 4]| {
            let shares = order.map(|backend| WeightedBackend {
                backend,
                weight: std::num::NonZeroU16::new(5 + backend).unwrap(),
            });
            HashTable::new(Weights::new(&shares).unwrap(), |backend| names[usize::from(backend)]).0
        };
        assert_eq!(build([0, 1, 2, 3]), build([3, 1, 0, 2]));
    }

    #[test]
    fn who_leaves_a_hundred_moves_few_of_the_others() {
        for weight in [|_| 1, |number| 1 + number * 7 % 256, |number: u16| 10 * (1 + number % 12)] {
            let weights: Vec<u16> = (0..100).map(weight).collect();
            let all = slots(&weights);
            for gone in [0, 17, 99] {
                let mut rest = weights.clone();
                rest[gone] = 0;
                let more = moved(&all, &slots(&rest), |from, _| usize::from(from) == gone);
                assert!(more <= 0.005, "{more} without {gone}");
            }
        }
    }

    #[test]
    fn a_change_of_weight_moves_few_of_the_others() {
        let mut weights = [10; 50];
        let before = slots(&weights);
        for tenths in [1, 5, 20] {
            weights[7] = tenths;
            let more = moved(&before, &slots(&weights), |from, to| from == 7 || to == 7);
            assert!(more <= 0.005, "{more} at {tenths} tenths");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Nobody has more than its share, rounded up; nobody much less, but one that has few slots.
        #[test]
        fn shares_are_even(weights in prop::collection::vec(1u16..=2560, 1..60)) {
            let sum: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
            for (&weight, count) in weights.iter().zip(counts(&slots(&weights), weights.len())) {
                let even = f64::from(weight) / f64::from(sum) * SLOTS as f64;
                prop_assert!(f64::from(count) <= even.ceil(), "{count} of {even}");
                prop_assert!(f64::from(count) >= 0.97 * even - 5.0 * even.sqrt().min(6.0), "{count} of {even}");
            }
        }
    }
}
