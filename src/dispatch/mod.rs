//! The hot path: one request, from head to response. It takes no lock, awaits nothing, looks up no metric label and
//! allocates nothing.

pub mod access_log;
pub mod client_limits;
mod date;
mod health_path;
mod prefers_html;
mod reject;
pub mod response;
mod select;
mod worker;

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderValue, Method};

pub use self::access_log::OpenLine;
pub use self::health_path::HealthPath;
use self::reject::reject;
pub use self::reject::reject_unreadable;
use self::response::Response;
use self::worker::LogContext;
pub use self::worker::{DispatchConfig, Worker};
use crate::fleet::{Fleet, PoolConfig, escapes_base_path};
use crate::metrics::CountedFleet;
use crate::request::outcome::{CorsDecision, HttpsRedirect, NewPin, Outcome, Redirect, Rejection, Selection};
use crate::request::{CheckedRequest, ClientInfo, Headers, PathAndQuery, RequestView, Target, hash_key};

/// What is known of a connection before its first request.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    /// What its requests come to.
    pub role: ListenerRole,
    /// Who sends them: a client or a proxy.
    pub peer: ClientInfo,
    /// `Strict-Transport-Security` of its responses.
    pub hsts: Option<&'a HeaderValue>,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Requests are redirected to a backend.
    Dispatch,
    /// Requests are redirected to the same host over TLS, on this port.
    RedirectToHttps(NonZeroU16),
    /// Requests are rejected: they are plain HTTP on a TLS listener.
    RejectPlainHttp,
}

/// Serves one request: client → route → pin → pick → outcome → count → log. `render` makes a response of the outcome; it
/// runs a second time if it panics. The line is to be given to [`Worker::settle`] once it is known whether the response
/// was written.
pub fn dispatch<R>(
    worker: &Worker,
    connection: &ConnectionInfo<'_>,
    request: &RequestView<'_>,
    mut render: impl FnMut(&Response<'_>) -> R,
) -> (R, OpenLine) {
    let is_head = *request.method == Method::HEAD;
    let mut render = |outcome: &Outcome<'_>| render(&Response::new(outcome, is_head, connection.hsts));
    if let Some(outcome) = worker.health(connection.role, request) {
        worker.counter.response(outcome.status());
        return (render(&outcome), OpenLine::default());
    }
    let started = worker.request_time();
    let client = worker.policy.trust.resolve(connection.peer, request.headers);
    let mut cache = worker.fleet.borrow_mut();
    let fleet = cache.load();

    let mut context = LogContext::default();
    // Nothing that was borrowed outlives a panic but the counts, which are whole after each step.
    let rendered = catch_unwind(AssertUnwindSafe(|| {
        let admitted = worker.admit(request, client, started);
        let outcome =
            admitted.and_then(|()| serve(worker, fleet, connection.role, request, client, &mut context));
        let outcome = outcome.unwrap_or_else(|why| reject(worker, fleet, request, why, &mut context));
        (render(&outcome), outcome.status())
    }));
    // A mistake in the program costs the one response during which it showed.
    let (rendered, status) = rendered.unwrap_or_else(|_| {
        worker.counter.panicked();
        tracing::error!("a request panicked and was answered 500");
        let outcome = reject(worker, fleet, request, Rejection::Panicked, &mut context);
        (render(&outcome), outcome.status())
    });

    worker.counter.response(status);
    (rendered, worker.begin_line(Some(request), client, &context, status, started))
}

/// What a request comes to, unless it is rejected.
fn serve<'a>(
    worker: &Worker,
    fleet: &'a CountedFleet,
    role: ListenerRole,
    request: &RequestView<'a>,
    client: ClientInfo,
    context: &mut LogContext<'a>,
) -> Result<Outcome<'a>, Rejection> {
    match role {
        ListenerRole::RejectPlainHttp => return Err(Rejection::PlainHttp),
        // What a trusted proxy received over TLS would come back here without end.
        ListenerRole::RedirectToHttps(port) if !client.by_tls => {
            return redirect_to_https(worker, fleet, request, client, port);
        }
        ListenerRole::RedirectToHttps(_) | ListenerRole::Dispatch => {}
    }
    // Of HTTP/1.1 the parsers read no more fields than that, of HTTP/2 hyper does.
    if request.headers.len() > worker.policy.max_headers {
        return Err(Rejection::HeadTooLarge);
    }
    let checked = worker.check(request, client)?;
    let host = checked.host.as_deref();
    let Target::Path(target) = checked.target else {
        return if fleet.routes.knows(host) {
            Ok(options(None, checked.headers))
        } else {
            Err(Rejection::UnknownHost)
        };
    };

    let (pool, counters) = fleet.counted_route(host, target.path())?;
    let config = &*pool.config;
    context.config = Some(config);
    if *checked.method == Method::OPTIONS {
        return Ok(options(Some(config), checked.headers));
    }
    if config.has_base_path && escapes_base_path(target.path()) {
        return Err(Rejection::PathEscapesBase);
    }

    let now = if config.pins.is_some() { unix_now() } else { 0 };
    let selection =
        worker.choose(pool, counters, &checked, worker.pinned(pool, counters, checked.headers, now))?;
    context.selection = Some(selection);
    worker.counter.redirect(counters, selection);
    Ok(Outcome::Redirect(redirect(config, selection, &checked, target, now)))
}

