//! Names to addresses, without the C library: the binary is static, and a look-up must not block.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver as Hickory, TokioResolver};

/// How long the last good addresses of a name stand in while no server answers for it.
const STALE: Duration = Duration::from_secs(600);

/// Resolves names by `/etc/hosts`, then by the servers of `/etc/resolv.conf`, and keeps answers for as long as they
/// say.
pub(super) struct Resolver {
    hickory: TokioResolver,
    last_good: RefCell<HashMap<String, (Vec<IpAddr>, Instant)>>,
}

impl Resolver {
    /// # Errors
    /// What keeps the resolver from being made at all.
    pub(super) fn new() -> io::Result<Self> {
        // A container may have no resolv.conf: names in /etc/hosts are found all the same.
        let builder = Hickory::builder_tokio().unwrap_or_else(|error| {
            tracing::info!(%error, "no /etc/resolv.conf that can be read: names are looked up in /etc/hosts alone");
            Hickory::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let mut builder = builder;
        builder.options_mut().use_hosts_file = ResolveHosts::Always;
        let hickory = builder.build().map_err(io::Error::other)?;
        Ok(Self { hickory, last_good: RefCell::default() })
    }

    /// The addresses of a host, which may be one itself (an IPv6 one in brackets). Where some were good lately, a
    /// name server has half of `patience` to say otherwise.
    ///
    /// # Errors
    /// Why there is none, where none was found lately either.
    pub(super) async fn resolve(&self, host: &str, patience: Duration) -> Result<Vec<IpAddr>, String> {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![ip]);
        }
        let stale = self.last_good.borrow().get(host).filter(|(_, at)| at.elapsed() < STALE).cloned();
        let patience = if stale.is_some() { patience / 2 } else { patience };
        let found = match tokio::time::timeout(patience, self.hickory.lookup_ip(host)).await {
            Ok(Ok(found)) => Ok(found.iter().collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no name server answers".to_owned()),
        };
        match (found, stale) {
            (Ok(addresses), _) if !addresses.is_empty() => {
                let good = (addresses.clone(), Instant::now());
                self.last_good.borrow_mut().insert(host.to_owned(), good);
                Ok(addresses)
            }
            (_, Some((addresses, _))) => Ok(addresses),
            (failed, None) => Err(failed.err().unwrap_or_else(|| "the name has no address".to_owned())),
        }
    }
}
