//! The settings: typed sections, the layers they come from, and every rule about them.
//!
//! [`Settings::load`] is the one way in. What it returns is valid: the code behind it checks nothing again.

mod address;
mod balance;
mod error_pages;
mod health;
mod layers;
mod listener;
mod load;
mod log;
mod names;
mod pool;
mod probe_http;
mod reader;
mod renamed;
mod rules;
mod tls;
mod unused;
mod url;
mod values;
mod variables;

use std::path::PathBuf;

use config::Value;
use serde::Serialize;

pub use address::{ListenAddress, Network};
pub use balance::{BalanceFactor, FirstSettings, HashSettings, RequestRate};
pub use error_pages::ErrorPage;
pub use health::{
    CheckCount, ExpectedStatuses, HealthSettings, ProbeHost, ProbeKind, ProbeMethod, ProbePath,
};
pub use layers::{Flags, Layers};
pub use listener::ListenerSettings;
pub use load::{AgentPort, FieldName, JsonPointer, LoadSettings, LoadUnit, ReportSource};
pub use log::{LogSettings, LoggedHeader};
pub use names::{
    BackendId, CookieDomain, CookieName, CorsMethod, CorsOrigin, HealthPathSetting, HostPattern, HttpToken,
    PathPrefix, PoolName,
};
pub use pool::{BackendSettings, CorsSettings, PinSettings, PoolSettings, SplitShare};
pub use probe_http::{ExpectedBody, ProbeHeaders};
pub use reader::SettingsError;
pub use tls::{CertificateSettings, TlsSettings};
pub use url::{BackendUrl, WeightedUrl};
pub use values::{
    ByteSize, ForwardingHeader, Fraction, HeaderCount, HumanDuration, LogFormat, LogLevel, ProbeCount,
    RedirectStatus, SameSite, Secret, SecureAttribute, SettingValue, WorkerCount,
};

use crate::certificates::Files;
use address::AdminListenAddress;
use names::AdminHost;
use reader::{KnownKey, ReadContext, Section};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Settings {
    /// The traffic listeners and who serves them.
    pub server: ServerSettings,
    /// The listener for the operator.
    pub admin: AdminSettings,
    /// Log and access log.
    pub log: LogSettings,
    /// The pools, in order of their names.
    #[serde(serialize_with = "pool::as_table")]
    pub pools: Vec<PoolSettings>,
}

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

/// `[admin]`: the listener for the operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdminSettings {
    /// Its address.
    pub listen: ListenAddress,
    /// What a change must show as a bearer token; none: changes on loopback alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds it, instead of `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What a backend must show as a bearer token to push its load; none: pushes on loopback alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_token: Option<Secret>,
    /// A file that holds it, instead of `load_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_token_file: Option<PathBuf>,
    /// The values of `Host` with which the API accepts requests, besides addresses and `localhost`.
    pub allowed_hosts: Vec<HostPattern>,
    /// The file that keeps operator overrides over a restart; none: they end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
}

/// Settings and what to tell the operator about them.
#[derive(Clone, Debug)]
pub struct LoadedSettings {
    /// The settings.
    pub settings: Settings,
    /// What is allowed but looks like a mistake, a line each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Merges the layers, reads them and applies every rule.
    ///
    /// # Errors
    /// Every problem there is, in order of the keys.
    pub fn load(layers: &Layers) -> Result<LoadedSettings, Vec<SettingsError>> {
        Self::load_listing(layers, &mut Vec::new())
    }

    /// The same, and adds to `files` every file that must change for the outcome to change. Those of certificates are among
    /// them only if there are problems: else they are published apart.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_listing(
        layers: &Layers,
        files: &mut Vec<PathBuf>,
    ) -> Result<LoadedSettings, Vec<SettingsError>> {
        let merged = layers.merge().inspect_err(|_| files.extend_from_slice(&layers.files))?;
        let context = ReadContext::new(layers);
        let settings = read(Section::root(merged, &context));
        let mut warnings = variables::unread(&layers.environment);
        warnings.extend(rules::check(&settings, &context));
        files.extend(context.files());
        match context.into_problems() {
            problems if problems.is_empty() => Ok(LoadedSettings { settings, warnings }),
            problems => {
                files.extend(settings.server.tls.files().flat_map(|Files { cert, key }| [cert, key]));
                Err(problems)
            }
        }
    }

    /// Only where the admin listener is: `healthcheck` must work whatever else is wrong.
    ///
    /// # Errors
    /// What is wrong with the layers or with that one key.
    pub fn load_admin(layers: &Layers) -> Result<AdminSettings, Vec<SettingsError>> {
        let merged = layers.merge()?;
        let context = ReadContext::new(layers);
        let mut root = Section::root(merged, &context);
        let admin = AdminSettings::read(root.section_or_empty("admin"));
        match context.into_problems() {
            problems if problems.is_empty() => Ok(admin),
            problems => Err(problems),
        }
    }
}

