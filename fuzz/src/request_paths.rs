//! The fast path and hyper alone must send the same bytes.
//!
//! Whatever a client sends, and however it arrives in two parts, a connection that has the fast path and one that has
//! hyper alone must come to the same: the same response bytes, closed or kept open alike, the same counts and access
//! lines. The fast path may decline whatever it likes, because hyper then reads the request.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use signpost::control::Controller;
use signpost::dispatch::access_log::{AccessLog, Format};
use signpost::dispatch::client_limits::ClientLimits;
use signpost::dispatch::{DispatchConfig, HealthPath, ListenerRole, Worker};
use signpost::metrics::{Counter, CounterRegistry, Registry, Sources};
use signpost::output::log_writer::LogWriter;
use signpost::readiness::Readiness;
use signpost::request::ClientInfo;
use signpost::request::client_address::{ClientIpHeader, TrustedProxies};
use signpost::server::single_connection::SingleConnection;
use signpost::server::{ConnectionEnd, ConnectionLimits, Socket, Transport};
use signpost::settings::{ForwardingHeader, Layers, Settings};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Settings, and what is decided about a connection before its first byte.
struct Scenario {
    settings: &'static str,
    role: ListenerRole,
    by_tls: bool,
    is_draining: bool,
    takes_last_place: bool,
}

/// A plain listener with room.
const fn plain(settings: &'static str) -> Scenario {
    let (by_tls, is_draining, takes_last_place) = (false, false, false);
    Scenario { settings, role: ListenerRole::Dispatch, by_tls, is_draining, takes_last_place }
}

const POOL: &str = "
    [pools.site]
    backends = ['https://b.example']
    health.kind = 'none'";

/// All that a response may contain, so that the order of its fields shows too.
const RICH_POOL: &str = "
    [pools.site]
    backends = ['https://b.example:8443/base']
    health.kind = 'none'
    status = 303
    [pools.site.pin]
    secrets = ['request paths, request paths, request paths']
    same_site = 'none'
    [pools.site.cors]
    origins = ['https://app.example', 'https://*.app.example']
    headers = ['x-a', 'x-b']
    credentials = true";

const HTTPS: NonZeroU16 = NonZeroU16::new(8443).unwrap();

/// The first byte of an input selects one, counted from `a`.
const SCENARIOS: [Scenario; 15] = [
    plain(POOL),
    plain(RICH_POOL),
    // Error pages. No health check of `none` ever succeeds, because none runs.
    plain(
        "
        [server.error_pages]
        400 = 'page.html'
        404 = 'page.html'
        405 = 'page.html'
        421 = 'page.html'
        503 = 'page.html'
        [pools.site]
        hosts = ['site.example', '*.site.example']
        path_prefix = '/site'
        backends = ['https://b.example/base']
        health.kind = 'none'
        [pools.none]
        hosts = ['site.example']
        path_prefix = '/none'
        backends = ['https://b.example']
        panic_threshold = 0.0
        error_pages = { 503 = 'pool.html' }
        cors = { origins = ['*'] }",
    ),
    plain(
        "
        [server.limits]
        max_headers = 3
        max_target_bytes = '64B'
        max_header_bytes = '8KiB'
        [server.error_pages]
        414 = 'page.html'
        431 = 'page.html'
        [pools.site]
        backends = ['https://b.example']
        health.kind = 'none'
        cors = { origins = ['https://app.example'] }",
    ),
    plain(
        "
        [server.limits]
        max_requests_per_connection = 2
        [pools.site]
        backends = ['https://b.example']
        health.kind = 'none'",
    ),
    plain(
        "
        [server]
        health_path = '/health'
        [pools.site]
        hosts = ['site.example']
        backends = ['https://b.example']
        health.kind = 'none'",
    ),
    plain(
        "
        [server]
        trusted_proxies = ['10.0.0.0/8', '192.0.2.1']
        client_ip_header = 'x-forwarded-for'
        [pools.site]
        backends = ['https://b.example']
        health.kind = 'none'
        pin = { secrets = ['request paths, request paths, request paths'] }",
    ),
    plain(
        "
        [server]
        trusted_proxies = ['10.0.0.0/8']
        client_ip_header = 'forwarded'
        [pools.site]
        backends = ['https://b.example']
        health.kind = 'none'
        pin = { secrets = ['request paths, request paths, request paths'], domain = 'example.com' }",
    ),
    plain(
        "
        [server.limits]
        requests_per_second_per_client = 1
        [server.error_pages]
        429 = 'page.html'
        [pools.site]
        backends = ['https://b.example']
        health.kind = 'none'
        cors = { origins = ['https://app.example'] }",
    ),
    plain(
        "
        [pools.site]
        strategy = 'consistent_hash'
        cache_max_age = '60s'
        hash.key = 'header:x-user'
        backends = ['https://b.example']
        health.kind = 'none'
        cors = { origins = ['https://app.example'] }",
    ),
    Scenario { is_draining: true, ..plain(RICH_POOL) },
    Scenario { takes_last_place: true, ..plain(POOL) },
    Scenario { by_tls: true, ..plain(RICH_POOL) },
    Scenario { role: ListenerRole::RedirectToHttps(HTTPS), ..plain(RICH_POOL) },
    Scenario { role: ListenerRole::RejectPlainHttp, ..plain(RICH_POOL) },
];

