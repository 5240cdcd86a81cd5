//! How many visitors a backend is sent, and how many it may be sent: two values that all workers share, without a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::util::clock::Moment;
use crate::util::gcra::RateLimit;

/// A second, in a [`Moment`]'s nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// What one backend was sent lately. Alone on its cache lines.
#[derive(Debug, Default)]
pub struct RateMeter(CachePadded<WindowCounts>);

#[derive(Debug, Default)]
struct WindowCounts {
    /// See [`Windows`].
    windows: AtomicU64,
    /// The theoretical arrival time of its [`RateLimit`].
    arrival: AtomicU64,
}

impl RateMeter {
    /// Counts one more.
    pub fn count(&self, now: Moment) {
        let count = |bits| Some(Windows::from_bits(bits).at(now).plus_one().to_bits());
        // It is never refused.
        let _ = self.0.windows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// How many there were in the last second: all of this second's, and of the last one's such a part as is within a
    /// second, as if they had come evenly.
    pub fn rate(&self, now: Moment) -> f64 {
        Windows::from_bits(self.0.windows.load(Ordering::Relaxed)).rate(now)
    }

    /// Whether there would be a place for one more; takes none.
    pub fn has_room(&self, limit: RateLimit, now: Moment) -> bool {
        limit.admits(self.0.arrival.load(Ordering::Relaxed), now.0)
    }

    /// Takes a place under a limit; whether there was one. Of two who ask for the last place one gets it.
    pub fn try_acquire(&self, limit: RateLimit, now: Moment) -> bool {
        let next = |arrival| limit.next(arrival, now.0);
        self.0.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Takes a place even if there is none, for a client that must be redirected here. What exceeds the limit is
    /// forgotten: it never closes the limit for longer than [`Self::try_acquire`] does.
    pub fn acquire_forced(&self, limit: RateLimit, now: Moment) {
        let next = |arrival| Some(limit.next_forced(arrival, now.0));
        let _ = self.0.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// When there is a place under a limit, if nobody takes it before.
    pub fn opens(&self, limit: RateLimit) -> Moment {
        Moment(limit.opens(self.0.arrival.load(Ordering::Relaxed)))
    }
}

/// Two windows of a second in 64 bits: the number of the current one (16 bits, as stale ones are told by it; after 18
/// idle hours one may be taken for new), the count of the one before, and its own (24 bits each; they stop at 2^24 - 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Windows {
    number: u16,
    before: u32,
    current: u32,
}

const COUNT_BITS: u32 = 24;
const MOST: u32 = (1 << COUNT_BITS) - 1;

impl Windows {
    fn from_bits(bits: u64) -> Self {
        let before = (bits >> COUNT_BITS) as u32 & MOST;
        Self { number: (bits >> (2 * COUNT_BITS)) as u16, before, current: bits as u32 & MOST }
    }

    fn to_bits(self) -> u64 {
        u64::from(self.number) << (2 * COUNT_BITS)
            | u64::from(self.before) << COUNT_BITS
            | u64::from(self.current)
    }

    /// The windows as they stand at a time. One that is a little before, as another worker's may be, is in the current.
    fn at(self, now: Moment) -> Self {
        let number = (now.0 / SECOND) as u16;
        match number.wrapping_sub(self.number) {
            0 | u16::MAX => self,
            1 => Self { number, before: self.current, current: 0 },
            _ => Self { number, before: 0, current: 0 },
        }
    }

    fn plus_one(self) -> Self {
        Self { current: (self.current + 1).min(MOST), ..self }
    }

    fn rate(self, now: Moment) -> f64 {
        let Self { before, current, .. } = self.at(now);
        let left = 1.0 - (now.0 % SECOND) as f64 / SECOND as f64;
        f64::from(before) * left + f64::from(current)
    }
}

/// The meters of a pool's backends, by roster index, and of all of them together. Cheap to clone: clones share them.
#[derive(Clone, Debug, Default)]
pub struct RateMeters {
    /// What the backends are known by.
    names: Arc<[u64]>,
    each: Arc<[Arc<RateMeter>]>,
    all: Arc<RateMeter>,
}

impl RateMeters {
    /// For backends of these names, each with the meter that one of its name has here, if there is one. Little is done
    /// where they are the same backends.
    pub fn of_roster(&self, names: &Arc<[u64]>) -> Self {
        if self.names == *names {
            return self.clone();
        }
        let known: HashMap<u64, &Arc<RateMeter>> = self.names.iter().copied().zip(self.each.iter()).collect();
        let meter = |name| known.get(name).map_or_else(Arc::default, |meter| Arc::clone(meter));
        Self { names: Arc::clone(names), each: names.iter().map(meter).collect(), all: Arc::clone(&self.all) }
    }

    /// One backend's, where it has one.
    pub fn of(&self, backend: usize) -> Option<&RateMeter> {
        self.each.get(backend).map(|meter| &**meter)
    }

    /// That of all together.
    pub fn all(&self) -> &RateMeter {
        &self.all
    }

    /// Counts one more for a backend and for all.
    pub fn count(&self, backend: usize, now: Moment) {
        if let Some(meter) = self.of(backend) {
            meter.count(now);
            self.all.count(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    #[test]
    fn a_rate_is_that_of_the_last_second() {
        let meter = RateMeter::default();
        assert_eq!(meter.rate(at(0)), 0.0);
        for millis in 0..1000 {
            meter.count(at(7000 + millis));
        }
        for (millis, rate) in [(8000, 1000.0), (8250, 750.0), (8999, 1.0), (9000, 0.0), (70_000_000, 0.0)] {
            assert!((meter.rate(at(millis)) - rate).abs() < 1e-6, "{} at {millis}", meter.rate(at(millis)));
        }
        for millis in 0..1000 {
            meter.count(at(8000 + millis));
            assert!((meter.rate(at(8000 + millis)) - 1000.0).abs() <= 2.0);
        }
    }

    #[test]
    fn a_worker_that_is_late_counts_in_the_current_second() {
        let meter = RateMeter::default();
        meter.count(at(5001));
        meter.count(at(4999));
        assert_eq!(meter.rate(at(5001)), 2.0);
        let full = Windows { number: 3, before: 7, current: MOST };
        assert_eq!(full.plus_one(), full);
        assert_eq!(Windows::from_bits(full.to_bits()), full);
    }

    #[test]
    fn threads_never_share_a_place() {
        let meters = RateMeters::default().of_roster(&[7].into());
        let limit = RateLimit::per_second(1000.0).unwrap();
        let picker = || {
            let taken =
                (0..1000).filter(|_| meters.of(0).is_some_and(|meter| meter.try_acquire(limit, at(9000))));
            let taken = taken.count();
            (0..1000).for_each(|_| meters.count(0, at(9000)));
            taken
        };
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(picker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
        assert_eq!((meters.all().rate(at(9000)), meters.of(0).unwrap().rate(at(9000))), (4000.0, 4000.0));
    }

    #[test]
    fn a_backend_keeps_its_meter_where_it_moves() {
        let old = RateMeters::default().of_roster(&[5, 6].into());
        old.count(1, at(0));
        let new = old.of_roster(&[7, 5, 6].into());
        let rates = [0, 1, 2].map(|index| new.of(index).unwrap().rate(at(0)));
        assert_eq!(rates, [0.0, 0.0, 1.0]);
        assert_eq!(new.all().rate(at(0)), 1.0);
    }
}
