//! `/etc/hosts` and `/etc/resolv.conf`: their contents, read again when they change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use resolv_conf::{Config, ScopedIp};
use xxhash_rust::xxh3::xxh3_64;

/// Both files as they were read last.
pub(super) struct SystemFiles {
    hosts: File<Hosts>,
    resolv_conf: File<ResolvConf>,
}

/// A file and what was read from it.
struct File<T> {
    path: &'static str,
    /// A hash of the contents. Times and inodes are not compared: a file that is replaced, edited in place or mounted
    /// looks the same this way.
    digest: Option<u64>,
    value: Arc<T>,
}

impl SystemFiles {
    /// Before the first reading: no hosts, and the name server that `resolv.conf` implies if it names none.
    pub(super) fn unread() -> Self {
        Self {
            hosts: File { path: "/etc/hosts", digest: None, value: Arc::default() },
            resolv_conf: File { path: "/etc/resolv.conf", digest: None, value: Arc::default() },
        }
    }

    /// Reads both files again. Blocks on the disk.
    pub(super) fn read(&self) -> Self {
        Self { hosts: self.hosts.read(Hosts::parse), resolv_conf: self.resolv_conf.read(ResolvConf::parse) }
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts.value
    }

    pub(super) fn resolv_conf(&self) -> &Arc<ResolvConf> {
        &self.resolv_conf.value
    }
}

impl<T> File<T> {
    /// Keeps the last contents while the file is missing or cannot be read: whoever replaces it may remove it first.
    fn read(&self, parse: impl FnOnce(&[u8]) -> T) -> Self {
        let contents = std::fs::read(self.path).ok();
        let digest = contents.as_deref().map(xxh3_64);
        match contents {
            Some(contents) if digest != self.digest => {
                if self.digest.is_some() {
                    tracing::info!(path = self.path, "system file changed");
                }
                Self { path: self.path, digest, value: Arc::new(parse(&contents)) }
            }
            _ => Self { path: self.path, digest: self.digest, value: Arc::clone(&self.value) },
        }
    }
}

/// The addresses of each name in `/etc/hosts`, in the order of the file. Names are lower-cased.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Ignores lines that do not begin with an address, as the C library does.
    fn parse(contents: &[u8]) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in contents.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else { continue };
            for name in words {
                let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Self(hosts)
    }

    /// The addresses of a name in lower case, without a trailing dot.
    pub(super) fn get(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

/// Which name servers are queried, and how. See resolv.conf(5).
#[derive(Debug)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<NameServer>,
    search: Vec<Name>,
    ndots: usize,
    /// How long a name server may take to answer one query.
    pub(super) timeout: Duration,
    /// How often a query is sent to each name server. At least 1.
    pub(super) attempts: usize,
    /// Whether each query begins with the next name server.
    pub(super) rotate: bool,
    /// Whether queries are sent over TCP only.
    pub(super) tcp_only: bool,
    /// Whether IPv6 addresses are queried.
    pub(super) ipv6: bool,
}

/// The address of a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServer {
    pub(super) ip: IpAddr,
    /// The interface of a link-local address: `eth0` of `fe80::1%eth0`.
    pub(super) interface: Option<String>,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self::parse(b"")
    }
}

impl ResolvConf {
    /// Ignores lines that cannot be read. A file that names no server implies one on this machine, as resolv.conf(5)
    /// says. Bounds are those of the C library.
    fn parse(contents: &[u8]) -> Self {
        let (config, errors) = Config::parse_with_errors(contents);
        for error in errors {
            tracing::debug!(%error, "line of /etc/resolv.conf ignored");
        }
        let search = config.get_last_search_or_domain();
        let search = search.filter_map(|domain| {
            let mut name = Name::from_ascii(domain.to_ascii_lowercase()).ok()?;
            name.set_fqdn(true);
            Some(name)
        });
        let search = search.collect();
        let server = |ip: &ScopedIp| match ip.clone() {
            ScopedIp::V4(ip) => NameServer { ip: ip.into(), interface: None },
            ScopedIp::V6(ip, interface) => NameServer { ip: ip.into(), interface },
        };
        let mut servers: Vec<_> = config.nameservers.iter().map(server).collect();
        if servers.is_empty() {
            servers.push(NameServer { ip: Ipv4Addr::LOCALHOST.into(), interface: None });
        }
        Self {
            servers,
            search,
            ndots: config.ndots.min(15) as usize,
            timeout: Duration::from_secs(config.timeout.clamp(1, 30).into()),
            attempts: config.attempts.clamp(1, 5) as usize,
            rotate: config.rotate,
            tcp_only: config.use_vc,
            ipv6: !config.no_aaaa,
        }
    }

