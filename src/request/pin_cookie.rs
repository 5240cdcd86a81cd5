//! The pin: a cookie that keeps a visitor on one backend. Reading, verifying, writing.
//!
//! A pin is 45 bytes in base64url: version, pool, generation, issue time, backend, and the first 16 bytes of an
//! HMAC-SHA256 over all of that. Pool and backend are hashes of their names, so a pin tells nothing.
//!
//! # Trust
//! The cookie is the client's to change. Nothing in it counts before its MAC was verified, so a visitor can't
//! choose a backend; and no pin is an error: whatever is wrong with one, the visitor is picked a backend anew.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;

use crate::fleet::{CLOCK_SKEW, MAC_BYTES, PinPolicy, Tag};
use crate::request::Headers;
use crate::util::enum_all;

const VERSION: u8 = 1;
const CLAIMS_BYTES: usize = 1 + 8 + 4 + 8 + 8;
const TOKEN_BYTES: usize = CLAIMS_BYTES + MAC_BYTES;
/// The length of a pin as text.
pub const TOKEN_CHARS: usize = TOKEN_BYTES / 3 * 4;
/// How many cookies of the right name are looked at: verifying costs a hash each.
const MAX_CANDIDATES: usize = 4;

/// What a visitor's cookies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// No valid pin.
    No,
    /// To a backend of the roster.
    To {
        /// Its index in the roster.
        backend: usize,
        /// Whether half of the pin's time is over.
        half_over: bool,
    },
    /// To a backend that is no longer there.
    Gone,
}

enum_all! {
    /// Why a pin does not count.
    pub enum PinError {
        /// No pin of ours at all.
        Malformed = "malformed",
        /// Another pool's.
        WrongPool = "wrong_pool",
        /// Signed with none of our secrets, or changed.
        BadSignature = "bad_signature",
        /// Of another generation.
        WrongGeneration = "wrong_generation",
        /// Older than `max_age`.
        Expired = "expired",
        /// Issued more than five minutes from now.
        NotYetValid = "not_yet_valid",
        /// Valid, but its backend is gone.
        UnknownBackend = "unknown_backend",
    }
}

/// Finds the visitor's pin. The first valid one counts; every other is told to `rejected`.
///
/// `now` is in seconds since 1970. No allocation; at most four cookies are verified.
pub fn read(pins: &PinPolicy, headers: Headers<'_>, now: u64, mut rejected: impl FnMut(PinError)) -> Pinned {
    let mut found = Pinned::No;
    let mut candidates = 0;
    find_cookie(headers, pins.cookie.name.as_bytes(), |token| {
        candidates += 1;
        match open(pins, token, now) {
            Ok((backend, half_over)) => {
                found = Pinned::To { backend, half_over };
                return Some(());
            }
            Err(PinError::UnknownBackend) => {
                found = Pinned::Gone;
                rejected(PinError::UnknownBackend);
            }
            Err(reason) => rejected(reason),
        }
        (candidates == MAX_CANDIDATES).then_some(())
    });
    found
}

/// Visits the values of every cookie of a name, over all `Cookie` fields, until something is found.
pub fn find_cookie<'a, T>(
    headers: Headers<'a>,
    name: &[u8],
    mut visit: impl FnMut(&'a [u8]) -> Option<T>,
) -> Option<T> {
    headers.find_value(&COOKIE, |field| {
        pairs(field).find_map(|pair| {
            let rest = pair.trim_ascii_start().strip_prefix(name)?;
            let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
            let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            visit(unquoted.unwrap_or(value))
        })
    })
}

/// The pairs of one `Cookie` field. Browsers send kilobytes of other cookies, so this leaps from `;` to `;`.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        let end = memchr::memchr(b';', field);
        rest = end.map(|end| &field[end + 1..]);
        Some(&field[..end.unwrap_or(field.len())])
    })
}

