//! The PROXY protocol on a socket: the header is taken off, and nothing behind it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::parser::{self as protocol, Header, MAX, Malformed, Parsed};
use crate::dispatch::Worker;
use crate::metrics::Limit;
use crate::request::ClientInfo;
use crate::server::connection_tracker::ConnectionHandle;
use crate::server::tcp_stream::Socket;

/// Why there was no header.
enum HeaderError {
    /// The peer went without a word, as those do who only look whether the port is open.
    Gone,
    /// What came is none, or breaks off.
    Malformed(Malformed),
}

/// Reads the header that a connection begins with, and says where the visitor comes from; `None` where the
/// connection is to be closed, which is counted by then.
///
/// What follows the header stays in the socket. The header may take `header_timeout`, and the first request as long
/// again. Allocates the header's buffer, 4 KiB, for as long as it is read.
pub(in crate::server) async fn read_header(
    socket: &mut Socket,
    peer: IpAddr,
    worker: &Worker,
    header_timeout: Duration,
    handle: &ConnectionHandle,
) -> Option<ClientInfo> {
    let close = |limit, why: &str| {
        worker.counter.limited(limit);
        tracing::debug!(%peer, why, "closed a connection that was to begin with a PROXY header");
        None
    };
    if !worker.trusts(peer) {
        return close(Limit::UntrustedProxy, "the peer is not among server.trusted_proxies");
    }
    tokio::select! {
        header = take(socket) => match header {
            Ok(Header { client, by_tls }) => Some(ClientInfo { address: client.unwrap_or(peer), by_tls }),
            Err(HeaderError::Gone) => None,
            Err(HeaderError::Malformed(Malformed(why))) => close(Limit::ProxyProtocolError, why),
        },
        () = tokio::time::sleep(header_timeout) => close(Limit::ProxyProtocolError, "header_timeout is over"),
        () = handle.drain_wait() => None,
    }
}

/// Takes the header off. It looks at what is there, and takes what is the header's: all of it while the header is
/// not whole, since then it does not end in there.
async fn take(socket: &mut Socket) -> Result<Header, HeaderError> {
    let mut bytes = vec![0; MAX];
    let mut taken = 0;
    loop {
        let there = socket.peek(&mut bytes[taken..]).await?;
        if there == 0 {
            return Err(match taken {
                0 => HeaderError::Gone,
                _ => HeaderError::Malformed(Malformed("it breaks off")),
            });
        }
        let parsed = protocol::parse(&bytes[..taken + there]).map_err(HeaderError::Malformed)?;
        let end = match parsed {
            Parsed::Partly => taken + there,
            Parsed::Whole { length, .. } => length,
        };
        socket.read_exact(&mut bytes[taken..end]).await?;
        taken = end;
        if let Parsed::Whole { header, .. } = parsed {
            return Ok(header);
        }
    }
}

impl From<io::Error> for HeaderError {
    /// The connection is broken.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}
