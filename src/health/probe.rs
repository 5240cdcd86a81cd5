//! One probe: a new connection, at most one request, and what came of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::resolver::Resolver;
use super::tls;
use crate::descriptors;
use crate::estimate::Claim;
use crate::keeper::Target;
use crate::load::{self, Refused};
use crate::metrics::Probe;
use crate::settings::{self, LoadSource, ProbeKind};

/// The longest answer to a probe, head and body each.
const MAX_ANSWER: usize = 64 << 10;
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("signpost/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// The field that asks for ORCA's header: some servers write it for nobody else.
const FORMAT: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");

/// The most that is read of one connection, whatever it is: interim answers and the lengths of chunks are without end
/// too.
const MAX_BYTES: u64 = 256 << 10;

/// What an answer says of the backend's load; `None` where it is not asked.
pub(super) type Heard = Option<Result<Claim, Refused>>;

/// What probes share.
pub(super) struct Tools {
    resolver: Resolver,
    tls: RefCell<HashMap<Trusted, Arc<ClientConfig>>>,
}

/// Which certificates are taken: `verify` and `ca_file` of the settings.
type Trusted = (bool, Option<PathBuf>);

/// Why a probe failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) result: Probe,
    /// For the log.
    pub(super) reason: String,
    /// Whether it is our own lack, which says nothing of the backend.
    pub(super) is_ours: bool,
}

