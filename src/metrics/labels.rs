//! The label values of limits, TLS handshakes and shadow comparisons.

use crate::util::enum_all;

enum_all! {
    /// A limit that was hit.
    pub enum Limit {
        /// `header_timeout`.
        HeaderTimeout = "header_timeout",
        /// `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The process is out of file descriptors.
        FileDescriptors = "file_descriptors",
        /// `max_connections`.
        Connections = "connections",
        /// `max_connections_per_client`.
        ConnectionsPerClient = "connections_per_client",
        /// An idle connection was closed to make room: at `max_connections`, or when it is near.
        Evicted = "evicted",
        /// The table of clients is full: limits per client do not apply to a client that is not in it.
        ClientTable = "client_table",
        /// The connections of the admin listener.
        AdminConnections = "admin_connections",
        /// Concurrent requests to the API and the status page.
        AdminRequests = "admin_requests",
        /// A PROXY protocol header that is malformed or does not arrive within `header_timeout`.
        ProxyProtocolError = "proxy_protocol_error",
        /// A connection to a listener with the PROXY protocol that does not come from a trusted proxy.
        UntrustedProxy = "untrusted_proxy",
        /// `max_handshakes`: a handshake had to wait.
        Handshakes = "handshakes",
        /// `max_requests_per_connection`.
        Requests = "requests_per_connection",
        /// More HTTP/2 resets, pings or empty frames than a peer may send: they cost the sender nothing.
        Http2Flood = "http2_flood",
    }
}

enum_all! {
    /// The result of a TLS handshake.
    pub enum Handshake {
        /// Completed.
        Ok = "ok",
        /// Rejected by either side, or the client disconnected.
        Failed = "failed",
        /// Not completed within `handshake_timeout`.
        Timeout = "timeout",
    }
}

enum_all! {
    /// The pick of a shadow compared with the backend that the request was redirected to.
    pub enum Comparison {
        /// The shadow picked the same backend.
        Agreed = "agreed",
        /// The shadow picked another backend.
        Disagreed = "disagreed",
        /// A pin decided, and the shadow picked the same backend.
        PinKept = "pin_kept",
        /// A pin decided, and the shadow picked another backend.
        PinBroken = "pin_broken",
    }
}
