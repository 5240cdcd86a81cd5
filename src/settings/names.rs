//! Names in settings: of pools, backends, hosts, paths, cookies, origins.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Serialize, Serializer};

use super::values::{Leaf, serialize_as_string};
use crate::fleet::Host;

serialize_as_string!(HostPattern, PathPrefix, Origin);

/// The name of a pool: `[a-z0-9_-]{1,64}`. It is a metric label and part of a cookie's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PoolName(String);

impl PoolName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for PoolName {
    fn parse(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a pool name of 1 to 64 of the characters a-z 0-9 _ -".to_owned())
        }
    }
}

/// The id of a backend: 1 to 128 printable ASCII characters without space, quotes and backslash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BackendId(String);

impl BackendId {
    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for BackendId {
    fn parse(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
        if (1..=128).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("an id of 1 to 128 printable ASCII characters without spaces, quotes and backslashes"
                .to_owned())
        }
    }
}

/// A host that a pool serves: a name, an address, or `*.` and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this host, lower-cased, without port and trailing dot.
    Exact(String),
    /// Every host that ends in this, which begins with a dot.
    Suffix(String),
}

impl HostPattern {
    /// Whether some host matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(name), Self::Suffix(suffix)) | (Self::Suffix(suffix), Self::Exact(name)) => {
                name.len() > suffix.len() && name.ends_with(suffix)
            }
            (Self::Suffix(a), Self::Suffix(b)) => a.ends_with(b) || b.ends_with(a),
        }
    }
}

impl Leaf for HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let takes = || {
            Err("a host without port, such as \"www.example.com\", or a wildcard such as \"*.example.com\""
                .to_owned())
        };
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let has_port = !name.starts_with('[') && name.contains(':');
        match Host::parse(name) {
            Some(host) if host.port.is_none() && !has_port && !host.name.contains('*') => {
                let name = host.name.trim_end_matches('.').to_ascii_lowercase();
                Ok(if wildcard { Self::Suffix(format!(".{name}")) } else { Self::Exact(name) })
            }
            _ => takes(),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The beginning of the paths that a pool serves, without its trailing slash; the root is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The prefix without a trailing slash; empty for `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for PathPrefix {
    fn parse(text: &str) -> Result<Self, String> {
        let fits =
            text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
        if fits {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err("a path such as \"/\" or \"/videos\", without query and fragment".to_owned())
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// A cookie's name: a token of RFC 9110 §5.6.2, 1 to 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CookieName(String);

impl CookieName {
    /// The name of a pool's cookie where none is set.
    pub fn of_pool(pool: &PoolName) -> Self {
        Self(format!("signpost_{}", pool.as_str()))
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for CookieName {
    fn parse(text: &str) -> Result<Self, String> {
        if (1..=128).contains(&text.len()) && is_token(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a cookie name of 1 to 128 letters, digits and !#$%&'*+-.^_`|~".to_owned())
        }
    }
}

/// A token of RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The domain a cookie is also sent to: a name of letters, digits, dots and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CookieDomain(String);

impl CookieDomain {
    /// The name without a leading dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for CookieDomain {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let valid =
            (1..=253).contains(&name.len()) && name.bytes().all(fits) && !name.split('.').any(str::is_empty);
        let address = name.parse::<Ipv4Addr>().is_ok();
        if valid && !address { Ok(Self(name)) } else { Err("a domain such as \"example.com\"".to_owned()) }
    }
}

/// A web origin as browsers send it, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Every origin.
    Any,
    /// `scheme://host[:port]`, lower-cased.
    One(String),
}

impl Leaf for Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let takes = || "an origin such as \"https://app.example.com\", without a path, or \"*\"".to_owned();
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or_else(takes)?;
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        let scheme_fits =
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(letters);
        if scheme_fits && Host::parse(rest).is_some() { Ok(Self::One(lower)) } else { Err(takes()) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(origin) => f.write_str(origin),
        }
    }
}

/// A method or header name in a CORS list, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token(pub String);

impl Leaf for Token {
    fn parse(text: &str) -> Result<Self, String> {
        if is_token(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a method or header name, or \"*\"".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_overlap_what_they_cover() {
        let pattern = |text| HostPattern::parse(text).unwrap();
        assert!(pattern("*.example.com").overlaps(&pattern("a.EXAMPLE.com.")));
        assert!(pattern("*.example.com").overlaps(&pattern("*.b.example.com")));
        assert!(!pattern("*.example.com").overlaps(&pattern("example.com")));
        assert!(!pattern("a.example.com").overlaps(&pattern("b.example.com")));
        for bad in ["", "*", "a.*.com", "a:80", "a/b", "*.*.com"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
