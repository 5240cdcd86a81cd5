//! A connection from accept to close: where it comes from, what is spoken on it, and how it is closed.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use tokio::task::spawn_local;

use super::closing_queue::ClosingQueue;
use super::connection_state::{ConnectionEnd, ConnectionLimits, ConnectionState};
use super::connection_tracker::{ConnectionHandle, ConnectionTracker};
use super::http1::connection::Connection;
use super::http2;
use super::lingering::Finished;
use super::listener::ListenerProtocol;
use super::proxy_protocol;
use super::responder::{TrafficResponder, UnsentLine};
use super::shutdown::Shutdown;
use super::tcp_stream::Socket;
use super::tls::{self, Accepted, Tls};
use super::transport::Transport;
use crate::dispatch::client_limits::{ClientConnection, ClientPhase};
use crate::dispatch::{ListenerRole, Worker};
use crate::metrics::{Limit, ListenerCounters, OpenConnection};
use crate::request::ClientInfo;

/// How connections are served.
#[derive(Clone, Debug)]
pub(super) struct ConnectionConfig {
    pub(super) limits: ConnectionLimits,
    pub(super) tls: Option<Tls>,
    pub(super) redirect_port: NonZeroU16,
}

/// What the connections of one worker share.
pub(super) struct WorkerContext {
    pub(super) worker: Rc<Worker>,
    pub(super) config: ConnectionConfig,
    pub(super) tracker: Rc<ConnectionTracker>,
    pub(super) closing: ClosingQueue<AdmittedClient>,
    pub(super) shutdown: Shutdown,
}

/// The listener that a connection was accepted from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) protocol: ListenerProtocol,
    /// Whether it begins with a header of the PROXY protocol.
    pub(super) proxy_protocol: bool,
    /// Where it is counted.
    pub(super) counters: ListenerCounters,
}

/// A client whose connection is served, and the counts of that, which end when this is dropped.
#[derive(Debug)]
pub(super) struct AdmittedClient {
    client: ClientInfo,
    /// Whether the number of its connections is limited.
    is_limited: bool,
    counted: Option<ClientConnection>,
    _open: OpenConnection,
}

/// Begins to serve a connection.
///
/// Most clients send their request with the connection, so that a response can be sent at once. A task is spawned only
/// for connections that go on.
pub(super) fn start(context: &Rc<WorkerContext>, socket: Socket, peer: SocketAddr, origin: Origin) {
    let (handle, open) = (context.tracker.enter(), context.worker.counter.open(origin.counters));
    let client = ClientInfo { address: peer.ip().to_canonical(), by_tls: false };
    let role = match origin.protocol {
        ListenerProtocol::Http => ListenerRole::Dispatch,
        ListenerProtocol::RedirectToHttps => ListenerRole::RedirectToHttps(context.config.redirect_port),
        ListenerProtocol::Tls => {
            spawn_local(serve_tls(Rc::clone(context), socket, client, origin, handle, open));
            return;
        }
    };
    if origin.proxy_protocol {
        spawn_local(serve_proxied(Rc::clone(context), socket, client, role, handle, open));
        return;
    }
    let Some(admitted) = context.admit(client, open) else { return };
    let connection = Connection::new(socket, context.state(client, role, handle));
    // A panic costs one connection, as it does in a task.
    match catch_unwind(AssertUnwindSafe(|| connection.first_turn())) {
        Ok(ControlFlow::Break(finished)) => context.close(finished, admitted),
        Ok(ControlFlow::Continue(connection)) => {
            spawn_local(serve_connection(Rc::clone(context), connection, admitted));
        }
        Err(_) => context.worker.counter.panicked(),
    }
}

/// Serves a connection with HTTP/1.1 and without TLS to its end.
async fn serve_connection(
    context: Rc<WorkerContext>,
    connection: Connection<Socket, TrafficResponder>,
    admitted: AdmittedClient,
) {
    let finished = connection.serve().await;
    context.close(finished, admitted);
}

/// Serves a connection that begins with a header of the PROXY protocol, and that has no TLS.
async fn serve_proxied(
    context: Rc<WorkerContext>,
    mut socket: Socket,
    client: ClientInfo,
    role: ListenerRole,
    handle: ConnectionHandle,
    open: OpenConnection,
) {
    let Some(client) = context.proxied_client(&mut socket, client, &handle).await else { return };
    let Some(admitted) = context.admit(client, open) else { return };
    let connection = Connection::new(socket, context.state(client, role, handle));
    serve_connection(context, connection, admitted).await;
}