/// In an input, this stands for a cookie with a valid pin of the scenario's pool.
const PIN: &[u8] = b"@pin@";
/// What a client sends last, so that no head is left incomplete: hyper parses a head as soon as it begins, and if that is
/// not enough, only again once its end has come. So how it was cut decides when hyper rejects a malformed one.
const END: &[u8] = b"\r\n\r\n";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// At how many places an input is cut in two, at most.
const MOST_CUTS: usize = 512;
/// How often a difference must show to be one. The date and new pins change with the second, and a connection that
/// drains is closed 250 ms later.
const ATTEMPTS: usize = 3;

/// Any bytes: the first selects a scenario, the others are what the client sends.
pub fn request_paths(data: &[u8]) {
    thread_local! {
        static SETUPS: [OnceCell<Setup>; SCENARIOS.len()] = const { [const { OnceCell::new() }; SCENARIOS.len()] };
    }
    let Some((&selector, input)) = data.split_first() else { return };
    let index = usize::from(selector.wrapping_sub(b'a')) % SCENARIOS.len();
    SETUPS.with(|setups| {
        let setup = setups[index].get_or_init(|| Setup::new(&SCENARIOS[index]));
        let input = with_pin(input, &setup.pin);
        let mut differences = (0..ATTEMPTS).map(|_| setup.compare(&input));
        let Some(difference) = differences.next().flatten() else { return };
        assert!(differences.any(|again| again.is_none()), "{difference}");
    });
}

fn with_pin(input: &[u8], pin: &[u8]) -> Vec<u8> {
    let mut rest = input;
    let mut output = Vec::with_capacity(input.len());
    while let Some(at) = rest.windows(PIN.len()).position(|window| window == PIN) {
        output.extend_from_slice(&rest[..at]);
        output.extend_from_slice(pin);
        rest = &rest[at + PIN.len()..];
    }
    [&output[..], rest].concat()
}

/// A scenario that is ready to serve.
struct Setup {
    scenario: &'static Scenario,
    settings: Settings,
    controller: Controller,
    runtime: tokio::runtime::Runtime,
    log: LogWriter,
    lines: Receiver<Vec<u8>>,
    /// Of every [`Wire`]; nothing is read from it or written to it.
    socket: RefCell<Socket>,
    pin: Vec<u8>,
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    /// The bytes that the client got.
    responses: Bytes,
    /// Whether the client could send more, had it not closed by then.
    is_kept_open: bool,
    /// How it ended; `None` if it waits, although the client has closed.
    end: Option<(ConnectionEnd, IsOver, ExpectsBody)>,
}

type IsOver = bool;
type ExpectsBody = bool;

/// One of the two paths, with its counts.
struct Path {
    has_fast_path: bool,
    counters: Arc<CounterRegistry>,
    counter: Counter,
}

impl Path {
    fn new(has_fast_path: bool) -> Self {
        let counters = Arc::new(CounterRegistry::new(Arc::default()));
        let counter = Counter::new(counters.enlist());
        Self { has_fast_path, counters, counter }
    }
}

