//! `[server]` and `[server.limits]`: the traffic listeners, who serves them, and what a connection may cost.

use serde::Serialize;

use super::address::{ListenAddress, Network};
use super::error_pages::{self, ErrorPage};
use super::listener::{self, ListenerSettings};
use super::names::HealthPathSetting;
use super::reader::Section;
use super::tls::TlsSettings;
use super::values::{ByteSize, ForwardingHeader, HeaderCount, HumanDuration, ProbeCount, WorkerCount};

/// `[server]`: the traffic listeners and who serves them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerSettings {
    /// Addresses to listen on; `[::]` takes IPv4 too.
    pub listen: Vec<ListenerSettings>,
    /// Threads that serve requests; 0: one per core.
    pub workers: WorkerCount,
    /// Whether each worker stays on one core.
    pub worker_affinity: bool,
    /// For how long the kernel keeps a connection to itself while its request has not come; 0: not at all.
    pub tcp_defer_accept: HumanDuration,
    /// How many connections may wait whose request came with their first packet (RFC 7413); 0: none.
    pub tcp_fast_open: u32,
    /// How long after SIGTERM requests are still accepted while `/readyz` says no; SIGINT skips it.
    pub shutdown_delay: HumanDuration,
    /// How long requests in flight may take to finish once nothing is accepted any more.
    pub shutdown_grace: HumanDuration,
    /// The path on the traffic listeners that answers 200 while the process is ready and 503 while it is not; none: no
    /// path does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_path: Option<HealthPathSetting>,
    /// How often settings files and the files that they name are looked at for changes; 0: never.
    pub watch_interval: HumanDuration,
    /// The proxies that are believed when they tell where a visitor came from; none: nobody is.
    pub trusted_proxies: Vec<Network>,
    /// The header in which they report the address of a client.
    pub client_ip_header: ForwardingHeader,
    /// The HTML pages of errors, where a pool has none of its own.
    #[serde(serialize_with = "error_pages::as_table")]
    pub error_pages: Vec<ErrorPage>,
    /// What one connection may cost.
    pub limits: LimitsSettings,
    /// The listeners that speak TLS.
    pub tls: TlsSettings,
}

/// `[server.limits]`: what one connection may cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitsSettings {
    /// From the first byte of a request (or from accept) to the end of its head.
    pub header_timeout: HumanDuration,
    /// How long a connection may wait between requests.
    pub idle_timeout: HumanDuration,
    /// The longest request head; over it hyper answers 431. From 8 to 64 KiB, hyper's own bounds.
    pub max_header_bytes: ByteSize,
    /// The most header fields; over it 431.
    pub max_headers: HeaderCount,
    /// The longest request target; over it 414.
    pub max_target_bytes: ByteSize,
    /// Connections at once, over all listeners for visitors; 0: as many as descriptors allow, 50 000 at most.
    pub max_connections: u32,
    /// Connections at once of one client address (one /64 of IPv6), and as many again that wait for the client to close;
    /// 0: no limit.
    pub max_connections_per_client: u32,
    /// Requests a second of one client address (one /64 of IPv6); over it 429. 0: no limit.
    pub requests_per_second_per_client: u32,
    /// How many probes run at once, over all pools.
    pub max_probes: ProbeCount,
    /// After how many requests a connection is closed in good order; 0: never.
    pub max_requests_per_connection: u32,
}

// === impl ServerSettings ===

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: vec![ListenerSettings::plain(ListenAddress(
                (std::net::Ipv6Addr::UNSPECIFIED, 8080).into(),
            ))],
            workers: WorkerCount(0),
            worker_affinity: false,
            tcp_defer_accept: HumanDuration::seconds(1),
            tcp_fast_open: 0,
            shutdown_delay: HumanDuration::seconds(0),
            shutdown_grace: HumanDuration::seconds(30),
            health_path: None,
            watch_interval: HumanDuration::seconds(2),
            trusted_proxies: Vec::new(),
            client_ip_header: ForwardingHeader::XForwardedFor,
            error_pages: Vec::new(),
            limits: LimitsSettings::default(),
            tls: TlsSettings::default(),
        }
    }
}

