//! The traffic listeners: sockets bound, workers that serve them, connections from accept to close.

mod systemd_sockets;
mod closing_queue;
mod connection_limit;
mod connection_state;
mod connection_tracker;
mod deferred;
mod http1;
mod http2;
mod inherited_sockets;
mod sockopt;
mod lingering;
mod listener;
pub mod proxy_protocol;
mod accept;
mod responder;
mod serve_connection;
mod shutdown;
#[doc(hidden)]
pub mod single_connection;
mod tcp_stream;
mod tls;
mod transport;
mod unsent;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

pub(crate) use accept::AcceptQueue;
pub use connection_limit::ConnectionLimit;
pub use connection_state::{ConnectionEnd, ConnectionLimits, ConnectionState};
pub(crate) use connection_tracker::{ConnectionTracker, Eviction};
pub use http1::connection::Connection;
pub use inherited_sockets::Inherited;
pub use lingering::Finished;
pub use listener::{BoundListener, HandedOver, ListenerKind, ListenerProtocol, bind};
pub use responder::Responder;
pub use systemd_sockets::from_systemd;
pub use tcp_stream::Socket;
pub use tls::Tls;
pub use transport::Transport;
pub use worker::Listener;

use serve_connection::ConnectionConfig;
pub use shutdown::Shutdown;

use crate::dispatch::Worker;
use crate::os::fd_limit;
use crate::settings::{ServerSettings, Settings};

/// Every socket of the process, bound before anything else is started.
#[derive(Debug)]
pub struct Listeners {
    /// The traffic listeners.
    pub traffic: Vec<Traffic>,
    /// The admin listener.
    pub admin: BoundListener,
}

/// A traffic listener.
#[derive(Debug)]
pub struct Traffic {
    /// Its address, with a socket per worker.
    pub bound: BoundListener,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// What listens there, if that is known: a setting asks for it.
    pub kind: Option<ListenerKind>,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    /// `KEY: what is wrong (what to do)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, address, error } = self;
        let Some(kind) = kind else { return write!(f, "can't listen on {address}: {error}") };
        let elsewhere = match kind.flag() {
            Some(flag) => format!("with {flag} ADDR, or {} in a settings file", kind.setting()),
            None => format!("in {}", kind.setting()),
        };
        write!(f, "{}: can't listen on {address}: ", kind.setting())?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "the address is in use (choose another {elsewhere})")
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "this machine has no such address (choose another {elsewhere})")
            }
            io::ErrorKind::PermissionDenied if address.port() < 1024 => write!(
                f,
                "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit \
                 deploy/systemd/signpost.service grants; or choose a port from 1024 on {elsewhere})"
            ),
            _ => f.write_str(&fd_limit::explained(error)),
        }
    }
}

impl Listeners {
    /// Has every address the settings name: what was inherited is taken, the rest is bound.
    ///
    /// # Errors
    /// Every address that could not be had, and every inherited one that had to be named and was not.
    pub fn open(settings: &Settings, inherited: Inherited) -> Result<Self, Vec<BindError>> {
        let workers = worker_count(settings);
        let server = &settings.server;
        let plain =
            server.listen.iter().map(|listener| (ListenerKind::Http, ListenerProtocol::Http, listener));
        let tls =
            server.tls.listen.iter().map(|listener| (ListenerKind::Https, ListenerProtocol::Tls, listener));
        let redirects = server
            .tls
            .redirect_listen
            .iter()
            .map(|listener| (ListenerKind::RedirectToHttps, ListenerProtocol::RedirectToHttps, listener));
        let visitors: Vec<_> = plain.chain(tls).chain(redirects).collect();
        let wanted = visitors.iter().map(|(kind, _, listener)| (*kind, listener.address.0));
        let wanted: Vec<_> = wanted.chain([(ListenerKind::Admin, settings.admin.listen.0)]).collect();
        let (given, mut taken) = inherited.hand_out(&wanted);
        let mut bounds = Vec::new();
        for ((kind, address), given) in wanted.into_iter().zip(given) {
            let count = if kind == ListenerKind::Admin { 1 } else { workers };
            match given.map_or_else(|| bind(kind, address, count), Ok) {
                Ok(bound) => bounds.push(BoundListener { setting: address, ..bound }),
                Err(error) => taken.push(BindError { kind: Some(kind), address, error }),
            }
        }
        match bounds.pop_if(|bound| bound.kind == ListenerKind::Admin) {
            Some(admin) if taken.is_empty() => {
                // None is missing, so they stand in the order of the settings.
                let traffic = bounds.into_iter().zip(visitors).map(|(bound, (_, protocol, listener))| {
                    Traffic { bound, protocol, proxy_protocol: listener.proxy_protocol }
                });
                Ok(Self { traffic: traffic.collect(), admin })
            }
            _ => Err(taken),
        }
    }

    /// Every address of every kind.
    pub fn all(&self) -> impl Iterator<Item = &BoundListener> {
        self.traffic.iter().map(|traffic| &traffic.bound).chain([&self.admin])
    }

    /// A second descriptor of every socket, to be passed on later.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn hold(&self) -> io::Result<Vec<BoundListener>> {
        self.all().map(BoundListener::again).collect()
    }
}

/// How many workers the settings ask for, at least 1.
pub fn worker_count(settings: &Settings) -> usize {
    match settings.server.workers.0 {
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count.into(),
    }
}

