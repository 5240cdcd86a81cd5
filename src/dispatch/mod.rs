//! The hot path: one request, from head to answer. It takes no lock, awaits nothing, looks up no metric label
//! and allocates little but its answer (ARCHITECTURE.md lists it).

pub mod access_log;
pub mod client_limits;
mod health_path;
mod prefers_html;
pub mod response;
mod select;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use arc_swap::Cache;
use http::{HeaderMap, Method, Request, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;

use self::access_log::{AccessLog, Asked, Line};
use self::client_limits::{Admission, ClientLimits};
use self::response::Answer;
pub use crate::dispatch::access_log::OpenLine;
use crate::fleet::{Fleet, PoolConfig, escapes_base_path};
use crate::metrics::{Counter, Limit};
use crate::request::client_address::TrustedProxies;
use crate::request::outcome::{Rejection, Selection};
use crate::request::{ClientInfo, Target, Visit};
use crate::util::clock::Clock;
pub use health_path::HealthPath;

/// What a worker thread owns for its requests. Nothing here is shared with another thread but the fleet.
#[derive(Debug)]
pub struct Worker {
    fleet: RefCell<Cache<Arc<ArcSwap<Fleet>>, Arc<Fleet>>>,
    clock: Clock,
    rng: RefCell<SmallRng>,
    picks: Cell<u32>,
    /// The header map of the last request, empty: the next answer's, so that none is allocated.
    spare: RefCell<HeaderMap>,
    policy: DispatchConfig,
    access_log: Option<AccessLog>,
    /// Where it counts.
    pub counter: Counter,
}

/// What the settings say of every request, whatever its pool.
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// The longest target, in bytes.
    pub max_target: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// Who may tell where a visitor came from.
    pub trust: TrustedProxies,
    /// What each client has had, where that is limited.
    pub clients: Arc<ClientLimits>,
    /// Where balancers ask whether this process is ready.
    pub health_path: Option<HealthPath>,
}

impl Worker {
    /// Without an access log no request is logged.
    pub fn new(
        fleet: Arc<ArcSwap<Fleet>>,
        clock: Clock,
        rng: SmallRng,
        counter: Counter,
        policy: DispatchConfig,
        access_log: Option<AccessLog>,
    ) -> Self {
        Self {
            fleet: RefCell::new(Cache::new(fleet)),
            clock,
            rng: RefCell::new(rng),
            picks: Cell::new(0),
            spare: RefCell::default(),
            policy,
            access_log,
            counter,
        }
    }

    /// Whether this is the address of a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.policy.trust.is_proxy(address)
    }
}

/// Answers one request; `peer` is who sent it, a visitor or a proxy. The line is to be given to [`Worker::settle`] once
/// it is known whether the response was written.
pub fn dispatch<B>(worker: &Worker, request: Request<B>, peer: ClientInfo) -> (Answer, OpenLine) {
    if let Some(health) = worker.health(&request) {
        return health;
    }
    answer(worker, request, peer, serve)
}

/// Redirects one request to the same host over TLS, on `port`, if some pool serves that host. A request that a trusted
/// proxy received over TLS is dispatched instead, because the same redirect would come back here without end.
pub fn upgrade<B>(
    worker: &Worker,
    request: Request<B>,
    peer: ClientInfo,
    port: NonZeroU16,
) -> (Answer, OpenLine) {
    if let Some(health) = worker.health(&request) {
        return health;
    }
    answer(worker, request, peer, |worker, fleet, request, client, seen| {
        if client.by_tls {
            return serve(worker, fleet, request, client, seen);
        }
        let visit = worker.read(request, client)?;
        let host = visit.host.as_deref().ok_or(Rejection::MissingHost)?;
        let Target::Path(target) = visit.target else { return Err(Rejection::BadTarget) };
        if !fleet.routes.knows(Some(host)) {
            return Err(Rejection::UnknownHost);
        }
        // The pool may serve another path of the host only.
        let config = fleet.route(Some(host), target.path()).ok().map(|pool| &*pool.config);
        if response::is_preflight(request) {
            return Ok(response::options(config, visit.headers));
        }
        response::upgrade(host, port, target, config, visit.headers)
    })
}

/// Rejects one request of plain HTTP on a TLS listener.
pub fn reject_plain_http<B>(worker: &Worker, request: Request<B>, peer: ClientInfo) -> (Answer, OpenLine) {
    answer(worker, request, peer, |_, _, _, _, _| Err(Rejection::PlainHttp))
}