/// Serves a connection with TLS to its end, or rejects what it sends instead.
async fn serve_tls(
    context: Rc<WorkerContext>,
    mut socket: Socket,
    mut client: ClientInfo,
    origin: Origin,
    handle: ConnectionHandle,
    open: OpenConnection,
) {
    let Some(tls) = &context.config.tls else { return };
    if origin.proxy_protocol {
        let Some(proxied) = context.proxied_client(&mut socket, client, &handle).await else { return };
        client = proxied;
    }
    let Some(admitted) = context.admit(client, open) else { return };
    // Boxed: a handshake's state is large and soon over.
    let handshake = tls.accept(socket, &context.worker.counter, &handle);
    let finished = match Box::pin(context.unless_evicted(handshake, &handle)).await {
        Some(Accepted::Tls(stream)) => {
            let client = ClientInfo { by_tls: true, ..client };
            let mut state = context.state(client, ListenerRole::Dispatch, handle);
            state.responder.hsts = tls.hsts().cloned();
            if tls::chose_http2(&stream) {
                Box::pin(http2::serve(stream, state)).await
            } else {
                Connection::new(stream, state).serve().await
            }
        }
        Some(Accepted::Plain(socket)) => {
            let mut state = context.state(client, ListenerRole::RejectPlainHttp, handle);
            state.limits.keep_alive = false;
            spawn_local(serve_connection(Rc::clone(&context), Connection::new(socket, state), admitted));
            return;
        }
        None => return,
    };
    context.count_end(finished.end);
    Box::pin(linger(&context, finished, admitted)).await;
}

/// Waits for a client to close its connection.
async fn linger<T: Transport>(context: &WorkerContext, finished: Finished<T>, mut admitted: AdmittedClient) {
    if finished.is_closed() {
        return;
    }
    if !finished.expects_body() && admitted.is_limited {
        admitted.counted = Some(match context.count(admitted.client, ClientPhase::Closing) {
            Some(counted) => counted,
            None => return,
        });
    }
    finished.lingering_close().await;
}

impl WorkerContext {
    fn state(
        &self,
        client: ClientInfo,
        role: ListenerRole,
        handle: ConnectionHandle,
    ) -> ConnectionState<TrafficResponder> {
        let responder = TrafficResponder {
            worker: Rc::clone(&self.worker),
            client,
            role,
            hsts: None,
            has_fast_path: true,
            unsent: UnsentLine::default(),
        };
        ConnectionState::new(responder, self.config.limits, handle)
    }

    /// Reads the header of the PROXY protocol; `None` if the connection is to be closed, which is counted by then.
    async fn proxied_client(
        &self,
        socket: &mut Socket,
        peer: ClientInfo,
        handle: &ConnectionHandle,
    ) -> Option<ClientInfo> {
        let timeout = self.config.limits.header_timeout;
        let header = proxy_protocol::read_header(socket, peer.address, &self.worker, timeout, handle);
        // Boxed: its state is large, soon over, and most connections have none.
        Box::pin(self.unless_evicted(header, handle)).await
    }

    /// Counts a connection as its client's; `None` if it is to be closed, which is counted by then.
    fn admit(&self, client: ClientInfo, open: OpenConnection) -> Option<AdmittedClient> {
        let is_limited = !self.worker.trusts(client.address);
        let counted = if is_limited { Some(self.count(client, ClientPhase::Open)?) } else { None };
        Some(AdmittedClient { client, is_limited, counted, _open: open })
    }

    fn count(&self, client: ClientInfo, phase: ClientPhase) -> Option<ClientConnection> {
        let counted = self.worker.clients().connect(client.address, phase);
        if counted.is_none() {
            self.worker.counter.limited(Limit::ConnectionsPerClient);
        }
        counted
    }

    /// Waits for what a connection does before its first request; `None` if it is evicted meanwhile.
    async fn unless_evicted<T>(
        &self,
        work: impl Future<Output = Option<T>>,
        handle: &ConnectionHandle,
    ) -> Option<T> {
        handle.idle(Some(Instant::now()));
        tokio::select! {
            done = work => done,
            () = handle.evicted() => {
                self.worker.counter.limited(Limit::Evicted);
                None
            }
        }
    }

    fn count_end(&self, end: ConnectionEnd) {
        if let ConnectionEnd::Limited(limit) = end {
            self.worker.counter.limited(limit);
        }
    }

    /// Counts how a connection ended, and closes it once its client has read the last response.
    fn close(self: &Rc<Self>, mut finished: Finished<Socket>, mut admitted: AdmittedClient) {
        self.count_end(finished.end);
        if !finished.expects_body() {
            // Before FIN: a client that has read it may come again at once.
            admitted.counted = None;
        }
        if finished.half_close() {
            self.closing.push(finished, admitted, self.linger());
        } else if !finished.is_closed() {
            self.linger()(finished, admitted);
        }
    }

    /// Returns what serves connections that their clients have not closed.
    pub(super) fn linger(self: &Rc<Self>) -> impl Fn(Finished<Socket>, AdmittedClient) + use<> {
        let context = Rc::clone(self);
        move |finished, admitted| {
            let context = Rc::clone(&context);
            spawn_local(async move { linger(&context, finished, admitted).await });
        }
    }
}