/// Returns every key, in the order in which sections are read; the keys of a pool are below `pools.{pool}`.
fn known_keys(pool: &str) -> Vec<KnownKey> {
    let table = |keys: &[&str], value: fn() -> Value| {
        let entries = keys.iter().map(|key| ((*key).to_owned(), value()));
        Value::from(entries.collect::<config::Map<_, _>>())
    };
    let empty = || Value::from(config::Map::<String, Value>::new());
    // These sections of a pool are read only if they are there.
    let keys = table(&["pin", "load", "cors", "split"], empty);
    let pools = Value::from(config::Map::from_iter([("name".to_owned(), keys)]));
    let context = ReadContext::default();
    read(Section::root(Value::from(config::Map::from_iter([("pools".to_owned(), pools)])), &context));
    let mut known = context.known_keys();
    for key in &mut known {
        key.path = key.path.replacen("pools.name.", &format!("pools.{pool}."), 1);
    }
    known
}

fn read(mut root: Section<'_>) -> Settings {
    let server = ServerSettings::read(root.section_or_empty("server"));
    let admin = AdminSettings::read(root.section_or_empty("admin"));
    let log = LogSettings::read(root.section_or_empty("log"));
    let pools = pool::read_all(root.section_or_empty("pools"));
    root.finish();
    Settings { server, admin, log, pools }
}

// === impl Server ===

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
    fn listeners(&self) -> [(&'static str, &[ListenerSettings]); 3] {
        [
            ("server.listen", &self.listen),
            ("server.tls.listen", &self.tls.listen),
            ("server.tls.redirect_listen", &self.tls.redirect_listen),
        ]
    }

    /// The address of each, with the key that asks for it.
    fn addresses(&self) -> impl Iterator<Item = (&'static str, &ListenAddress)> {
        let lists = self.listeners().into_iter();
        lists.flat_map(|(key, list)| list.iter().map(move |listener| (key, &listener.address)))
    }

    fn read(mut section: Section<'_>) -> Self {
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

// === impl Limits ===

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

// === impl Admin ===

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: ListenAddress((std::net::Ipv4Addr::LOCALHOST, 9090).into()),
            token: None,
            token_file: None,
            load_token: None,
            load_token_file: None,
            allowed_hosts: Vec::new(),
            state_file: None,
        }
    }
}

impl AdminSettings {
    fn read(mut section: Section<'_>) -> Self {
        let token = section.optional("token").into_iter().collect();
        let (tokens, token_file) = pool::or_from_file(&mut section, "token", token, "token_file");
        let load_token = section.optional("load_token").into_iter().collect();
        let (load_tokens, load_token_file) =
            pool::or_from_file(&mut section, "load_token", load_token, "load_token_file");
        for (key, tokens) in [("token_file", &tokens), ("load_token_file", &load_tokens)] {
            if tokens.len() > 1 {
                section.context().problem(
                    &section.key(key),
                    "got a file of several lines, takes one with the token alone",
                );
            }
        }
        let hosts = section.list("allowed_hosts").unwrap_or_default();
        let admin = Self {
            listen: section
                .optional("listen")
                .map_or(Self::default().listen, |AdminListenAddress(listen)| listen),
            token: tokens.into_iter().next(),
            token_file,
            load_token: load_tokens.into_iter().next(),
            load_token_file,
            allowed_hosts: hosts.into_iter().map(|AdminHost(host)| host).collect(),
            state_file: section.path("state_file"),
        };
        section.finish();
        admin
    }
}

/// The known name that `got` was most likely meant to be.
fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let got = got.to_ascii_lowercase();
    known
        .map(|name| (strsim::jaro_winkler(&got, name), name))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