/// Answers and counts a request, and begins its access line.
fn answer<B>(
    worker: &Worker,
    mut request: Request<B>,
    peer: ClientInfo,
    serve: impl for<'f> FnOnce(
        &Worker,
        &'f Fleet,
        &Request<B>,
        ClientInfo,
        &mut LogContext<'f>,
    ) -> Result<Answer, Rejection>,
) -> (Answer, OpenLine) {
    let started = worker.keeps_time().then(Instant::now);
    let client = worker.policy.trust.resolve(peer, request.headers());
    let mut cache = worker.fleet.borrow_mut();
    let fleet = cache.load();

    let mut seen = LogContext::default();
    // Nothing that was borrowed outlives a panic but the counts, which are whole after each step.
    let served = catch_unwind(AssertUnwindSafe(|| {
        if let Err(rejection) = worker.admit(client, started) {
            // A rejected preflight would hide the 429 of the request behind it from its script.
            if !response::is_preflight(&request) {
                return Err(rejection);
            }
        }
        serve(worker, fleet, &request, client, &mut seen)
    }));
    let answer = served.unwrap_or_else(|_| worker.panicked()).unwrap_or_else(|rejection| {
        seen.rejection = Some(rejection);
        worker.counter.rejection(rejection);
        if seen.config.is_none() && rejection.may_have_pool() {
            seen.config = roster_of(fleet, &request);
        }
        let spread = worker.rng.borrow_mut().next_u32();
        let status = rejection.status();
        let of_pool = seen.config.and_then(|config| config.error_pages.get(status));
        let page = of_pool.or_else(|| fleet.error_pages.get(status));
        response::refuse(rejection, seen.config, page, request.headers(), spread)
    });

    worker.counter.response(answer.status());
    let line = worker.begin_line(&request, client, &seen, answer.status(), started);
    worker.reuse(std::mem::take(request.headers_mut()));
    let answer = if *request.method() == Method::HEAD { response::head_alone(answer) } else { answer };
    (answer, line)
}

/// What was found out on the way, for the access log.
#[derive(Default)]
struct LogContext<'f> {
    config: Option<&'f PoolConfig>,
    choice: Option<Selection>,
    rejection: Option<Rejection>,
}

fn serve<'f, B>(
    worker: &Worker,
    fleet: &'f Fleet,
    request: &Request<B>,
    client: ClientInfo,
    seen: &mut LogContext<'f>,
) -> Result<Answer, Rejection> {
    // Of HTTP/1.1 hyper has counted them already, of HTTP/2 it doesn't.
    if request.headers().len() > worker.policy.max_headers {
        return Err(Rejection::HeadTooLarge);
    }
    let visit = worker.read(request, client)?;
    let host = visit.host.as_deref();
    let Target::Path(target) = visit.target else {
        return if fleet.routes.knows(host) {
            Ok(response::options(None, visit.headers))
        } else {
            Err(Rejection::UnknownHost)
        };
    };

    let pool = fleet.route(host, target.path())?;
    let config = &*pool.config;
    seen.config = Some(config);
    if *visit.method == Method::OPTIONS {
        return Ok(response::options(Some(config), visit.headers));
    }
    if config.has_base_path && escapes_base_path(target.path()) {
        return Err(Rejection::PathEscapesBase);
    }

    let issued = if config.pins.is_some() { unix_now() } else { 0 };
    let choice = worker.choose(pool, &visit, worker.pinned(config, visit.headers, issued))?;
    seen.choice = Some(choice);
    worker.counter.redirect(config, choice);
    response::redirect(config, choice, &visit, target, issued, worker.spare.take())
}

/// The pool that a request is for, whatever it was rejected for: scripts may read the responses of their pool only.
fn roster_of<'f, B>(fleet: &'f Fleet, request: &Request<B>) -> Option<&'f PoolConfig> {
    match Target::of(request).ok()? {
        (host, Target::Path(target)) => Some(&fleet.route(host.as_deref(), target.path()).ok()?.config),
        (_, Target::Server) => None,
    }
}

impl Worker {
    /// Whether anybody asks when a request came.
    fn keeps_time(&self) -> bool {
        self.access_log.is_some() || self.policy.clients.limits_requests()
    }

    /// Keeps a request's header map for an answer to come, with its room and without its fields. hyper reads the next
    /// head into the map of that answer, so that maps go round.
    fn reuse(&self, mut map: HeaderMap) {
        // More than a browser needs would be held by each connection that waits. Fields of one name have room apart,
        // which grows with them.
        if map.capacity().max(map.len()) <= SPARE_ROOM {
            map.clear();
            drop(self.spare.replace(map));
        }
    }

