//! The leaves of the settings: each type is parsed once, here, and is valid from then on.
//!
//! Every leaf says in [`Leaf::parse`]'s error what it takes, so that a message can be put together from the
//! key, the value and that phrase.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::nearest;
use crate::fleet::{Host, Weight};
use crate::strategy;

/// A value that is written as one scalar.
pub trait Leaf: Sized {
    /// Reads it from its written form.
    ///
    /// # Errors
    /// A phrase that completes "takes …".
    fn parse(text: &str) -> Result<Self, String>;
}

/// Prints a leaf as the string that parses back to it.
macro_rules! serialize_as_string {
    ($($leaf:ty),*) => {$(
        impl Serialize for $leaf {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_as_string!(Span, Size, Listen, BackendUrl, HostPattern, PathPrefix, Origin);

impl Leaf for bool {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "true or false".to_owned())
    }
}

impl Leaf for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Leaf for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("a whole number from 0 to {}", u32::MAX))
    }
}

impl Leaf for Weight {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(Weight::new)
            .ok_or_else(|| format!("a whole number from 0 (no new visitors) to {}", Weight::MAX))
    }
}

impl Leaf for strategy::Kind {
    fn parse(text: &str) -> Result<Self, String> {
        let names = strategy::Kind::ALL.map(strategy::Kind::name);
        strategy::Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| one_of(text, &names))
    }
}

/// How many threads serve requests; 0 stands for one per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workers(pub u16);

impl Workers {
    /// The most that may be asked for.
    pub const MAX: u16 = 1024;
}

impl Leaf for Workers {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if count <= Self::MAX => Ok(Self(count)),
            _ => Err(format!("a whole number from 0 (one per core) to {}", Self::MAX)),
        }
    }
}

/// The most header fields a request may have, 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderCount(pub u16);

impl Leaf for HeaderCount {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=1000) => Ok(Self(count)),
            _ => Err("a whole number from 1 to 1000".to_owned()),
        }
    }
}

/// A share of something, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share(pub f64);

impl Leaf for Share {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err("a number from 0 to 1".to_owned()),
        }
    }
}

