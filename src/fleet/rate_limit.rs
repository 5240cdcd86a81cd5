//! Which backends have room for one more visitor, where the settings limit how many a second they are sent.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::strategy::{PickContext, RateMeters, Strategy, TriedBackends, WeightedBackend};
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
            let (mut tried, mut full) = (TriedBackends::default(), None);
            let mut accept = |backend, is_full: bool| {
                let accepts = !is_full && tried.is_new(backend) && self.try_acquire(limits, backend, now);
                if !accepts {
                    full.get_or_insert(backend);
                }
                accepts
            };
            let picked = strategy.pick_of(turn, &mut accept);
            if let Some(backend) = picked.or_else(|| self.any(limits, &mut |backend| accept(backend, false)))
            {
                turn.note_overflow(full, backend);
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
        let (mut sent, mut overflowed) = (vec![0; rates.len()], vec![0; rates.len()]);
        for _ in 0..visitors {
            let turn = &mut PickContext::new(&mut rng, 5, Moment(7_000_000_000));
            sent[room.pick(&strategy, &limits, turn)] += 1;
            if let Some(full) = turn.overflowed {
                overflowed[full] += 1;
            }
        }
        (sent, overflowed)
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
        assert_eq!(overflowed, [40, 0, 0, 0], "the second backend was nobody's first choice");
    }

    #[test]
    fn a_request_overflows_once_although_two_backends_are_full() {
        let shares: Vec<_> =
            (0..4).map(|backend| WeightedBackend { backend, weight: NonZeroU16::MIN }).collect();
        let config =
            StrategyConfig { names: (0..4).collect(), balance_factor: 125, ..StrategyConfig::default() };
        let meters = || RateMeters::default().of_roster(&config.names);
        let mut state = StrategyState::from_turn(0);
        state.meters = meters();
        let weights = Weights::new(&shares).unwrap();
        let strategy = Strategy::build(StrategyKind::ConsistentHash, &config, weights, &state);
        let (room, limits, now) =
            (RateLimiter::new(meters(), &shares), [RateLimit::per_second(1.0); 4], Moment(9));
        let mut rng = SmallRng::seed_from_u64(1);
        let mut pick = || {
            let turn = &mut PickContext::new(&mut rng, 5, now);
            (room.pick(&strategy, &limits, turn), turn.overflowed)
        };
        let (first, overflowed) = pick();
        assert_eq!(overflowed, None);
        // From here on the first choice is over its bound, and after the next pick the second is at its limit.
        (0..10).for_each(|_| strategy.sent(first, now));
        let (second, overflowed) = pick();
        assert!(second != first && overflowed == Some(first));
        let (third, overflowed) = pick();
        assert!(third != first && third != second && overflowed == Some(first));
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
            let turn = &mut PickContext::new(&mut rng, 0, Moment(2));
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
