//! `signpost healthcheck`: asks a running one whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The whole check takes no longer; a container's own limit is 30 s unless set.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks `/readyz` on the admin listener at `address`, where a wildcard stands for loopback.
///
/// # Errors
/// Why the answer is no.
pub async fn healthcheck(address: SocketAddr) -> Result<(), String> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    match tokio::time::timeout(TIMEOUT, ask(address)).await {
        Ok(Ok((200, _))) => Ok(()),
        Ok(Ok((status, text))) => Err(format!("{address} answered {status}: {}", text.trim())),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address} did not answer within {TIMEOUT:?}")),
    }
}

async fn ask(address: SocketAddr) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::get("/readyz").header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 4096).collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        answer = answer => answer,
        // The connection may end as soon as the answer is in; then the answer is polled once more.
        end = async { connection.await?; std::future::pending::<Result<(), hyper::Error>>().await } => {
            end?;
            Err("closed the connection".into())
        }
    }
}
