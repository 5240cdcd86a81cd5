//! A worker: a thread with a runtime of its own and a socket on every address.

use std::future::{Future, pending, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::STRICT_TRANSPORT_SECURITY;
use hyper::service::service_fn;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use super::accept::AcceptQueue;
use super::connection_tracker::{ConnectionHandle, ConnectionLimit, ConnectionPermit, ConnectionTracker};
use super::http1::connection::{self, ConnectionEnd, ConnectionLimits};
use super::http1::connection_state::Transport;
use super::http2;
use super::lingering::Finished;
use super::listener::HandedOver;
use super::proxy_protocol;
use super::shutdown::Shutdown;
use super::tcp_stream::Socket;
use super::tls::{self, Accepted, Tls};
use super::unsent::Unsent;
use crate::dispatch::client_limits::{ClientConnection, ClientPhase};
use crate::dispatch::{Worker, dispatch, reject_plain_http, upgrade};
use crate::fleet::Slot;
use crate::metrics::Limit;
use crate::os::fd_limit;
use crate::request::ClientInfo;

/// What a traffic listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP/1.1.
    Http,
    /// TLS, and in it HTTP/2 or HTTP/1.1.
    Tls,
    /// HTTP/1.1, to send visitors to TLS.
    Upgrade,
}

/// A worker's share of one listener. Its socket is a [`TcpListener`], and a `AcceptQueue` once a runtime watches it.
#[derive(Debug)]
pub struct Listener<S = TcpListener> {
    /// Its own socket on the address.
    pub socket: S,
    /// What is spoken on it.
    pub speaks: ListenerProtocol,
    /// Where its connections are counted.
    pub slot: Slot,
    /// Whether each begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether a successor accepts from it too.
    pub passed: HandedOver,
}

/// How connections are treated.
#[derive(Clone, Debug)]
pub(super) struct ConnectionConfig {
    pub(super) rules: ConnectionLimits,
    pub(super) tls: Option<Tls>,
    pub(super) upgrade_port: NonZeroU16,
}

/// What the connections of one worker share.
struct WorkerContext {
    worker: Rc<Worker>,
    config: ConnectionConfig,
    tracker: Rc<ConnectionTracker>,
    shutdown: Shutdown,
}

/// How often it is looked whether connections may no longer be idle for so long.
const TIDIED_EVERY: Duration = Duration::from_secs(1);

/// Serves on every listener until `shutdown` begins, then takes its steps, and returns when all connections have ended.
pub(super) fn run(
    runtime: &LocalRuntime,
    worker: Worker,
    listeners: Vec<Listener<AcceptQueue>>,
    config: ConnectionConfig,
    places: Arc<ConnectionLimit>,
    shutdown: Shutdown,
) {
    let tracker = Rc::new(ConnectionTracker::new(places));
    let idle_timeout = config.rules.idle_timeout;
    let worker = Rc::new(worker);
    let shared = Rc::new(WorkerContext { worker, config, tracker: Rc::clone(&tracker), shutdown });
    runtime.block_on(async {
        let accepting = listeners.into_iter().map(|listener| {
            let Listener { slot, speaks, proxy_protocol, .. } = listener;
            let of_visit = Rc::clone(&shared);
            accept(listener, Rc::clone(&shared), move |socket, peer| {
                let place = of_visit.tracker.enter();
                let arrival = AcceptedConnection { socket, peer, slot, proxy_protocol, place };
                let shared = Rc::clone(&of_visit);
                // Tasks of their own kinds: a plain connection carries no state of the others.
                match speaks {
                    ListenerProtocol::Http => spawn_local(visit(arrival, shared)),
                    ListenerProtocol::Tls => spawn_local(visit_by_tls(arrival, shared)),
                    ListenerProtocol::Upgrade => spawn_local(visit_to_upgrade(arrival, shared)),
                };
            })
        });
        let accepting: Vec<_> = accepting.map(spawn_local).collect();
        let serving = async {
            for accepting in accepting {
                if let Ok(Err(error)) | Err(error) = accepting.await.map_err(io::Error::other) {
                    tracing::error!(%error, "a listener ended");
                    // Its queue would fill with visitors whom nobody serves: a worker that ends is noticed.
                    return;
                }
            }
            tracker.emptied().await;
        };
        let tidying = async {
            loop {
                tokio::time::sleep(TIDIED_EVERY).await;
                tracker.tidy(idle_timeout);
            }
        };
        let hurrying = async {
            let Shutdown { draining, prompt, .. } = &shared.shutdown;
            draining.cancelled().await;
            prompt.cancelled().await;
            tracker.hurry();
            pending::<()>().await;
        };
        tokio::select! {
            () = serving => {}
            () = shared.shutdown.aborting.cancelled() => {}
            () = tidying => {}
            () = hurrying => {}
        }
    });
}