/// A length of time, written `"10s"`, `"500ms"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// No deadline is put further away than this, so that adding one to a clock can't overflow.
    pub const MAX: Duration = Duration::from_secs(400 * 24 * 3600);

    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Leaf for Span {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        match humantime::parse_duration(text) {
            Ok(span) if span <= Self::MAX => Ok(Self(span)),
            Ok(_) => Err("a duration of at most 400 days".to_owned()),
            Err(_) => Err("a duration with its unit, such as \"500ms\", \"10s\" or \"1h\"".to_owned()),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes, written `"16KiB"`, `"64MiB"` or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl Size {
    /// A size of whole kibibytes.
    pub const fn kib(kib: usize) -> Self {
        Self(kib * 1024)
    }
}

impl Leaf for Size {
    fn parse(text: &str) -> Result<Self, String> {
        let takes = || "a size such as \"16KiB\", \"1MiB\" or a number of bytes".to_owned();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: usize = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "kB" => 1_000,
            "MB" => 1_000_000,
            _ => return Err(takes()),
        };
        let number: usize = number.parse().map_err(|_| takes())?;
        number.checked_mul(scale).map(Self).ok_or_else(takes)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

/// An address to listen on; port 0 takes any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listen(pub SocketAddr);

impl Leaf for Listen {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            "an IP address and a port, such as \"[::]:8080\", \"0.0.0.0:8080\" or \"127.0.0.1:8080\""
                .to_owned()
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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

/// Where a backend is: `http` or `https`, an authority, and at most a path.
///
/// # Trust
/// A `Location` is this, byte for byte, and then the visitor's path. It always ends at a full authority or
/// inside a path, so nothing that follows can change the host (CVE-2019-10098 is what happens otherwise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    text: String,
    scheme_len: usize,
    authority_end: usize,
    port: u16,
}

impl BackendUrl {
    /// The URL without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and, where one is written, port.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme_len + 3..self.authority_end]
    }

    /// The host, lower-cased, an IPv6 address in its brackets, no trailing dot.
    pub fn host(&self) -> String {
        let authority = self.authority();
        let end = match authority.rfind(']') {
            Some(bracket) => bracket + 1,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        authority[..end].trim_end_matches('.').to_ascii_lowercase()
    }

    /// The host as an address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        let host = self.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }

    /// The port that is written, else the scheme's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether anything stands behind the authority.
    pub fn has_path(&self) -> bool {
        self.authority_end < self.text.len()
    }
}

impl Leaf for BackendUrl {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str = "a URL such as \"https://a.example.com\" or \"http://10.0.0.1:8080/base\"";
        let err = |why: &str| Err(format!("{TAKES}: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return err("it has no scheme");
        };
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return err("its scheme is neither http nor https"),
        };
        if rest.contains('#') {
            return err("it has a fragment");
        }
        if rest.contains('?') {
            return err("it has a query");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return err("it has userinfo; credentials would be shown to every visitor");
        }
        let Some(host) = Host::parse(authority) else {
            return err("its host or port is not valid (a name outside ASCII is written in its xn-- form)");
        };
        if host.port == Some(0) {
            return err("port 0 is no port to visit");
        }
        if !path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'<' | b'>' | b'^' | b'`'))
        {
            return err("its path has a character that must be percent-encoded");
        }
        if path.split('/').any(|segment| crate::fleet::dots(segment) != crate::fleet::Dots::None) {
            return err("its path has a dot segment");
        }
        let path = path.trim_end_matches('/');
        let text = format!("{scheme}://{authority}{path}");
        let authority_end = text.len() - path.len();
        Ok(Self { scheme_len: scheme.len(), authority_end, port: host.port.unwrap_or(default_port), text })
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `[weight*]url`, the short form of a backend: `3*https://b.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedUrl {
    /// 1 where none is written.
    pub weight: Weight,
    /// The URL behind the weight.
    pub url: BackendUrl,
}

impl Leaf for WeightedUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let (weight, url) = match text.split_once('*') {
            Some((weight, url)) if !weight.contains(':') => (Weight::parse(weight.trim())?, url.trim()),
            _ => (Weight::ONE, text),
        };
        Ok(Self { weight, url: BackendUrl::parse(url)? })
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

/// The status of a redirect: one that no cache keeps of itself.
///
/// 301 and 308 are not among them: browsers keep those for good (RFC 9110 §15.4.2, §15.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RedirectStatus(u16);

impl RedirectStatus {
    /// 302 Found.
    pub const FOUND: Self = Self(302);
    /// 307 Temporary Redirect.
    pub const TEMPORARY: Self = Self(307);

    /// As the `http` crate's type.
    pub fn code(self) -> http::StatusCode {
        match self.0 {
            303 => http::StatusCode::SEE_OTHER,
            307 => http::StatusCode::TEMPORARY_REDIRECT,
            _ => http::StatusCode::FOUND,
        }
    }
}

impl Leaf for RedirectStatus {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(code @ (302 | 303 | 307)) => Ok(Self(code)),
            _ => Err("302, 303 or 307 (browsers keep 301 and 308 for good)".to_owned()),
        }
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

/// A secret. It is never printed: not by `check`, not by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The fewest bytes a key may have: the output of SHA-256, as RFC 2104 §3 advises.
    pub const MIN: usize = 32;

    /// The key itself.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Leaf for Secret {
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() >= Self::MIN {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "a secret of {} bytes or more (this one has {}); `openssl rand -hex 32` makes one",
                Self::MIN,
                text.len()
            ))
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(masked)")
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

/// Defines a setting that is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl Leaf for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(one_of(text, &[$($word),+])),
                }
            }
        }
    };
}

words! {
    /// When a pin carries `Secure`.
    SecureAttribute {
        /// When the visitor came by TLS.
        Auto = "auto",
        /// On every answer: right behind a balancer that ends TLS.
        Always = "always",
        /// On none.
        Never = "never",
    }
}

words! {
    /// A cookie's `SameSite`.
    SameSite {
        /// Sent with navigations from other sites.
        Lax = "lax",
        /// Never sent from other sites.
        Strict = "strict",
        /// Always sent; browsers then demand `Secure`.
        None = "none",
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// For people on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// The least severe line that is logged.
    LogLevel {
        /// Errors only.
        Error = "error",
        /// Warnings too.
        Warn = "warn",
        /// What an operator wants to see.
        Info = "info",
        /// What a developer wants to see.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// "one of a, b, c", and which of them is near.
fn one_of(got: &str, names: &[&str]) -> String {
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    match nearest(got, names.iter().copied()) {
        Some(near) => format!("one of {list}; did you mean \"{near}\"?"),
        None => format!("one of {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_url_ends_at_an_authority_or_in_a_path() {
        for (written, kept) in [
            ("https://a.example.com", "https://a.example.com"),
            ("HTTPS://a.example.com/", "https://a.example.com"),
            ("http://[::1]:8080/base/", "http://[::1]:8080/base"),
            ("http://10.0.0.1/a/b", "http://10.0.0.1/a/b"),
        ] {
            assert_eq!(BackendUrl::parse(written).unwrap().as_str(), kept);
        }
    }

    #[test]
    fn a_backend_url_that_could_lead_elsewhere_is_refused() {
        for (written, why) in [
            ("a.example.com", "no scheme"),
            ("ftp://a.example.com", "neither http nor https"),
            ("https://", "host or port"),
            ("https:///x", "host or port"),
            ("https://user:pass@a.example.com", "userinfo"),
            ("https://a.example.com/?q", "query"),
            ("https://a.example.com?q", "query"),
            ("https://a.example.com/#f", "fragment"),
            ("https://a.example.com:99999", "host or port"),
            ("https://a.example.com:x", "host or port"),
            ("https://a.example.com:0", "port 0"),
            ("https://a b", "host or port"),
            ("https://bücher.example", "xn--"),
            ("https://a.example.com/x/../y", "dot segment"),
            ("https://a.example.com/%2e%2e/y", "dot segment"),
            ("https://a.example.com/a b", "percent-encoded"),
        ] {
            let error = BackendUrl::parse(written).unwrap_err();
            assert!(error.contains(why), "{written}: {error}");
        }
    }

    #[test]
    fn a_backend_url_knows_its_host_and_port() {
        let of = |text| {
            let url = BackendUrl::parse(text).unwrap();
            (url.host(), url.port(), url.has_path())
        };
        assert_eq!(of("https://A.example.com"), ("a.example.com".into(), 443, false));
        assert_eq!(of("http://a.example.com./x"), ("a.example.com".into(), 80, true));
        assert_eq!(of("http://[::1]:81"), ("[::1]".into(), 81, false));
        assert_eq!(
            BackendUrl::parse("http://[::ffff:127.0.0.1]").unwrap().ip(),
            Some(Ipv4Addr::LOCALHOST.into())
        );
    }

    #[test]
    fn sizes_and_spans_print_what_they_parse() {
        for text in ["16KiB", "1MiB", "1000B"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
        for text in ["10s", "500ms", "1h", "1h 30m"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "x", "10XB", "-1", "99999999999999999999MiB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "10", "-1s", "500d"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_strategy_is_told_its_neighbour() {
        let error = strategy::Kind::parse("roundrobin").unwrap_err();
        assert!(error.contains("did you mean \"round_robin\"?"), "{error}");
    }

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

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::parse("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(masked)");
        assert!(Secret::parse("short").unwrap_err().contains("32 bytes or more (this one has 5)"));
    }
}
