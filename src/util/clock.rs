//! Monotonic time as a number: what strategies and estimates are given, so that they run on virtual time as well.

use std::ops::Add;
use std::time::{Duration, Instant};

/// A point in time: nanoseconds since a [`Clock`], or a simulation, began. Wraps in no process' life: after 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from an earlier moment to this one; zero where that one is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Tells moments. All who compare theirs have copies of one clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// One look at the system's clock, some 25 ns.
    pub fn now(self) -> Moment {
        self.moment(Instant::now())
    }

    /// When that was; what was before the clock began counts as its beginning.
    pub fn moment(self, instant: Instant) -> Moment {
        Moment::default() + instant.saturating_duration_since(self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_what_they_were_made_of() {
        let clock = Clock::start();
        let then = clock.origin + Duration::from_millis(1500);
        assert_eq!(clock.moment(then), Moment(1_500_000_000));
        assert_eq!(clock.moment(then).since(clock.moment(clock.origin)), Duration::from_millis(1500));
        assert_eq!(Moment(1).since(Moment(2)), Duration::ZERO);
        assert_eq!(clock.moment(clock.origin - Duration::from_secs(1)), Moment(0));
        assert_eq!(Moment(u64::MAX) + Duration::MAX, Moment(u64::MAX));
    }
}
