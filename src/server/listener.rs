//! Binding: one socket per worker on each address, and nobody else on it. Sockets that were bound by somebody else
//! (systemd, a running instance) are adopted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::sockopt::{self, TcpOption};
use crate::settings::ServerSettings;
use crate::util::enum_all;

/// How many connections may wait to be accepted. tokio's own listeners take 128; the kernel cuts this to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// What the kernel may keep of answers that a peer does not read: a few of the longest. Left to itself it keeps
/// megabytes for each, which no limit of ours sees.
const SEND_BUFFER: usize = 64 << 10;
/// And of what a peer sends while we are not reading. A body is discarded at this much a round trip.
const RECEIVE_BUFFER: usize = 256 << 10;
/// How long a peer that acknowledges nothing holds a socket: hyper has no write timeout, so it is this that
/// ends a client that does not read.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// After how long a silent peer is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

enum_all! {
    /// What a listening socket is for. Kind and address together say which socket is meant, across processes.
    pub enum ListenerKind {
        /// Visitors, in the clear.
        Http = "http",
        /// Visitors by TLS.
        Https = "https",
        /// Clients in the clear, whose requests are redirected to `https://`.
        RedirectToHttps = "redirect",
        /// The operator.
        Admin = "admin",
    }
}

impl ListenerKind {
    /// Returns the key of the setting that asks for listeners of this kind.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Http => "server.listen",
            Self::Https => "server.tls.listen",
            Self::RedirectToHttps => "server.tls.redirect_listen",
            Self::Admin => "admin.listen",
        }
    }

    /// Returns the flag that stands for that setting, if there is one.
    pub fn flag(self) -> Option<&'static str> {
        match self {
            Self::Http => Some("--listen"),
            Self::Admin => Some("--admin"),
            Self::Https | Self::RedirectToHttps => None,
        }
    }

    /// The kind of a name, where there is one.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a traffic listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP/1.1.
    Http,
    /// TLS, and in it HTTP/2 or HTTP/1.1.
    Tls,
    /// HTTP/1.1, to send visitors to TLS.
    RedirectToHttps,
}

/// The sockets of one address.
#[derive(Debug)]
pub struct BoundListener {
    /// What they are for.
    pub kind: ListenerKind,
    /// The address, with the real port where 0 was asked for.
    pub address: SocketAddr,
    /// The address of the setting that led to it.
    pub setting: SocketAddr,
    /// Whether systemd bound it, and holds it open whatever we do.
    pub is_systemd_s: bool,
    /// Its sockets, at least one, each with a queue of its own.
    pub sockets: Vec<TcpListener>,
    /// Whether a successor has them too.
    pub passed: HandedOver,
}

impl BoundListener {
    /// One more descriptor of each socket, for a successor.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn again(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        let Self { kind, address, setting, is_systemd_s, .. } = *self;
        Ok(Self { kind, address, setting, is_systemd_s, sockets, passed: self.passed.clone() })
    }

    /// Deals the sockets out to workers. With more sockets than workers some get several, for a queue that nobody
    /// accepts from would keep its visitors waiting; with fewer, some share one.
    ///
    /// # Errors
    /// No descriptor was left for a shared one.
    pub fn distribute(self, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let mut sockets = self.sockets;
        let missing = workers.saturating_sub(sockets.len());
        let shared: Vec<_> =
            sockets.iter().cycle().take(missing).map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        sockets.extend(shared);
        let mut hands: Vec<Vec<_>> = std::iter::repeat_with(Vec::new).take(workers.max(1)).collect();
        for (hand, socket) in (0..hands.len()).cycle().zip(sockets) {
            hands[hand].push(socket);
        }
        Ok(hands)
    }
}

