//! What a backend's load is, from what it reported and what was sent there since. Pure: no clock, no I/O, and no lock
//! where it is read.
//!
//! Whoever goes by the last report alone sends every visitor of the next seconds to whoever looked idle. So a level is
//! carried on from report to report: it rises with each dispatch, and falls as sessions end. How fast, and by how much
//! one dispatch raises it where other dispatchers send visitors too, the [`LoadModel`] learns from how reports and
//! dispatches differ.

mod snapshot;
mod load_model;
mod rates;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

pub use load_model::LoadModel;
pub use report::{InvalidReport, RawReport, Report};

use crate::util::clock::Moment;
use snapshot::{ModelSnapshot, SharedSnapshot};

/// The estimates of a pool's backends, by their place in the roster.
pub type Estimates = Arc<[Arc<Estimate>]>;

/// One backend's load. Workers tell it what they dispatch, strategies read it, and one [`LoadModel`] says what to make of
/// that.
#[derive(Debug, Default)]
pub struct Estimate {
    sent: CachePadded<Sent>,
    basis: SharedSnapshot,
}

/// What was dispatched to it, by all workers together.
#[derive(Debug, Default)]
struct Sent {
    count: AtomicU64,
    /// Dispatches at what they were worth when the basis began: one that came t seconds later counts exp(decay × t),
    /// since that much less of it will have gone when all decays alike. In units of 1 / [`UNIT`], so that adding is one
    /// instruction.
    worth: AtomicU64,
}

const UNIT: f64 = (1u64 << 20) as f64;

/// For so many time constants of its decay a level is carried on from a report: by then less than a hundredth of what was
/// reported is left. Beyond, it is what the dispatches since keep up on average. It also bounds what one dispatch may be
/// worth.
const HORIZON: f64 = 5.0;

/// The share of all visitors that this process sends, as far as that is known. Written by the [`LoadModel`].
#[derive(Debug)]
pub struct LocalTrafficRatio(AtomicU64);

impl Default for LocalTrafficRatio {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl LocalTrafficRatio {
    /// From 0 to 1; `None` before anything is known.
    pub fn get(&self) -> Option<f64> {
        let share = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!share.is_nan()).then_some(share)
    }

    fn set(&self, share: Option<f64>) {
        self.0.store(share.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
    }
}

/// What a backend's load is at a moment, in the unit of its reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// What it is expected to be; 0 or more.
    pub level: f64,
    /// The standard deviation of what it is from that: what nobody could know of those who left since the last report.
    pub deviation: f64,
    /// The level at which it is full, where that is known; more than 0.
    pub capacity: Option<f64>,
}

impl Estimate {
    /// Notes that one more visitor was sent there. Two atomic additions, on a cache line of their own.
    pub fn dispatched(&self, now: Moment) {
        let worth = self.basis.read().map_or(1.0, |basis| basis.age(now).min(HORIZON).exp());
        self.sent.count.fetch_add(1, Ordering::Relaxed);
        self.sent.worth.fetch_add((worth * UNIT) as u64, Ordering::Relaxed);
    }

    /// Returns its load now; `None` before its first report, and once the last one has expired. Takes some tens of
    /// nanoseconds.
    pub fn load(&self, now: Moment) -> Option<Load> {
        let basis = self.basis.read().filter(|basis| now <= basis.expires)?;
        let left = basis.left(now);
        let level = left * (basis.level + basis.gain * self.worth_since(&basis));
        // The variance of a population of which each goes by chance, and in whose stead about as many come.
        let variance = basis.spread * level * (1.0 - left * left) / 2.0;
        let capacity = (basis.capacity > 0.0).then_some(basis.capacity);
        Some(Load { level, deviation: variance.sqrt(), capacity })
    }

    /// One that begins where this one is.
    pub fn copied(&self, now: Moment) -> Self {
        let copy = Self::default();
        copy.carry_on(self, now);
        copy
    }