/// A redirect to the backend that was selected; `now` is in seconds since 1970 and only read if a pin is set.
fn redirect<'a>(
    config: &'a PoolConfig,
    selection: Selection,
    request: &CheckedRequest<'a>,
    target: PathAndQuery<'a>,
    now: u64,
) -> Redirect<'a> {
    let backend = selection.backend;
    let is_read = *request.method == Method::GET || *request.method == Method::HEAD;
    let pins = config.pins.as_ref().filter(|_| selection.pin);
    let caching = config.caching.as_ref().filter(|_| is_read);
    // Anybody may keep what follows from the request, the client alone what follows from its address.
    let is_shared = || config.key.as_ref().is_some_and(|key| hash_key::value(key, request).is_some());
    Redirect {
        status: if is_read { config.status } else { config.status_non_get },
        base: &config.backends[backend].base,
        target,
        pin: pins.map(|policy| NewPin { policy, backend, issued: now, by_tls: request.client.by_tls }),
        cache_control: caching.map(|caching| if is_shared() { &caching.shared } else { &caching.private }),
        vary: caching.and_then(|caching| caching.vary.as_ref()),
        cors: cors(Some(config), request.headers),
    }
}

/// A redirect to the same host over TLS, if some pool serves that host.
fn redirect_to_https<'a>(
    worker: &Worker,
    fleet: &'a Fleet,
    request: &RequestView<'a>,
    client: ClientInfo,
    port: NonZeroU16,
) -> Result<Outcome<'a>, Rejection> {
    let checked = worker.check(request, client)?;
    let host = checked.host.ok_or(Rejection::MissingHost)?;
    let Target::Path(target) = checked.target else { return Err(Rejection::BadTarget) };
    if !fleet.routes.knows(Some(&host)) {
        return Err(Rejection::UnknownHost);
    }
    // The pool may serve another path of the host only.
    let config = fleet.route(Some(&host), target.path()).ok().map(|pool| &*pool.config);
    if request.is_preflight() {
        return Ok(options(config, request.headers));
    }
    Ok(Outcome::HttpsRedirect(HttpsRedirect { host, port, target, cors: cors(config, request.headers) }))
}

/// What `OPTIONS` comes to; `OPTIONS *` has no pool.
fn options<'a>(config: Option<&'a PoolConfig>, headers: Headers<'a>) -> Outcome<'a> {
    let is_preflight = headers.contains(&ACCESS_CONTROL_REQUEST_METHOD);
    Outcome::Options { cors: cors(config, headers), is_preflight }
}

/// What browsers on other origins are told of a pool's response.
fn cors<'a>(config: Option<&'a PoolConfig>, headers: Headers<'a>) -> CorsDecision<'a> {
    let Some(cors) = config.and_then(|config| config.cors.as_ref()) else { return CorsDecision::default() };
    let origin = headers.get(&ORIGIN).and_then(|origin| cors.allow(origin));
    CorsDecision { varies: cors.varies(), allowed: origin.map(|origin| (cors, origin)) }
}

/// Seconds since 1970, which pins are dated by: a monotonic clock means nothing to another replica.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use http::{Request, StatusCode};

    use super::client_limits::ClientLimits;
    use super::response::HttpResponse;
    use super::*;
    use crate::fleet::{
        AgentDescription, AllowedOrigin, Backend, BackendStatus, Cookie, Cors, ErrorPages, HostMatch,
        LastCheck, PinPolicy, Pool, Roles, Route, Routes, Weight,
    };
    use crate::metrics::{Counter, CounterAllocator, PoolCounters};
    use crate::request::client_address::{ClientIpHeader, TrustedProxies};
    use crate::strategy::{RateMeters, StrategyConfig, StrategyKind, StrategyState};
    use crate::util::clock::Clock;

    const CONNECTION: ConnectionInfo<'_> = ConnectionInfo {
        role: ListenerRole::Dispatch,
        peer: ClientInfo { address: IpAddr::V4(Ipv4Addr::LOCALHOST), by_tls: false },
        hsts: None,
    };

    fn respond(worker: &Worker, request: &Request<()>) -> HttpResponse {
        dispatch(worker, &CONNECTION, &RequestView::of(request), |response| response.to_http()).0
    }

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
            check: LastCheck::default(),
            agent_description: AgentDescription::default(),
        };
        let mut config = PoolConfig {
            name: "p".into(),
            strategies: [StrategyKind::RoundRobin].into(),
            rotation_interval: None,
            rules: StrategyConfig::default(),
            key: None,
            reads_clock: false,
            limits: Box::default(),
            caching: None,
            backends: [backend].into(),
            panic_threshold: 1.0,
            status: StatusCode::FOUND,
            status_non_get: StatusCode::TEMPORARY_REDIRECT,
            pins: None,
            cors: None,
            error_pages: ErrorPages::default(),
            has_base_path: false,
            is_probed: false,
            reports_expire: None,
        };
        change(&mut config);
        let counters = PoolCounters::new(&CounterAllocator::new(), &config, None);
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
            Arc::new(ArcSwap::from_pointee(CountedFleet::new(fleet, [Arc::new(counters)].into()))),
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
            let response = respond(&worker, &request());
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["cache-control"], "no-store");
            seen.insert(response.headers()["retry-after"].to_str().unwrap().to_owned());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["2", "3", "4", "5", "6", "7", "8"]);
    }

    #[test]
    fn a_panic_costs_one_response_and_is_counted() {
        let worker = worker(0, 7);
        let request = |path: &str| Request::get(path).header("host", "a").body(()).unwrap();
        for count in 1..=3 {
            let response = respond(&worker, &request("/"));
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(worker.counter.panics(), count);
        }
        let bad = Request::get("/").body(()).unwrap();
        assert_eq!(respond(&worker, &bad).status(), StatusCode::BAD_REQUEST, "it goes on serving");
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
        let response = respond(&worker, &request.body(()).unwrap());
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
    }
}
