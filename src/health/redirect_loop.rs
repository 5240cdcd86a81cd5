//! Redirects of a backend that lead back to the dispatcher: browsers go round in circles.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use url::{Host, Url};

use crate::control::ProbeTarget;
use crate::fleet;
use crate::metrics::CountedFleet;

/// The longest target of a redirect that is shown.
const SHOWN: usize = 200;

/// Where clients enter: what a backend must not redirect to.
pub struct EntryPoints {
    /// The published fleet, for its routes.
    pub fleet: Arc<ArcSwap<CountedFleet>>,
    /// Where clients are listened for at present.
    pub listening: Arc<ArcSwap<Listening>>,
}

/// Where clients reach this dispatcher.
#[derive(Debug, Default)]
pub struct Listening {
    /// The addresses of the listeners.
    pub addresses: Vec<SocketAddr>,
    /// The port that clients are redirected to for https, which may be another one than that of the listener.
    pub https_port: Option<u16>,
}

impl EntryPoints {
    /// Where a redirect leads, in words, if that is back to where the client came from: to the URL that was requested,
    /// to a host of the backend's pool, or to this dispatcher's own address, none of which is the `Host` that the settings
    /// have probes send. `path` is what was requested.
    ///
    /// # Trust
    /// `location` comes from the network. It is resolved as browsers do (WHATWG URL), and no name is looked up.
    pub(super) fn leads_back(&self, location: &[u8], target: &ProbeTarget, path: &str) -> Option<String> {
        let requested = Url::parse(&format!("{}{path}", target.url.origin())).ok()?;
        let mut to = requested.join(std::str::from_utf8(location).ok()?).ok()?;
        to.set_fragment(None);
        let is_on_host_sent = is_on_host_sent(&to, &requested, target);
        let what = if to == requested
            || is_on_host_sent
                && to.scheme() == requested.scheme()
                && to.path() == requested.path()
                && to.query() == requested.query()
        {
            "which is what was requested"
        } else if is_on_host_sent || self.is_own_backend(&to, target) {
            return None;
        } else if self.is_own_address(&to) {
            if self.is_other_pool(&to, target) {
                return None;
            }
            "which is an address of this dispatcher"
        } else if self.is_host_of_pool(&to, target) {
            "which leads back to this pool"
        } else {
            return None;
        };
        let shown: String = to.as_str().chars().take(SHOWN).collect();
        Some(format!("{shown}, {what}"))
    }

    /// Whether it leads to a backend of the same pool, as checks or clients reach it.
    fn is_own_backend(&self, to: &Url, target: &ProbeTarget) -> bool {
        let is = |base: &str| {
            let Some((scheme, rest)) = base.split_once("://") else { return false };
            let authority = rest.split('/').next().unwrap_or(rest);
            let Some(host) = fleet::Host::parse(authority.as_bytes()) else { return false };
            let port = host.port.unwrap_or(if scheme == "https" { 443 } else { 80 });
            to.host_str()
                .is_some_and(|name| bare(name).eq_ignore_ascii_case(bare(&authority[..host.name.len()])))
                && to.port_or_known_default().is_some_and(|to| is_same_server(to, port))
        };
        let fleet = self.fleet.load();
        let pool = fleet.pools.iter().find(|pool| *pool.config.name == *target.pool);
        is(target.url.as_str())
            || pool.is_some_and(|pool| pool.config.backends.iter().any(|one| is(&one.base)))
    }

    /// Whether another pool of this dispatcher serves it.
    fn is_other_pool(&self, to: &Url, target: &ProbeTarget) -> bool {
        let fleet = self.fleet.load();
        let found = fleet.route(to.host_str().map(bare).map(str::as_bytes), to.path());
        found.is_ok_and(|pool| *pool.config.name != *target.pool)
    }

    /// Whether a client that follows it is routed to the backend's pool again, by a host that the settings name.
    /// Ports are those that are listened on, and the standard ones: a port mapping in front is usually of these.
    fn is_host_of_pool(&self, to: &Url, target: &ProbeTarget) -> bool {
        let (Some(host), Some(port)) = (to.host_str(), to.port_or_known_default()) else { return false };
        let host = bare(host).as_bytes();
        let fleet = self.fleet.load();
        let listening = self.listening.load();
        let is_served = is_standard(port)
            || listening.https_port == Some(port)
            || listening.addresses.iter().any(|address| address.port() == port);
        is_served
            && fleet.routes.names(host)
            && fleet.route(Some(host), to.path()).is_ok_and(|pool| *pool.config.name == *target.pool)
    }

    /// Whether it is an address that clients are listened for on. A listener on all addresses has those of this machine.
    fn is_own_address(&self, to: &Url) -> bool {
        let ips: &[IpAddr] = match to.host() {
            Some(Host::Ipv4(ip)) => &[ip.into()],
            Some(Host::Ipv6(ip)) => &[IpAddr::from(ip).to_canonical()],
            Some(Host::Domain(name)) if is_localhost(bare(name)) => {
                &[IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)]
            }
            _ => return false,
        };
        let port = to.port_or_known_default();
        self.listening.load().addresses.iter().filter(|address| Some(address.port()) == port).any(|address| {
            let listening = address.ip().to_canonical();
            // A connection to the unspecified address reaches the machine that it comes from.
            ips.iter().any(|ip| match listening.is_unspecified() {
                _ if ip.is_unspecified() => true,
                true => (listening.is_ipv6() || ip.is_ipv4()) && is_local(*ip),
                false => listening == *ip,
            })
        })
    }
}

/// Whether it is on the `Host` that the settings have probes send. Applications build such a URL from the `Host` of the
/// request, and clients send the backend's own: it says nothing of where those are redirected to.
fn is_on_host_sent(to: &Url, requested: &Url, target: &ProbeTarget) -> bool {
    let Some(host) = target.health.host_header() else { return false };
    let Ok(sent) = Url::parse(&format!("{}://{host}", requested.scheme())) else { return false };
    let ports = (to.port_or_known_default(), sent.port_or_known_default());
    let (Some(to_port), Some(sent_port)) = ports else { return false };
    to.host_str().map(bare) == sent.host_str().map(bare)
        && (is_same_server(to_port, sent_port) || Some(to_port) == requested.port_or_known_default())
}

/// Whether both ports are those of one server: from http to https a redirect stays there.
fn is_same_server(one: u16, other: u16) -> bool {
    one == other || is_standard(one) && is_standard(other)
}

/// Whether it is the port of http or https.
fn is_standard(port: u16) -> bool {
    port == 80 || port == 443
}

/// An address can be bound if and only if it is this machine's.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// A host without the dot at its end.
fn bare(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}
