//! What a request comes to, as data. `dispatch::response` makes a response of it, `metrics` counts it.

use std::num::NonZeroU16;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::fleet::{Cors, NoRoute, PinPolicy};
use crate::request::{PathAndQuery, RequestHost};
use crate::util::enum_all;

/// What a request comes to: everything that its response is made of, borrowed from the request and the fleet.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The client is sent to a backend.
    Redirect(Redirect<'a>),
    /// The client is sent to the same host over TLS.
    HttpsRedirect(HttpsRedirect<'a>),
    /// `OPTIONS` is not redirected: browsers reject a preflight that is (Fetch, CORS-preflight fetch).
    Options {
        /// What browsers on other origins are told.
        cors: CorsDecision<'a>,
        /// Whether the request asks what they may do.
        is_preflight: bool,
    },
    /// The request is not served.
    Rejected(Rejected<'a>),
    /// Whether this process should get clients.
    Readiness(StatusCode, &'static str),
}

/// A redirect to a backend.
#[derive(Debug)]
pub struct Redirect<'a> {
    /// The status.
    pub status: StatusCode,
    /// The backend's base URL, without a trailing slash.
    pub base: &'a str,
    /// What follows it.
    pub target: PathAndQuery<'a>,
    /// The pin that the client is given, if it is given one.
    pub pin: Option<NewPin<'a>>,
    /// `Cache-Control`, where the redirect may be kept.
    pub cache_control: Option<&'a HeaderValue>,
    /// The header field of the request that it follows from, where it may be kept.
    pub vary: Option<&'a HeaderValue>,
    /// What browsers on other origins are told.
    pub cors: CorsDecision<'a>,
}

/// A pin that a client is given.
#[derive(Debug)]
pub struct NewPin<'a> {
    /// The policy of the pool.
    pub policy: &'a PinPolicy,
    /// The backend's index in the pool.
    pub backend: usize,
    /// When it is issued, in seconds since 1970.
    pub issued: u64,
    /// Whether the client came by TLS.
    pub by_tls: bool,
}

/// A redirect to the same host over TLS. Its status, 308, keeps method and body.
#[derive(Debug)]
pub struct HttpsRedirect<'a> {
    /// The host of the request.
    pub host: RequestHost<'a>,
    /// The port.
    pub port: NonZeroU16,
    /// What is asked for.
    pub target: PathAndQuery<'a>,
    /// What browsers on other origins are told.
    pub cors: CorsDecision<'a>,
}

/// What browsers on other origins are told of a pool's response. Every response of a pool says it: a browser follows a
/// redirect only if it passes the CORS check too (Fetch, HTTP fetch), and shows a script a status only then.
#[derive(Clone, Copy, Debug, Default)]
pub struct CorsDecision<'a> {
    /// Whether the response depends on who asks.
    pub varies: bool,
    /// The policy, and `Access-Control-Allow-Origin`, where the origin of the request is allowed.
    pub allowed: Option<(&'a Cors, &'a [u8])>,
}

/// A request that is not served.
#[derive(Debug)]
pub struct Rejected<'a> {
    /// Why.
    pub reason: Rejection,
    /// The HTML page of that status, if there is one.
    pub page: Option<&'a Bytes>,
    /// Whether the client is to get the page and not a line of text.
    pub prefers_page: bool,
    /// When the client may come again, in seconds.
    pub retry_after: Option<u32>,
    /// What browsers on other origins are told.
    pub cors: CorsDecision<'a>,
}

impl Outcome<'_> {
    /// The status of its response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Redirect(redirect) => redirect.status,
            Self::HttpsRedirect(_) => StatusCode::PERMANENT_REDIRECT,
            Self::Options { .. } => StatusCode::NO_CONTENT,
            Self::Rejected(rejected) => rejected.reason.status(),
            Self::Readiness(status, _) => *status,
        }
    }
}

impl Rejected<'_> {
    /// One that belongs to no pool and has no page.
    pub fn bare(reason: Rejection) -> Self {
        Self { reason, page: None, prefers_page: false, retry_after: None, cors: CorsDecision::default() }
    }
}

/// A visitor is sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The strategy whose visitor it is: its place in the pool's roster.
    pub slot: usize,
    /// The backend's index in the pool's roster.
    pub backend: usize,
    /// Why this one.
    pub decision: Decision,
    /// Whether the visitor is given a new pin to it.
    pub pin: bool,
}