    /// The names that a host may stand for, in the order in which they are tried: itself, and itself within each search
    /// domain. A host with a trailing dot stands for itself only.
    ///
    /// # Errors
    /// The host is not a domain name.
    pub(super) fn candidates(&self, host: &str) -> Result<Vec<Name>, NotAName> {
        let mut name = Name::from_ascii(host).map_err(|_| NotAName)?;
        if name.iter().len() == 0 {
            return Err(NotAName);
        }
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let mut candidates = Vec::new();
        for domain in &self.search {
            // A name that would be too long does not exist.
            candidates.extend(name.clone().append_domain(domain).ok());
        }
        name.set_fqdn(true);
        candidates.retain(|candidate| *candidate != name);
        let place = if dots >= self.ndots { 0 } else { candidates.len() };
        candidates.insert(place, name);
        candidates.iter_mut().for_each(|candidate| candidate.set_fqdn(true));
        Ok(candidates)
    }
}

/// A host that is not a domain name.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotAName;

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(resolv_conf: &str, host: &str) -> Vec<String> {
        let candidates = ResolvConf::parse(resolv_conf.as_bytes()).candidates(host).unwrap();
        candidates.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn hosts_file_collects_all_addresses_of_a_name() {
        let hosts = "\u{feff}# comment\n127.0.0.1 localhost\r\n::1\tLOCALHOST ip6-localhost # comment\n\
                     not-an-address x\n10.0.0.1\n10.0.0.1 db db.lan.\n10.0.0.2 db\n10.0.0.1 db\nfe80::1%lo x";
        let hosts = Hosts::parse(hosts.as_bytes());
        let get = |name| hosts.get(name).map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(get("localhost").unwrap(), ["127.0.0.1", "::1"]);
        assert_eq!(get("db").unwrap(), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(get("db.lan").unwrap(), ["10.0.0.1"]);
        assert_eq!(get("x"), None);
        assert!(
            Hosts::parse(b"\xff\xfe\n10.0.0.1 after-bytes-that-are-not-text")
                .get("after-bytes-that-are-not-text")
                .is_some()
        );
    }

    #[test]
    fn search_domains_are_tried_by_ndots() {
        let conf = "search a.lan B.lan.\noptions ndots:2";
        assert_eq!(candidates(conf, "db"), ["db.a.lan.", "db.b.lan.", "db."]);
        assert_eq!(candidates(conf, "db.x"), ["db.x.a.lan.", "db.x.b.lan.", "db.x."]);
        assert_eq!(candidates(conf, "db.x.y"), ["db.x.y.", "db.x.y.a.lan.", "db.x.y.b.lan."]);
        assert_eq!(candidates(conf, "db."), ["db."]);
        assert_eq!(candidates("", "db"), ["db."]);
        assert_eq!(candidates("search .", "db"), ["db."]);
        assert_eq!(candidates("domain a.lan", "my_db"), ["my_db.a.lan.", "my_db."]);
        assert_eq!(candidates("search ..", "db"), ["db."]);
    }

    #[test]
    fn hosts_that_are_no_names_are_errors() {
        for host in ["", ".", "a..b", &"x".repeat(64), &"x.".repeat(128)] {
            assert!(ResolvConf::default().candidates(host).is_err(), "{host}");
        }
    }

    #[test]
    fn unreadable_lines_keep_the_others() {
        let conf = "# only\nnameserver\nnameserver nonsense\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch a b\n\
                    options timeout:0 attempts:99 rotate edns0 nonsense ndots:99 use-vc no-aaaa";
        let conf = ResolvConf::parse(conf.as_bytes());
        let servers = [("10.0.0.53", None), ("fe80::1", Some("eth0"))].map(|(ip, interface)| NameServer {
            ip: ip.parse().unwrap(),
            interface: interface.map(str::to_owned),
        });
        assert_eq!(conf.servers, servers);
        assert_eq!((conf.timeout, conf.attempts, conf.ndots), (Duration::from_secs(1), 5, 15));
        assert!(conf.rotate && conf.tcp_only && !conf.ipv6);
        for conf in ["", "# nothing\n; nothing", "nameserver nonsense", "\u{0}"] {
            let servers = ResolvConf::parse(conf.as_bytes()).servers;
            assert_eq!(servers[0].ip, Ipv4Addr::LOCALHOST, "{conf}");
        }
    }
}
