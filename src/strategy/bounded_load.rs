//! How much more than its share a backend may have, where a hash is bounded.

use std::sync::atomic::{AtomicU64, Ordering};

use super::explain::percent;
use super::{RateMeters, StrategyState, Weights};
use crate::estimate::Estimates;
use crate::util::clock::Moment;

/// How many dispatches a second a backend is never held for too many: in a pool that has few of them, two of one second
/// are no sign of anything.
const COLD: f64 = 4.0;

/// A backend of which no more than this is in use is never held for too full.
const IDLE: f64 = 0.05;

/// Bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2016), with what backends
/// report of their load, or else dispatches of the last second, for what they have open connections: of these a redirect
/// knows nothing.
#[derive(Debug)]
pub(super) struct LoadBound {
    /// How much load a backend may have, as a multiple of its share: the paper's 1 + epsilon.
    factor: f64,
    /// By roster index: what of all dispatches a backend may have, its share times the factor.
    parts: Box<[f64]>,
    meters: RateMeters,
    loads: Estimates,
    /// Who may be picked.
    backends: Box<[u16]>,
    mean: Mean,
}

/// How much the pool as a whole has.
#[derive(Clone, Copy)]
pub(super) struct PoolTotal {
    /// Dispatches in the last second.
    dispatches: f64,
    /// The share of their capacity in use, of those of whom it is known; infinite where nobody is.
    utilization: f64,
}

impl LoadBound {
    /// Takes the factor in percent. O(number of backends).
    pub(super) fn new(percent: u16, weights: Weights<'_>, memory: &StrategyState) -> Self {
        let factor = f64::from(percent) / 100.0;
        let sum = f64::from(weights.sum());
        let most = weights.iter().map(|share| usize::from(share.backend)).max().unwrap_or(0);
        let mut parts = vec![0.0; most + 1];
        for share in weights.iter() {
            parts[usize::from(share.backend)] = factor * f64::from(share.weight.get()) / sum;
        }
        Self {
            factor,
            parts: parts.into(),
            meters: memory.meters.clone(),
            loads: memory.loads.clone(),
            backends: weights.iter().map(|share| share.backend).collect(),
            mean: Mean::default(),
        }
    }

    /// Notes who was sent a visitor.
    pub(super) fn sent(&self, backend: usize, now: Moment) {
        self.meters.count(backend, now);
    }

    /// How many a backend was sent in the last second.
    pub(super) fn rate(&self, backend: usize, now: Moment) -> f64 {
        self.meters.of(backend).map_or(0.0, |meter| meter.rate(now))
    }

    /// What one pick compares with; one in a while looks at all backends for it.
    pub(super) fn all(&self, now: Moment) -> PoolTotal {
        let utilization = self.mean.at(now, || self.utilization(now));
        PoolTotal { dispatches: self.meters.all().rate(now), utilization }
    }

    /// The share of the capacity of all that is in use. O(number of backends).
    fn utilization(&self, now: Moment) -> f64 {
        let loads = self.backends.iter().filter_map(|&backend| self.load(backend.into(), now));
        let (level, capacity) =
            loads.fold((0.0, 0.0), |(levels, all), (level, capacity)| (levels + level, all + capacity));
        if capacity > 0.0 { level / capacity } else { f64::INFINITY }
    }

    /// What of a backend is in use, and what there is of it.
    fn load(&self, backend: usize, now: Moment) -> Option<(f64, f64)> {
        let load = self.loads.get(backend)?.load(now)?;
        Some((load.level, load.capacity?))
    }

    /// Whether a backend may have one more.
    pub(super) fn takes(&self, backend: usize, all: PoolTotal, now: Moment) -> bool {
        match self.load(backend, now) {
            Some((level, capacity)) => level / capacity <= self.most_in_use(all),
            None => self.rate(backend, now) + 1.0 <= self.places(backend, all),
        }
    }

