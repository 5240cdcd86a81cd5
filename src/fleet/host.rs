//! The grammar of a host, for requests and settings alike.

use std::net::Ipv6Addr;

/// A host as it stands in a `Host` field or a URL: `uri-host [ ":" port ]`, RFC 9110 §7.2.
pub struct Host<'a> {
    /// The name or address, as written, with brackets where it is IPv6.
    pub name: &'a [u8],
    /// The port, where one is written.
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Reads and checks one; `None` where it breaks the grammar or is empty.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let length = if text.first() == Some(&b'[') { ip_literal(text)? } else { reg_name(text)? };
        let (name, rest) = text.split_at(length);
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Self { name, port })
    }

    /// Whether another is the same, without case.
    pub fn is(&self, other: &Host<'_>) -> bool {
        self.name.eq_ignore_ascii_case(other.name) && self.port == other.port
    }
}

/// Bytes that stand for themselves in a `reg-name`: `unreserved` and `sub-delims` of RFC 3986. A table, for this is
/// asked of every byte of every `Host`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < marks.len() {
        plain[marks[at] as usize] = true;
        at += 1;
    }
    plain
};

/// The length of the `reg-name` (RFC 3986 §3.2.2) that a text begins with: at least one byte, at most 255, and no dot
/// in front.
fn reg_name(text: &[u8]) -> Option<usize> {
    let mut length = 0;
    while let Some(&byte) = text.get(length) {
        length += match byte {
            _ if PLAIN[usize::from(byte)] => 1,
            b'%' if is_escape(&text[length..]) => 3,
            _ => break,
        };
    }
    ((1..=255).contains(&length) && text[0] != b'.').then_some(length)
}

/// The length of the IPv6 address in brackets that a text begins with.
fn ip_literal(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', text)?;
    std::str::from_utf8(&text[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// The number that digits stand for.
fn port(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |port, digit| {
        let digit = digit.is_ascii_digit().then_some(u16::from(digit.wrapping_sub(b'0')))?;
        port.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a text begins with a percent-encoded byte.
fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_follow_the_grammar() {
        for (good, name, port) in [
            ("a", "a", None),
            ("a.example.com:80", "a.example.com", Some(80)),
            ("a:", "a", None),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", Some(80)),
            ("127.0.0.1", "127.0.0.1", None),
            ("a_b", "a_b", None),
            ("a%20b%2F:1", "a%20b%2F", Some(1)),
        ] {
            let host = Host::parse(good.as_bytes()).map(|host| (host.name, host.port));
            assert_eq!(host, Some((name.as_bytes(), port)), "{good}");
        }
        for bad in [
            "", ".", ":80", "a/evil", "a b", "[::1", "::1", "[x]", "a:99999", "a:80x", "a@b", "[::1]x",
            "a%2", "a%", "a%2:80", "%", "a\\b", "é", ".a", "a:80:80",
        ] {
            assert!(Host::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Host::parse(&[b'a'; 255]).is_some());
        assert!(Host::parse(&[b'a'; 256]).is_none());
    }

    proptest! {
        /// The grammar as RFC 3986 writes it down, one character at a time.
        #[test]
        fn a_name_is_what_the_grammar_says(text in "[a-zA-Z0-9._~!$&'()*+,;=%/@: é-]{0,8}") {
            let mut rest = text.as_str();
            let mut fits = !rest.is_empty() && !rest.starts_with('.');
            while let Some(c) = rest.chars().next() {
                let escape = rest.get(1..3).filter(|_| c == '%');
                let length = match escape {
                    Some(hex) if hex.chars().all(|c| c.is_ascii_hexdigit()) => 3,
                    _ => c.len_utf8(),
                };
                fits &= length == 3 || c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c);
                rest = &rest[length..];
            }
            prop_assert_eq!(reg_name(text.as_bytes()) == Some(text.len()), fits);
        }
    }
}