impl Setup {
    fn new(scenario: &'static Scenario) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        write("page.html", "<!DOCTYPE html><title>server</title>");
        write("pool.html", "<!DOCTYPE html><title>pool</title>");
        let layers = Layers { files: vec![write("site.toml", scenario.settings)], ..Layers::default() };
        let settings = Settings::load(&layers).expect("valid settings").settings;
        let controller = Controller::start(&settings, Counter::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (sender, lines) = channel();
        // The thread lives as long as the process.
        let log = LogWriter::start(Lines(sender), Duration::ZERO).expect("a thread");
        let (socket, _) = UnixStream::pair().expect("two descriptors");
        let socket = RefCell::new(Socket::new(socket.into()));
        let mut this = Self { scenario, settings, controller, runtime, log, lines, socket, pin: Vec::new() };
        let request = b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n";
        let responses = this.serve(request, request.len(), &Path::new(false), None).responses;
        let responses = String::from_utf8_lossy(&responses);
        if let Some((_, cookie)) = responses.split_once("set-cookie: ") {
            let pair = cookie.split(';').next().expect("a first part");
            this.pin = pair.as_bytes().to_vec();
        }
        this
    }

    /// Returns how the two paths differ, if they do.
    fn compare(&self, input: &[u8]) -> Option<String> {
        let (fast, hyper) = (Path::new(true), Path::new(false));
        let shown = input.escape_ascii();
        let [logged, other] = [&fast, &hyper].map(|path| {
            self.serve(input, input.len(), path, Some(self.access_log()));
            self.logged()
        });
        if logged != other {
            return Some(format!("{shown}\nfast path: {logged:#?}\nhyper: {other:#?}"));
        }
        // Behind a malformed head, hyper rejects HTTP/2 if its preface is there by then, and else that head.
        let has_preface = input.windows(HTTP2_PREFACE.len()).any(|window| window == HTTP2_PREFACE);
        let mut whole: Option<Observed> = None;
        let step = input.len().div_ceil(MOST_CUTS).max(1);
        for cut in [input.len()].into_iter().chain((1..input.len()).step_by(step)) {
            let serve = |_| [&fast, &hyper].map(|path| self.serve(input, cut, path, None));
            let Some([parts, _]) = (0..ATTEMPTS).map(serve).find(|[fast, hyper]| fast == hyper) else {
                let [fast, hyper] = serve(0);
                return Some(format!("{shown} cut at {cut}\nfast path: {fast:#?}\nhyper: {hyper:#?}"));
            };
            if has_preface {
                continue;
            }
            let is_same = |whole: &Observed| {
                (&parts.responses, parts.is_kept_open) == (&whole.responses, whole.is_kept_open)
            };
            if !whole.as_ref().is_some_and(is_same) {
                // There is none yet, or the second has changed since.
                let now = self.serve(input, input.len(), &Path::new(true), None);
                if !is_same(&now) {
                    return Some(format!("{shown} cut at {cut}\nin parts: {parts:#?}\nas a whole: {now:#?}"));
                }
                whole = Some(now);
            }
        }
        let [counted, other] = [&fast, &hyper].map(|path| self.counts(path));
        (counted != other).then(|| format!("{shown}\nfast path: {counted:#?}\nhyper: {other:#?}"))
    }

    /// Serves a client that sends the input up to `cut`, the rest once that was read, then [`END`], and closes when
    /// all is answered.
    fn serve(&self, input: &[u8], cut: usize, path: &Path, access_log: Option<AccessLog>) -> Observed {
        let Scenario { role, by_tls, is_draining, takes_last_place, .. } = *self.scenario;
        let is_plain_http = role == ListenerRole::RejectPlainHttp;
        let limits = &self.settings.server.limits;
        let max_requests = limits.max_requests_per_connection;
        let limits = ConnectionLimits {
            header_timeout: limits.header_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            max_header_bytes: limits.max_header_bytes.0,
            max_headers: limits.max_headers.0.into(),
            max_requests,
            keep_alive: !is_plain_http,
        };
        let connection = SingleConnection {
            worker: Rc::new(self.worker(path, access_log)),
            client: ClientInfo { address: PROXY, by_tls },
            role,
            hsts: by_tls.then_some(HeaderValue::from_static("max-age=63072000")),
            limits,
            has_fast_path: path.has_fast_path,
            is_draining,
            takes_last_place,
        };
        let (sent, input) = (input.len(), &[input, END].concat()[..]);
        let client = Client { input, ..Client::default() };
        client.arrived.set(cut);
        let mut socket = self.socket.borrow_mut();
        let wire = Wire { client: &client, socket: &mut socket };
        // For timers, none of which is waited for.
        let _guard = self.runtime.enter();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut serving = pin!(connection.serve(wire));
        let mut is_kept_open = false;
        let end = loop {
            if let Poll::Ready(served) = serving.as_mut().poll(&mut Context::from_waker(&waker)) {
                break Some((served.end, served.is_closed(), served.expects_body()));
            }
            if woken.0.swap(false, Ordering::Relaxed) {
                continue;
            }
            if client.read.get() < client.arrived.get() || client.has_closed.get() {
                break None;
            }
            match client.arrived.get() {
                arrived if arrived < sent => client.arrived.set(sent),
                arrived if arrived < input.len() => client.arrived.set(input.len()),
                _ => {
                    is_kept_open = true;
                    client.has_closed.set(true);
                }
            }
        };
        Observed { responses: client.responses.take().into(), is_kept_open, end }
    }

    /// A new one each time, so that none knows more than another.
    fn worker(&self, path: &Path, access_log: Option<AccessLog>) -> Worker {
        let server = &self.settings.server;
        let proxies = server.trusted_proxies.iter().map(|network| network.0);
        let field = match server.client_ip_header {
            ForwardingHeader::XForwardedFor => ClientIpHeader::XForwardedFor,
            ForwardingHeader::Forwarded => ClientIpHeader::Forwarded,
        };
        let readiness = Readiness::default();
        readiness.enter();
        let policy = DispatchConfig {
            max_target: server.limits.max_target_bytes.0,
            max_headers: server.limits.max_headers.0.into(),
            trust: TrustedProxies::new(proxies, field),
            clients: ClientLimits::new(server.limits.requests_per_second_per_client, 0),
            health_path: server.health_path.as_ref().map(|path| HealthPath::new(path.as_str(), readiness)),
        };
        let (fleet, clock, rng) =
            (self.controller.published(), self.controller.clock(), SmallRng::seed_from_u64(1));
        Worker::new(fleet, clock, rng, path.counter.clone(), policy, access_log)
    }

    fn access_log(&self) -> AccessLog {
        let copied = ["user-agent", "cookie"].map(http::HeaderName::from_static);
        AccessLog::new(self.log.buffer(1), Format::Json, 1.0, copied.into())
    }

    /// The access lines since the last call, without what depends on the clock.
    fn logged(&self) -> Vec<serde_json::Value> {
        const LAST: &[u8] = b"last\n";
        // A buffer is written after those that were made before it.
        self.log.buffer(1).push(LAST);
        let written: Vec<_> = self.lines.iter().take_while(|lines| lines != LAST).flatten().collect();
        let parsed = written.split_inclusive(|&byte| byte == b'\n').map(|line| {
            let mut line: serde_json::Value = serde_json::from_slice(line).expect("a JSON line");
            let fields = line.as_object_mut().expect("an object");
            fields.remove("timestamp");
            fields.remove("duration_us");
            line
        });
        parsed.collect()
    }

    /// What a path has counted, without what depends on the clock.
    fn counts(&self, path: &Path) -> Vec<String> {
        let registry = Registry::new(Sources {
            fleet: self.controller.published(),
            counters: Arc::clone(&path.counters),
            dropped_lines: Box::new(|| 0),
            reloads: Arc::default(),
            state_file: Arc::default(),
            imbalances: Arc::default(),
            clock: self.controller.clock(),
            version: "",
        });
        let text = registry.expect("metrics of different names").text().expect("metrics");
        let text = String::from_utf8(text).expect("text");
        let lines = text.lines().filter(|line| line.starts_with("signpost_"));
        let lines = lines.filter(|line| !line.starts_with("signpost_pick_duration_seconds"));
        lines.map(str::to_owned).collect()
    }
}

/// Whether the connection's task is to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each write of access lines.
struct Lines(Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        // No one reads when the process ends.
        let _ = self.0.send(lines.to_vec());
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the client has sent and received.
#[derive(Default)]
struct Client<'a> {
    input: &'a [u8],
    /// How much of it has arrived.
    arrived: Cell<usize>,
    /// How much of it was read.
    read: Cell<usize>,
    has_closed: Cell<bool>,
    responses: RefCell<Vec<u8>>,
}

/// A connection to a client, in memory: a socket's buffers and segments would make what is read at once a matter of
/// chance.
struct Wire<'a> {
    client: &'a Client<'a>,
    socket: &'a mut Socket,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Client { input, arrived, read, has_closed, .. } = self.client;
        let from = read.get();
        let count = buf.remaining().min(arrived.get() - from);
        if count == 0 && !has_closed.get() {
            return Poll::Pending;
        }
        buf.put_slice(&input[from..from + count]);
        read.set(from + count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.client.responses.borrow_mut().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Wire<'_> {
    const HAS_CLOSE_NOTIFY: bool = false;

    fn socket(&mut self) -> &mut Socket {
        self.socket
    }
}
