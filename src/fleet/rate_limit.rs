//! Which backends have room for one more visitor, where the settings limit how many a second they are sent.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::strategy::{PickContext, RateMeter, RateMeters, Strategy, TriedBackends, WeightedBackend};
use crate::util::clock::Moment;
use crate::util::gcra::RateLimit;

/// The limits of a pool at work. They hold for all of its strategies together, and for all workers.
#[derive(Debug)]
pub(super) struct RateLimiter {
    meters: RateMeters,
    /// Who may be picked, in order.
    eligible: Box<[u16]>,
    /// Nobody has room before this, in nanoseconds: what was found out by asking all need not be found out again.
    closed: AtomicU64,
    /// Who of `eligible` had room when all were asked: the one to ask before all are asked again.
    open: AtomicUsize,
}

impl RateLimiter {
    pub(super) fn new(meters: RateMeters, shares: &[WeightedBackend]) -> Self {
        let eligible = shares.iter().map(|share| share.backend).collect();
        Self { meters, eligible, closed: AtomicU64::new(0), open: AtomicUsize::new(0) }
    }

    /// Has a strategy pick somebody with room. Where it finds nobody, all are asked, which is O(number of backends) and
    /// rare: who is found is remembered, and that nobody is too. Where nobody has room the strategy's choice stands.
    pub(super) fn pick(
        &self,
        strategy: &Strategy,
        limits: &[Option<RateLimit>],
        turn: &mut PickContext<'_>,
    ) -> usize {
        let now = turn.now;
        if now.0 >= self.closed.load(Ordering::Relaxed) {
            let mut asked = TriedBackends::default();
            let mut has_room = |backend| asked.is_new(backend) && self.try_acquire(limits, backend, now);
            let picked = strategy.pick_of(turn, &mut has_room);
            if let Some(backend) = picked.or_else(|| self.any(limits, &mut has_room)) {
                return backend;
            }
        }
        strategy.overflow(turn)
    }

    /// Anybody with room.
    fn any(&self, limits: &[Option<RateLimit>], has_room: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        let known = self.open.load(Ordering::Relaxed);
        let mut places = std::iter::once(known).chain(0..self.eligible.len());
        let place =
            places.find(|&place| self.eligible.get(place).is_some_and(|&backend| has_room(backend.into())));
        let Some(place) = place else {
            // Who has no limit has room, so all of them have meters and limits.
            let opens = |&backend: &u16| self.meters.of(backend.into()).zip(limits[usize::from(backend)]);
            let opens = self.eligible.iter().filter_map(opens).map(|(meter, limit)| meter.opens(limit).0);
            self.closed.store(opens.min().unwrap_or(0), Ordering::Relaxed);
            return None;
        };
        self.open.store(place, Ordering::Relaxed);
        Some(self.eligible[place].into())
    }

    fn try_acquire(&self, limits: &[Option<RateLimit>], backend: usize, now: Moment) -> bool {
        self.meters
            .of(backend)
            .zip(limits[backend])
            .is_none_or(|(meter, limit)| meter.try_acquire(limit, now))
    }

    /// Whether a backend would have a place for one more.
    pub(super) fn has_room(&self, limits: &[Option<RateLimit>], backend: usize, now: Moment) -> bool {
        let limit = limits.get(backend).copied().flatten();
        self.meters.of(backend).zip(limit).is_none_or(|(meter, limit)| meter.has_room(limit, now))
    }

    /// Takes a place for a visitor who is sent to a backend whether it has room or not.
    pub(super) fn acquire_forced(&self, limits: &[Option<RateLimit>], backend: usize, now: Moment) {
        if let Some((meter, limit)) = self.meters.of(backend).zip(limits[backend]) {
            meter.acquire_forced(limit, now);
        }
    }

