//! Dispatch as a [`tower::Service`].

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use thread_local::ThreadLocal;
use tower::Service;

use crate::control_plane::ControlPlane;
use crate::dispatch::{ConnectionInfo, DispatchConfig, ListenerRole, Worker, dispatch};
use crate::metrics::Counter;
use crate::request::{ClientInfo, RequestView};

/// Redirects requests, whatever their body: a [`tower::Service`] that never fails and responds at once.
///
/// Mount it in an axum `Router` as a fallback, a route or nested, behind any layers. The response is the one that the
/// `signpost` binary sends, over any version of HTTP.
///
/// # The client
/// Its address decides for strategies that hash it, for client limits, and for `trusted_proxies`. It is taken from the
/// request's extensions: [`ClientInfo`] if there is one, else [`ConnectInfo<SocketAddr>`](ConnectInfo), which axum adds in
/// `into_make_service_with_connect_info`. Without both, all requests count as those of the address 0.0.0.0 over plain
/// HTTP: add a [`ClientInfo`] if TLS ends in the same program, because pin cookies are `Secure` only over TLS.
///
/// # Cost
/// Dispatch itself allocates nothing. The response is an [`http::Response`], with a header map.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    plane: ControlPlane,
    config: DispatchConfig,
    /// Each thread has a random number generator and counters of its own.
    workers: ThreadLocal<Worker>,
}

impl Dispatcher {
    pub(super) fn new(plane: ControlPlane, config: DispatchConfig) -> Self {
        Self(Arc::new(Inner { plane, config, workers: ThreadLocal::new() }))
    }
}

impl Inner {
    fn worker(&self) -> &Worker {
        self.workers.get_or(|| {
            let counter = Counter::new(self.plane.registry.enlist());
            let (fleet, config) = (Arc::clone(&self.plane.fleet), self.config.clone());
            Worker::new(fleet, self.plane.clock, rand::make_rng(), counter, config, None)
        })
    }
}

/// What is known of the client of a request.
fn client<B>(request: &Request<B>) -> ClientInfo {
    let extensions = request.extensions();
    let of_axum = || {
        let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(ClientInfo { address: peer.ip().to_canonical(), by_tls: false })
    };
    let unknown = ClientInfo { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), by_tls: false };
    extensions.get().copied().or_else(of_axum).unwrap_or(unknown)
}

impl<B> Service<Request<B>> for Dispatcher {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let worker = self.0.worker();
        let connection = ConnectionInfo { role: ListenerRole::Dispatch, peer: client(&request), hsts: None };
        let (response, line) =
            dispatch(worker, &connection, &RequestView::of(&request), |response| response.to_http());
        // Whether the response is sent is the server's to know.
        worker.settle(line, true);
        ready(Ok(response))
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("config", &self.0.config).finish_non_exhaustive()
    }
}
