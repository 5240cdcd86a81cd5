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