/// Verifies a pin: the backend's index and whether half of its time is over.
fn open(pins: &PinPolicy, token: &[u8], now: u64) -> Result<(usize, bool), PinError> {
    let mut bytes = [0; TOKEN_BYTES];
    if token.len() != TOKEN_CHARS || URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(TOKEN_BYTES) {
        return Err(PinError::Malformed);
    }
    let mut rest = &bytes[..];
    let [version] = take(&mut rest);
    let pool = Tag::from_bytes(take(&mut rest));
    let generation = u32::from_be_bytes(take(&mut rest));
    let issued = u64::from_be_bytes(take(&mut rest));
    let backend = Tag::from_bytes(take(&mut rest));
    let mac: [u8; MAC_BYTES] = take(&mut rest);
    if version != VERSION {
        return Err(PinError::Malformed);
    }
    // Before the MAC: pools may have different secrets, and the reason is only counted.
    if pool != pins.pool {
        return Err(PinError::WrongPool);
    }
    if !pins.verify(&bytes[..CLAIMS_BYTES], &mac) {
        return Err(PinError::BadSignature);
    }
    if generation != pins.generation {
        return Err(PinError::WrongGeneration);
    }
    if issued > now.saturating_add(CLOCK_SKEW) {
        return Err(PinError::NotYetValid);
    }
    let age = now.saturating_sub(issued);
    if age >= pins.max_age {
        return Err(PinError::Expired);
    }
    let backend = pins.backend(backend).ok_or(PinError::UnknownBackend)?;
    Ok((backend, age.saturating_mul(2) >= pins.max_age))
}

/// Takes the next `N` bytes off a slice that holds a token.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk::<N>().map_or(([0; N], *rest), |(head, tail)| (*head, tail));
    *rest = tail;
    head
}