impl BoundListener {
    /// Sets the options of connections to come. Sockets that were inherited are still another's, and shared with it:
    /// only to be called once nothing can fail any more.
    pub(crate) fn tune(&self, settings: &ServerSettings) {
        let number = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        for (option, value) in [
            (TcpOption::DeferAccept, number(settings.tcp_defer_accept.0.as_secs())),
            (TcpOption::FastOpen, number(settings.tcp_fast_open.into())),
        ] {
            let set = self.sockets.iter().try_for_each(|socket| sockopt::set(socket, option, value));
            if let (Err(error), true) = (set, value > 0) {
                tracing::warn!(%error, address = %self.address, ?option, "can't be had; serving without it");
            }
        }
        if settings.tcp_fast_open > 0 && !fast_open_is_allowed() {
            tracing::warn!(
                "tcp_fast_open changes nothing: net.ipv4.tcp_fastopen lacks the bit for servers, 2"
            );
        }
    }
}

impl BoundListener {
    /// Has connections come into the accept queues before their clients send something.
    pub(super) fn stop_deferring(&self) {
        for socket in &self.sockets {
            // A kernel that lacks the option has deferred none.
            let _ = sockopt::set(socket, TcpOption::DeferAccept, 0);
        }
    }
}

/// Whether the kernel grants fast open to servers at all (ip-sysctl, `tcp_fastopen`).
fn fast_open_is_allowed() -> bool {
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen");
    // Where it can't be told, nobody is alarmed.
    allowed.ok().and_then(|text| text.trim().parse::<u32>().ok()).is_none_or(|bits| bits & 2 != 0)
}

/// Whether the sockets of an address were passed to a successor. Then their queues are the successor's, and are left
/// alone when we stop. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct HandedOver(Arc<AtomicBool>);

impl HandedOver {
    /// A successor serves them from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether a successor does.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Binds `count` sockets on an address, between which the kernel spreads connections.
///
/// With `SO_REUSEPORT` alone a second instance would bind too, without a word, and take half of the visitors.
/// So the first socket is bound and listens without it, which the kernel grants to one process only, and joins
/// the group afterwards.
///
/// `[::]` takes IPv4 too, and where the machine has no IPv6 `0.0.0.0` stands in for it.
///
/// # Errors
/// Most often that the address is taken.
pub fn bind(kind: ListenerKind, address: SocketAddr, count: usize) -> io::Result<BoundListener> {
    let setting = address;
    let first = match open(address, false) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            tracing::warn!(%address, "no IPv6 on this machine; listening on IPv4 alone");
            return bind(kind, (IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()).into(), count);
        }
        opened => opened?,
    };
    let address = first.local_addr()?;
    SockRef::from(&first).set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, true)?);
    }
    let (is_systemd_s, passed) = (false, HandedOver::default());
    Ok(BoundListener { kind, address, setting, is_systemd_s, sockets, passed })
}

/// Makes a socket that somebody else bound what [`bind`] would have made of it. Its description is shared with them,
/// and so is what is set here.
///
/// # Errors
/// It is not listening, or has no internet address.
pub(super) fn adopt(socket: &TcpListener) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    let socket = SockRef::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not listening"));
    }
    equip(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(address)
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Opens one listening socket.
fn open(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the process before, in TIME_WAIT, must not keep this one from starting.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    equip(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What is set here holds for every connection accepted from the socket, so that accepting costs no further calls.
fn equip(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn an_address_is_ours_alone() {
        let ours = bind(ListenerKind::Http, any(), 2).unwrap();
        assert_eq!(ours.sockets.len(), 2);
        assert_eq!(bind(ListenerKind::Http, ours.address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let address = ours.address;
        drop(ours);
        assert!(bind(ListenerKind::Http, address, 2).is_ok());
    }

    #[test]
    fn every_worker_gets_a_socket_and_every_socket_a_worker() {
        for (sockets, workers, hands) in [
            (1, 1, vec![1]),
            (2, 2, vec![1, 1]),
            (1, 3, vec![1, 1, 1]),
            (3, 2, vec![2, 1]),
            (2, 3, vec![1, 1, 1]),
        ] {
            let dealt = bind(ListenerKind::Http, any(), sockets).unwrap().distribute(workers).unwrap();
            assert_eq!(dealt.iter().map(Vec::len).collect::<Vec<_>>(), hands, "{sockets} to {workers}");
        }
    }
}
