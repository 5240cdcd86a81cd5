//! The date of responses, formatted once a second.

use std::cell::Cell;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The length of an HTTP date (RFC 9110 §5.6.7).
const LENGTH: usize = 29;

thread_local! {
    /// The text, and the second that it tells.
    static LAST: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [0; LENGTH])) };
}

/// Returns what `Date` says now.
pub(super) fn now() -> [u8; LENGTH] {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (known, text) = LAST.get();
    if known == second {
        return text;
    }
    let mut text = [b' '; LENGTH];
    // The length of what is written is always the same.
    let _ = write!(&mut text[..], "{}", HttpDate::from(now));
    LAST.set((second, text));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tells_the_current_second() {
        for _ in 0..2 {
            let text = String::from_utf8(now().to_vec()).unwrap();
            let told = httpdate::parse_http_date(&text).unwrap();
            assert!(told.elapsed().unwrap() < Duration::from_secs(5), "{text}");
        }
    }
}
