//! A connection from accept to close: where it comes from, what is spoken on it, and how it is closed.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::spawn_local;

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
use crate::fleet::Slot;
use crate::metrics::Limit;
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
    pub(super) shutdown: Shutdown,
}

/// The listener that a connection was accepted from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) protocol: ListenerProtocol,
    /// Whether it begins with a header of the PROXY protocol.
    pub(super) proxy_protocol: bool,
    /// Where it is counted.
    pub(super) slot: Slot,
}

/// A connection that was accepted.
struct AcceptedConnection {
    socket: Socket,
    peer: SocketAddr,
    origin: Origin,
    handle: ConnectionHandle,
}

/// The client of a connection, and the connection as one of its client's, if their number is limited.
struct AdmittedClient {
    client: ClientInfo,
    counted: Option<ClientConnection>,
}

/// Begins to serve a connection.
pub(super) fn start(context: &Rc<WorkerContext>, socket: Socket, peer: SocketAddr, origin: Origin) {
    let accepted = AcceptedConnection { socket, peer, origin, handle: context.tracker.enter() };
    let context = Rc::clone(context);
    // Tasks of their own kinds: a plain connection holds no state of TLS.
    match origin.protocol {
        ListenerProtocol::Http => spawn_local(serve_plain(accepted, ListenerRole::Dispatch, context)),
        ListenerProtocol::RedirectToHttps => {
            let role = ListenerRole::RedirectToHttps(context.config.redirect_port);
            spawn_local(serve_plain(accepted, role, context))
        }
        ListenerProtocol::Tls => spawn_local(serve_tls(accepted, context)),
    };
}

/// Serves a connection without TLS.
async fn serve_plain(mut accepted: AcceptedConnection, role: ListenerRole, context: Rc<WorkerContext>) {
    let _open = context.worker.counter.open(accepted.origin.slot);
    let Some(admitted) = context.admit(&mut accepted).await else { return };
    let AcceptedConnection { socket, handle, .. } = accepted;
    let state = context.state(admitted.client, role, handle);
    context.serve_connection(socket, state, admitted).await;
}

/// Serves a connection with TLS, or rejects what it sends instead.
async fn serve_tls(mut accepted: AcceptedConnection, context: Rc<WorkerContext>) {
    let Some(tls) = &context.config.tls else { return };
    let _open = context.worker.counter.open(accepted.origin.slot);
    let Some(mut admitted) = context.admit(&mut accepted).await else { return };
    let AcceptedConnection { socket, handle, .. } = accepted;
    // Boxed: a handshake's state is large and soon over.
    let handshake = tls.accept(socket, &context.worker.counter, &handle);
    match Box::pin(context.unless_evicted(handshake, &handle)).await {
        Some(Accepted::Tls(stream)) => {
            admitted.client.by_tls = true;
            let mut state = context.state(admitted.client, ListenerRole::Dispatch, handle);
            state.responder.hsts = tls.hsts().cloned();
            if tls::chose_http2(&stream) {
                let finished = Box::pin(http2::serve(stream, state)).await;
                context.finish(finished, admitted).await;
            } else {
                context.serve_connection(stream, state, admitted).await;
            }
        }
        Some(Accepted::Plain(socket)) => {
            let mut state = context.state(admitted.client, ListenerRole::RejectPlainHttp, handle);
            state.limits.keep_alive = false;
            Box::pin(context.serve_connection(socket, state, admitted)).await;
        }
        None => {}
    }
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

    /// Serves a connection with HTTP/1.1 to its end.
    async fn serve_connection<T: Transport>(
        &self,
        io: T,
        state: ConnectionState<TrafficResponder>,
        admitted: AdmittedClient,
    ) {
        let finished = Connection::new(io, state).serve().await;
        self.finish(finished, admitted).await;
    }

    /// Determines where a connection comes from and counts it as its client's; `None` if it is to be closed, which is
    /// counted by then.
    async fn admit(&self, accepted: &mut AcceptedConnection) -> Option<AdmittedClient> {
        let worker = &self.worker;
        let mut client = ClientInfo { address: accepted.peer.ip().to_canonical(), by_tls: false };
        if accepted.origin.proxy_protocol {
            let (socket, handle) = (&mut accepted.socket, &accepted.handle);
            let timeout = self.config.limits.header_timeout;
            let header = proxy_protocol::read_header(socket, client.address, worker, timeout, handle);
            // Boxed: its state is large, soon over, and most connections have none.
            client = Box::pin(self.unless_evicted(header, handle)).await?;
        }
        let is_counted = !worker.trusts(client.address);
        let counted = if is_counted { Some(self.count(client, ClientPhase::Open)?) } else { None };
        Some(AdmittedClient { client, counted })
    }

    /// Counts a connection as its client's; `None` if it is to be closed, which is counted by then.
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

    /// Counts how a connection ended, and closes it.
    async fn finish<T: Transport>(&self, finished: Finished<T>, admitted: AdmittedClient) {
        if let ConnectionEnd::Limited(limit) = finished.end {
            self.worker.counter.limited(limit);
        }
        if finished.is_closed() {
            return;
        }
        let AdmittedClient { client, counted } = admitted;
        let is_counted = counted.is_some();
        // A client that closes at once may come again meanwhile.
        let mut counted = counted.filter(|_| finished.expects_body());
        let finished = finished.close_soon().await;
        if finished.is_closed() {
            return;
        }
        if is_counted && counted.is_none() {
            counted = self.count(client, ClientPhase::Closing);
            if counted.is_none() {
                return;
            }
        }
        // Boxed: few connections have something left, and all would hold the state otherwise.
        Box::pin(finished.lingering_close()).await;
    }
}