/// Keeps this thread on one of the cores that it may use: the one of that number, counted around.
pub(super) fn stay_on_core(number: usize) -> io::Result<()> {
    let usable = sched_getaffinity(None)?;
    let cores = (0..CpuSet::MAX_CPU).filter(|&core| usable.is_set(core));
    let mut own = CpuSet::new();
    cores.cycle().nth(number).into_iter().for_each(|core| own.set(core));
    Ok(sched_setaffinity(None, &own)?)
}

/// Returns a worker's runtime, which watches these listeners. Nothing after this can fail, so a predecessor may leave.
///
/// # Errors
/// Out of descriptors, memory or epoll watches.
pub(super) fn prepare(listeners: Vec<Listener>) -> io::Result<(LocalRuntime, Vec<Listener<AcceptQueue>>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    let watch = |listener: Listener| {
        let Listener { socket, speaks, slot, proxy_protocol, passed } = listener;
        let socket = AcceptQueue::new(socket)?;
        Ok(Listener { socket, speaks, slot, proxy_protocol, passed })
    };
    let listeners =
        runtime.block_on(async { listeners.into_iter().map(watch).collect::<io::Result<_>>() })?;
    Ok((runtime, listeners))
}

/// Accepts until the listener is to be closed, and then empties its queue: a socket that is closed resets the
/// connections in it.
async fn accept(
    listener: Listener<AcceptQueue>,
    shared: Rc<WorkerContext>,
    mut spawn: impl FnMut(Socket, SocketAddr),
) -> io::Result<()> {
    let (passed, shutdown) = (listener.passed, &shared.shutdown);
    let queue = listener.socket;
    let mut pause = AcceptBackoff::default();
    let mut accept = async || {
        shared.tracker.room(|| shared.worker.counter.limited(Limit::Connections)).await;
        match queue.next().await {
            Ok((socket, peer)) => {
                pause = AcceptBackoff::default();
                spawn(socket, peer);
            }
            Err(error) if fd_limit::are_out(&error) => {
                // It stays in the queue, and asking again at once is a busy loop.
                shared.worker.counter.limited(Limit::Descriptors);
                tokio::time::sleep(pause.next(&error)).await;
            }
            // Everything else is about one connection that is already gone (accept(2), "Error handling").
            Err(_) => {}
        }
    };
    while unless(&shutdown.draining, accept()).await {}
    shared.tracker.drain();
    if passed.is_set() {
        // The queue lives on, and is the successor's.
        return Ok(());
    }
    // Connections that the kernel has deferred come into the queue one after the other.
    while unless(&shutdown.closing, accept()).await {}
    queue.empty(spawn).await
}

/// Runs a future to its end, or until a step of the shutdown begins; returns whether it came to its end.
async fn unless(step: &CancellationToken, future: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = step.cancelled() => false,
        () = future => true,
    }
}

/// How long to wait before accepting again: 5 ms at first, 50 ms at the most, so that service is back as soon
/// as descriptors are.
#[derive(Default)]
struct AcceptBackoff(Duration);

impl AcceptBackoff {
    fn next(&mut self, error: &io::Error) -> Duration {
        if self.0.is_zero() {
            tracing::warn!(%error, "can't accept; trying again until it works");
        }
        self.0 = (self.0 * 2).clamp(Duration::from_millis(5), Duration::from_millis(50));
        self.0
    }
}

/// A connection that was accepted.
struct AcceptedConnection {
    socket: Socket,
    peer: SocketAddr,
    slot: Slot,
    proxy_protocol: bool,
    place: ConnectionPermit,
}

/// Serves one visitor's connection and counts how it went.
async fn visit(mut arrival: AcceptedConnection, shared: Rc<WorkerContext>) {
    let _open = shared.worker.counter.open(arrival.slot);
    let Some((client, connected)) = shared.admit(&mut arrival).await else { return };
    let (worker, unsent) = (&shared.worker, Unsent::new(&shared.worker, client, None));
    // Its answer is there at once: there is nothing to await.
    let service = service_fn(|request| ready(Ok(unsent.made(dispatch(worker, request, client)))));
    let at_once = Some(|request| unsent.made(dispatch(worker, request, client)));
    let (rules, handle) = (&shared.config.rules, arrival.place.handle());
    let served = connection::serve(arrival.socket, service, at_once, rules, handle, &unsent).await;
    shared.finish(served, handle, client, connected).await;
}