fn failure(result: Probe, reason: impl ToString) -> Failure {
    Failure { result, reason: reason.to_string(), is_ours: false }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Tools {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { resolver, tls: RefCell::default() }
    }

    /// Forgets certificates, so that files are read again.
    pub(super) fn forget(&self) {
        self.tls.borrow_mut().clear();
    }

    /// Probes once. The caller bounds the time.
    ///
    /// # Errors
    /// Why the backend is not well.
    pub(super) async fn probe(&self, target: &Target) -> Result<Heard, Failure> {
        let stream = self.connect(target).await?;
        match target.health.kind {
            ProbeKind::Http => ask(stream, target).await,
            ProbeKind::Tcp | ProbeKind::None => Ok(None),
        }
    }

    /// A connection to a port of the host that is probed. The caller bounds the time.
    pub(super) async fn connect_to(&self, target: &Target, port: u16) -> Result<TcpStream, Failure> {
        let patience = target.health.timeout.0;
        let addresses = self.resolver.resolve(target.url.host_as_written(), patience).await;
        let addresses = addresses.map_err(|error| {
            let is_ours = error.is_local();
            Failure { is_ours, ..failure(Probe::Dns, error) }
        })?;
        connect_one(&addresses, port, patience).await
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, Failure> {
        let host = target.url.host();
        let socket = self.connect_to(target, target.url.port()).await?;
        if !target.url.is_https() {
            return Ok(Box::new(socket));
        }
        let config = self.tls_config(&target.health)?;
        let name = target.health.host.as_ref().map_or(host.as_str(), |host| without_port(host.as_str()));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned()).map_err(|error| failure(Probe::Tls, error))?;
        let session = TlsConnector::from(config).connect(name, socket).await;
        Ok(Box::new(session.map_err(|error| failure(Probe::Tls, error))?))
    }

    fn tls_config(&self, health: &settings::Health) -> Result<Arc<ClientConfig>, Failure> {
        let key = (health.verify, health.ca_file.clone());
        let mut known = self.tls.borrow_mut();
        if let Some(config) = known.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = tls::client(health).map_err(|error| failure(Probe::Tls, error))?;
        known.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// The first address that takes the connection. Where there are several, none may use up the time of the others.
async fn connect_one(addresses: &[IpAddr], port: u16, patience: Duration) -> Result<TcpStream, Failure> {
    let mut last = failure(Probe::Dns, "the name has no address");
    let share = patience / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for &address in addresses {
        let connected = tokio::time::timeout(share, TcpStream::connect((address, port))).await;
        last = match connected {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => {
                let is_ours = descriptors::are_out(&error);
                Failure { is_ours, ..failure(Probe::Connect, format!("{address} port {port}: {error}")) }
            }
            Err(_) => failure(Probe::Timeout, format!("{address} port {port}: no answer")),
        };
    }
    Err(last)
}

fn without_port(host: &str) -> &str {
    match host.rfind(']') {
        Some(bracket) => &host[..=bracket],
        None => host.split(':').next().unwrap_or(host),
    }
}

/// Sends the request and reads the answer to its end, or to a bound.
async fn ask(stream: Box<dyn Stream>, target: &Target) -> Result<Heard, Failure> {
    let protocol = |error: hyper::Error| failure(Probe::Protocol, error);
    let (reader, writer) = split(stream);
    let stream = TokioIo::new(join(reader.take(MAX_BYTES), writer));
    let handshake = http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(stream);
    let (mut sender, connection) = handshake.await.map_err(protocol)?;
    let answer = async {
        let response = sender.send_request(request(target)?).await.map_err(protocol)?;
        judge(&response, target)?;
        let (head, body) = response.into_parts();
        let wanted = target.load.as_ref().is_some_and(|load| load.source == LoadSource::ProbeJson);
        let body = read_body(body, wanted).await?;
        Ok(heard(&head.headers, &body, target))
    };
    tokio::select! {
        answer = answer => answer,
        // How the connection ends says nothing: where an answer is lacking, the request says so itself.
        never = async { let _ = connection.await; std::future::pending().await } => never,
    }
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, Failure> {
    let health = &target.health;
    let host = health.host.as_ref().map_or(target.url.authority(), |host| host.as_str());
    let mut request = Request::builder()
        .method(health.method.0.clone())
        .uri(path(target))
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if target.load.as_ref().is_some_and(|load| load.source == LoadSource::ProbeHeader) {
        request = request.header(FORMAT, "TEXT");
    }
    request.body(Empty::new()).map_err(|error| failure(Probe::Protocol, error))
}

/// What is asked for: the path of the settings, unless the probed URL has one of its own.
fn path(target: &Target) -> &str {
    let url = &target.url;
    if url.has_path() { url.path() } else { target.health.path.as_str() }
}

fn judge(response: &Response<Incoming>, target: &Target) -> Result<(), Failure> {
    let status = response.status();
    if !target.health.expect.contains(status) {
        return Err(failure(Probe::Status, format!("answered {status}, expected {}", target.health.expect)));
    }
    // No redirect is followed; one that leads to where it came from leads every visitor in circles.
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    if status.is_redirection() && location.is_some_and(|location| is_here(location, target)) {
        return Err(failure(Probe::Status, format!("answered {status} to itself")));
    }
    Ok(())
}

/// Whether a `Location` is what was just asked for.
fn is_here(location: &str, target: &Target) -> bool {
    let path = path(target);
    let absolute = format!("{}{path}", target.url.origin());
    location == path || location == absolute || path == "/" && location == target.url.origin()
}

/// Reads to the end of the body: a backend that stops halfway is not well. What is over the bound is a failure too:
/// reading it each time would cost both sides more than a probe should. What is returned is the body where it is
/// `wanted`, and else nothing.
async fn read_body(mut body: Incoming, wanted: bool) -> Result<Vec<u8>, Failure> {
    let mut left = MAX_ANSWER;
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(Probe::Protocol, error))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        left = left.checked_sub(data.len()).ok_or_else(|| {
            failure(Probe::Protocol, format!("the body is longer than {} KiB", MAX_ANSWER >> 10))
        })?;
        if wanted {
            read.extend_from_slice(data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(read)
}

/// What the answer of a backend that is well says of its load, where the settings look for it there.
fn heard(headers: &HeaderMap, body: &[u8], target: &Target) -> Heard {
    let settings = target.load.as_deref()?;
    match settings.source {
        LoadSource::ProbeHeader => Some(match headers.get(&settings.header.0) {
            Some(value) => load::header(value.as_bytes(), settings.unit),
            None => Err(Refused::Missing),
        }),
        LoadSource::ProbeJson => Some(load::body(body, &settings.field, settings.unit)),
        LoadSource::Agent | LoadSource::Push => None,
    }
}
