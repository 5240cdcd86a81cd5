//! A worker: a thread with a runtime of its own and a socket on every address.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, End, Rules};
use super::proxied;
use crate::answer::Answer;
use crate::dispatch::{Worker, dispatch};
use crate::fleet::Slot;
use crate::metrics::Limit;
use crate::visit::Came;

/// A worker's share of one listener.
#[derive(Debug)]
pub struct Listener {
    /// Its own socket on the address.
    pub socket: TcpListener,
    /// Where its connections are counted.
    pub slot: Slot,
    /// Whether each begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Serves on every listener until `stop` is cancelled, then empties the accept queues, lets what is under way end,
/// and returns. The caller bounds how long it waits for that.
pub(super) fn run(
    runtime: &Runtime,
    worker: Worker,
    listeners: Vec<Listener>,
    rules: Rules,
    stop: CancellationToken,
) {
    let worker = Rc::new(worker);
    let rules = Rc::new(rules);
    LocalSet::new().block_on(runtime, async {
        let connections = TaskTracker::new();
        let accepting = listeners.into_iter().map(|listener| {
            let (worker, rules, stop) = (Rc::clone(&worker), Rc::clone(&rules), stop.clone());
            let (slot, proxy_protocol) = (listener.slot, listener.proxy_protocol);
            let spawner = connections.clone();
            accept(listener, Rc::clone(&worker), stop.clone(), move |socket, peer| {
                let (worker, rules, stop) = (Rc::clone(&worker), Rc::clone(&rules), stop.clone());
                spawner.spawn_local(visit(socket, peer, worker, slot, proxy_protocol, rules, stop));
            })
        });
        let accepting: Vec<_> = accepting.map(tokio::task::spawn_local).collect();
        for accepting in accepting {
            if let Ok(Err(error)) | Err(error) = accepting.await.map_err(io::Error::other) {
                tracing::error!(%error, "a listener ended");
            }
        }
        connections.close();
        connections.wait().await;
    });
}

/// A worker's runtime. Made before any worker serves: it needs descriptors, and visitors may take the last.
pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

/// Accepts until told to stop. Then whoever is in the queue already is accepted still, for a socket that is
/// closed with connections in its queue resets them.
async fn accept(
    listener: Listener,
    worker: Rc<Worker>,
    stop: CancellationToken,
    mut spawn: impl FnMut(TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener.socket)?;
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                pause = Pause::default();
                spawn(socket, peer);
            }
            Err(error) => {
                if out_of_descriptors(&error) {
                    worker.counter.limited(Limit::Descriptors);
                    tokio::time::sleep(pause.next(&error)).await;
                }
                // Everything else is about one connection that is already gone (accept(2), "Error handling").
            }
        }
    }
    // Not tokio's accept: it gives way now and then, and that looks like an empty queue.
    let listener = listener.into_std()?;
    while let Ok((socket, peer)) = listener.accept() {
        socket.set_nonblocking(true)?;
        spawn(TcpStream::from_std(socket)?, peer);
    }
    Ok(())
}

/// ENFILE, EMFILE, ENOMEM, ENOBUFS: the connection stays in the queue, and asking again at once is a busy loop.
fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105))
}

/// How long to wait before accepting again: 5 ms at first, 50 ms at the most, so that service is back as soon
/// as descriptors are.
#[derive(Default)]
struct Pause(Duration);

impl Pause {
    fn next(&mut self, error: &io::Error) -> Duration {
        if self.0.is_zero() {
            tracing::warn!(%error, "can't accept; trying again until it works");
        }
        self.0 = (self.0 * 2).clamp(Duration::from_millis(5), Duration::from_millis(50));
        self.0
    }
}

/// Serves one visitor's connection and counts how it went.
async fn visit(
    mut socket: TcpStream,
    peer: SocketAddr,
    worker: Rc<Worker>,
    slot: Slot,
    proxy_protocol: bool,
    rules: Rc<Rules>,
    stop: CancellationToken,
) {
    let _open = worker.counter.open(slot);
    let mut came = Came { client: peer.ip().to_canonical(), by_tls: false };
    if proxy_protocol {
        let Some(told) = proxied::came(&mut socket, came.client, &worker, &rules, &stop).await else {
            return;
        };
        came = told;
    }
    let exempt = worker.trusts(came.client);
    let connected = if exempt { None } else { Some(worker.clients().connect(came.client)) };
    if let Some(None) = connected {
        return worker.counter.limited(Limit::ConnectionsPerClient);
    }
    let service = Dispatch { worker: Rc::clone(&worker), came };
    let served = connection::serve(socket, service, &rules, &stop).await;
    match served.end {
        End::Closed => {}
        End::Refused(refusal) => worker.refused_by_hyper(refusal, came),
        End::Limited(limit) => worker.counter.limited(limit),
    }
    // Boxed: few connections have something left, and all would carry the state otherwise.
    Box::pin(served.linger()).await;
}

/// [`dispatch`] as a service. Its answer is there at once: there is nothing to await.
struct Dispatch {
    worker: Rc<Worker>,
    came: Came,
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(dispatch(&self.worker, &request, self.came)))
    }
}