    /// Goes on from its own level, with the rates and for as long as another does that is reported to; where it has none
    /// from that one's. So it tells what the load would be if its dispatches were those that are made. One thread may do
    /// so at a time.
    pub fn carry_on(&self, truth: &Self, now: Moment) {
        let Some((basis, load)) = truth.basis.read().zip(truth.load(now)) else { return };
        let level = self.load(now).map_or(load.level, |load| load.level);
        let counted = self.sent.worth.load(Ordering::Relaxed);
        self.basis.write(&ModelSnapshot { at: now, level, counted, ..basis });
    }

    /// How many visitors were sent there so far.
    fn count(&self) -> u64 {
        self.sent.count.load(Ordering::Relaxed)
    }

    /// What dispatches are worth that came since a basis began.
    fn worth_since(&self, basis: &ModelSnapshot) -> f64 {
        // One who read the basis before may add after: never less than nothing.
        self.sent.worth.load(Ordering::Relaxed).wrapping_sub(basis.counted) as f64 / UNIT
    }
}

impl ModelSnapshot {
    /// Returns its age in time constants of the decay.
    fn age(&self, now: Moment) -> f64 {
        self.decay * now.since(self.at).as_secs_f64()
    }

    /// Returns the share of the level, and of each dispatch's worth, that is left.
    ///
    /// Dispatches later than [`HORIZON`] are all worth the same. Each counts for its share of the time since, so that the
    /// level becomes what their mean rate keeps up: gain / decay × rate, on average what was reported at that rate.
    fn left(&self, now: Moment) -> f64 {
        let age = self.age(now);
        (-age.min(HORIZON)).exp() / (1.0 + (age - HORIZON).max(0.0))
    }
}

impl Load {
    /// The share of a backend that is in use. Where its capacity is not known, its weight stands for it; `None` where that
    /// is 0.
    pub fn utilization(&self, weight: f64) -> Option<f64> {
        let capacity = self.capacity.unwrap_or(weight);
        (capacity > 0.0).then(|| self.level / capacity)
    }

