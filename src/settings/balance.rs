//! What a pool's settings say of single strategies: `[pools.NAME.hash]`, `[pools.NAME.first]`, rates.

use std::num::NonZeroU8;

use serde::Serialize;

use super::names::{field_name, is_token};
use super::reader::Section;
use super::values::{Fraction, SettingValue};
use crate::fleet::HashKey;

/// `[pools.NAME.hash]`: of `consistent_hash`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HashSettings {
    /// What a visitor is known by.
    pub key: HashKey,
    /// How much load a backend may have, in percent of its share; 0: any.
    pub balance_factor: BalanceFactor,
}

impl HashSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let hash = Self {
            key: section.or("key", HashKey::Client),
            balance_factor: section.or("balance_factor", BalanceFactor(0)),
        };
        section.finish();
        hash
    }
}

/// `[pools.NAME.first]`: of `first`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstSettings {
    /// The utilization at which a backend is full, where it reports its load.
    pub max_utilization: Fraction,
}

impl FirstSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let first = Self { max_utilization: section.or("max_utilization", Fraction(0.8)) };
        section.finish();
        first
    }
}

/// The limit of bounded loads in percent of the mean, 101 to 10000, as HAProxy's `hash-balance-factor`; 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BalanceFactor(pub u16);

impl SettingValue for BalanceFactor {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(percent @ (0 | 101..=10_000)) => Ok(Self(percent)),
            _ => Err("0 (off), or a percentage of the mean from 101 to 10000, such as 125".to_owned()),
        }
    }
}

/// Visitors a second; 0: any number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RequestRate(pub f64);

impl SettingValue for RequestRate {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(rate) if rate == 0.0 || (0.001..=1e6).contains(&rate) => Ok(Self(rate)),
            _ => Err("0 (any), or a number from 0.001 to 1000000".to_owned()),
        }
    }
}

impl SettingValue for HashKey {
    fn parse(text: &str) -> Result<Self, String> {
        let key = match text.split_once(':') {
            None if text == "client" => Some(Self::Client),
            None if text == "path" => Some(Self::Path(None)),
            Some(("path", segments)) => {
                segments.parse().ok().map(|segments: NonZeroU8| Self::Path(Some(segments)))
            }
            Some(("header", name)) => field_name(name).map(Self::Header),
            Some(("cookie", name)) if is_token(name) => Some(Self::Cookie(name.into())),
            Some(("query", name)) if is_query_name(name) => Some(Self::Query(name.into())),
            _ => None,
        };
        key.ok_or_else(|| {
            "client, header:NAME, cookie:NAME, path, path:N (its first segments, 1 to 255) or query:NAME"
                .to_owned()
        })
    }
}

/// Whether a name can be found in a query as it is sent: browsers percent-encode what is excluded here.
fn is_query_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=#\"<>'".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_what_it_parses() {
        for text in ["client", "path", "path:1", "path:255", "header:x-user", "cookie:sid", "query:user[id]"]
        {
            assert_eq!(HashKey::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(HashKey::parse("header:X-User").unwrap().to_string(), "header:x-user");
        for bad in [
            "",
            "Client",
            "path:0",
            "path:256",
            "path:",
            "header:",
            "header:a b",
            "cookie:",
            "cookie:a=b",
            "query:",
            "query:a&b",
            "body",
        ] {
            assert!(HashKey::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accepts_finite_rates_and_factors_above_the_mean() {
        for good in ["0", "0.001", "20", "1000000"] {
            assert!(RequestRate::parse(good).is_ok(), "{good}");
        }
        for bad in ["-1", "NaN", "inf", "1e-9", "1e7", ""] {
            assert!(RequestRate::parse(bad).is_err(), "{bad}");
        }
        for good in ["0", "101", "125", "10000"] {
            assert!(BalanceFactor::parse(good).is_ok(), "{good}");
        }
        for bad in ["-1", "0.25", "1", "100", "10001", "125%", ""] {
            assert!(BalanceFactor::parse(bad).is_err(), "{bad}");
        }
    }
}
