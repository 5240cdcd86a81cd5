//! `least_load`: whoever is likely to have the most room, of a few.

use std::cmp::Ordering::Equal;

use rand::Rng;

use super::explain::{Candidate, percent};
use super::{PickContext, Random, RoundRobin, StrategyState, WeightedBackend, Weights};
use crate::estimate::{Estimates, Load};
use crate::util::clock::Moment;

/// Compares the one whose turn it is in a weighted round robin with others drawn by weight, and takes the least loaded.
///
/// A few suffice in a pool of any size, and keep an estimate that is wrong, or shared with other dispatchers, from
/// sending everybody to one backend: nobody gets more than three times its share. Each dispatcher draws its own.
///
/// A backend whose load nobody knows gets its turns of the round robin, neither more nor less.
#[derive(Debug)]
pub struct LeastLoad {
    turns: RoundRobin,
    dice: Random,
    loads: Estimates,
    /// By place in the roster. What a backend's level is measured by where its capacity is not known.
    weights: Box<[u16]>,
}

/// How many are compared. Two do nearly as well; with four and more what dispatchers do by the same reports adds up.
const CHOICES: usize = 3;

impl LeastLoad {
    /// Builds the tables of a round robin and of `random`.
    pub(super) fn build(weights: Weights<'_>, memory: &StrategyState) -> Self {
        let places = weights.iter().map(|share| usize::from(share.backend) + 1).max().unwrap_or(0);
        let mut by_place = vec![0; places];
        for WeightedBackend { backend, weight } in weights.iter() {
            by_place[usize::from(backend)] = weight.get();
        }
        Self {
            turns: RoundRobin::build(weights, memory),
            dice: Random::build(weights),
            loads: memory.loads.clone(),
            weights: by_place.into(),
        }
    }

    /// Takes the next turn, reads a few estimates. O(1).
    pub(super) fn pick(&self, turn: &mut PickContext<'_>) -> usize {
        let first = self.turns.pick();
        let Some(load) = self.load(first, turn.now) else { return first };
        let (mut least, mut best, mut ties) = (load, first, 1);
        for _ in 1..CHOICES {
            let other = self.dice.pick(turn);
            let Some(load) = self.load(other, turn.now).filter(|load| *load <= least) else { continue };
            ties = if load < least { 1 } else { ties + 1 };
            if ties == 1 || turn.rng.next_u32().is_multiple_of(ties) {
                (least, best) = (load, other);
            }
        }
        best
    }

    /// What compares backends; `None` where nothing is known of this one.
    fn load(&self, backend: usize, now: Moment) -> Option<f64> {
        let load = self.loads.get(backend)?.load(now)?;
        Some(load.likely_most(self.weights[backend].into()))
    }
}

impl LeastLoad {
    /// Who is picked for certain, where that is so, and all by their loads, the least first and those last of whom
    /// nothing is known, each with its chance.
    pub(super) fn explain(&self, weights: Weights<'_>, now: Moment) -> (Option<usize>, Vec<Candidate>) {
        let (first, known) = (self.turns.next(), self.known(weights, now));
        let chances = chances(&known, first, weights.sum());
        let certain = known.iter().zip(&chances).find(|(_, chance)| **chance > 1.0 - 1e-9);
        let candidate = |((load, share), chance): (&(Option<f64>, WeightedBackend), &f64)| {
            let turn = if usize::from(share.backend) == first { "; its turn is next" } else { "" };
            let known = self.loads.get(usize::from(share.backend)).and_then(|estimate| estimate.load(now));
            let why = match known {
                Some(Load { level, deviation, capacity }) => format!(
                    "at {level:.1}{} as estimated, give or take {deviation:.1}; picked with a chance of {}{turn}",
                    capacity.map_or(String::new(), |capacity| format!(" of {capacity}")),
                    percent(*chance, 1.0)
                ),
                None => format!(
                    "no report, or the last one has expired: it gets its turns of the round robin{turn}"
                ),
            };
            Candidate::new(share.backend.into(), *load, why)
        };
        let certain = certain.map(|((_, share), _)| share.backend.into());
        (certain, known.iter().zip(&chances).map(candidate).collect())
    }

