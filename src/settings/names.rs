//! Names in settings: of pools, backends, hosts, paths, cookies, origins.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::address::bracketed;
use super::values::{SettingValue, serialize_as_string};
use crate::fleet::{DotSegment, Host, dot_segment};

serialize_as_string!(HostPattern, PathPrefix, CorsOrigin);

/// The name of a pool: `[a-z0-9_-]{1,64}`. It is a metric label and part of a cookie's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PoolName(String);

impl PoolName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SettingValue for PoolName {
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

impl SettingValue for BackendId {
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

impl SettingValue for HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str =
            "a host without port, such as \"www.example.com\", or a wildcard such as \"*.example.com\"";
        let err = |why: &str| Err(format!("{TAKES}: {why}"));
        if text == "*" {
            return err("without `hosts` the pool serves every host");
        }
        if text.starts_with('.') {
            return err(&format!("did you mean \"*{text}\"?"));
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        match host(name) {
            Ok((_, Some(_))) => err("a host is matched without its port"),
            Ok((CanonicalHost::Address(_), None)) if wildcard => err("an address has no names below it"),
            Ok((name, None)) if wildcard => Ok(Self::Suffix(format!(".{name}"))),
            Ok((name, None)) => Ok(Self::Exact(name.to_string())),
            Err(why) => err(&why),
        }
    }
}

/// A name by which the admin API may be asked: the same but for the hint at `*`.
pub(super) struct AdminHost(pub(super) HostPattern);

impl SettingValue for AdminHost {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Err("a name such as \"console.example.com\" or \"*.example.com\": if every name were allowed, any \
                        site could reach the API by DNS rebinding"
                .to_owned()),
            _ => HostPattern::parse(text).map(Self),
        }
    }
}

/// A host in the form in which clients send it, so that it can be compared byte by byte.
pub(super) enum CanonicalHost {
    /// A name, lower-cased, without the dot at its end.
    Dns(String),
    /// An address in its canonical form, of IPv6 in brackets.
    Address(String),
}

impl fmt::Display for CanonicalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Dns(text) | Self::Address(text)) = self;
        f.write_str(text)
    }
}

/// Reads a host and its port, if one is written.
///
/// # Errors
/// Why no client ever sends such a host.
pub(super) fn host(text: &str) -> Result<(CanonicalHost, Option<u16>), String> {
    let err = |why: &str| Err(why.to_owned());
    if text.contains("://") {
        return err("a scheme is not part of a host");
    }
    if !text.is_ascii() {
        return err("a name outside ASCII is written in its xn-- form");
    }
    if text.contains('@') {
        return err("userinfo is not part of a host");
    }
    if text.contains(['/', '?', '#']) {
        return err("a path is not part of a host");
    }
    if let Some(right) = bracketed(text) {
        return Err(format!("IPv6 addresses need brackets: \"{right}\""));
    }
    let Some(Host { name, port }) = Host::parse(text.as_bytes()) else {
        return err("it is not a valid host");
    };
    let name = &text[..name.len()];
    if let Some(inside) = name.strip_prefix('[') {
        let address = inside.trim_end_matches(']').parse::<Ipv6Addr>();
        return Ok((CanonicalHost::Address(address.map_or_else(|_| name.to_owned(), canonical)), port));
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return err("a name consists of letters, digits, dots and hyphens");
    }
    if name.split('.').any(str::is_empty) {
        return err("a label is empty");
    }
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Ok((CanonicalHost::Address(address.to_string()), port));
    }
    // Browsers take such a host for an IPv4 address, and rewrite or reject it (URL Standard, "ends in a number").
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return err("an IPv4 address has four numbers from 0 to 255");
    }
    Ok((CanonicalHost::Dns(name), port))
}

/// An IPv6 address as browsers write it (URL Standard, "IPv6 serializer"): only hexadecimal.
fn canonical(address: Ipv6Addr) -> String {
    match (address.to_ipv4_mapped(), address.segments()) {
        (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
        _ => format!("[{address}]"),
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

impl SettingValue for PathPrefix {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str = "a path such as \"/\" or \"/videos\", without query and fragment";
        let err = |why: &str| Err(format!("{TAKES}: {why}"));
        if text.contains("://") {
            return err("it has a scheme; hosts belong in `hosts`");
        }
        if text.contains('*') {
            return err("a prefix needs no wildcard, because it covers everything below it");
        }
        if !text.starts_with('/') {
            return err("it does not begin with a slash");
        }
        request_path(text.trim_end_matches('/')).map(Self).or_else(err)
    }
}

/// A path in the form in which clients send it, so that it can be compared byte by byte.
fn request_path(text: &str) -> Result<String, &'static str> {
    if text.contains(['?', '#']) {
        return Err("it is compared with the path alone");
    }
    if text.split('/').any(|segment| dot_segment(segment) != DotSegment::None) {
        return Err("browsers resolve dot segments before they send a path");
    }
    let mut path = String::new();
    for byte in text.bytes() {
        match byte {
            0x80.. => path += &format!("%{byte:02X}"),
            _ if !byte.is_ascii_graphic() || br#""<>\^`{}"#.contains(&byte) => {
                return Err("it has a character that must be percent-encoded");
            }
            _ => path.push(char::from(byte)),
        }
    }
    Ok(path)
}

