//! Times and addresses as text, without the standard library's formatting, which takes several times as long.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-12-01T00:00:00.000Z`
pub(super) type Timestamp = [u8; 24];

/// Formats the current time. The date is worked out once a second.
#[derive(Debug)]
pub(super) struct TimestampCache {
    /// The second since 1970 and its text.
    last: Cell<(u64, Timestamp)>,
}

impl Default for TimestampCache {
    fn default() -> Self {
        Self { last: Cell::new((u64::MAX, *b"1970-01-01T00:00:00.000Z")) }
    }
}

impl TimestampCache {
    /// Returns a time in UTC as RFC 3339 has it, down to the millisecond that has begun.
    pub(super) fn format(&self, time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (second, mut text) = self.last.get();
        if second != since.as_secs() {
            let whole = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            // Has 19 characters and a `Z`, until the year 9999.
            let _ = write!(&mut text[..20], "{}", humantime::format_rfc3339_seconds(whole));
            text[19] = b'.';
            self.last.set((since.as_secs(), text));
        }
        text[20..23].copy_from_slice(&three_digits(since.subsec_millis()));
        text
    }
}

/// Returns a number below 1000 in decimal.
fn three_digits(number: u32) -> [u8; 3] {
    [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8)
}

/// Appends a duration in microseconds, without zeros at the end of its fraction, but with at least so many digits.
pub(super) fn push_microseconds(duration: Duration, min_fraction: usize, out: &mut Vec<u8>) {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    push_integer(nanos / 1000, out);
    let fraction = three_digits((nanos % 1000) as u32);
    let used = fraction.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
    let shown = used.max(min_fraction);
    if shown > 0 {
        out.push(b'.');
        out.extend_from_slice(&fraction[..shown]);
    }
}

/// Appends an address as [`IpAddr`] is displayed.
pub(super) fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            push_integer(first, out);
            for octet in rest {
                out.push(b'.');
                push_integer(octet, out);
            }
        }
        // Writing to a `Vec` can't fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn push_integer(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn formats_timestamps(times in prop::collection::vec((0..253_402_300_800_u64, 0..1_000_000_000_u32), 1..9)) {
            let cache = TimestampCache::default();
            for (second, nanos) in times {
                for second in [second, second, second.saturating_sub(1)] {
                    let time = UNIX_EPOCH + Duration::new(second, nanos);
                    let expected = humantime::format_rfc3339_millis(time).to_string();
                    prop_assert_eq!(text(|out| out.extend_from_slice(&cache.format(time))), expected);
                }
            }
        }

        /// Up to eleven days a duration is what the nearest floating-point number is displayed as.
        #[test]
        fn formats_durations(magnitude in 0..16_u32, digits in any::<u64>()) {
            let nanos = digits % 10_u64.pow(magnitude);
            let duration = Duration::from_nanos(nanos);
            let expected = nanos as f64 / 1000.0;
            prop_assert_eq!(text(|out| push_microseconds(duration, 1, out)), serde_json::to_string(&expected).unwrap());
            prop_assert_eq!(text(|out| push_microseconds(duration, 0, out)), expected.to_string());
        }

        #[test]
        fn formats_addresses(address in any::<IpAddr>()) {
            prop_assert_eq!(text(|out| push_address(address, out)), address.to_string());
        }
    }

    #[test]
    fn tolerates_a_clock_that_was_never_set() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(&TimestampCache::default().format(before), b"1970-01-01T00:00:00.000Z");
    }
}