    /// All with what compares them, in that order; those of whom nothing is known are last.
    fn known(&self, weights: Weights<'_>, now: Moment) -> Vec<(Option<f64>, WeightedBackend)> {
        let load = |share: WeightedBackend| (self.load(share.backend.into(), now), share);
        let mut known: Vec<_> = weights.iter().map(load).collect();
        known.sort_by(|(a, _), (b, _)| a.is_none().cmp(&b.is_none()).then(a.partial_cmp(b).unwrap_or(Equal)));
        known
    }
}

/// How likely each is to be picked, where it is `first`'s turn: of it and two that are drawn by weight the least loaded is,
/// and of several who are that one of them. `known` has loads in ascending order, and those without one at its end.
fn chances(known: &[(Option<f64>, WeightedBackend)], first: usize, sum: u32) -> Vec<f64> {
    let part = |share: &WeightedBackend| f64::from(share.weight.get()) / f64::from(sum);
    let is_first = |share: &WeightedBackend| usize::from(share.backend) == first;
    let own = |(_, share): &&(Option<f64>, WeightedBackend)| is_first(share);
    let Some((Some(least), _)) = known.iter().find(own) else {
        return known.iter().map(|(_, share)| f64::from(u8::from(is_first(share)))).collect();
    };
    let mut below = 0.0;
    let mut chances = Vec::with_capacity(known.len());
    for alike in known.chunk_by(|(a, _), (b, _)| a == b) {
        let size: f64 = alike.iter().map(|(_, share)| part(share)).sum();
        // Of two draws: both above these; at least one of these, and none below.
        let above = (1.0 - below - size).max(0.0);
        let (stays, drawn) = match alike[0].0 {
            Some(load) if load < *least => (0.0, (1.0 - below).powi(2) - above.powi(2)),
            // Of one draw alike or two, and itself, any is as likely.
            Some(load) if load == *least => {
                (above.powi(2) + above * size + size.powi(2) / 3.0, above * size + size.powi(2) * 2.0 / 3.0)
            }
            _ => (0.0, 0.0),
        };
        chances.extend(
            alike
                .iter()
                .map(|(_, share)| drawn * part(share) / size + if is_first(share) { stays } else { 0.0 }),
        );
        below += size;
    }
    chances
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::estimate::{LoadModel, RawReport, Report};
    use crate::strategy::tests::shares;

    const NOW: Moment = Moment(1_000_000_000);
    const EXPIRES: Duration = Duration::from_secs(15);

    fn report(learner: &mut LoadModel, backend: usize, claim: RawReport) {
        learner.report(backend, &Report::new(claim, EXPIRES).unwrap(), NOW);
    }

    fn sessions(learner: &mut LoadModel, levels: &[f64]) {
        for (backend, &level) in levels.iter().enumerate() {
            report(learner, backend, RawReport { sessions: Some(level), ..RawReport::default() });
        }
    }

    /// How many of so many picks each gets, each told to the estimates.
    fn picks(weights: &[u16], learner: &LoadModel, count: usize) -> Vec<usize> {
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let strategy = LeastLoad::build(Weights::new(&shares(weights)).unwrap(), &memory);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut picked = vec![0; weights.len()];
        for _ in 0..count {
            let backend = strategy.pick(&mut PickContext::new(&mut rng, 0, NOW));
            learner.loads()[backend].dispatched(NOW);
            picked[backend] += 1;
        }
        picked
    }

    #[test]
    fn who_has_room_is_filled_up_first() {
        let mut learner = LoadModel::new(4, EXPIRES);
        sessions(&mut learner, &[50.0, 20.0, 50.0, 50.0]);
        let picked = picks(&[1; 4], &learner, 30);
        assert!(
            picked[1] >= 15 && picked[1] < 22,
            "most, and no more than three times its share: {picked:?}"
        );
        // 170 sessions and 130 more of four alike.
        let picked = picks(&[1; 4], &learner, 100);
        let loads = learner.loads().iter().map(|load| load.load(NOW).unwrap().level);
        assert!(
            loads.clone().all(|level| (level - 75.0).abs() <= 2.0),
            "{picked:?} {:?}",
            loads.collect::<Vec<_>>()
        );
    }

    #[test]
    fn weights_stand_for_capacities_where_none_is_told() {
        let mut learner = LoadModel::new(3, EXPIRES);
        sessions(&mut learner, &[0.0; 3]);
        assert_eq!(picks(&[1, 2, 5], &learner, 800), [100, 200, 500]);
        let mut learner = LoadModel::new(3, EXPIRES);
        for (backend, capacity) in [100.0, 100.0, 200.0].into_iter().enumerate() {
            let claim = RawReport { sessions: Some(0.0), capacity: Some(capacity), ..RawReport::default() };
            report(&mut learner, backend, claim);
        }
        let picked = picks(&[1; 3], &learner, 800);
        assert!((398..=402).contains(&picked[2]), "{picked:?}");
    }

    #[test]
    fn whose_load_is_unknown_has_its_turns_exactly() {
        let mut learner = LoadModel::new(4, EXPIRES);
        sessions(&mut learner, &[10.0, 0.0]);
        // The last two never said a word.
        let picked = picks(&[1, 1, 2, 4], &learner, 800);
        assert_eq!(picked[2..], [200, 400]);
        assert!((8..=12).contains(&(picked[1] - picked[0])), "{picked:?}");
        let unknown = LoadModel::new(4, EXPIRES);
        assert_eq!(picks(&[1, 1, 2, 4], &unknown, 800), [100, 100, 200, 400]);
    }

    #[test]
    fn ties_are_broken_by_chance() {
        let mut learner = LoadModel::new(3, EXPIRES);
        sessions(&mut learner, &[5.0; 3]);
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let strategy = LeastLoad::build(Weights::new(&shares(&[1; 3])).unwrap(), &memory);
        let mut rng = SmallRng::seed_from_u64(3);
        // Nothing is told to the estimates, so all stay alike.
        let picked: Vec<_> =
            (0..300).map(|_| strategy.pick(&mut PickContext::new(&mut rng, 0, NOW))).collect();
        assert!(picked.chunks(3).any(|cycle| cycle != [0, 1, 2]), "no mere round robin");
        for backend in 0..3 {
            assert!(picked.iter().filter(|&&pick| pick == backend).count() > 70, "{picked:?}");
        }
    }

    /// Over whole cycles, with loads that stay as they are: the first two alike, the last one not known.
    #[test]
    fn chances_are_as_explained() {
        let weights = [2, 1, 3, 1, 2];
        let mut learner = LoadModel::new(5, EXPIRES);
        sessions(&mut learner, &[20.0, 10.0, 45.0, 5.0]);
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let shares = shares(&weights);
        let weights = Weights::new(&shares).unwrap();
        let strategy = LeastLoad::build(weights, &memory);
        let mut rng = SmallRng::seed_from_u64(3);
        let (mut expected, mut picked, count) = ([0.0; 5], [0.0; 5], 90_000);
        for _ in 0..count {
            let (first, known) = (strategy.turns.next(), strategy.known(weights, NOW));
            let chances = chances(&known, first, weights.sum());
            assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{chances:?}");
            for ((_, share), chance) in known.iter().zip(chances) {
                expected[usize::from(share.backend)] += chance;
            }
            picked[strategy.pick(&mut PickContext::new(&mut rng, 0, NOW))] += 1.0;
        }
        for (expected, picked) in expected.iter().zip(&picked) {
            // Six standard deviations.
            assert!((expected - picked).abs() <= 6.0 * f64::from(count).sqrt() / 2.0, "{expected} {picked}");
        }
        assert_eq!(picked[4], 20_000.0, "its turns");
    }
}
