//! The generic cell rate algorithm (ITU-T I.371, annex A): a rate limit whose state is one number.
//!
//! The number is the *theoretical arrival time*: when everything that was admitted would have arrived at the pace of
//! the limit. An arrival is admitted if that time is at most the tolerance ahead of now. All times are in nanoseconds
//! of any one clock; the limit itself keeps none, so strategies and simulations use it too.

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A number of arrivals per second: a second's worth at once, then one whenever one is due.
///
/// A smaller burst would be hard on low limits. At four random arrivals per second, a limit of five that admits no two
/// at once rejects every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// From one arrival to the next, in nanoseconds.
    interval: u64,
    /// How far ahead of its time an arrival may be, in nanoseconds.
    tolerance: u64,
}

impl RateLimit {
    /// `None` for 0, which is no limit. Rates from 10^-6 to 10^9 per second are exact to a nanosecond of the interval.
    pub fn per_second(rate: f64) -> Option<Self> {
        let interval = (SECOND as f64 / rate.clamp(1e-6, 1e9)).round() as u64;
        (rate > 0.0).then_some(Self { interval, tolerance: SECOND.saturating_sub(interval) })
    }

    /// Whether an arrival at `now` is within the limit.
    pub fn admits(self, arrival: u64, now: u64) -> bool {
        arrival.saturating_sub(now) <= self.tolerance
    }

    /// The theoretical arrival time after an arrival at `now`; `None` if that is beyond the limit and so not admitted.
    pub fn next(self, arrival: u64, now: u64) -> Option<u64> {
        self.admits(arrival, now).then(|| arrival.max(now) + self.interval)
    }

    /// The same for an arrival that is admitted whatever the limit. What exceeds the limit is forgotten, so that it
    /// never delays others for longer than [`Self::next`] does.
    pub fn next_forced(self, arrival: u64, now: u64) -> u64 {
        (arrival.max(now) + self.interval).min(now + self.tolerance + self.interval)
    }

    /// When the next arrival is admitted.
    pub fn opens(self, arrival: u64) -> u64 {
        arrival.saturating_sub(self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` arrivals at `millis` are admitted.
    fn admitted(limit: RateLimit, arrival: &mut u64, millis: u64, count: usize) -> usize {
        let admit = |_: &usize| {
            let next = limit.next(*arrival, millis * 1_000_000);
            *arrival = next.unwrap_or(*arrival);
            next.is_some()
        };
        (0..count).filter(admit).count()
    }

    #[test]
    fn admits_a_second_s_worth_at_once_then_the_rate() {
        let (limit, mut arrival) = (RateLimit::per_second(10.0).unwrap(), 0);
        assert_eq!(admitted(limit, &mut arrival, 5000, 25), 10);
        assert_eq!(limit.opens(arrival), 5_100_000_000);
        assert_eq!(admitted(limit, &mut arrival, 5099, 5), 0);
        assert_eq!(admitted(limit, &mut arrival, 5300, 25), 3);
        assert_eq!(admitted(limit, &mut arrival, 9000, 25), 10, "after a second of silence");
    }

    #[test]
    fn a_forced_arrival_delays_the_next_by_one_interval_at_most() {
        let (limit, now) = (RateLimit::per_second(10.0).unwrap(), 1_000_000_000);
        let arrival = (0..100).fold(0, |arrival, _| limit.next_forced(arrival, now));
        assert!(!limit.admits(arrival, now));
        assert_eq!(limit.opens(arrival), now + 100_000_000);
    }

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(RateLimit::per_second(0.0), None);
        let slow = RateLimit::per_second(0.5).unwrap();
        assert_eq!(slow.next(0, 0), Some(2_000_000_000));
        assert!(!slow.admits(2_000_000_000, 1_999_999_999), "a limit below one per second admits no burst");
    }
}