/// The same for a visitor who speaks TLS.
async fn visit_by_tls(mut arrival: AcceptedConnection, shared: Rc<WorkerContext>) {
    let Some(tls) = &shared.config.tls else { return };
    let worker = &shared.worker;
    let _open = worker.counter.open(arrival.slot);
    let Some((client, connected)) = shared.admit(&mut arrival).await else { return };
    // Boxed: a handshake's state is large and soon over.
    let handle = arrival.place.handle();
    let shaking = tls.accept(arrival.socket, &worker.counter, handle);
    let accepted = Box::pin(unless_evicted(shaking, handle, worker)).await;
    let rules = &shared.config.rules;
    let stream = match accepted {
        Some(Accepted::Tls(stream)) => stream,
        Some(Accepted::Plain(socket)) => {
            let unsent = Unsent::new(worker, client, None);
            let rules = ConnectionLimits { keep_alive: false, ..*rules };
            let service =
                service_fn(|request| ready(Ok(unsent.made(reject_plain_http(worker, request, client)))));
            let at_once = Some(|request| unsent.made(reject_plain_http(worker, request, client)));
            let served = Box::pin(connection::serve(socket, service, at_once, &rules, handle, &unsent)).await;
            return shared.finish(served, handle, client, connected).await;
        }
        None => return,
    };
    let client = ClientInfo { by_tls: true, ..client };
    let served = if tls::chose_http2(&stream) {
        let answer = |request| {
            let (mut answer, line) = dispatch(worker, request, client);
            if let Some(hsts) = tls.hsts() {
                answer.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
            }
            (answer, line)
        };
        Box::pin(http2::serve(stream, answer, Rc::clone(worker), rules, handle)).await
    } else {
        let unsent = Unsent::new(worker, client, tls.hsts());
        let service = service_fn(|request| ready(Ok(unsent.made(dispatch(worker, request, client)))));
        let at_once = Some(|request| unsent.made(dispatch(worker, request, client)));
        connection::serve(stream, service, at_once, rules, handle, &unsent).await
    };
    shared.finish(served, handle, client, connected).await;
}

/// The same for a visitor who is to come back by TLS.
async fn visit_to_upgrade(mut arrival: AcceptedConnection, shared: Rc<WorkerContext>) {
    let _open = shared.worker.counter.open(arrival.slot);
    let Some((client, connected)) = shared.admit(&mut arrival).await else { return };
    let (worker, unsent) = (&shared.worker, Unsent::new(&shared.worker, client, None));
    let port = shared.config.upgrade_port;
    let service = service_fn(|request| ready(Ok(unsent.made(upgrade(worker, request, client, port)))));
    let at_once = Some(|request| unsent.made(upgrade(worker, request, client, port)));
    let (rules, handle) = (&shared.config.rules, arrival.place.handle());
    let served = connection::serve(arrival.socket, service, at_once, rules, handle, &unsent).await;
    shared.finish(served, handle, client, connected).await;
}

/// Waits for something that a connection does before its first request; `None` where it is to make room meanwhile.
async fn unless_evicted<T>(
    work: impl Future<Output = Option<T>>,
    handle: &ConnectionHandle,
    worker: &Worker,
) -> Option<T> {
    handle.idle(Some(Instant::now()));
    tokio::select! {
        done = work => done,
        () = handle.evicted() => {
            worker.counter.limited(Limit::Evicted);
            None
        }
    }
}

impl WorkerContext {
    /// Finds out where a connection comes from and counts it as its client's until what is returned is dropped;
    /// `None` where it is to be closed, which is counted by then.
    async fn admit(
        &self,
        arrival: &mut AcceptedConnection,
    ) -> Option<(ClientInfo, Option<ClientConnection>)> {
        let worker = &self.worker;
        let mut client = ClientInfo { address: arrival.peer.ip().to_canonical(), by_tls: false };
        if arrival.proxy_protocol {
            let (rules, socket, handle) = (&self.config.rules, &mut arrival.socket, arrival.place.handle());
            let telling = proxy_protocol::read_header(socket, client.address, worker, rules, handle);
            // Boxed: its state is large, soon over, and most connections have none.
            client = Box::pin(unless_evicted(telling, handle, worker)).await?;
        }
        if worker.trusts(client.address) {
            return Some((client, None));
        }
        let connected = self.connect(client, ClientPhase::Open)?;
        Some((client, Some(connected)))
    }

    /// Counts a connection as its client's; `None` where it is to be closed, which is counted by then.
    fn connect(&self, client: ClientInfo, phase: ClientPhase) -> Option<ClientConnection> {
        let connected = self.worker.clients().connect(client.address, phase);
        if connected.is_none() {
            self.worker.counter.limited(Limit::ConnectionsPerClient);
        }
        connected
    }

    /// Counts how a connection ended, and closes it.
    async fn finish<T: Transport>(
        &self,
        served: Finished<T>,
        handle: &ConnectionHandle,
        client: ClientInfo,
        connected: Option<ClientConnection>,
    ) {
        if let ConnectionEnd::Limited(limit) = served.end {
            self.worker.counter.limited(limit);
        }
        if served.is_over() {
            return;
        }
        let is_counted = connected.is_some();
        // A client that closes at once may come again meanwhile.
        let mut connected = connected.filter(|_| served.expects_body());
        let served = served.close_soon().await;
        if served.is_over() {
            return;
        }
        if is_counted && connected.is_none() {
            connected = self.connect(client, ClientPhase::Closing);
            if connected.is_none() {
                return;
            }
        }
        // Boxed: few connections have something left, and all would carry the state otherwise.
        Box::pin(served.linger(handle)).await;
    }
}