/// The path at which balancers ask whether this process is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthPathSetting(String);

impl HealthPathSetting {
    /// As requests have it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SettingValue for HealthPathSetting {
    fn parse(text: &str) -> Result<Self, String> {
        let path = match text {
            text if !text.starts_with('/') => Err("it does not begin with a slash"),
            text if text.contains('*') => Err("it is compared as a whole, without wildcards"),
            text => request_path(text),
        };
        path.map(Self)
            .map_err(|why| format!("one path such as \"/health\", without query and fragment: {why}"))
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

impl SettingValue for CookieName {
    fn parse(text: &str) -> Result<Self, String> {
        if (1..=128).contains(&text.len()) && is_token(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a cookie name of 1 to 128 letters, digits and !#$%&'*+-.^_`|~".to_owned())
        }
    }
}

/// The name of a header field that is looked up. A `*` in it would be meant as a wildcard.
pub(super) fn field_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| !name.as_str().contains('*'))
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

impl SettingValue for CookieDomain {
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
pub enum CorsOrigin {
    /// Every origin.
    Any,
    /// `scheme://host[:port]`, lower-cased, without the port that the scheme implies.
    One(String),
    /// `scheme://*.domain[:port]`: every host below a domain. Here are the parts before and after the wildcard.
    Below(String, String),
}

impl SettingValue for CorsOrigin {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str = "an origin such as \"https://app.example.com\" or \"https://*.example.com\", without a path, or \"*\"";
        let err = |why: &str| Err(format!("{TAKES}: {why}"));
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "null" {
            return err("\"null\" is the origin of every sandboxed page and local file");
        }
        let lower = text.to_lowercase();
        let Some((scheme, rest)) = lower.split_once("://") else { return err("it has no scheme") };
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(letters) {
            return err("its scheme is not valid");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (is_wildcard, authority) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if authority.contains('*') {
            return err(
                "a wildcard stands for the first labels of the host, as in \"https://*.example.com\"",
            );
        }
        let (name, port) = match host(authority) {
            Ok((CanonicalHost::Address(_), _)) if is_wildcard => {
                return err("an address has no names below it");
            }
            Ok(host) => host,
            Err(why) => return err(&why),
        };
        let implied = match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            "ftp" => Some(21),
            _ => None,
        };
        let port = port.filter(|port| implied != Some(*port)).map(|port| format!(":{port}"));
        let port = port.unwrap_or_default();
        Ok(match is_wildcard {
            true => Self::Below(format!("{scheme}://"), format!(".{name}{port}")),
            false => Self::One(format!("{scheme}://{name}{port}")),
        })
    }
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(origin) => f.write_str(origin),
            Self::Below(scheme, domain) => write!(f, "{scheme}*{domain}"),
        }
    }
}

/// A header name in a CORS list, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpToken(pub String);

impl SettingValue for HttpToken {
    fn parse(text: &str) -> Result<Self, String> {
        if is_token(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name of a header, such as \"content-type\", or \"*\"".to_owned())
        }
    }
}

impl AsRef<str> for HttpToken {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A method in a CORS list, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorsMethod(pub String);

impl SettingValue for CorsMethod {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str = "a method such as \"GET\", or \"*\"";
        // Fetch, "forbidden method".
        if ["CONNECT", "TRACE", "TRACK"].iter().any(|method| text.eq_ignore_ascii_case(method)) {
            return Err(format!("{TAKES}: browsers send no {}", text.to_ascii_uppercase()));
        }
        if is_token(text) { Ok(Self(method(text))) } else { Err(TAKES.to_owned()) }
    }
}

impl AsRef<str> for CorsMethod {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Upper-cases the names of usual methods. Methods are case-sensitive, and nothing sends or accepts "get".
pub(super) fn method(text: &str) -> String {
    const USUAL: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    let usual = USUAL.iter().find(|method| text.eq_ignore_ascii_case(method));
    usual.map_or_else(|| text.to_owned(), |method| (*method).to_owned())
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
