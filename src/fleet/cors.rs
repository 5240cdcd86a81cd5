//! What browsers on other origins are told, as ready header values.

use http::HeaderValue;

/// The CORS answer of a pool. Values come from the settings alone: even the origin that is sent back is the
/// settings' spelling of it, so nothing of a request is reflected.
#[derive(Debug)]
pub struct Cors {
    /// The origins by name; empty: any.
    origins: Box<[(Box<str>, HeaderValue)]>,
    /// `Access-Control-Allow-Methods`.
    pub methods: HeaderValue,
    /// `Access-Control-Allow-Headers`; none: no header beyond the safelisted.
    pub headers: Option<HeaderValue>,
    /// Whether `Access-Control-Allow-Credentials` is sent.
    pub credentials: bool,
    /// `Access-Control-Max-Age`.
    pub max_age: HeaderValue,
}

/// `*`.
static ANY: HeaderValue = HeaderValue::from_static("*");

impl Cors {
    /// `origins` is empty where any origin is allowed.
    pub fn new(
        origins: Vec<(Box<str>, HeaderValue)>,
        methods: HeaderValue,
        headers: Option<HeaderValue>,
        credentials: bool,
        max_age: HeaderValue,
    ) -> Self {
        Self { origins: origins.into(), methods, headers, credentials, max_age }
    }

    /// `Access-Control-Allow-Origin` for a request's `Origin`, or `None` where that origin is not allowed.
    /// O(number of origins).
    pub fn allow(&self, origin: &[u8]) -> Option<&HeaderValue> {
        if self.origins.is_empty() {
            return Some(&ANY);
        }
        let same = |(name, _): &&(Box<str>, HeaderValue)| name.as_bytes().eq_ignore_ascii_case(origin);
        self.origins.iter().find(same).map(|(_, value)| value)
    }

    /// Whether the answer depends on who asks, so that it must carry `Vary: Origin`.
    pub fn varies(&self) -> bool {
        !self.origins.is_empty()
    }
}
