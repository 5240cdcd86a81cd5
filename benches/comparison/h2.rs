//! HTTP/2 over TLS: connections of our own, and `h2load` for the load.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::load::Tally;
use crate::machine::on_core;
use crate::process::Process;
use crate::response::{PATH, leads_to_a_backend};
use crate::tls::{NAME, OPENSSL_NAMES};

/// Connections of `h2load`, and requests under way on each: as a closed loop of the other rows.
const CONNECTIONS: &str = "16";
const STREAMS: &str = "4";

/// A connection that was answered once, and stays as long as its runtime.
pub struct Connection(
    #[expect(dead_code, reason = "what it holds keeps the connection")] h2::client::SendRequest<bytes::Bytes>,
);

/// Connects, asks once, and holds the answer against what it must be.
pub async fn ask_once(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Connection, String> {
    let socket = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(name, socket)
        .await
        .map_err(|error| error.to_string())?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err("it did not take HTTP/2".to_owned());
    }
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let mut sender = sender.ready().await.map_err(|error| error.to_string())?;
    let request =
        Request::get(format!("https://{NAME}{PATH}")).body(()).map_err(|error| error.to_string())?;
    let (answer, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
    let answer = answer.await.map_err(|error| error.to_string())?;
    let location = answer.headers().get("location").map(|value| value.as_bytes()).unwrap_or_default();
    if answer.status() != 302 || !leads_to_a_backend(location) {
        return Err(format!("{} {}", answer.status(), String::from_utf8_lossy(location)));
    }
    let mut body = answer.into_body();
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| error.to_string())?;
        let _ = body.flow_control().release_capacity(part.len());
    }
    Ok(Connection(sender))
}

/// Puts a load on a server for a time, by `h2load` on a core.
pub fn load(to: SocketAddr, time: Duration, core: usize, directory: &Path) -> Tally {
    let (cipher, group) = OPENSSL_NAMES;
    let log = directory.join("h2load");
    let _ = fs::remove_file(&log);
    let mut command = on_core(core, "h2load");
    command
        .args(["-t", "1", "-c", CONNECTIONS, "-m", STREAMS, "-D", &format!("{}ms", time.as_millis())])
        .args([
            "--tls13-ciphers",
            cipher,
            "--groups",
            group,
            "-H",
            "user-agent: bench/1.0",
            "-H",
            "accept: */*",
        ])
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("https://{to}{PATH}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let mut tally = Tally::default();
    if process.ended(time + Duration::from_secs(20)).is_none_or(|status| !status.success()) {
        tally.failed = 1;
        tally.failure = Some("h2load did not come to its end".to_owned());
    }
    for line in fs::read_to_string(&log).unwrap_or_default().lines() {
        let mut columns = line.split('\t').skip(1);
        let status = columns.next();
        let took: Option<u32> = columns.next().and_then(|microseconds| microseconds.parse().ok());
        match (status, took) {
            (Some("302"), Some(took)) => tally.latencies.push(took.saturating_mul(1000)),
            _ => {
                tally.failed += 1;
                tally.failure.get_or_insert_with(|| format!("h2load: {line}"));
            }
        }
    }
    tally.answers = tally.latencies.len() as u64;
    tally.in_time = tally.answers;
    tally.took = time;
    tally
}
