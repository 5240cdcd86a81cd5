//! What is counted apart, as the labels of metrics name it.

use crate::util::enum_all;

enum_all! {
    /// What a connection ran into.
    pub enum Limit {
        /// `header_timeout`.
        HeaderTimeout = "header_timeout",
        /// `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The process had no file descriptor left.
        FileDescriptors = "file_descriptors",
        /// `max_connections`.
        Connections = "connections",
        /// `max_connections_per_client`.
        ConnectionsPerClient = "connections_per_client",
        /// A connection was closed while idle, to make room: at `max_connections`, or on the way there.
        Evicted = "evicted",
        /// More clients than can be known at once; what is limited per client was not for these.
        ClientTable = "client_table",
        /// The admin listener's connections.
        AdminConnections = "admin_connections",
        /// Requests of the API and the status page at once.
        AdminRequests = "admin_requests",
        /// A header of the PROXY protocol that was malformed, or was not there within `header_timeout`.
        ProxyProtocolError = "proxy_protocol_error",
        /// A connection to a listener with the PROXY protocol from elsewhere than a trusted proxy.
        UntrustedProxy = "untrusted_proxy",
        /// `max_handshakes`: a handshake had to wait its turn.
        Handshakes = "handshakes",
        /// `max_requests_per_connection`.
        Requests = "requests_per_connection",
        /// What HTTP/2 allows a peer to ask for that costs it nothing: resets, pings, empty frames.
        Http2Flood = "http2_flood",
    }
}

enum_all! {
    /// How a TLS handshake went.
    pub enum Handshake {
        /// It was completed.
        Ok = "ok",
        /// One side turned the other down, or the visitor left.
        Failed = "failed",
        /// `handshake_timeout` passed.
        Timeout = "timeout",
    }
}

enum_all! {
    /// What a shadow's pick is to what was chosen for that visitor.
    pub enum Comparison {
        /// The same backend was picked.
        Agreed = "agreed",
        /// Another one was.
        Disagreed = "disagreed",
        /// The visitor stayed where its pin says, and the shadow would have sent it there too.
        PinKept = "pin_kept",
        /// The shadow would have sent it elsewhere.
        PinBroken = "pin_broken",
    }
}