    /// The share of it that may well be in use: one standard deviation more than is expected. Where the highest of many
    /// is to be low, whoever is known less well is to be sent a little less. `weight` is above 0.
    pub fn likely_most(&self, weight: f64) -> f64 {
        (self.level + self.deviation) / self.capacity.unwrap_or(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(number: u64) -> Moment {
        Moment(number * 1_000_000_000)
    }

    fn basis() -> ModelSnapshot {
        ModelSnapshot {
            at: second(10),
            expires: second(25),
            level: 100.0,
            counted: 0,
            gain: 2.0,
            decay: 0.1,
            spread: 1.0,
            capacity: 0.0,
        }
    }

    #[test]
    fn there_is_none_without_a_report_or_with_one_that_is_too_old() {
        let estimate = Estimate::default();
        estimate.dispatched(second(3));
        assert_eq!(estimate.load(second(4)), None);
        // However short sessions seem to be.
        for decay in [0.0, 0.1, 1.0, 1e6, 1e18] {
            estimate.basis.write(&ModelSnapshot { decay, ..basis() });
            assert!(estimate.load(second(25)).is_some_and(|load| load.level.is_finite()), "{decay}");
            assert_eq!(estimate.load(second(26)), None);
        }
    }

    #[test]
    fn beyond_the_horizon_a_level_is_what_dispatches_keep_up() {
        let estimate = Estimate::default();
        let at = |tenths: u64| Moment(tenths * 100_000_000);
        // 10 dispatches a second of sessions that seem to last a third of a second keep up 10 / 3 sessions.
        estimate.basis.write(&ModelSnapshot { gain: 1.0, decay: 3.0, level: 10.0 / 3.0, ..basis() });
        for tenths in 100..250 {
            let level = estimate.load(at(tenths)).unwrap().level;
            assert!((level - 10.0 / 3.0).abs() < 0.6, "{level} after {tenths} tenths");
            estimate.dispatched(at(tenths));
        }
        // At twice the rate it rises, and without dispatches it falls.
        let quiet = Estimate::default();
        quiet.basis.write(&ModelSnapshot { gain: 1.0, decay: 3.0, level: 10.0 / 3.0, ..basis() });
        assert!(quiet.load(second(20)).unwrap().level < 0.01);
        for tenths in 100..250 {
            quiet.dispatched(at(tenths));
            quiet.dispatched(at(tenths));
        }
        let level = quiet.load(second(25)).unwrap().level;
        assert!((level - 20.0 / 3.0).abs() < 0.6, "{level}");
    }

    #[test]
    fn who_was_reported_and_who_was_sent_leave_alike() {
        let estimate = Estimate::default();
        estimate.dispatched(second(9));
        let counted = estimate.sent.worth.load(Ordering::Relaxed);
        estimate.basis.write(&ModelSnapshot { counted, ..basis() });
        for _ in 0..10 {
            estimate.dispatched(second(12));
        }
        estimate.dispatched(second(15));
        let expected = 100.0 * (-0.5f64).exp() + 2.0 * (10.0 * (-0.3f64).exp() + 1.0);
        let load = estimate.load(second(15)).unwrap();
        assert!((load.level - expected).abs() < 1e-3, "{load:?}, expected {expected}");
        assert_eq!(estimate.count(), 12);
    }

    #[test]
    fn what_is_modelled_goes_on_by_itself() {
        let truth = Estimate::default();
        let early = truth.copied(second(9));
        assert_eq!(early.load(second(9)), None, "nothing is known yet");
        truth.basis.write(&basis());
        let model = truth.copied(second(10));
        assert_eq!(model.load(second(10)), truth.load(second(10)));
        // Ten come here who went elsewhere in truth.
        (0..10).for_each(|_| model.dispatched(second(12)));
        truth.basis.write(&ModelSnapshot {
            at: second(15),
            expires: second(30),
            level: 50.0,
            decay: 0.2,
            ..basis()
        });
        model.carry_on(&truth, second(15));
        let expected = 100.0 * (-0.5f64).exp() + 20.0 * (-0.3f64).exp();
        let level = |at| model.load(second(at)).unwrap().level;
        assert!((level(15) - expected).abs() < 1e-3, "{}", level(15));
        assert!((level(20) - expected * (-1.0f64).exp()).abs() < 1e-3, "by what was learnt meanwhile");
        early.carry_on(&truth, second(15));
        assert_eq!(early.load(second(15)), truth.load(second(15)));
    }

    #[test]
    fn what_is_less_certain_is_likely_more() {
        let estimate = Estimate::default();
        estimate.basis.write(&ModelSnapshot { capacity: 200.0, ..basis() });
        let [new, old] = [10, 14].map(|at| estimate.load(second(at)).unwrap());
        assert_eq!((new.deviation, new.utilization(0.0)), (0.0, Some(0.5)));
        assert!(old.deviation > 3.0 && old.likely_most(7.0) > old.utilization(7.0).unwrap());
        let unknown = Load { capacity: None, ..new };
        assert_eq!(unknown.utilization(50.0), Some(2.0), "its weight stands for it");
        assert_eq!(unknown.utilization(0.0), None, "nothing can be a share of that");
    }

    #[test]
    fn a_clock_that_stands_or_a_thread_that_is_late_does_no_harm() {
        let estimate = Estimate::default();
        estimate.basis.write(&basis());
        estimate.dispatched(second(1));
        let load = estimate.load(second(2)).unwrap();
        assert!((load.level - 102.0).abs() < 1e-3 && load.deviation == 0.0, "{load:?}");
        // Very late: no more than the horizon allows.
        estimate.dispatched(second(10_000));
        let load = estimate.load(second(10)).unwrap();
        assert!(load.level <= 102.1 + 2.0 * HORIZON.exp(), "{load:?}");
    }
}