    /// The share of a backend's capacity up to which it is within the bound.
    fn most_in_use(&self, all: PoolTotal) -> f64 {
        (self.factor * all.utilization).max(IDLE)
    }

    /// How many dispatches of a second are within a backend's part, one more included.
    fn places(&self, backend: usize, all: PoolTotal) -> f64 {
        // A whole one is what is taken, so a place of which a part is left is a place; what rounding leaves is none.
        (self.parts[backend] * (all.dispatches + 1.0) - 1e-6).ceil().max(COLD)
    }

    /// Why a backend may not have one more, for a person; `None` where it may. Notes nothing.
    pub(super) fn why_not(&self, backend: usize, now: Moment) -> Option<String> {
        let all = PoolTotal { dispatches: self.meters.all().rate(now), utilization: self.utilization(now) };
        if let Some((level, capacity)) = self.load(backend, now) {
            let (in_use, most) = (level / capacity, self.most_in_use(all));
            let text = || format!("at its bound: {} in use, of {}", percent(in_use, 1.0), percent(most, 1.0));
            return (in_use > most).then(text);
        }
        let (rate, places) = (self.rate(backend, now), self.places(backend, all));
        (rate + 1.0 > places).then(|| format!("at its bound: {rate:.1} in the last second, of {places}"))
    }
}

/// A figure of all backends, which one pick in a while works out for the others.
#[derive(Debug, Default)]
struct Mean {
    /// Until when it holds, in nanoseconds.
    until: AtomicU64,
    /// The figure, as bits.
    bits: AtomicU64,
}

impl Mean {
    /// How long it holds, in nanoseconds.
    const LASTS: u64 = 50_000_000;

    fn at(&self, now: Moment, figure: impl FnOnce() -> f64) -> f64 {
        if now.0 < self.until.load(Ordering::Acquire) {
            return f64::from_bits(self.bits.load(Ordering::Relaxed));
        }
        let figure = figure();
        self.bits.store(figure.to_bits(), Ordering::Relaxed);
        self.until.store(now.0 + Self::LASTS, Ordering::Release);
        figure
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::estimate::{LoadModel, RawReport, Report};
    use crate::strategy::tests::shares;

    const NOW: Moment = Moment(1_000_000_000_000);

    /// Which of these, who can hold ten sessions each and hold so many, may have one more.
    fn takes(sessions: &[f64]) -> Vec<bool> {
        let expires = Duration::from_secs(60);
        let mut learner = LoadModel::new(sessions.len(), expires);
        for (backend, &sessions) in sessions.iter().enumerate() {
            let claim = RawReport { sessions: Some(sessions), capacity: Some(10.0), ..RawReport::default() };
            learner.report(backend, &Report::new(claim, expires).unwrap(), NOW);
        }
        let memory = StrategyState::default().with_loads(learner.loads().clone());
        let bound = LoadBound::new(125, Weights::new(&shares(&vec![1; sessions.len()])).unwrap(), &memory);
        let all = bound.all(NOW);
        (0..sessions.len()).map(|backend| bound.takes(backend, all, NOW)).collect()
    }

    #[test]
    fn where_loads_are_known_they_are_what_is_bounded() {
        assert_eq!(takes(&[9.0, 5.0, 5.0, 5.0]), [false, true, true, true]);
        assert_eq!(takes(&[6.0, 5.0, 5.0, 5.0]), [true; 4]);
        assert_eq!(takes(&[0.4, 0.0, 0.0, 0.0]), [true; 4], "nobody has much to do");
    }

    #[test]
    fn a_mean_is_worked_out_once_in_a_while() {
        let mean = Mean::default();
        assert_eq!(mean.at(NOW, || 1.0), 1.0);
        assert_eq!(mean.at(Moment(NOW.0 + Mean::LASTS - 1), || 2.0), 1.0);
        assert_eq!(mean.at(Moment(NOW.0 + Mean::LASTS), || 3.0), 3.0);
    }
}
