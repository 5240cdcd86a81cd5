//! Values that are addresses: to listen on, and of networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::values::{SettingValue, serialize_as_string};

serialize_as_string!(ListenAddress, Network);

/// An address to listen on; port 0 takes any free port. A port alone, `8080` or `:8080`, is all addresses of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress(pub SocketAddr);

impl SettingValue for ListenAddress {
    fn parse(text: &str) -> Result<Self, String> {
        parse_listen(text, Ipv6Addr::UNSPECIFIED.into())
    }
}

/// The same for the admin listener, where a port alone is that port of 127.0.0.1: it must not become public by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdminListenAddress(pub(super) ListenAddress);

impl SettingValue for AdminListenAddress {
    fn parse(text: &str) -> Result<Self, String> {
        parse_listen(text, Ipv4Addr::LOCALHOST.into()).map(Self)
    }
}

/// Parses an address whose IP address may be left out.
fn parse_listen(text: &str, default: IpAddr) -> Result<ListenAddress, String> {
    const TAKES: &str =
        "an IP address and a port, such as \"[::]:8080\" or \"127.0.0.1:8080\", or a port alone";
    let port = text.strip_prefix(':').unwrap_or(text);
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    if let Some(address) = port.map(|port| SocketAddr::new(default, port)).or_else(|| text.parse().ok()) {
        return Ok(ListenAddress(address));
    }
    Err(match (bracketed(text), text.rsplit_once(':')) {
        (Some(bracketed), _) => format!("{TAKES}: IPv6 addresses need brackets: \"{bracketed}\""),
        (None, Some(("localhost", port))) => format!("{TAKES}, and no name: \"127.0.0.1:{port}\""),
        _ => TAKES.to_owned(),
    })
}

/// Returns an IPv6 address without brackets, with or without a port, as it is written with them.
pub(super) fn bracketed(text: &str) -> Option<String> {
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let split = text.rsplit_once(':');
    let with_port = split.filter(|(address, port)| port.parse::<u16>().is_ok() && is_address(address));
    match with_port {
        Some((address, port)) => Some(format!("[{address}]:{port}")),
        // "::8080" is an address too, but hardly meant as one.
        None if text.strip_prefix("::").is_some_and(|port| port.len() > 1 && port.parse::<u16>().is_ok()) => {
            Some(format!("[::]:{}", &text[2..]))
        }
        None => is_address(text).then(|| format!("[{text}]")),
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network, or an address that stands for itself alone. Without bits beyond its prefix, and IPv4 is never written as
/// IPv6, because the addresses of clients are not either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl SettingValue for Network {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str = "a network or an address, such as \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.1\"";
        // Not by `IpNet`, which reads "010.0.0.0" as 10.0.0.0.
        let network = match text.split_once('/') {
            Some((address, prefix)) => address
                .parse()
                .ok()
                .zip(prefix.parse().ok())
                .and_then(|(address, prefix)| IpNet::new(address, prefix).ok()),
            None => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
        let network = network.ok_or(TAKES)?;
        let mapped = match network {
            IpNet::V6(v6) => v6.addr().to_ipv4_mapped().map(|address| (address, v6.prefix_len())),
            IpNet::V4(_) => None,
        };
        let Some((address, prefix)) = mapped else { return Ok(Self(network.trunc())) };
        let as_v4 = prefix.checked_sub(96).and_then(|prefix| IpNet::new(address.into(), prefix).ok());
        as_v4.map(|network| Self(network.trunc())).ok_or_else(|| {
            format!("{TAKES}: IPv4 clients are matched by IPv4 networks, and all of them by \"0.0.0.0/0\"")
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