    /// Reads a request. The target of a preflight may be too long: rejecting it would hide the 414 of the request
    /// behind it from its script.
    fn read<'a, B>(&self, request: &'a Request<B>, client: ClientInfo) -> Result<Visit<'a>, Rejection> {
        match Visit::read(request, client, self.policy.max_target) {
            Err(Rejection::TargetTooLong) if response::is_preflight(request) => {
                Visit::read(request, client, usize::MAX)
            }
            read => read,
        }
    }

    /// Turns a client away that sends more than it may.
    fn admit(&self, client: ClientInfo, started: Option<Instant>) -> Result<(), Rejection> {
        let Some(now) = started else { return Ok(()) };
        match self.policy.clients.request(client.address, now) {
            Admission::Serve => Ok(()),
            Admission::TooMany => Err(Rejection::RateLimited),
            Admission::Unknown => {
                self.counter.limited(Limit::ClientTable);
                Ok(())
            }
        }
    }

    /// A mistake in the program costs the one answer during which it showed.
    fn panicked(&self) -> Result<Answer, Rejection> {
        self.counter.panicked();
        tracing::error!("a request panicked and was answered 500");
        Err(Rejection::Panicked)
    }

    /// What the clients of all workers have had.
    pub fn clients(&self) -> &Arc<ClientLimits> {
        &self.policy.clients
    }

    fn begin_line<B>(
        &self,
        request: &Request<B>,
        client: ClientInfo,
        seen: &LogContext<'_>,
        status: StatusCode,
        started: Option<Instant>,
    ) -> OpenLine {
        let wanting = self.access_log.as_ref().filter(|log| log.wants(&mut self.rng.borrow_mut()));
        let (Some(log), Some(started)) = (wanting, started) else { return OpenLine::default() };
        log.begin(&Line {
            time: SystemTime::now(),
            asked: Some(Asked { method: request.method(), uri: request.uri(), headers: request.headers() }),
            client: client.address,
            status,
            config: seen.config,
            choice: seen.choice,
            rejection: seen.rejection,
            took: started.elapsed(),
        })
    }

    /// Rejects what can't be read as a request.
    pub fn reject_unreadable(&self, rejection: Rejection, client: ClientInfo) -> (Answer, OpenLine) {
        let status = rejection.status();
        self.counter.rejection(rejection);
        self.counter.response(status);
        (
            response::refuse(rejection, None, None, &HeaderMap::new(), 0),
            self.begin_line_unreadable(rejection, client),
        )
    }

    fn begin_line_unreadable(&self, rejection: Rejection, client: ClientInfo) -> OpenLine {
        let Some(log) = self.access_log.as_ref().filter(|log| log.wants(&mut self.rng.borrow_mut())) else {
            return OpenLine::default();
        };
        log.begin(&Line {
            time: SystemTime::now(),
            asked: None,
            client: client.address,
            status: rejection.status(),
            config: None,
            choice: None,
            rejection: Some(rejection),
            took: Duration::ZERO,
        })
    }

    /// Queues the access line of a response and counts the response if it was not `sent`: not all of it was written to
    /// the socket.
    pub fn settle(&self, line: OpenLine, sent: bool) {
        if !sent {
            self.counter.aborted();
        }
        if let Some(log) = &self.access_log {
            log.end(line, sent);
        }
    }
}

/// The header fields that a map which is kept has room for, at most.
const SPARE_ROOM: usize = 24;

