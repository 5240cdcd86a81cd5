//! One probe: a new connection, at most one request, and what came of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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

use super::redirect_loop::EntryPoints;
use super::resolver::Resolver;
use super::{error_text, tls};
use crate::control::ProbeTarget;
use crate::estimate::RawReport;
use crate::fleet::CheckResult;
use crate::load::{self, Refused};
use crate::os::fd_limit;
use crate::settings::{self, HumanDuration, ProbeKind, ReportSource};

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
pub(super) type ReportedLoad = Option<Result<RawReport, Refused>>;

/// What probes share.
pub(super) struct ProbeClient {
    resolver: Resolver,
    entry: EntryPoints,
    tls: RefCell<HashMap<Trusted, Arc<ClientConfig>>>,
}

/// Which certificates are taken: `verify` and `ca_file` of the settings.
type Trusted = (bool, Option<PathBuf>);

/// A probe that succeeded.
pub(super) struct ProbeSuccess {
    pub(super) heard: ReportedLoad,
    /// How, in words.
    pub(super) detail: String,
}

/// Why a probe failed.
#[derive(Debug)]
pub(super) struct ProbeError {
    pub(super) result: CheckResult,
    /// The same in words, for people.
    pub(super) text: String,
    /// Whether the cause is local, so that it says nothing of the backend.
    pub(super) is_local_error: bool,
}

fn failure(result: CheckResult, text: impl Into<String>) -> ProbeError {
    ProbeError { result, text: text.into(), is_local_error: false }
}

/// What a probe is doing, so that a timeout can say it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Stage {
    #[default]
    Resolve,
    Connect,
    Handshake,
    Response,
    Body,
}

impl Stage {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Resolve => "while resolving the name",
            Self::Connect => "while connecting",
            Self::Handshake => "during the TLS handshake",
            Self::Response => "waiting for the response",
            Self::Body => "reading the response body",
        }
    }
}

trait ProbeStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ProbeStream for T {}

impl ProbeClient {
    pub(super) fn new(resolver: Resolver, entry: EntryPoints) -> Self {
        Self { resolver, entry, tls: RefCell::default() }
    }

    /// Forgets certificates, so that files are read again, and names that no target has.
    pub(super) fn forget(&self, targets: &[Arc<ProbeTarget>]) {
        self.tls.borrow_mut().clear();
        let host = |target: &Arc<ProbeTarget>| target.url.host_as_written().to_ascii_lowercase();
        self.resolver.retain(&targets.iter().map(host).collect());
    }

    /// Probes once, and notes in `stage` how far it is. The caller bounds the time.
    ///
    /// # Errors
    /// Why the backend is not well.
    pub(super) async fn probe(
        &self,
        target: &ProbeTarget,
        stage: &Cell<Stage>,
    ) -> Result<ProbeSuccess, ProbeError> {
        let stream = self.connect(target, stage).await?;
        match target.health.kind {
            ProbeKind::Http => {
                stage.set(Stage::Response);
                self.ask(stream, target, stage).await
            }
            ProbeKind::Tcp | ProbeKind::None => {
                let detail = if target.url.is_https() { "TLS handshake completed" } else { "connected" };
                Ok(ProbeSuccess { heard: None, detail: detail.to_owned() })
            }
        }
    }

    /// A connection to a port of the host that is probed. The caller bounds the time.
    pub(super) async fn connect_to(
        &self,
        target: &ProbeTarget,
        port: u16,
        stage: &Cell<Stage>,
    ) -> Result<TcpStream, ProbeError> {
        let patience = target.health.timeout.0;
        let host = target.url.host_as_written();
        let addresses = self.resolver.resolve(host, patience).await;
        let addresses = addresses.map_err(|error| failure(CheckResult::Dns, error.to_string()))?;
        stage.set(Stage::Connect);
        let attempt = self.resolver.attempt(host);
        let socket = connect_one(&addresses, port, patience).await?;
        attempt.succeed();
        Ok(socket)
    }

