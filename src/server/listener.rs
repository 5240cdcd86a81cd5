//! Binding: one socket per worker on each address, and nobody else on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How many connections may wait to be accepted. tokio's own listeners take 128; the kernel cuts this to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long a peer that acknowledges nothing holds a socket: hyper has no write timeout, so it is this that
/// ends a client that does not read.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// After how long a silent peer is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the real port where 0 was asked for.
    pub address: SocketAddr,
    /// Its sockets.
    pub sockets: Vec<TcpListener>,
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
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Bound> {
    let first = match open(address, false) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            tracing::warn!(%address, "no IPv6 on this machine; listening on IPv4 alone");
            return bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()).into(), count);
        }
        opened => opened?,
    };
    let address = first.local_addr()?;
    SockRef::from(&first).set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, true)?);
    }
    Ok(Bound { address, sockets })
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Opens one listening socket. What is set here holds for every connection accepted from it, so that accepting
/// costs no further calls.
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
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_alone() {
        let ours = bind((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        assert_eq!(ours.sockets.len(), 2);
        assert_eq!(bind(ours.address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let address = ours.address;
        drop(ours);
        assert!(bind(address, 2).is_ok());
    }
}
