//! The data plane: listeners and the workers that serve them, replaced as a whole.
//!
//! When `[server]` or `[admin]` change, a new data plane replaces the old one as a new process does: it receives the
//! sockets of addresses that stay, opens the new ones and serves; only then does the old one stop accepting, and it
//! completes its open requests. So every key of these sections can change without an interruption, and a change that
//! fails has no effect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;

use super::admin_server::AdminServer;
use super::shared_state::SharedState;
use crate::certificates::{self, CertificateStore, Published};
use crate::control_plane::{dispatch_config, sweep};
use crate::dispatch::Worker;
use crate::dispatch::client_limits::ClientLimits;
use crate::health::Listening;
use crate::metrics::{Counter, CounterRegistry, ListenerCounters, ThreadCounters};
use crate::os::fd_limit::{explained, max_connections};
use crate::server::{
    BindError, BoundListener, Inherited, Listener, ListenerKind, ListenerProtocol, Listeners, Shutdown, Tls,
    Traffic, WorkerPool, worker_count,
};
use crate::settings::Settings;

/// Listeners and the workers that serve them.
pub(super) struct DataPlane {
    pub(super) settings: Settings,
    /// Traffic listeners, in the order of the settings.
    pub(super) traffic: Vec<(ListenerProtocol, SocketAddr)>,
    /// The admin listener's address.
    pub(super) admin: SocketAddr,
    workers: WorkerPool,
    /// Workers that don't serve yet.
    staffed: Vec<(Worker, Vec<Listener>)>,
    counters: Vec<Arc<ThreadCounters>>,
    /// A second descriptor of every listening socket.
    held: Vec<BoundListener>,
    /// How many connections there may be.
    most: usize,
    /// Each listener with the place of its counts.
    counted: Vec<(String, ListenerCounters)>,
    certificates: Published,
    admin_server: AdminServer,
    /// Ended with this.
    _upkeep: [AbortOnDrop; 2],
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DataPlane {
    /// Has everything that could be lacking; serves nobody yet. Must be called inside a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// What is lacking.
    pub(super) fn new(
        settings: &Settings,
        listeners: Listeners,
        state: &SharedState<'_>,
    ) -> io::Result<Self> {
        let limits = &settings.server.limits;
        let most = max_connections(limits.max_connections, limits.max_probes.0).map_err(io::Error::other)?;
        let certificates = read_certificates(settings)?;
        let held = listeners.hold()?;
        let Listeners { traffic: listening, admin: admin_bound } = listeners;
        let traffic: Vec<_> =
            listening.iter().map(|traffic| (traffic.protocol, traffic.bound.address)).collect();
        let admin = admin_bound.address;
        let of = |address: SocketAddr| state.plane.counters.listener(&address.to_string());
        let workers = worker_count(settings);
        let mut of_worker: Vec<Vec<Listener>> = std::iter::repeat_with(Vec::new).take(workers).collect();
        for Traffic { bound, protocol, proxy_protocol } in listening {
            let (counters, passed) = (of(bound.address), bound.passed.clone());
            for (own, sockets) in of_worker.iter_mut().zip(bound.distribute(workers)?) {
                own.extend(sockets.into_iter().map(|socket| {
                    let passed = passed.clone();
                    Listener { socket, protocol, counters, proxy_protocol, passed }
                }));
            }
        }
        let tls = traffic.iter().any(|(protocol, _)| *protocol == ListenerProtocol::Tls);
        let tls = tls.then(|| Tls::new(&settings.server.tls, Arc::clone(&certificates)));
        let workers = WorkerPool::new(
            &settings.server,
            tls.transpose().map_err(io::Error::other)?,
            Arc::clone(&state.connection_limit),
        );
        let (rate, connections) = (limits.requests_per_second_per_client, limits.max_connections_per_client);
        let mut known = state.clients.borrow_mut();
        // Where the limits stay, so does what each client has had.
        if !known.has_limits(rate, connections) {
            *known = ClientLimits::new(rate, connections);
        }
        let clients = Arc::clone(&known);
        drop(known);
        let mut counters = Vec::new();
        let threads = of_worker.len();
        let staffed = of_worker.into_iter().map(|own| {
            let own_counters = state.plane.registry.enlist();
            counters.push(Arc::clone(&own_counters));
            let (fleet, policy) =
                (Arc::clone(&state.admin.fleet), dispatch_config(settings, &clients, &state.admin.readiness));
            let access_log = state.telemetry.access_log(threads);
            let (rng, counter) = (rand::make_rng(), Counter::new(own_counters));
            (Worker::new(fleet, state.plane.clock, rng, counter, policy, access_log), own)
        });
        let staffed = staffed.collect();
        let addresses = traffic.iter().map(|(_, address)| *address).chain([admin]);
        let counted = addresses.map(|address| (address.to_string(), of(address))).collect();
        let watching = certificates::watch(
            Arc::clone(&certificates),
            settings.server.watch_interval.0,
            state.certificates.subscribe(),
        );
        Ok(Self {
            settings: settings.clone(),
            traffic,
            admin,
            workers,
            staffed,
            counters,
            held,
            most,
            counted,
            certificates,
            admin_server: AdminServer::new(admin_bound)?,
            _upkeep: [
                AbortOnDrop(tokio::task::spawn_local(watching)),
                AbortOnDrop(tokio::task::spawn_local(sweep(clients))),
            ],
        })
    }

    /// Returns the next data plane, which shares the sockets of addresses that stay and serves already; this one is
    /// then to [`Self::retire`].
    ///
    /// # Errors
    /// A line for each thing that could not be had; nothing has changed then.
    pub(super) fn next(&self, settings: &Settings, state: &SharedState<'_>) -> Result<Self, Vec<String>> {
        let line = |error: io::Error| vec![explained(&error)];
        let mut inherited = Inherited::default();
        for held in &self.held {
            inherited.add_own(held.again().map_err(line)?);
        }
        let listeners = Listeners::open(settings, inherited)
            .map_err(|taken| taken.iter().map(|taken| self.explained(taken)).collect::<Vec<_>>())?;
        let mut next = Self::new(settings, listeners, state).map_err(line)?;
        next.serve(state).map_err(line)?;
        next.tune();
        next.open_admin(state);
        Ok(next)
    }

    /// Why an address can't be had, where it may be our own.
    fn explained(&self, taken: &BindError) -> String {
        match self.held.iter().find(|held| held.address == taken.address) {
            Some(held) => format!(
                "{taken}: this process serves {} there, and what is served on an address changes with a restart only",
                held.kind.name()
            ),
            None => taken.to_string(),
        }
    }

    /// Every listener, by kind and real address.
    pub(super) fn listeners(&self) -> Vec<(ListenerKind, SocketAddr)> {
        self.held.iter().map(|held| (held.kind, held.address)).collect()
    }

    /// A descriptor of every listening socket, for a successor.
    ///
    /// # Errors
    /// No descriptor was left.
    pub(super) fn hold(&self) -> io::Result<Vec<BoundListener>> {
        self.held.iter().map(BoundListener::again).collect()
    }

    /// Has the workers accept visitors.
    ///
    /// # Errors
    /// A thread or a runtime could not be had.
    pub(super) fn serve(&mut self, state: &SharedState<'_>) -> io::Result<()> {
        self.workers.start(std::mem::take(&mut self.staffed))?;
        state.connection_limit.resize(self.most);
        state.plane.listening.store(Arc::new(self.listening()));
        state.plane.registry.show(self.counted.clone(), Arc::clone(&self.certificates));
        Ok(())
    }

    /// Sets the options of the listeners for clients, once no other data plane or process can be left with them alone.
    pub(super) fn tune(&self) {
        let of_clients = self.held.iter().filter(|bound| bound.kind != ListenerKind::Admin);
        of_clients.for_each(|bound| bound.tune(&self.settings.server));
    }

    /// Where clients reach this dispatcher.
    pub(super) fn listening(&self) -> Listening {
        let tls = &self.settings.server.tls;
        Listening {
            addresses: self.traffic.iter().map(|(_, address)| *address).collect(),
            https_port: (!tls.redirect_listen.is_empty()).then_some(tls.redirect_port.get()),
        }
    }

    /// Serves the admin listener, if it does not yet.
    pub(super) fn open_admin(&mut self, state: &SharedState<'_>) {
        self.admin_server.open(&self.settings.admin, state);
    }

    /// Closes the admin listener; requests that are open get their responses.
    pub(super) fn close_admin(&self) {
        self.admin_server.close();
    }

    /// Waits until the last response of the admin listener is sent.
    pub(super) async fn admin_closed(&mut self) {
        self.admin_server.closed().await;
    }

    /// Waits until a worker has ended, which none does by itself.
    pub(super) async fn one_ended(&mut self) {
        self.workers.one_ended().await;
    }

    /// Drains: sockets that no successor has are closed once their queues are empty.
    pub(super) fn drain(&mut self) {
        self.workers.drain(std::mem::take(&mut self.held));
    }

    /// How its workers stop once they drain.
    pub(super) fn shutdown(&self) -> &Shutdown {
        self.workers.shutdown()
    }

    /// Drains, and leaves all sockets as they are to the process that they came from.
    pub(super) fn withdraw(&mut self) {
        self.held.clear();
        self.workers.drain(Vec::new());
    }

    /// Waits until every visitor has their answer.
    pub(super) async fn served(&mut self) {
        self.workers.all_ended().await;
    }

    /// Drains for the next data plane; returns when the open requests are complete or `shutdown_grace` has expired.
    pub(super) async fn retire(
        mut self,
        next: Vec<(ListenerKind, SocketAddr)>,
        registry: Arc<CounterRegistry>,
    ) {
        for held in self.held.iter().filter(|held| next.contains(&(held.kind, held.address))) {
            held.passed.set();
        }
        self.drain();
        self.close_admin();
        let finished = async {
            self.workers.all_ended().await;
            self.admin_server.closed().await;
        };
        if tokio::time::timeout(self.settings.server.shutdown_grace.0, finished).await.is_err() {
            tracing::warn!("shutdown_grace is over; what the workers of before had under way was cut short");
            self.shutdown().abort();
            self.workers.all_ended().await;
        }
        // Only now does nobody write to them any more.
        self.counters.iter().for_each(|counters| registry.retire(counters));
    }
}

/// Reads every certificate. The settings have read them before; what has changed since then may be wrong.
fn read_certificates(settings: &Settings) -> io::Result<Published> {
    let shelf = CertificateStore::load(settings.server.tls.files()).map_err(|wrongs| {
        let lines: Vec<_> = wrongs.iter().map(|(_, wrong)| wrong.to_string()).collect();
        io::Error::other(lines.join("; "))
    })?;
    Ok(Arc::new(ArcSwap::from_pointee(shelf)))
}