    async fn connect(
        &self,
        target: &ProbeTarget,
        stage: &Cell<Stage>,
    ) -> Result<Box<dyn ProbeStream>, ProbeError> {
        let host = target.url.host();
        let socket = self.connect_to(target, target.url.port(), stage).await?;
        if !target.url.is_https() {
            return Ok(Box::new(socket));
        }
        stage.set(Stage::Handshake);
        let config = self.tls_config(&target.health)?;
        let name = target.health.host.as_ref().map_or(host.as_str(), |host| without_port(host.as_str()));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| failure(CheckResult::Tls, error.to_string()))?;
        let session = TlsConnector::from(config).connect(name, socket).await;
        Ok(Box::new(session.map_err(|error| failure(CheckResult::Tls, error_text::handshake(&error)))?))
    }

    fn tls_config(&self, health: &settings::HealthSettings) -> Result<Arc<ClientConfig>, ProbeError> {
        let key = (health.verify, health.ca_file.clone());
        let mut known = self.tls.borrow_mut();
        if let Some(config) = known.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = tls::client(health).map_err(|error| failure(CheckResult::Tls, error))?;
        known.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// The first address that takes the connection. Where there are several, none may use up the time of the others.
async fn connect_one(addresses: &[IpAddr], port: u16, patience: Duration) -> Result<TcpStream, ProbeError> {
    let mut failures: Vec<ProbeError> = Vec::new();
    let share = patience / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for &address in addresses {
        let to = SocketAddr::new(address, port);
        let connected = tokio::time::timeout(share, TcpStream::connect(to)).await;
        failures.push(match connected {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => {
                let is_local_error = fd_limit::are_out(&error);
                let text = format!("{} ({to})", error_text::io(&error));
                ProbeError { is_local_error, ..failure(CheckResult::Connect, text) }
            }
            Err(_) => {
                let text = format!("timed out after {} while connecting ({to})", HumanDuration(share));
                failure(CheckResult::Timeout, text)
            }
        });
    }
    let Some(last) = failures.last() else {
        return Err(failure(CheckResult::Dns, "the name has no address"));
    };
    let (result, is_local_error) = (last.result, last.is_local_error);
    let texts: Vec<_> = failures.into_iter().map(|failure| failure.text).collect();
    Err(ProbeError { result, text: texts.join("; "), is_local_error })
}

fn without_port(host: &str) -> &str {
    match host.rfind(']') {
        Some(bracket) => &host[..=bracket],
        None => host.split(':').next().unwrap_or(host),
    }
}

impl ProbeClient {
    /// Sends the request and reads the answer to its end, or to a bound.
    async fn ask(
        &self,
        stream: Box<dyn ProbeStream>,
        target: &ProbeTarget,
        stage: &Cell<Stage>,
    ) -> Result<ProbeSuccess, ProbeError> {
        let (reader, writer) = split(stream);
        let stream = TokioIo::new(join(reader.take(MAX_BYTES), writer));
        let handshake = http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(stream);
        let (mut sender, connection) = handshake.await.map_err(|error| protocol(&error))?;
        let answer = async {
            let response = sender.send_request(request(target)?).await.map_err(|error| protocol(&error))?;
            self.judge(&response, target)?;
            let detail = format!("answered {}", response.status().as_u16());
            let (head, body) = response.into_parts();
            let expected = target.health.expect_body.as_ref();
            let holds_load = target.load.as_ref().is_some_and(|load| load.source == ReportSource::ProbeJson);
            stage.set(Stage::Body);
            let body = read_body(body, holds_load || expected.is_some()).await?;
            if let Some(expected) = expected.filter(|expected| !expected.matches(&body)) {
                return Err(failure(CheckResult::Body, expected.complaint()));
            }
            Ok(ProbeSuccess { heard: heard(&head.headers, &body, target), detail })
        };
        tokio::select! {
            answer = answer => answer,
            // How the connection ends says nothing: where an answer is lacking, the request says so itself.
            never = async { let _ = connection.await; std::future::pending().await } => never,
        }
    }

    fn judge(&self, response: &Response<Incoming>, target: &ProbeTarget) -> Result<(), ProbeError> {
        let status = response.status();
        // No redirect is followed; one that leads back to here leads every client in circles.
        if status.is_redirection()
            && let Some(location) = response.headers().get(LOCATION)
            && let Some(leads) = self.entry.leads_back(location.as_bytes(), target, path(target))
        {
            return Err(failure(
                CheckResult::RedirectLoop,
                format!("redirect loop: answered {} to {leads}", status.as_u16()),
            ));
        }
        if !target.health.expect.contains(status) {
            return Err(failure(
                CheckResult::Status,
                format!("answered {}, expected {}", status.as_u16(), target.health.expect),
            ));
        }
        Ok(())
    }
}

fn protocol(error: &hyper::Error) -> ProbeError {
    failure(CheckResult::Protocol, error_text::http(error))
}

fn request(target: &ProbeTarget) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let health = &target.health;
    let host = health.host_header().unwrap_or(target.url.authority());
    let mut request = Request::builder()
        .method(health.method.0.clone())
        .uri(path(target))
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if target.load.as_ref().is_some_and(|load| load.source == ReportSource::ProbeHeader) {
        request = request.header(FORMAT, "TEXT");
    }
    if let Some(headers) = request.headers_mut() {
        for (name, value) in health.headers.iter() {
            // In the place of what is sent by default.
            headers.insert(name.clone(), value.clone());
        }
    }
    request.body(Empty::new()).map_err(|error| failure(CheckResult::Protocol, error.to_string()))
}

/// What is asked for: the path of the settings, unless the probed URL has one of its own.
fn path(target: &ProbeTarget) -> &str {
    let url = &target.url;
    if url.has_path() { url.path() } else { target.health.path.as_str() }
}

/// Reads to the end of the body: a backend that stops halfway is not well. What is over the bound is a failure too:
/// reading it each time would cost both sides more than a probe should. What is returned is the body where it is
/// `wanted`, and else nothing.
async fn read_body(mut body: Incoming, wanted: bool) -> Result<Vec<u8>, ProbeError> {
    let mut left = MAX_ANSWER;
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| protocol(&error))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        left = left.checked_sub(data.len()).ok_or_else(|| {
            failure(CheckResult::Protocol, format!("the body is longer than {} KiB", MAX_ANSWER >> 10))
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
fn heard(headers: &HeaderMap, body: &[u8], target: &ProbeTarget) -> ReportedLoad {
    let settings = target.load.as_deref()?;
    match settings.source {
        ReportSource::ProbeHeader => Some(match headers.get(&settings.header.0) {
            Some(value) => load::header(value.as_bytes(), settings.unit),
            None => Err(Refused::Missing),
        }),
        ReportSource::ProbeJson => Some(load::body(body, &settings.json_pointer, settings.unit)),
        ReportSource::Agent | ReportSource::Push => None,
    }
}
