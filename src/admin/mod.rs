//! The operator's listener: metrics and health, on an address of its own.
//!
//! | path | what |
//! | --- | --- |
//! | `GET /` | the status page, for people |
//! | `GET /metrics` | Prometheus text format |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while it accepts visitors, 503 once it is leaving |
//! | `GET /api/v1/openapi.json` | all of this for a program, OpenAPI 3.1 |
//! | `GET /api/v1/pools` | every pool and backend, where it stands, JSON |
//! | `GET /api/v1/pools/{pool}/explain` | where a visitor would be sent, and why not elsewhere |
//! | `PATCH /api/v1/pools/{pool}/backends/{id}` | drain a backend, change its weight, … |
//! | `PUT /api/v1/pools/{pool}/backends/{id}/load` | a backend tells its load |
//! | `POST /api/v1/reload` | read the settings again |
//!
//! # Trust
//! It is meant for loopback or a private network; the guard says who may change something. It has the
//! connection's deadlines and a cap of its own, so that whoever reaches it can't use up the process.
//!
//! `/healthz`, `/readyz` and `/metrics` are answered at once whatever else happens here: an orchestrator that gets no
//! answer restarts the process. At the cap, connections without a complete request, idle ones, and those that don't
//! read their response are closed for new ones without delay. The others wait for the API, which serves fewer requests
//! at once than there are connections.

mod api;
mod cause;
mod explain;
mod figures;
mod guard;
mod healthcheck;
mod load;
mod page;
mod problem;
mod scrape;
mod view;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, patch, post, put};
use http::Request;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

pub use healthcheck::healthcheck;
pub use scrape::Scrapes;

use crate::control::Event;
use crate::control::reload::ReloadReply as ReloadAnswer;
use crate::metrics::{CountedFleet, Counter, Limit, ListenerCounters, Registry};
use crate::os::fd_limit;
use crate::overrides::SaveStatus;
use crate::readiness::Readiness;
use crate::settings;
use crate::util::clock::Clock;
use guard::Guard;
use problem::Problem;

use crate::server::{
    AcceptQueue, BoundListener, Connection, ConnectionEnd, ConnectionLimit, ConnectionLimits,
    ConnectionState, ConnectionTracker, Eviction, HandedOver, Responder,
};

/// How many connections it serves at once, where descriptors allow as many.
const MAX_CONNECTIONS: usize = 128;
/// How many of these connections may be requests of the API and the status page; over it: 503. They may wait for a body,
/// the controller or a reload, and must leave connections to liveness, readiness and metrics.
const API_SHARE: usize = 4;
/// A request that is complete when its connection is accepted is answered before the connection can be closed.
const EVICTION: Eviction =
    Eviction { min_wait: Duration::ZERO, batch: MAX_CONNECTIONS / 8, interval: Duration::from_millis(10) };
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits {
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(60),
    max_header_bytes: 16 << 10,
    max_headers: 100,
    max_requests: u32::MAX,
    keep_alive: true,
};

/// What the endpoints show, and whom they tell of changes.
#[derive(Clone)]
pub struct AdminContext {
    /// Everything `/metrics` shows.
    pub registry: Arc<Registry>,
    /// The requests of `/metrics`.
    pub scrapes: Scrapes,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// Where the current fleet is read.
    pub fleet: Arc<ArcSwap<CountedFleet>>,
    /// The clock that strategies go by.
    pub clock: Clock,
    /// The way to the controller.
    pub events: mpsc::Sender<Event>,
    /// Tells whether changes are in the state file.
    pub saved: SaveStatus,
    /// Whether a successor has been told how things stand: nothing may change then.
    pub handing_over: Arc<AtomicBool>,
    /// The control thread's.
    pub counter: Counter,
    /// The way to who reloads; `None` where the settings are fixed.
    pub reloads: Option<mpsc::Sender<ReloadAnswer>>,
}

/// The largest body of a change.
const MAX_BODY: usize = 64 << 10;

