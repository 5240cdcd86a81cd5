//! Types of setting values: each value is parsed once, here, and is valid from then on.
//!
//! The error of [`SettingValue::parse`] is a phrase that names what is expected, so that a message can be put together
//! from the key, the value and that phrase.

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::nearest;
use crate::fleet::Weight;
use crate::strategy;
use crate::util::enum_all;

/// A value that is written as one scalar.
pub trait SettingValue: Sized {
    /// Reads it from its written form.
    ///
    /// # Errors
    /// A phrase that completes "takes …".
    fn parse(text: &str) -> Result<Self, String>;
}

/// Serializes a value as the string that parses back to it.
macro_rules! serialize_as_string {
    ($($value:ty),*) => {$(
        impl Serialize for $value {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(super) use serialize_as_string;

serialize_as_string!(HumanDuration, ByteSize);

impl SettingValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "true or false".to_owned())
    }
}

impl SettingValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// The path of a file. `Section::path` reads it, and resolves a relative one.
impl SettingValue for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("the path of a file".to_owned()),
            _ => Ok(text.into()),
        }
    }
}

impl SettingValue for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("a whole number from 0 to {}", u32::MAX))
    }
}

impl SettingValue for NonZeroU16 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("a whole number from 1 to {}", u16::MAX))
    }
}

impl SettingValue for Weight {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(Weight::new)
            .ok_or_else(|| format!("a whole number from 0 (no new visitors) to {}", Weight::MAX))
    }
}

/// How many threads serve requests; 0 stands for one per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerCount(pub u16);

impl WorkerCount {
    /// The most that may be asked for.
    pub const MAX: u16 = 1024;
}

impl SettingValue for WorkerCount {
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

impl SettingValue for HeaderCount {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=1000) => Ok(Self(count)),
            _ => Err("a whole number from 1 to 1000".to_owned()),
        }
    }
}

/// How many probes run at once, 1 to 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeCount(pub u16);

impl SettingValue for ProbeCount {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=10_000) => Ok(Self(count)),
            _ => Err("a whole number from 1 to 10000".to_owned()),
        }
    }
}

/// A share of something, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fraction(pub f64);

impl SettingValue for Fraction {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err("a number from 0 to 1".to_owned()),
        }
    }
}

/// A length of time, written `"10s"`, `"500ms"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// No deadline is put further away than this, so that adding one to a clock can't overflow.
    pub const MAX: Duration = Duration::from_secs(400 * 24 * 3600);

    /// A duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl SettingValue for HumanDuration {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        // humantime's months and years are averages of the calendar, and "1M" is a slip for "1m".
        let mut units = text.split(|c: char| !c.is_ascii_alphabetic());
        if units.any(|unit| matches!(unit, "M" | "month" | "months" | "y" | "year" | "years" | "yr" | "yrs"))
        {
            return Err("a duration in days or less, such as \"365d\", \"12h\" or \"30s\"".to_owned());
        }
        match humantime::parse_duration(text) {
            Ok(span) if span <= Self::MAX => Ok(Self(span)),
            Ok(_) => Err("a duration of at most 400 days".to_owned()),
            Err(_) => Err("a duration with its unit, such as \"500ms\", \"10s\" or \"1h\"".to_owned()),
        }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(nanos / 1_000_000), "ms"),
            (u64::from(nanos / 1000 % 1000), "us"),
            (u64::from(nanos % 1000), "ns"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let text: Vec<_> = parts.map(|(count, unit)| format!("{count}{unit}")).collect();
        f.write_str(if text.is_empty() { "0s" } else { "" })?;
        f.write_str(&text.join(" "))
    }
}

/// A number of bytes, written `"16KiB"`, `"64MiB"` or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// A size of whole kibibytes.
    pub const fn kib(kib: usize) -> Self {
        Self(kib * 1024)
    }
}

impl SettingValue for ByteSize {
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

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
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

impl SettingValue for RedirectStatus {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(code @ (302 | 303 | 307)) => Ok(Self(code)),
            _ => Err("302, 303 or 307 (browsers keep 301 and 308 for good)".to_owned()),
        }
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

impl SettingValue for Secret {
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

/// Reads settings that are names of an enum.
macro_rules! value_by_name {
    ($($enum:ty),+) => {
        $(impl SettingValue for $enum {
            fn parse(text: &str) -> Result<Self, String> {
                let found = Self::ALL.into_iter().find(|value| value.name() == text);
                found.ok_or_else(|| $crate::settings::values::one_of(text, &Self::ALL.map(Self::name)))
            }
        })+
    };
}
pub(super) use value_by_name;

value_by_name!(strategy::StrategyKind, SecureAttribute, SameSite, ForwardingHeader, LogFormat, LogLevel);

enum_all! {
    /// When a pin carries `Secure`.
    pub enum SecureAttribute {
        /// When the visitor came by TLS.
        Auto = "auto",
        /// On every answer: right behind a balancer that ends TLS.
        Always = "always",
        /// On none.
        Never = "never",
    }
}

enum_all! {
    /// A cookie's `SameSite`.
    pub enum SameSite {
        /// Sent with navigations from other sites.
        Lax = "lax",
        /// Never sent from other sites.
        Strict = "strict",
        /// Always sent; browsers then demand `Secure`.
        None = "none",
    }
}

enum_all! {
    /// The header in which trusted proxies report the address of a client.
    pub enum ForwardingHeader {
        /// `X-Forwarded-For` and `X-Forwarded-Proto`.
        XForwardedFor = "x-forwarded-for",
        /// `Forwarded`, RFC 7239.
        Forwarded = "forwarded",
    }
}

enum_all! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

enum_all! {
    /// The least severe line that is logged.
    pub enum LogLevel {
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
pub(super) fn one_of(got: &str, names: &[&str]) -> String {
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
    fn sizes_and_spans_print_what_they_parse() {
        for text in ["16KiB", "1MiB", "1000B"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
        for text in ["0s", "10s", "500ms", "1h", "1h 30m", "365d", "1d 2h 3m 4s 5ms 6us 7ns"] {
            assert_eq!(HumanDuration::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "x", "10XB", "-1", "99999999999999999999MiB"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "10", "-1s", "500d", "1M", "1 month", "1y"] {
            assert!(HumanDuration::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn suggests_the_nearest_strategy() {
        let error = strategy::StrategyKind::parse("roundrobin").unwrap_err();
        assert!(error.contains("did you mean \"round_robin\"?"), "{error}");
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::parse("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(masked)");
        assert!(Secret::parse("short").unwrap_err().contains("32 bytes or more (this one has 5)"));
    }
}
