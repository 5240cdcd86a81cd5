//! What HTTP is spoken over.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use super::tcp_stream::Socket;

/// A socket, or TLS on one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether something is sent before FIN: without TLS's `close_notify` the peer could not tell our end from an
    /// attacker's.
    const HAS_CLOSE_NOTIFY: bool;

    /// Returns the socket below.
    fn socket(&mut self) -> &mut Socket;
}

impl Transport for Socket {
    const HAS_CLOSE_NOTIFY: bool = false;

    fn socket(&mut self) -> &mut Socket {
        self
    }
}

impl Transport for Box<TlsStream<Socket>> {
    const HAS_CLOSE_NOTIFY: bool = true;

    fn socket(&mut self) -> &mut Socket {
        self.get_mut().0
    }
}