impl ServerSettings {
    /// Every list of traffic listeners, by its key.
    pub(super) fn listeners(&self) -> [(&'static str, &[ListenerSettings]); 3] {
        [
            ("server.listen", &self.listen),
            ("server.tls.listen", &self.tls.listen),
            ("server.tls.redirect_listen", &self.tls.redirect_listen),
        ]
    }

    /// The address of each, with the key that asks for it.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, &ListenAddress)> {
        let lists = self.listeners().into_iter();
        lists.flat_map(|(key, list)| list.iter().map(move |listener| (key, &listener.address)))
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let listen = listener::read_all(&mut section, "listen").unwrap_or(default.listen);
        let server = Self {
            listen,
            workers: section.or("workers", default.workers),
            worker_affinity: section.or("worker_affinity", default.worker_affinity),
            tcp_defer_accept: section.within(
                "tcp_defer_accept",
                default.tcp_defer_accept,
                "whole seconds from 0s (off) to 60s",
                |span| span.0.subsec_nanos() == 0 && span.0.as_secs() <= 60,
            ),
            tcp_fast_open: section.within(
                "tcp_fast_open",
                default.tcp_fast_open,
                "a whole number from 0 (off) to 65535",
                |&count| count <= u16::MAX.into(),
            ),
            shutdown_delay: section.or("shutdown_delay", default.shutdown_delay),
            shutdown_grace: section.or("shutdown_grace", default.shutdown_grace),
            health_path: section.optional("health_path"),
            watch_interval: section.within(
                "watch_interval",
                default.watch_interval,
                "0s or 100ms and more",
                |span| span.0.is_zero() || span.0.as_millis() >= 100,
            ),
            trusted_proxies: section.list("trusted_proxies").unwrap_or_default(),
            client_ip_header: section.or("client_ip_header", default.client_ip_header),
            error_pages: error_pages::read(section.section_or_empty("error_pages"), false),
            limits: LimitsSettings::read(section.section_or_empty("limits")),
            tls: TlsSettings::read(section.section_or_empty("tls")),
        };
        section.finish();
        server
    }
}

// === impl LimitsSettings ===

impl Default for LimitsSettings {
    fn default() -> Self {
        Self {
            header_timeout: HumanDuration::seconds(10),
            idle_timeout: HumanDuration::seconds(60),
            max_header_bytes: ByteSize::kib(16),
            max_headers: HeaderCount(100),
            max_target_bytes: ByteSize::kib(8),
            max_connections: 0,
            max_connections_per_client: 0,
            requests_per_second_per_client: 0,
            max_probes: ProbeCount(512),
            max_requests_per_connection: 10_000,
        }
    }
}

impl LimitsSettings {
    fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let positive = |span: &HumanDuration| !span.0.is_zero();
        let limits = Self {
            header_timeout: section.within("header_timeout", default.header_timeout, "more than 0", positive),
            idle_timeout: section.within("idle_timeout", default.idle_timeout, "more than 0", positive),
            max_header_bytes: section.within(
                "max_header_bytes",
                default.max_header_bytes,
                "a size from 8KiB to 64KiB",
                |size| (8 << 10..=64 << 10).contains(&size.0),
            ),
            max_headers: section.or("max_headers", default.max_headers),
            max_target_bytes: section.within(
                "max_target_bytes",
                default.max_target_bytes,
                "a size from 64B to 60KiB",
                |size| (64..=60 << 10).contains(&size.0),
            ),
            max_connections: section.or("max_connections", default.max_connections),
            max_connections_per_client: section
                .or("max_connections_per_client", default.max_connections_per_client),
            requests_per_second_per_client: section
                .or("requests_per_second_per_client", default.requests_per_second_per_client),
            max_probes: section.or("max_probes", default.max_probes),
            max_requests_per_connection: section
                .or("max_requests_per_connection", default.max_requests_per_connection),
        };
        section.finish();
        limits
    }
}
