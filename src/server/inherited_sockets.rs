//! Listening sockets that somebody else bound, and which setting gets which.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use super::BindError;
use super::listener::{BoundListener, HandedOver, ListenerKind, adopt};

/// Sockets from systemd or from a running instance. Nothing where neither gave any.
#[derive(Debug, Default)]
pub struct Inherited {
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    /// What it is for; `None`: whatever its address says.
    kind: Option<ListenerKind>,
    address: SocketAddr,
    /// The address of the setting that it served until now, where that is known.
    setting: Option<SocketAddr>,
    sockets: Vec<TcpListener>,
    from: SocketSource,
}

/// Who bound a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketSource {
    /// The instance that is replaced. What its successor leaves, it empties and closes itself.
    Predecessor,
    /// systemd, which holds it for as long as its unit is up: visitors would wait in its queue for nobody.
    Systemd,
}

impl Inherited {
    /// Adds a socket of the running instance, and the address of the setting that led to it, where that is known.
    ///
    /// # Errors
    /// It does not listen on that address.
    pub fn add_from_predecessor(
        &mut self,
        kind: ListenerKind,
        address: SocketAddr,
        setting: Option<SocketAddr>,
        socket: TcpListener,
    ) -> io::Result<()> {
        let real = adopt(&socket)?;
        if real != address {
            let text = format!("a socket said to be on {address} is on {real}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match self.items.iter_mut().find(|item| (item.kind, item.address) == (Some(kind), address)) {
            Some(item) => item.sockets.push(socket),
            None => {
                let from = SocketSource::Predecessor;
                let (kind, sockets) = (Some(kind), vec![socket]);
                self.items.push(Item { kind, address, setting, sockets, from });
            }
        }
        Ok(())
    }

    /// Adds the sockets of an address that this process has served until now.
    pub fn add_own(&mut self, held: BoundListener) {
        let BoundListener { kind, address, setting, is_systemd_s, sockets, .. } = held;
        let from = if is_systemd_s { SocketSource::Systemd } else { SocketSource::Predecessor };
        let (kind, setting) = (Some(kind), Some(setting));
        self.items.push(Item { kind, address, setting, sockets, from });
    }

    /// Adds a socket of systemd, whose name is a kind's or says nothing.
    ///
    /// # Errors
    /// It is not listening.
    pub(super) fn add_from_systemd(&mut self, name: &str, socket: TcpListener) -> io::Result<()> {
        let address = adopt(&socket)?;
        let (kind, from) = (ListenerKind::of_name(name), SocketSource::Systemd);
        let item = Item { kind, address, setting: None, sockets: vec![socket], from };
        self.items.push(item);
        Ok(())
    }

    /// Gives each wanted address its sockets, where there are any. First who names the very address, then the setting that it served until now, then who names
    /// port 0, then for sockets that systemd calls by a kind's name whoever is left of that kind. What nobody
    /// gets is dropped, and is an error where systemd passed it.
    pub(super) fn hand_out(
        mut self,
        wanted: &[(ListenerKind, SocketAddr)],
    ) -> (Vec<Option<BoundListener>>, Vec<BindError>) {
        let mut given: Vec<Option<BoundListener>> = wanted.iter().map(|_| None).collect();
        for fits in [exactly, by_setting, by_port_0, by_name] {
            for ((kind, address), given) in wanted.iter().zip(&mut given) {
                if given.is_some() {
                    continue;
                }
                let fitting = |item: &Item| item.kind.is_none_or(|of| of == *kind) && fits(item, *address);
                if let Some(at) = self.items.iter().position(fitting) {
                    let Item { address: real, setting, sockets, from, .. } = self.items.remove(at);
                    if real.port() != address.port() && setting != Some(*address) {
                        tracing::info!(setting = %address, listener = %real, "an inherited listener is used");
                    }
                    let (kind, setting, passed) = (*kind, *address, HandedOver::default());
                    let is_systemd_s = from == SocketSource::Systemd;
                    *given =
                        Some(BoundListener { kind, address: real, setting, is_systemd_s, sockets, passed });
                }
            }
        }
        let unnamed = self.items.into_iter().filter(|item| item.from == SocketSource::Systemd);
        let unnamed = unnamed.map(|Item { kind, address, .. }| {
            let setting = match kind {
                Some(ListenerKind::Admin) => "admin.listen has one already".to_owned(),
                Some(kind) => format!("each {} has one already", kind.setting()),
                None => "no listener of the settings has that address".to_owned(),
            };
            BindError {
                kind: None,
                address,
                error: io::Error::other(format!("systemd passed a socket for it, but {setting}")),
            }
        });
        (given, unnamed.collect())
    }
}

fn by_setting(item: &Item, wanted: SocketAddr) -> bool {
    item.setting == Some(wanted)
}

fn exactly(item: &Item, wanted: SocketAddr) -> bool {
    item.address.port() == wanted.port() && same_ip(item.address.ip(), wanted.ip())
}

fn by_port_0(item: &Item, wanted: SocketAddr) -> bool {
    item.from == SocketSource::Predecessor && wanted.port() == 0 && same_ip(item.address.ip(), wanted.ip())
}

fn by_name(item: &Item, _: SocketAddr) -> bool {
    item.from == SocketSource::Systemd && item.kind.is_some()
}

/// Whether a setting with `wanted` has led to `real`: without IPv6 `0.0.0.0` stands in for `[::]`.
fn same_ip(real: IpAddr, wanted: IpAddr) -> bool {
    real == wanted || (wanted == Ipv6Addr::UNSPECIFIED && real == Ipv4Addr::UNSPECIFIED)
}
