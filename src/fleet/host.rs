//! The grammar of a host, for requests and settings alike.

use std::net::Ipv6Addr;

/// A host as it stands in a `Host` field or a URL: `uri-host [ ":" port ]`, RFC 9110 §7.2.
pub struct Host<'a> {
    /// The name or address, as written, with brackets where it is IPv6.
    pub name: &'a str,
    /// The port, where one is written.
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Reads and checks one; `None` where it breaks the grammar or is empty.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = if let Some(inside) = text.strip_prefix('[') {
            let (address, rest) = inside.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (&text[..address.len() + 2], rest.strip_prefix(':').or(rest.is_empty().then_some(""))?)
        } else {
            let (name, port) = text.split_once(':').unwrap_or((text, ""));
            is_reg_name(name.as_bytes()).then_some((name, port))?
        };
        let port = match port {
            "" => None,
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { name, port })
    }

    /// Whether another is the same, without case.
    pub fn is(&self, other: &Host<'_>) -> bool {
        self.name.eq_ignore_ascii_case(other.name) && self.port == other.port
    }
}

/// `reg-name` of RFC 3986 §3.2.2, not empty, at most 255 bytes, not only a dot.
fn is_reg_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > 255 || name[0] == b'.' {
        return false;
    }
    let mut rest = name.iter();
    while let Some(&byte) = rest.next() {
        let fits = match byte {
            b'%' => {
                matches!((rest.next(), rest.next()), (Some(a), Some(b)) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_follow_the_grammar() {
        for good in ["a", "a.example.com:80", "a:", "[::1]", "[::1]:80", "127.0.0.1", "a_b", "a%20b"] {
            assert!(Host::parse(good).is_some(), "{good}");
        }
        for bad in [
            "", ".", ":80", "a/evil", "a b", "[::1", "::1", "[x]", "a:99999", "a:80x", "a@b", "[::1]x",
            "a%2", "a\\b",
        ] {
            assert!(Host::parse(bad).is_none(), "{bad}");
        }
    }
}
