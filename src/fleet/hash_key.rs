//! What a pool knows a visitor by, and how long an answer that follows from it may be kept.

use std::fmt;
use std::num::NonZeroU8;

use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};

/// What of a request is hashed. Who has no such field, cookie or query is known by the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address; of IPv6 its network of 64 bits, for that is what one subscriber has.
    Client,
    /// The first field of this name.
    Header(HeaderName),
    /// The first cookie of this name.
    Cookie(Box<str>),
    /// The path as it was sent, without the query; of its segments so many, or all.
    Path(Option<NonZeroU8>),
    /// The first pair of this name in the query, neither of them decoded.
    Query(Box<str>),
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Path(None) => f.write_str("path"),
            Self::Path(Some(segments)) => write!(f, "path:{segments}"),
            Self::Query(name) => write!(f, "query:{name}"),
        }
    }
}

impl Serialize for HashKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The fields of an answer that may be kept.
#[derive(Clone, Debug)]
pub struct Caching {
    /// `Cache-Control` where the answer follows from the request alone: anybody may keep it.
    pub shared: HeaderValue,
    /// `Cache-Control` where it follows from who the visitor is: that one's browser may keep it.
    pub private: HeaderValue,
    /// `Vary`: the request's field that it follows from.
    pub vary: Option<HeaderValue>,
}

impl Caching {
    /// For so many seconds.
    pub fn new(key: &HashKey, seconds: u64) -> Self {
        let control = |who| HeaderValue::from_str(&format!("{who}, max-age={seconds}"));
        let vary = match key {
            HashKey::Header(name) => Some(HeaderValue::from(name.clone())),
            HashKey::Cookie(_) => Some(HeaderValue::from_static("cookie")),
            HashKey::Client | HashKey::Path(_) | HashKey::Query(_) => None,
        };
        let [shared, private] = [
            // What a cookie says is about one visitor.
            if matches!(key, HashKey::Cookie(_)) { "private" } else { "public" },
            "private",
        ]
        .map(|who| control(who).unwrap_or(HeaderValue::from_static("no-store")));
        Self { shared, private, vary }
    }
}
