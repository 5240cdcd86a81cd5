//! The sockets that queries are sent from: on one interface, if the name server's address is valid on one only.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Tokio's sockets, bound to an interface. The library knows addresses without scope, so the scope of `fe80::1%eth0` is
/// given to the socket instead.
#[derive(Clone)]
pub(super) struct Sockets {
    tokio: TokioRuntimeProvider,
    interface: Option<Arc<str>>,
}

impl Sockets {
    pub(super) fn new(interface: Option<&str>) -> Self {
        Self { tokio: TokioRuntimeProvider::default(), interface: interface.map(Arc::from) }
    }
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let Some(interface) = self.interface.clone() else {
            return self.tokio.connect_tcp(server, from, timeout);
        };
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind_device(Some(interface.as_bytes()))?;
            let connected = socket.connect(server);
            let connected = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, connected).await?,
                None => connected.await,
            };
            Ok(AsyncIoTokioAsStd(connected?))
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<UdpSocket> {
        let opening = self.tokio.bind_udp(local, server);
        let interface = self.interface.clone();
        Box::pin(async move {
            let socket = opening.await?;
            if let Some(interface) = interface {
                SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
            }
            Ok(socket)
        })
    }
}
