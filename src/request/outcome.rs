//! What a request comes to, as data. Turning it into a response is `answer`'s work, counting it `metrics`'.

use http::StatusCode;

use crate::fleet::NoRoute;
use crate::util::enum_all;

/// A visitor is sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The strategy whose visitor it is: its place in the pool's roster.
    pub arm: usize,
    /// The backend's index in the pool's roster.
    pub backend: usize,
    /// Why this one.
    pub decision: Decision,
    /// Whether the visitor is given a new pin to it.
    pub pin: bool,
}

enum_all! {
    /// Why a backend was chosen.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Decision {
        /// By a valid pin.
        Pinned,
        /// By the strategy, in place of a valid pin's backend that can't be used.
        Repinned,
        /// By the strategy.
        Picked,
    }
}

impl Decision {
    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Repinned => "repinned",
            Self::Picked => "picked",
        }
    }
}

enum_all! {
    /// Why a request is not redirected.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Rejection {
        /// No valid HTTP; hyper answered.
        Malformed,
        /// HTTP/2 without TLS, which is not spoken here.
        Http2InTheClear,
        /// Plain HTTP on a TLS listener.
        PlainHttp,
        /// The head is over `max_header_bytes` or `max_headers`; hyper answered.
        HeadTooLarge,
        /// HTTP/1.1 without `Host`.
        HostMissing,
        /// More than one `Host`.
        HostDoubled,
        /// A `Host` that breaks the grammar.
        HostMalformed,
        /// A target that is neither a path nor an http(s) URL without userinfo.
        BadTarget,
        /// Dot segments that would leave a backend's base path.
        TargetClimbs,
        /// A target over `max_target_bytes`.
        TargetTooLong,
        /// `TRACE` or `CONNECT`.
        MethodNotAllowed,
        /// No pool serves the host.
        HostUnknown,
        /// The host is served, this path is not.
        PathUnknown,
        /// No backend of the pool is eligible.
        NoBackend,
        /// The client sends more than `requests_per_second_per_client`.
        RateLimited,
        /// A mistake in the program; it cost this answer alone.
        Panicked,
    }
}

impl Rejection {
    /// The status it is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::PlainHttp
            | Self::HostMissing
            | Self::HostDoubled
            | Self::HostMalformed
            | Self::BadTarget
            | Self::TargetClimbs => StatusCode::BAD_REQUEST,
            Self::Http2InTheClear => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HostUnknown => StatusCode::MISDIRECTED_REQUEST,
            Self::PathUnknown => StatusCode::NOT_FOUND,
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

    /// Its name in metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Http2InTheClear => "http2_in_the_clear",
            Self::PlainHttp => "plain_http_on_tls",
            Self::HeadTooLarge => "head_too_large",
            Self::HostMissing => "host_missing",
            Self::HostDoubled => "host_doubled",
            Self::HostMalformed => "host_malformed",
            Self::BadTarget => "bad_target",
            Self::TargetClimbs => "target_climbs",
            Self::TargetTooLong => "target_too_long",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::HostUnknown => "host_unknown",
            Self::PathUnknown => "path_unknown",
            Self::NoBackend => "no_backend",
            Self::RateLimited => "rate_limited",
            Self::Panicked => "panicked",
        }
    }

    /// The one line the visitor reads. It repeats nothing of the request.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "This is not a valid HTTP request.\n",
            Self::Http2InTheClear => "HTTP/2 is not spoken here without TLS.\n",
            Self::PlainHttp => "Plain HTTP was sent to an HTTPS port. Use https:// instead.\n",
            Self::HeadTooLarge => "The request's header fields are too large.\n",
            Self::HostMissing => "The request has no Host.\n",
            Self::HostDoubled => "The request has more than one Host.\n",
            Self::HostMalformed => "The request's Host is not valid.\n",
            Self::BadTarget => "The request's target is neither a path nor an http URL.\n",
            Self::TargetClimbs => "The request's path leads above its root.\n",
            Self::TargetTooLong => "The request's target is too long.\n",
            Self::MethodNotAllowed => "This method is not served here.\n",
            Self::HostUnknown => "This host is not served here.\n",
            Self::PathUnknown => "Nothing is served under this path.\n",
            Self::NoBackend => "No server is available right now.\n",
            Self::RateLimited => "Too many requests from your address; try again in a second.\n",
            Self::Panicked => "Something went wrong here.\n",
        }
    }
}

impl From<NoRoute> for Rejection {
    fn from(no_route: NoRoute) -> Self {
        match no_route {
            NoRoute::Host => Self::HostUnknown,
            NoRoute::Path => Self::PathUnknown,
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
        for rejection in Rejection::ALL.iter().filter(|rejection| **rejection != Rejection::Http2InTheClear) {
            assert!(ErrorPages::STATUSES.contains(&rejection.status()), "{rejection:?}");
        }
    }
}
