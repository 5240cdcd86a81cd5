//! What browsers on other origins are told, as ready header values.

use http::HeaderValue;

/// The CORS answer of a pool. Its values come from the settings alone, but for an origin that matches a wildcard:
/// that is sent back as it came, and consists of a scheme, characters of a host name and a port.
#[derive(Debug)]
pub struct Cors {
    /// Empty: any origin.
    origins: Box<[AllowedOrigin]>,
    /// `Access-Control-Allow-Methods`.
    pub methods: HeaderValue,
    /// `Access-Control-Allow-Headers`; none: no header beyond the safelisted.
    pub headers: Option<HeaderValue>,
    /// Whether `Access-Control-Allow-Credentials` is sent.
    pub credentials: bool,
    /// `Access-Control-Max-Age`.
    pub max_age: HeaderValue,
}

/// An origin, or all origins below a domain.
#[derive(Debug)]
pub struct AllowedOrigin(Pattern);

#[derive(Debug)]
enum Pattern {
    One(HeaderValue),
    /// What stands before and after one or more labels.
    Below(Box<[u8]>, Box<[u8]>),
}

impl AllowedOrigin {
    /// Returns an origin, or `None` if it is no header value.
    pub fn one(origin: &str) -> Option<Self> {
        HeaderValue::from_str(origin).ok().map(|origin| Self(Pattern::One(origin)))
    }

    /// Returns all origins that begin with `scheme`, such as `https://`, and end in `domain`, such as
    /// `.example.com:8443`.
    pub fn below(scheme: &str, domain: &str) -> Self {
        Self(Pattern::Below(scheme.as_bytes().into(), domain.as_bytes().into()))
    }

    fn allows<'a>(&'a self, origin: &'a [u8]) -> Option<&'a [u8]> {
        match &self.0 {
            Pattern::One(one) => one.as_bytes().eq_ignore_ascii_case(origin).then_some(one.as_bytes()),
            Pattern::Below(scheme, domain) => {
                let (before, rest) = origin.split_at_checked(scheme.len())?;
                let (labels, after) = rest.split_at_checked(rest.len().checked_sub(domain.len())?)?;
                let of_names = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
                let is_below =
                    labels.first().is_some_and(|&first| first != b'.') && labels.iter().all(of_names);
                let is_same = before.eq_ignore_ascii_case(scheme) && after.eq_ignore_ascii_case(domain);
                (is_below && is_same).then_some(origin)
            }
        }
    }
}

impl Cors {
    /// `origins` is empty where any origin is allowed.
    pub fn new(
        origins: Vec<AllowedOrigin>,
        methods: HeaderValue,
        headers: Option<HeaderValue>,
        credentials: bool,
        max_age: HeaderValue,
    ) -> Self {
        Self { origins: origins.into(), methods, headers, credentials, max_age }
    }

    /// Returns `Access-Control-Allow-Origin` for a request's `Origin`, or `None` if that origin is not allowed.
    /// O(number of origins), without allocation.
    pub fn allow<'a>(&'a self, origin: &'a [u8]) -> Option<&'a [u8]> {
        if self.origins.is_empty() {
            return Some(b"*");
        }
        self.origins.iter().find_map(|allowed| allowed.allows(origin))
    }

    /// Whether the answer depends on who asks, so that it must carry `Vary: Origin`.
    pub fn varies(&self) -> bool {
        !self.origins.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_the_names_below_its_domain_and_nothing_else() {
        let allowed = AllowedOrigin::below("https://", ".example.com:8443");
        for (origin, is_allowed) in [
            ("https://a.example.com:8443", true),
            ("https://a.b.example.com:8443", true),
            ("HTTPS://A.Example.com:8443", true),
            ("https://example.com:8443", false),
            ("https://.example.com:8443", false),
            ("https://a.example.com", false),
            ("http://a.example.com:8443", false),
            ("https://evilexample.com:8443", false),
            ("https://evil.test/.example.com:8443", false),
            ("https://evil.test:1@a.example.com:8443", false),
            ("https://a.example.com:8443.evil.test", false),
            ("https://", false),
            ("", false),
        ] {
            assert_eq!(allowed.allows(origin.as_bytes()).is_some(), is_allowed, "{origin:?}");
        }
    }
}