    /// How many visitors who were picked a backend went elsewhere.
    pub(super) fn overflowed(&self, backend: usize) -> u64 {
        self.meters.of(backend).map_or(0, RateMeter::overflowed)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::estimate::{LoadModel, RawReport, Report};
    use crate::strategy::{StrategyConfig, StrategyKind, StrategyState, Weights};

    /// How many of so many visitors, who come at once, each backend is sent under these limits.
    fn send(kind: StrategyKind, rates: &[f64], visitors: u64) -> (Vec<u32>, Vec<u64>) {
        let limits: Vec<_> = rates.iter().map(|&rate| RateLimit::per_second(rate)).collect();
        let shares: Vec<_> = (0..rates.len() as u16)
            .map(|backend| WeightedBackend { backend, weight: NonZeroU16::MIN })
            .collect();
        let names = (0..rates.len() as u64).collect();
        let meters = RateMeters::default().of_roster(&names);
        let weights = Weights::new(&shares).unwrap();
        let strategy = Strategy::build(kind, &StrategyConfig::default(), weights, &StrategyState::default());
        let room = RateLimiter::new(meters, &shares);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut sent = vec![0; rates.len()];
        for _ in 0..visitors {
            let turn = &mut PickContext { rng: &mut rng, key: 5, now: Moment(7_000_000_000) };
            sent[room.pick(&strategy, &limits, turn)] += 1;
        }
        (sent, (0..rates.len()).map(|backend| room.overflowed(backend)).collect())
    }

    #[test]
    fn every_strategy_sends_on_what_is_over_a_limit() {
        for kind in StrategyKind::ALL {
            let (sent, _) = send(kind, &[20.0, 20.0, 20.0], 60);
            assert_eq!(sent, [20, 20, 20], "{}", kind.name());
            // One of many has room, and the strategy finds it or not.
            let mut rates = [1.0; 300];
            rates[200] = 0.0;
            let (sent, _) = send(kind, &rates, 1000);
            assert!(sent[200] >= 701, "{}", kind.name());
            assert!(
                sent.iter().enumerate().all(|(index, &sent)| index == 200 || sent <= 1),
                "{}",
                kind.name()
            );
        }
    }

    #[test]
    fn first_fills_one_after_the_other() {
        let (sent, overflowed) = send(StrategyKind::First, &[20.0, 10.0, 50.0, 50.0], 60);
        assert_eq!(sent, [20, 10, 30, 0]);
        assert_eq!(overflowed, [40, 30, 0, 0]);
    }

    #[test]
    fn where_all_are_full_by_their_reports_and_within_their_limits_all_have_a_part() {
        let limits = [RateLimit::per_second(1000.0); 4];
        let shares: Vec<_> =
            (0..4).map(|backend| WeightedBackend { backend, weight: NonZeroU16::MIN }).collect();
        let mut learner = LoadModel::new(4, Duration::from_secs(15));
        let claim = RawReport { utilization: Some(0.9), ..RawReport::default() };
        let report = Report::new(claim, Duration::from_secs(15)).unwrap();
        (0..4).for_each(|backend| learner.report(backend, &report, Moment(1)));
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let rules = StrategyConfig { max_utilization: 0.8, ..StrategyConfig::default() };
        let first = Strategy::build(StrategyKind::First, &rules, Weights::new(&shares).unwrap(), &memory);
        let room = RateLimiter::new(RateMeters::default().of_roster(&[1, 2, 3, 4].into()), &shares);
        let (mut rng, mut sent) = (SmallRng::seed_from_u64(1), [0; 4]);
        for _ in 0..400 {
            let turn = &mut PickContext { rng: &mut rng, key: 0, now: Moment(2) };
            sent[room.pick(&first, &limits, turn)] += 1;
        }
        assert!(sent.iter().all(|sent| (60..140).contains(sent)), "{sent:?}");
    }

    #[test]
    fn where_nobody_has_room_the_strategy_has_its_way() {
        for kind in StrategyKind::ALL {
            let (sent, _) = send(kind, &[10.0; 4], 4000);
            assert_eq!(sent.iter().sum::<u32>(), 4000);
            let even = sent.iter().all(|sent| (800..1200).contains(sent));
            let one = sent.iter().filter(|&&sent| sent == 10).count() == 3;
            // All of them are one visitor.
            assert!(
                if kind == StrategyKind::ConsistentHash { one } else { even },
                "{} {sent:?}",
                kind.name()
            );
        }
    }
}
