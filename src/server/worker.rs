//! A worker: a thread with a runtime of its own and a socket on every address.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use tokio_util::sync::CancellationToken;

use super::accept::AcceptQueue;
use super::closing_queue::ClosingQueue;
use super::connection_limit::ConnectionLimit;
use super::connection_tracker::ConnectionTracker;
use super::http1::connection::TURNS;
use super::listener::{HandedOver, ListenerProtocol};
use super::serve_connection::{ConnectionConfig, Origin, WorkerContext, start};
use super::shutdown::Shutdown;
use super::tcp_stream::Socket;
use crate::dispatch::Worker;
use crate::metrics::{Limit, ListenerCounters};
use crate::os::fd_limit;

/// A worker's share of one listener. Its socket is a [`TcpListener`], and a `AcceptQueue` once a runtime watches it.
#[derive(Debug)]
pub struct Listener<S = TcpListener> {
    /// Its own socket on the address.
    pub socket: S,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Where its connections are counted.
    pub counters: ListenerCounters,
    /// Whether each begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether a successor accepts from it too.
    pub passed: HandedOver,
}
/// How often connections are closed whose idle timeout is shortened.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

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
    let context = Rc::new(WorkerContext {
        worker: Rc::new(worker),
        config,
        tracker: Rc::clone(&tracker),
        closing: ClosingQueue::new(),
        shutdown,
    });
    runtime.block_on(async {
        let accepting = listeners.into_iter().map(|listener| accept(listener, Rc::clone(&context)));
        let accepting: Vec<_> = accepting.map(spawn_local).collect();
        let closing = Rc::clone(&context);
        spawn_local(async move { closing.closing.run(closing.linger()).await });
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
                tracker.crowded().await;
                tokio::time::sleep(TIDY_INTERVAL).await;
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
        let Listener { socket, protocol, counters, proxy_protocol, passed } = listener;
        let socket = AcceptQueue::new(socket)?;
        Ok(Listener { socket, protocol, counters, proxy_protocol, passed })
    };
    let listeners =
        runtime.block_on(async { listeners.into_iter().map(watch).collect::<io::Result<_>>() })?;
    Ok((runtime, listeners))
}

/// Accepts until the listener is to be closed, and then empties its queue: a socket that is closed resets the
/// connections in it.
async fn accept(listener: Listener<AcceptQueue>, context: Rc<WorkerContext>) -> io::Result<()> {
    let Listener { socket: queue, protocol, counters, proxy_protocol, passed } = listener;
    let origin = Origin { protocol, proxy_protocol, counters };
    let start = |socket: Socket, peer: SocketAddr| start(&context, socket, peer, origin);
    let shutdown = &context.shutdown;
    let mut backoff = AcceptBackoff::default();
    let mut turns = 0_u32;
    let mut accept = async || {
        let at_limit = || {
            context.worker.counter.limited(Limit::Connections);
            context.closing.make_room();
        };
        context.tracker.room(at_limit).await;
        match queue.next().await {
            Ok((socket, peer)) => {
                backoff = AcceptBackoff::default();
                start(socket, peer);
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(TURNS) {
                    yield_now().await;
                }
            }
            Err(error) if fd_limit::are_out(&error) => {
                // It stays in the queue, and asking again at once is a busy loop.
                context.worker.counter.limited(Limit::FileDescriptors);
                context.closing.make_room();
                tokio::time::sleep(backoff.next(&error)).await;
            }
            // Everything else is about one connection that is already gone (accept(2), "Error handling").
            Err(_) => {}
        }
    };
    until(&shutdown.draining, &mut accept).await;
    context.tracker.drain();
    if passed.is_set() {
        // The queue lives on, and is the successor's.
        return Ok(());
    }
    // Connections that the kernel has deferred come into the queue one after the other.
    until(&shutdown.closing, &mut accept).await;
    queue.empty(start).await
}

/// Repeats something until a step of the shutdown begins.
async fn until(step: &CancellationToken, mut repeated: impl AsyncFnMut()) {
    let mut begun = pin!(step.cancelled());
    loop {
        // It waits at times, however much there is to do: only then the step is looked at.
        tokio::select! {
            biased;
            () = repeated() => {}
            () = &mut begun => return,
        }
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