/// Appends a new pin to a buffer, [`TOKEN_CHARS`] characters.
pub fn write(pins: &PinPolicy, backend: usize, now: u64, buffer: &mut Vec<u8>) {
    let mut bytes = [0; TOKEN_BYTES];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&[VERSION]);
    put(&pins.pool.to_bytes());
    put(&pins.generation.to_be_bytes());
    put(&now.to_be_bytes());
    put(&pins.tag(backend).to_bytes());
    let mac = pins.sign(&bytes[..CLAIMS_BYTES]);
    bytes[CLAIMS_BYTES..].copy_from_slice(&mac);
    let mut text = [0; TOKEN_CHARS];
    // 45 bytes are 60 characters; the buffer is exactly that.
    if let Ok(length) = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text) {
        buffer.extend_from_slice(&text[..length]);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::Cookie;

    const NOW: u64 = 1_800_000_000;

    fn cookie() -> Cookie {
        Cookie { name: "pin".into(), attributes: "".into(), attributes_tls: "".into() }
    }

    fn pins(pool: &str, ids: &[&str], keys: &[&[u8]], generation: u32) -> PinPolicy {
        PinPolicy::new(
            pool,
            ids.iter().copied(),
            keys[0],
            keys[1..].iter().copied(),
            generation,
            100,
            cookie(),
        )
    }

    fn token(pins: &PinPolicy, backend: usize) -> Vec<u8> {
        let mut token = Vec::new();
        write(pins, backend, NOW, &mut token);
        token
    }

    const KEY: &[u8] = &[7; 32];
    const OTHER: &[u8] = &[8; 32];

    #[test]
    fn a_pin_leads_back_to_its_backend() {
        let pins = pins("p", &["a", "b"], &[KEY], 0);
        assert_eq!(open(&pins, &token(&pins, 1), NOW), Ok((1, false)));
        assert_eq!(open(&pins, &token(&pins, 0), NOW + 50), Ok((0, true)));
        assert_eq!(token(&pins, 1).len(), TOKEN_CHARS);
    }

    /// Visitors come back with what an older version wrote: this was worked out by other means, once and for all.
    #[test]
    fn the_form_of_a_pin_never_changes() {
        let text = b"AdrqwotnOZhgAAAAAwAAAABrSdIA6NVP404dBfGd1FoYGUiG_oBn2LtUTpdV";
        let pins = pins("p", &["a", "b"], &[KEY], 3);
        assert_eq!(token(&pins, 1), text);
        assert_eq!(open(&pins, text, NOW), Ok((1, false)));
    }

    #[test]
    fn every_backend_s_pin_leads_to_it_alone() {
        let ids: Vec<_> = (0..1000).map(|id| id.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let (before, after) = (pins("p", &ids, &[KEY], 0), pins("p", &ids[..999], &[KEY], 0));
        for backend in 0..999 {
            assert_eq!(open(&after, &token(&before, backend), NOW), Ok((backend, false)));
        }
        assert_eq!(open(&after, &token(&before, 999), NOW), Err(PinError::UnknownBackend));
    }

    #[test]
    fn each_kind_of_wrong_pin_has_its_reason() {
        let ours = pins("p", &["a", "b"], &[KEY], 1);
        let of = |other: &PinPolicy| open(&ours, &token(other, 1), NOW);
        assert_eq!(of(&pins("q", &["a", "b"], &[KEY], 1)), Err(PinError::WrongPool));
        assert_eq!(of(&pins("p", &["a", "b"], &[OTHER], 1)), Err(PinError::BadSignature));
        assert_eq!(of(&pins("p", &["a", "b"], &[KEY], 0)), Err(PinError::WrongGeneration));
        assert_eq!(of(&pins("p", &["a", "gone"], &[KEY], 1)), Err(PinError::UnknownBackend));
        assert_eq!(open(&ours, &token(&ours, 0), NOW + 100), Err(PinError::Expired));
        assert_eq!(open(&ours, &token(&ours, 0), NOW - 300), Ok((0, false)));
        assert_eq!(open(&ours, &token(&ours, 0), NOW - 301), Err(PinError::NotYetValid));
        for bad in [&b""[..], b"x", &[b'A'; 60], &[b'!'; 60], &[b'A'; 4096]] {
            assert_eq!(open(&ours, bad, NOW), Err(PinError::Malformed));
        }
    }

    #[test]
    fn the_first_secret_signs_and_all_verify() {
        let before = pins("p", &["a"], &[KEY], 0);
        let after = pins("p", &["a"], &[OTHER, KEY], 0);
        assert_eq!(open(&after, &token(&before, 0), NOW), Ok((0, false)));
        assert_eq!(open(&before, &token(&after, 0), NOW), Err(PinError::BadSignature));
    }

    #[test]
    fn a_pin_follows_its_backend_s_id_not_its_place() {
        let before = pins("p", &["a", "b"], &[KEY], 0);
        let after = pins("p", &["new", "b", "a"], &[KEY], 0);
        assert_eq!(open(&after, &token(&before, 0), NOW), Ok((2, false)));
    }

    #[test]
    fn cookies_are_found_among_others() {
        let pins = pins("p", &["a", "b"], &[KEY], 0);
        let good = String::from_utf8(token(&pins, 1)).unwrap();
        let to_b = Pinned::To { backend: 1, half_over: false };
        let read_all = |fields: &[String]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_str(field).unwrap());
            }
            let mut reasons = Vec::new();
            (read(&pins, Headers::Map(&headers), NOW, |reason| reasons.push(reason)), reasons)
        };
        assert_eq!(read_all(&[]), (Pinned::No, vec![]));
        assert_eq!(read_all(&["a=b; pinned=x; xpin=y".into()]), (Pinned::No, vec![]));
        assert_eq!(read_all(&[format!("a=b; pin={good}; c")]), (to_b, vec![]));
        assert_eq!(read_all(&[format!("a=b;pin=\"{good}\"")]), (to_b, vec![]));
        assert_eq!(read_all(&["x=y".into(), format!("pin={good}")]), (to_b, vec![]));
        assert_eq!(read_all(&[format!("pin=bad; pin={good}")]), (to_b, vec![PinError::Malformed]));
        assert_eq!(read_all(&["pin=;".repeat(1000)]).1.len(), MAX_CANDIDATES);
    }

    proptest! {
        #[test]
        fn pairs_are_what_stands_between_semicolons(field in "[;=a ]{0,40}") {
            let apart: Vec<_> = field.as_bytes().split(|&byte| byte == b';').collect();
            prop_assert_eq!(pairs(field.as_bytes()).collect::<Vec<_>>(), apart);
        }

        #[test]
        fn no_changed_byte_verifies(backend in 0usize..3, at in 0..TOKEN_CHARS, to in any::<u8>()) {
            let pins = pins("p", &["a", "b", "c"], &[KEY], 0);
            let mut changed = token(&pins, backend);
            prop_assert_eq!(open(&pins, &changed, NOW), Ok((backend, false)));
            prop_assume!(changed[at] != to);
            changed[at] = to;
            prop_assert!(open(&pins, &changed, NOW).is_err());
        }
    }
}
