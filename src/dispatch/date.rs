//! The field `Date` of responses, formatted once a second.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The field's line with the end of the line before.
const BEFORE_DATE: &[u8] = b"\r\ndate: ";
/// With a date, which always has 29 bytes (RFC 9110 §5.6.7).
const LENGTH: usize = BEFORE_DATE.len() + 29;

thread_local! {
    /// The text, and the second that it tells.
    static LAST: RefCell<(u64, [u8; LENGTH])> = const { RefCell::new((u64::MAX, [0; LENGTH])) };
}

/// Appends the field as it is now to a head.
pub(super) fn append_field(head: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(known, text)| {
        if *known != second {
            let (before, date) = text.split_at_mut(BEFORE_DATE.len());
            before.copy_from_slice(BEFORE_DATE);
            // The length of what is written is always the same.
            let _ = write!(&mut *date, "{}", HttpDate::from(now));
            *known = second;
        }
        head.extend_from_slice(text);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tells_the_current_second() {
        for _ in 0..2 {
            let mut text = Vec::new();
            append_field(&mut text);
            let text = String::from_utf8(text).unwrap();
            let told = httpdate::parse_http_date(text.strip_prefix("\r\ndate: ").unwrap()).unwrap();
            assert!(told.elapsed().unwrap() < Duration::from_secs(5), "{text}");
        }
    }
}
