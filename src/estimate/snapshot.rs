//! What is known of a backend since its last report, as one writer leaves it for many readers.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::util::clock::Moment;

/// What a backend's load is worked out from until its next report.
///
/// Between reports its level `n` goes by `dn/dt = gain × dispatches − decay × n`. A level is in the unit of the reports:
/// sessions, or a utilization, or requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ModelSnapshot {
    /// When the level was what it is.
    pub(super) at: Moment,
    /// From when on it says nothing any more.
    pub(super) expires: Moment,
    /// The level then.
    pub(super) level: f64,
    /// What the level was put at for dispatches that were counted before, in the terms of [`super::Estimate::dispatched`].
    pub(super) counted: u64,
    /// By how much the level rises with one dispatch.
    pub(super) gain: f64,
    /// The share of the level that goes in a second.
    pub(super) decay: f64,
    /// The variance of what went since, over what it is if all goes one by one and by chance.
    pub(super) spread: f64,
    /// The level at which the backend is full; 0 where it did not say.
    pub(super) capacity: f64,
}

/// A [`ModelSnapshot`] that one thread writes and all read, without a lock: a writer never waits, and a reader only begins again
/// where a whole new basis was written while it read.
///
/// There are two places. The version's lowest bit says which one is read; the next version is written into the other.
#[derive(Debug, Default)]
pub(super) struct SharedSnapshot {
    version: AtomicU64,
    places: [[AtomicU64; 8]; 2],
}

impl SharedSnapshot {
    /// Replaces it. One thread may do so at a time.
    pub(super) fn write(&self, basis: &ModelSnapshot) {
        let version = self.version.load(Ordering::Relaxed).wrapping_add(1);
        // Who reads this place, which is two versions old by now, finds the version changed where it sees one of these.
        fence(Ordering::Release);
        for (place, value) in self.places[(version & 1) as usize].iter().zip(basis.to_bits()) {
            place.store(value, Ordering::Relaxed);
        }
        self.version.store(version, Ordering::Release);
    }

    /// The last that was written; `None` where none was.
    pub(super) fn read(&self) -> Option<ModelSnapshot> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            if version == 0 {
                return None;
            }
            let basis = ModelSnapshot::from_bits(
                self.places[(version & 1) as usize].each_ref().map(|place| place.load(Ordering::Relaxed)),
            );
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return Some(basis);
            }
        }
    }
}

impl ModelSnapshot {
    fn to_bits(self) -> [u64; 8] {
        let Self { at, expires, level, counted, gain, decay, spread, capacity } = self;
        let [level, gain, decay, spread, capacity] = [level, gain, decay, spread, capacity].map(f64::to_bits);
        [at.0, expires.0, level, counted, gain, decay, spread, capacity]
    }

    fn from_bits(bits: [u64; 8]) -> Self {
        let [at, expires, level, counted, gain, decay, spread, capacity] = bits;
        let [level, gain, decay, spread, capacity] =
            [level, gain, decay, spread, capacity].map(f64::from_bits);
        Self { at: Moment(at), expires: Moment(expires), level, counted, gain, decay, spread, capacity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A basis every field of which is told by `number`.
    fn numbered(number: u64) -> ModelSnapshot {
        let value = number as f64;
        ModelSnapshot {
            at: Moment(number),
            expires: Moment(number),
            level: value,
            counted: number,
            gain: value,
            decay: value,
            spread: value,
            capacity: value,
        }
    }

    #[test]
    fn none_is_read_before_one_was_written() {
        let shared = SharedSnapshot::default();
        assert_eq!(shared.read(), None);
        shared.write(&numbered(7));
        assert_eq!(shared.read(), Some(numbered(7)));
        shared.write(&numbered(8));
        assert_eq!(shared.read(), Some(numbered(8)));
    }

    #[test]
    fn a_reader_never_sees_half_of_one() {
        let shared = SharedSnapshot::default();
        const LAST: u64 = 200_000;
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut last, mut seen) = (0, 0);
                        while last < LAST {
                            let Some(basis) = shared.read() else { continue };
                            assert_eq!(basis, numbered(basis.at.0), "of one piece");
                            assert!(basis.at.0 >= last, "{} after {last}", basis.at.0);
                            last = basis.at.0;
                            seen += 1;
                        }
                        seen
                    })
                })
                .collect();
            (1..=LAST).for_each(|number| shared.write(&numbered(number)));
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
        });
    }
}