/// Seconds since 1970, which pins are dated by: a monotonic clock means nothing to another replica.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::HeaderValue;

    use super::*;
    use crate::fleet::{
        AgentDescription, AllowedOrigin, Backend, BackendStatus, Cookie, Cors, ErrorPages, HostMatch,
        LastCheck, PinPolicy, Pool, Roles, Route, Routes, Slot, StrategySlot, Weight,
    };
    use crate::request::client_address::ClientIpHeader;
    use crate::strategy::{RateMeters, StrategyConfig, StrategyKind, StrategyState};

    const CLIENT: ClientInfo = ClientInfo { address: IpAddr::V4(Ipv4Addr::LOCALHOST), by_tls: false };

    /// For one pool of one backend; the route leads to that one, or to one that is not there. The settings would
    /// refuse a pool where nobody has weight.
    fn worker(weight: u16, route_to: usize) -> Worker {
        worker_with(weight, route_to, |_| {})
    }

    /// The same, with a changed roster.
    fn worker_with(weight: u16, route_to: usize, change: impl FnOnce(&mut PoolConfig)) -> Worker {
        let backend = Backend {
            id: "a".into(),
            base: "http://a".into(),
            probes: Slot(103),
            reports: Slot(111),
            check: LastCheck::default(),
            agent_description: AgentDescription::default(),
        };
        let arm =
            StrategySlot { kind: StrategyKind::RoundRobin, slot: Slot(150), counts: [Slot(100)].into() };
        let mut config = PoolConfig {
            name: "p".into(),
            arms: [arm].into(),
            rotate: None,
            rules: StrategyConfig::default(),
            key: None,
            reads_clock: false,
            limits: Box::default(),
            caching: None,
            backends: [backend].into(),
            panic_threshold: 1.0,
            status: StatusCode::FOUND,
            status_other: StatusCode::TEMPORARY_REDIRECT,
            pins: None,
            cors: None,
            error_pages: ErrorPages::default(),
            has_base_path: false,
            is_probed: false,
            reports_expire: None,
            slot: Slot(200),
            probe_times: Slot(300),
        };
        change(&mut config);
        let status = BackendStatus::of_settings(Weight::new(weight).unwrap());
        let pool = Pool::new(
            Arc::new(config),
            [status].into(),
            Roles::alone(),
            false,
            &[StrategyState::default()],
            RateMeters::default(),
            Arc::default(),
        );
        let routes = Routes::new([Route { host: HostMatch::Any, prefix: "".into(), pool: route_to }]);
        let fleet =
            Fleet { routes: Arc::new(routes), pools: [Arc::new(pool)].into(), error_pages: Arc::default() };
        let policy = DispatchConfig {
            max_target: 8192,
            max_headers: 100,
            trust: TrustedProxies::new([], ClientIpHeader::Forwarded),
            clients: ClientLimits::new(0, 0),
            health_path: None,
        };
        Worker::new(
            Arc::new(ArcSwap::from_pointee(fleet)),
            Clock::start(),
            rand::make_rng(),
            Counter::default(),
            policy,
            None,
        )
    }

    #[test]
    fn nobody_eligible_is_503_with_a_spread_retry_after() {
        let worker = worker(0, 0);
        let request = || Request::get("/").header("host", "a").body(()).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let (answer, _) = dispatch(&worker, request(), CLIENT);
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers()["cache-control"], "no-store");
            seen.insert(answer.headers()["retry-after"].to_str().unwrap().to_owned());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["2", "3", "4", "5", "6", "7", "8"]);
    }

    #[test]
    fn an_answer_takes_a_request_s_map_without_what_was_in_it() {
        let worker = worker(1, 0);
        for (names, repeated, kept) in
            [(1, 0, true), (20, 3, true), (60, 0, false), (0, 60, false), (0, 0, true)]
        {
            let mut request = Request::get("/").header("host", "a");
            for name in 0..names {
                request = request.header(format!("x-{name}"), "x");
            }
            for value in 0..repeated {
                request = request.header("accept", value);
            }
            let (answer, _) = dispatch(&worker, request.body(()).unwrap(), CLIENT);
            assert_eq!(answer.headers().keys().collect::<Vec<_>>(), ["cache-control", "location"]);
            let spare = worker.spare.borrow();
            assert!(spare.is_empty());
            assert_eq!(spare.capacity() > names, kept, "{names} names, {repeated} more values");
        }
    }

    #[test]
    fn a_panic_costs_one_answer_and_is_counted() {
        let worker = worker(0, 7);
        let request = |path: &str| Request::get(path).header("host", "a").body(()).unwrap();
        for count in 1..=3 {
            let (answer, _) = dispatch(&worker, request("/"), CLIENT);
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(answer.headers()["cache-control"], "no-store");
            assert_eq!(worker.counter.panics(), count);
        }
        let bad = Request::get("/").body(()).unwrap();
        assert_eq!(dispatch(&worker, bad, CLIENT).0.status(), StatusCode::BAD_REQUEST, "it goes on serving");
    }

    #[test]
    fn a_panic_in_a_pool_is_shared_with_its_origins() {
        let worker = worker_with(1, 0, |config| {
            let cookie = Cookie { name: "pin".into(), attributes: "".into(), attributes_tls: "".into() };
            // Without backends to pin to, setting a pin panics.
            config.pins = Some(PinPolicy::new("p", [], &[7; 32], [], 0, 100, cookie));
            let none = HeaderValue::from_static("");
            let origins = AllowedOrigin::one("https://app.example").into_iter().collect();
            config.cors = Some(Cors::new(origins, none.clone(), None, false, none));
        });
        let request = Request::get("/").header("host", "a").header("origin", "https://app.example");
        let (answer, _) = dispatch(&worker, request.body(()).unwrap(), CLIENT);
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
    }
}
