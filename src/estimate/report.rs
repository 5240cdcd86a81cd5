//! A backend's word about its load, checked: what makes no sense is refused before anybody goes by it.
//!
//! # Trust
//! Reports come from the network. A [`Report`] that exists has finite numbers inside known bounds, so that sums and
//! quotients of them stay finite.

use std::fmt;
use std::time::Duration;

use crate::util::enum_all;

/// What a backend says of itself, as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RawReport {
    /// Sessions that are active there now, of all dispatchers' visitors.
    pub sessions: Option<f64>,
    /// The share of it that is in use: 1 is full, more is overload.
    pub utilization: Option<f64>,
    /// How many sessions it takes at once.
    pub capacity: Option<f64>,
    /// Requests a second that it serves now.
    pub rate: Option<f64>,
    /// How many seconds ago that was so; less than 0 where its clock is ahead.
    pub age: f64,
}

/// The members of a push that were told, with their numbers.
impl fmt::Display for RawReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            ("sessions", self.sessions),
            ("utilization", self.utilization),
            ("capacity", self.capacity),
            ("requests_per_second", self.rate),
            ("age", (self.age != 0.0).then_some(self.age)),
        ];
        let mut separator = "";
        for (name, number) in told.into_iter().filter_map(|(name, number)| Some((name, number?))) {
            write!(f, "{separator}{name} {number}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// A claim that makes sense: every number is finite, from 0 to [`Self::MOST`], and it says something of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    claim: RawReport,
    age: Duration,
}

impl Report {
    /// The largest number of sessions, capacity and rate.
    pub const MOST: f64 = 1e9;
    /// The largest utilization: nobody serves a hundredfold of what they can.
    pub const MOST_UTILIZATION: f64 = 100.0;
    /// The smallest capacity: of less, next to nothing would be more than any number.
    pub const LEAST_CAPACITY: f64 = 1e-6;
    /// By how much a backend's clock may be ahead; its reports count as new.
    pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

    /// Takes a claim that is at most `expires` old.
    ///
    /// # Errors
    /// Why it makes no sense; the first reason in the order of [`InvalidReport::ALL`].
    pub fn new(claim: RawReport, expires: Duration) -> Result<Self, InvalidReport> {
        let RawReport { sessions, utilization, capacity, rate, age } = claim;
        let most = [
            (sessions, Self::MOST),
            (utilization, Self::MOST_UTILIZATION),
            (capacity, Self::MOST),
            (rate, Self::MOST),
        ];
        let claimed = || most.iter().filter_map(|(value, most)| Some(((*value)?, *most)));
        if claimed().any(|(value, _)| !value.is_finite()) || !age.is_finite() {
            Err(InvalidReport::NotFinite)
        } else if claimed().any(|(value, _)| value < 0.0) {
            Err(InvalidReport::Negative)
        } else if claimed().any(|(value, most)| value > most) {
            Err(InvalidReport::TooLarge)
        } else if capacity.is_some_and(|capacity| capacity < Self::LEAST_CAPACITY) {
            Err(InvalidReport::CapacityTooSmall)
        } else if age < -Self::CLOCK_SKEW.as_secs_f64() {
            Err(InvalidReport::Future)
        } else if age > expires.as_secs_f64() {
            Err(InvalidReport::TooOld)
        } else if sessions.or(utilization).or(rate).is_none() {
            Err(InvalidReport::Empty)
        } else {
            // At most `expires`, so it fits.
            let age = Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(expires);
            Ok(Self { claim, age })
        }
    }

    /// Sessions that are active there, of all dispatchers' visitors.
    pub fn sessions(&self) -> Option<f64> {
        self.claim.sessions
    }

    /// The share of it that is in use: 1 is full, more is overload.
    pub fn utilization(&self) -> Option<f64> {
        self.claim.utilization
    }

    /// How many sessions it takes at once; [`Self::LEAST_CAPACITY`] or more.
    pub fn capacity(&self) -> Option<f64> {
        self.claim.capacity
    }

    /// Requests a second that it serves.
    pub fn rate(&self) -> Option<f64> {
        self.claim.rate
    }

    /// How long ago that was so.
    pub fn age(&self) -> Duration {
        self.age
    }
}

enum_all! {
    /// Why a claim makes no sense.
    pub enum InvalidReport {
        /// A number is infinite, or none.
        NotFinite = "not_finite",
        /// A number is less than 0.
        Negative = "negative",
        /// A number is beyond [`Report::MOST`] or [`Report::MOST_UTILIZATION`].
        TooLarge = "too_large",
        /// A capacity of 0, or below [`Report::LEAST_CAPACITY`]: nothing can be a share of that.
        CapacityTooSmall = "capacity_too_small",
        /// It is from the future, by more than [`Report::CLOCK_SKEW`].
        Future = "future",
        /// It was too old when it came.
        TooOld = "too_old",
        /// It has neither sessions nor utilization nor rate.
        Empty = "empty",
    }
}

impl InvalidReport {
    /// What would have made sense, for who sent it.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::NotFinite => "a number is not finite, takes finite ones",
            Self::Negative => "a number is below 0, takes none that is",
            Self::TooLarge => {
                "a number is beyond all measure, takes a utilization up to 100 and others up to 1e9"
            }
            Self::CapacityTooSmall => "capacity is next to nothing, takes 0.000001 and more",
            Self::Future => "it is from the future, takes a time that is past by this machine's clock",
            Self::TooOld => "it is older than reports of this pool may be (load.max_age)",
            Self::Empty => "it says nothing of the load, takes sessions, utilization or requests_per_second",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXPIRES: Duration = Duration::from_secs(15);

    fn of(change: impl FnOnce(&mut RawReport)) -> Result<Report, InvalidReport> {
        let mut claim = RawReport { sessions: Some(3.0), capacity: Some(4.0), ..RawReport::default() };
        change(&mut claim);
        Report::new(claim, EXPIRES)
    }

    #[test]
    fn nonsense_is_told_by_its_name() {
        type Change = fn(&mut RawReport);
        let cases: [(Change, InvalidReport); 13] = [
            (|claim| claim.sessions = Some(f64::NAN), InvalidReport::NotFinite),
            (|claim| claim.rate = Some(f64::INFINITY), InvalidReport::NotFinite),
            (|claim| claim.age = f64::NAN, InvalidReport::NotFinite),
            (|claim| claim.sessions = Some(-1.0), InvalidReport::Negative),
            (|claim| claim.capacity = Some(-1e-9), InvalidReport::Negative),
            (|claim| claim.sessions = Some(1e12), InvalidReport::TooLarge),
            (|claim| claim.utilization = Some(101.0), InvalidReport::TooLarge),
            (|claim| claim.capacity = Some(0.0), InvalidReport::CapacityTooSmall),
            (|claim| claim.capacity = Some(1e-320), InvalidReport::CapacityTooSmall),
            (|claim| claim.age = -3600.0, InvalidReport::Future),
            (|claim| claim.age = 15.5, InvalidReport::TooOld),
            (|claim| claim.age = 1e300, InvalidReport::TooOld),
            (|claim| claim.sessions = None, InvalidReport::Empty),
        ];
        for (change, nonsense) in cases {
            assert_eq!(of(change), Err(nonsense));
        }
    }

    #[test]
    fn sense_is_taken_as_it_is() {
        let report = of(|claim| claim.age = 15.0).unwrap();
        assert_eq!((report.sessions(), report.capacity(), report.age()), (Some(3.0), Some(4.0), EXPIRES));
        let ahead = of(|claim| claim.age = -4.0).unwrap();
        assert_eq!(ahead.age(), Duration::ZERO, "a clock that is a little ahead");
        let idle = Report::new(RawReport { utilization: Some(0.0), ..RawReport::default() }, EXPIRES);
        assert_eq!(idle.unwrap().utilization(), Some(0.0));
        assert!(of(|claim| claim.sessions = Some(0.0)).is_ok() && of(|claim| claim.rate = Some(0.0)).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_in_bounds(
            sessions: Option<f64>, utilization: Option<f64>, capacity: Option<f64>, rate: Option<f64>, age: f64,
        ) {
            let claim = RawReport { sessions, utilization, capacity, rate, age };
            if let Ok(report) = Report::new(claim, EXPIRES) {
                for value in [report.sessions(), report.utilization(), report.capacity(), report.rate()] {
                    prop_assert!(value.is_none_or(|value| (0.0..=Report::MOST).contains(&value)));
                }
                prop_assert!(report.age() <= EXPIRES);
                prop_assert!(report.capacity().is_none_or(|capacity| capacity >= Report::LEAST_CAPACITY));
            }
        }
    }
}