enum_all! {
    /// Why a backend was chosen.
    pub enum Decision {
        /// By a valid pin.
        Pinned = "pinned",
        /// By the strategy, in place of a valid pin's backend that can't be used.
        Reassigned = "reassigned",
        /// By the strategy.
        Picked = "picked",
    }
}

enum_all! {
    /// Why a request is not redirected.
    pub enum Rejection {
        /// No valid HTTP; hyper answered.
        Malformed = "malformed",
        /// HTTP/2 without TLS, which is not spoken here.
        CleartextHttp2 = "cleartext_http2",
        /// Plain HTTP on a TLS listener.
        PlainHttp = "plain_http_on_tls",
        /// The head is over `max_header_bytes` or `max_headers`; hyper answered.
        HeadTooLarge = "head_too_large",
        /// HTTP/1.1 without `Host`.
        MissingHost = "missing_host",
        /// More than one `Host`.
        DuplicateHost = "duplicate_host",
        /// A `Host` that breaks the grammar.
        MalformedHost = "malformed_host",
        /// A target that is neither a path nor an http(s) URL without userinfo.
        BadTarget = "bad_target",
        /// Dot segments that would leave a backend's base path.
        PathEscapesBase = "path_escapes_base",
        /// A target over `max_target_bytes`.
        TargetTooLong = "target_too_long",
        /// `TRACE` or `CONNECT`.
        MethodNotAllowed = "method_not_allowed",
        /// No pool serves the host.
        UnknownHost = "unknown_host",
        /// The host is served, this path is not.
        UnknownPath = "unknown_path",
        /// No backend of the pool is eligible.
        NoBackend = "no_backend",
        /// The client sends more than `requests_per_second_per_client`.
        RateLimited = "rate_limited",
        /// A mistake in the program; it cost this answer alone.
        Panicked = "panicked",
    }
}

impl Rejection {
    /// The status it is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::PlainHttp
            | Self::MissingHost
            | Self::DuplicateHost
            | Self::MalformedHost
            | Self::BadTarget
            | Self::PathEscapesBase => StatusCode::BAD_REQUEST,
            Self::CleartextHttp2 => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::NoBackend => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the request can be routed to a pool although it was rejected before it was.
    pub const fn may_have_pool(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::TargetTooLong
                | Self::HeadTooLarge
                | Self::MethodNotAllowed
                | Self::PlainHttp
        )
    }

    /// The one line the visitor reads. It repeats nothing of the request.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "This is not a valid HTTP request.\n",
            Self::CleartextHttp2 => "HTTP/2 is not spoken here without TLS.\n",
            Self::PlainHttp => "Plain HTTP was sent to an HTTPS port. Use https:// instead.\n",
            Self::HeadTooLarge => "The request's header fields are too large.\n",
            Self::MissingHost => "The request has no Host.\n",
            Self::DuplicateHost => "The request has more than one Host.\n",
            Self::MalformedHost => "The request's Host is not valid.\n",
            Self::BadTarget => "The request's target is neither a path nor an http URL.\n",
            Self::PathEscapesBase => "The request's path leads above its root.\n",
            Self::TargetTooLong => "The request's target is too long.\n",
            Self::MethodNotAllowed => "This method is not served here.\n",
            Self::UnknownHost => "This host is not served here.\n",
            Self::UnknownPath => "Nothing is served under this path.\n",
            Self::NoBackend => "No server is available right now.\n",
            Self::RateLimited => "Too many requests from your address; try again in a second.\n",
            Self::Panicked => "Something went wrong here.\n",
        }
    }
}

impl From<NoRoute> for Rejection {
    fn from(no_route: NoRoute) -> Self {
        match no_route {
            NoRoute::Host => Self::UnknownHost,
            NoRoute::Path => Self::UnknownPath,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::ErrorPages;

    #[test]
    fn every_rejection_may_have_a_page() {
        // The connection sends this one, before there is a request.
        for rejection in Rejection::ALL.iter().filter(|rejection| **rejection != Rejection::CleartextHttp2) {
            assert!(ErrorPages::STATUSES.contains(&rejection.status()), "{rejection:?}");
        }
    }
}