/// A path, and what it answers.
type Endpoint = (&'static str, fn() -> MethodRouter<AdminContext>);

/// What anybody may ask who reaches the listener.
const OPEN: [Endpoint; 3] =
    [("/metrics", || get(scrape::metrics)), ("/healthz", || get("alive\n")), ("/readyz", || get(readyz))];

/// The status page, which the guard stands before too: who may not read the API may not read this.
const PAGE: [Endpoint; 2] = [("/", || get(page::page)), ("/assets/{file}", || get(page::asset))];

/// Where the API begins.
const API_BASE: &str = "/api/v1";

/// Where a backend tells its load, below that: what the guard asks another token for.
const LOAD: &str = "/pools/{pool}/backends/{id}/load";

/// The API below [`API_BASE`], which the guard stands before. `openapi.json` describes these and those above; a
/// test holds that.
const API: [Endpoint; 6] = [
    ("/openapi.json", || get(api::openapi)),
    ("/pools", || get(api::pools)),
    ("/pools/{pool}/explain", || get(explain::explain)),
    ("/pools/{pool}/backends/{id}", || patch(api::change_backend)),
    (LOAD, || put(load::push)),
    ("/reload", || post(api::reload)),
];

/// Every path there is, as the answer to any other says it.
fn paths() -> String {
    let open = OPEN.iter().chain(&PAGE).map(|(path, _)| (*path).to_owned());
    let api = API.iter().map(|(path, _)| format!("{API_BASE}{path}"));
    format!("here are {}", open.chain(api).collect::<Vec<_>>().join(", "))
}

/// The endpoints of the tables, and no other.
fn router(shown: AdminContext, guard: Guard, connections: usize) -> Router {
    let permits = Arc::new(Semaphore::new(connections.div_ceil(API_SHARE)));
    let requests = ApiRequests { permits, counter: shown.counter.clone() };
    let routes = |onto: Router<AdminContext>, table: &[Endpoint]| {
        table.iter().fold(onto, |router, (path, methods)| router.route(path, methods()))
    };
    let api = routes(Router::new(), &API)
        .fallback(api::unknown)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(requests.clone(), limit))
        .layer(from_fn_with_state(guard.clone(), guard::guard));
    let page = routes(Router::new(), &PAGE)
        .layer(from_fn_with_state(requests, limit))
        .layer(from_fn_with_state(guard, guard::guard));
    routes(page, &OPEN)
        .nest(API_BASE, api)
        .fallback(unknown)
        .with_state(shown)
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .layer(CatchPanicLayer::new())
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::if_not_present(
            X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
}

/// Permits for requests that may take their time.
#[derive(Clone)]
struct ApiRequests {
    permits: Arc<Semaphore>,
    counter: Counter,
}

/// Serves a request that may take its time, or rejects it if too many are being served.
async fn limit(
    State(ApiRequests { permits, counter }): State<ApiRequests>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        counter.limited(Limit::AdminRequests);
        let problem =
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once; retry in a second");
        return ([(RETRY_AFTER, "1")], problem).into_response();
    };
    next.run(request).await
}

async fn readyz(State(shown): State<AdminContext>) -> Response {
    let (status, text) = shown.readiness.response();
    (status, text).into_response()
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, paths() + "\n").into_response()
}

/// The admin listener, watched by the runtime: serving it cannot fail any more.
pub(crate) struct AdminListener {
    address: SocketAddr,
    passed: HandedOver,
    queues: Vec<AcceptQueue>,
}

impl AdminListener {
    /// Has the runtime watch the sockets. Must be called inside a runtime.
    ///
    /// # Errors
    /// Out of memory or epoll watches.
    pub(crate) fn new(bound: BoundListener) -> io::Result<Self> {
        let queues = bound.sockets.into_iter().map(AcceptQueue::new).collect::<io::Result<_>>()?;
        Ok(Self { address: bound.address, passed: bound.passed, queues })
    }

    /// Returns its real address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves the endpoints until `stop` is canceled and the last answer is out.
pub(crate) async fn serve(
    listener: AdminListener,
    counters: ListenerCounters,
    counter: Counter,
    settings: &settings::AdminSettings,
    shown: AdminContext,
    stop: CancellationToken,
) -> io::Result<()> {
    let most = fd_limit::max_admin_connections(MAX_CONNECTIONS);
    let router = router(shown, Guard::new(settings, listener.address), most);
    let counter = Rc::new(counter);
    let tracker = ConnectionTracker::with_eviction(ConnectionLimit::new(most), EVICTION);
    let spawn = |socket| {
        let counter = Rc::clone(&counter);
        let state = ConnectionState::new(Endpoints(router.clone()), CONNECTION_LIMITS, tracker.enter());
        spawn_local(async move {
            let _open = counter.open(counters);
            let finished = Connection::new(socket, state).serve().await;
            if let ConnectionEnd::Limited(limit) = finished.end {
                counter.limited(limit);
            }
            finished.lingering_close().await;
        });
    };
    for queue in listener.queues {
        let accept = async || {
            tracker.room(|| counter.limited(Limit::AdminConnections)).await;
            queue.next().await
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => spawn(socket),
                Err(error) => {
                    if fd_limit::are_out(&error) {
                        counter.limited(Limit::FileDescriptors);
                        tracker.evict();
                    }
                    tokio::time::sleep(EVICTION.interval).await;
                }
            }
        }
        tracker.drain();
        if !listener.passed.is_set() {
            queue.empty(|socket, _| spawn(socket)).await?;
        }
    }
    tracker.emptied().await;
    Ok(())
}

/// The router, which answers the requests of one connection.
struct Endpoints(Router);

impl Responder for Endpoints {
    type Body = Body;
    type Response = Pin<Box<dyn Future<Output = Response>>>;

    fn respond(&self, request: Request<Incoming>) -> Self::Response {
        let response = self.0.clone().oneshot(request.map(Body::new));
        Box::pin(async move { response.await.unwrap_or_else(|never| match never {}) })
    }
}