/// Workers at work.
#[derive(Debug)]
pub struct WorkerPool {
    shutdown: Shutdown,
    /// For how long the kernel defers connections.
    defers: Duration,
    ends: mpsc::UnboundedReceiver<()>,
    exit_notifier: mpsc::UnboundedSender<()>,
    working: usize,
    config: ConnectionConfig,
    limit: Arc<ConnectionLimit>,
    has_affinity: bool,
}

impl WorkerPool {
    /// Nobody yet. Without `tls` no listener may speak it; `limit` is that of connections.
    pub fn new(settings: &ServerSettings, tls: Option<Tls>, limit: Arc<ConnectionLimit>) -> Self {
        let limits = &settings.limits;
        let (exit_notifier, ends) = mpsc::unbounded_channel();
        let limits = ConnectionLimits {
            header_timeout: limits.header_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            max_header_bytes: limits.max_header_bytes.0,
            max_headers: limits.max_headers.0.into(),
            max_requests: match limits.max_requests_per_connection {
                0 => u32::MAX,
                max => max,
            },
            keep_alive: true,
        };
        let config = ConnectionConfig { limits, tls, redirect_port: settings.tls.redirect_port };
        let (shutdown, defers) = (Shutdown::default(), settings.tcp_defer_accept.0);
        let has_affinity = settings.worker_affinity;
        Self { shutdown, defers, ends, exit_notifier, working: 0, config, limit, has_affinity }
    }

    /// Starts workers, each on a thread of its own and with its own listeners. None serves before all are ready to:
    /// a runtime needs descriptors, and visitors may take the last.
    ///
    /// # Errors
    /// A thread or a runtime could not be had, or too few descriptors are left for connections.
    pub fn start(&mut self, workers: Vec<(Worker, Vec<Listener>)>) -> io::Result<()> {
        let (ready, reports) = std::sync::mpsc::channel();
        let count = workers.len();
        let mut waiting = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for (worker, listeners) in workers {
            let (go, told) = std::sync::mpsc::channel::<()>();
            let (ready, config, shutdown) = (ready.clone(), self.config.clone(), self.shutdown.clone());
            let (limit, exit_notifier) = (Arc::clone(&self.limit), ExitNotifier(self.exit_notifier.clone()));
            let number = self.working + waiting.len();
            let core = self.has_affinity.then_some(number);
            let spawned = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Some(Err(error)) = core.map(worker::stay_on_core) {
                    tracing::warn!(%error, "a worker can't be kept on one core");
                }
                // Made here, because a runtime never leaves its thread.
                let (prepared, report) = match worker::prepare(listeners) {
                    Ok(prepared) => (Some(prepared), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Who asked has gone where another worker could not be had; then nobody says go either.
                let _ = ready.send(report);
                drop(ready);
                if let (Some((runtime, listeners)), Ok(())) = (prepared, told.recv()) {
                    worker::run(&runtime, worker, listeners, config, limit, shutdown);
                    // With its tasks, which end the access lines of what they could not write.
                    drop(runtime);
                    drop(exit_notifier);
                }
            });
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // Ended, they leave room for the thread that reports the error.
                    drop((go, std::mem::take(&mut waiting)));
                    threads.drain(..).for_each(|thread| drop(thread.join()));
                    return Err(io::Error::other(format!(
                        "a thread for worker {number} of {count} could not be started: {error} (lower server.workers, \
                         or raise the limit of threads or memory: TasksMax=, ulimit -u, ulimit -v)"
                    )));
                }
            }
            waiting.push(go);
        }
        drop(ready);
        reports.into_iter().collect::<io::Result<()>>()?;
        fd_limit::check_spare()?;
        self.working += waiting.len();
        for go in waiting {
            // One that ended since then says so by its last word.
            let _ = go.send(());
        }
        Ok(())
    }

    /// Has all workers drain: they accept the clients that have connected to `listeners` until now, close these, and
    /// end when all connections have ended. The listeners that were passed to a successor are left alone. Must be
    /// called inside a [`tokio::task::LocalSet`].
    pub fn drain(&self, listeners: Vec<BoundListener>) {
        let own =
            listeners.iter().filter(|bound| bound.kind != ListenerKind::Admin && !bound.passed.is_set());
        let deferring: Vec<_> = own.filter(|_| !self.defers.is_zero()).collect();
        // Before connections are counted: those that come later are not deferred.
        deferring.iter().for_each(|bound| bound.stop_deferring());
        let ports: Arc<[_]> = deferring.iter().map(|bound| bound.address.port()).collect();
        // A listener lives for as long as one descriptor of it does.
        drop(listeners);
        self.shutdown.draining.cancel();
        let (closing, defers) = (self.shutdown.closing.clone(), self.defers);
        tokio::task::spawn_local(async move {
            deferred::all_queued(ports, defers).await;
            closing.cancel();
        });
    }

    /// How the workers stop once they drain.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Waits until one has ended.
    pub async fn one_ended(&mut self) {
        // `self` holds a sender, so the channel never closes.
        let _ = self.ends.recv().await;
        self.working = self.working.saturating_sub(1);
    }

    /// Waits until all have ended.
    pub async fn all_ended(&mut self) {
        while self.working > 0 {
            self.one_ended().await;
        }
    }
}

/// Says that a worker has ended, however it did: it is dropped by a panic too.
struct ExitNotifier(mpsc::UnboundedSender<()>);

impl Drop for ExitNotifier {
    fn drop(&mut self) {
        // Nobody listens any more when the process is ending anyway.
        let _ = self.0.send(());
    }
}
