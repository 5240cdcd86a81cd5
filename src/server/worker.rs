//! A worker: a thread with a runtime of its own and a socket on every address.

use std::future::{Future, pending};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use super::accept::AcceptQueue;
use super::connection_limit::ConnectionLimit;
use super::connection_tracker::ConnectionTracker;
use super::listener::{HandedOver, ListenerProtocol};
use super::serve_connection::{ConnectionConfig, Origin, WorkerContext, start};
use super::shutdown::Shutdown;
use super::tcp_stream::Socket;
use crate::dispatch::Worker;
use crate::fleet::Slot;
use crate::metrics::Limit;
use crate::os::fd_limit;

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

/// How often it is looked whether connections may no longer be idle for so long.
const TIDIED_EVERY: Duration = Duration::from_secs(1);

/// Serves on every listener until `shutdown` begins, then takes its steps, and returns when all connections have ended.
pub(super) fn run(
    runtime: &LocalRuntime,
    worker: Worker,
    listeners: Vec<Listener<AcceptQueue>>,
    config: ConnectionConfig,
    limit: Arc<ConnectionLimit>,
    shutdown: Shutdown,
) {
    let tracker = ConnectionTracker::new(limit);
    let idle_timeout = config.limits.idle_timeout;
    let context =
        Rc::new(WorkerContext { worker: Rc::new(worker), config, tracker: Rc::clone(&tracker), shutdown });
    runtime.block_on(async {
        let accepting = listeners.into_iter().map(|listener| accept(listener, Rc::clone(&context)));
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
            let Shutdown { draining, prompt, .. } = &context.shutdown;
            draining.cancelled().await;
            prompt.cancelled().await;
            tracker.hurry();
            pending::<()>().await;
        };
        tokio::select! {
            () = serving => {}
            () = context.shutdown.aborting.cancelled() => {}
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
async fn accept(listener: Listener<AcceptQueue>, context: Rc<WorkerContext>) -> io::Result<()> {
    let Listener { socket: queue, speaks: protocol, slot, proxy_protocol, passed } = listener;
    let origin = Origin { protocol, proxy_protocol, slot };
    let start = |socket: Socket, peer: SocketAddr| start(&context, socket, peer, origin);
    let shutdown = &context.shutdown;
    let mut pause = AcceptBackoff::default();
    let mut accept = async || {
        context.tracker.room(|| context.worker.counter.limited(Limit::Connections)).await;
        match queue.next().await {
            Ok((socket, peer)) => {
                pause = AcceptBackoff::default();
                start(socket, peer);
            }
            Err(error) if fd_limit::are_out(&error) => {
                // It stays in the queue, and asking again at once is a busy loop.
                context.worker.counter.limited(Limit::FileDescriptors);
                tokio::time::sleep(pause.next(&error)).await;
            }
            // Everything else is about one connection that is already gone (accept(2), "Error handling").
            Err(_) => {}
        }
    };
    while unless(&shutdown.draining, accept()).await {}
    context.tracker.drain();
    if passed.is_set() {
        // The queue lives on, and is the successor's.
        return Ok(());
    }
    // Connections that the kernel has deferred come into the queue one after the other.
    while unless(&shutdown.closing, accept()).await {}
    queue.empty(start).await
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
