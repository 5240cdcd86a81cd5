//! Everything beside the requests, as one: the controller, health checks, comparison of strategies, metrics.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::compare::Comparer;
use crate::control::{Controller, Event};
use crate::dispatch::client_limits::ClientLimits;
use crate::dispatch::{DispatchConfig, HealthPath};
use crate::health::{EntryPoints, Listening, Prober};
use crate::metrics::{
    CountedFleet, Counter, CounterAllocator, CounterRegistry, Imbalances, Registry, Reloads, Sources,
    StateFileStatus, ThreadCounters,
};
use crate::readiness::Readiness;
use crate::request::client_address::{ClientIpHeader, TrustedProxies};
use crate::settings::{ForwardingHeader, Settings};
use crate::util::clock::Clock;

/// How many changes may wait for the controller.
const CHANGES: usize = 1024;

/// The ways to the tasks of [`ControlTasks`]. Cheap to clone: clones share them.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    pub(crate) fleet: Arc<ArcSwap<CountedFleet>>,
    pub(crate) clock: Clock,
    pub(crate) events: mpsc::Sender<Event>,
    /// Of the control thread.
    pub(crate) counter: Counter,
    pub(crate) counters: CounterAllocator,
    pub(crate) registry: Arc<CounterRegistry>,
    pub(crate) exporter: Arc<Registry>,
    pub(crate) reloads: Arc<Reloads>,
    pub(crate) state_file: Arc<StateFileStatus>,
    /// The addresses that clients are served on.
    pub(crate) listening: Arc<ArcSwap<Listening>>,
    /// Whether the first round of health checks is complete.
    pub(crate) settled: watch::Receiver<bool>,
    pub(crate) override_changes: watch::Receiver<u64>,
}

/// The tasks of a control plane, until they are started.
pub(crate) struct ControlTasks {
    controller: Controller,
    changes: mpsc::Receiver<Event>,
    max_probes: usize,
    imbalances: Arc<Imbalances>,
}

impl ControlPlane {
    /// Builds and publishes the first fleet; nothing runs yet. The calling thread becomes the control thread.
    ///
    /// # Errors
    /// The metrics cannot be registered, which is a bug.
    pub(crate) fn new(
        settings: &Settings,
        dropped_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> io::Result<(Self, ControlTasks)> {
        let own_counters = Arc::<ThreadCounters>::default();
        let counter = Counter::new(Arc::clone(&own_counters));
        let registry = Arc::new(CounterRegistry::new(own_counters));
        let controller = Controller::start(settings, counter.clone());
        let (fleet, clock) = (controller.published(), controller.clock());
        let (events, changes) = mpsc::channel(CHANGES);
        let (reloads, state_file) = (Arc::<Reloads>::default(), Arc::<StateFileStatus>::default());
        let imbalances = Arc::<Imbalances>::default();
        let exporter = Registry::new(Sources {
            fleet: Arc::clone(&fleet),
            counters: Arc::clone(&registry),
            dropped_lines,
            reloads: Arc::clone(&reloads),
            state_file: Arc::clone(&state_file),
            imbalances: Arc::clone(&imbalances),
            clock,
            version: env!("CARGO_PKG_VERSION"),
        })
        .map_err(io::Error::other)?;
        let plane = Self {
            fleet,
            clock,
            events,
            counter,
            counters: controller.counters(),
            registry,
            exporter: Arc::new(exporter),
            reloads,
            state_file,
            listening: Arc::default(),
            settled: controller.settled(),
            override_changes: controller.override_changes(),
        };
        let max_probes = settings.server.limits.max_probes.0.into();
        Ok((plane, ControlTasks { controller, changes, max_probes, imbalances }))
    }
}

impl ControlTasks {
    /// Starts the tasks. Must be called on the control thread, inside a [`tokio::task::LocalSet`].
    pub(crate) fn start(self, plane: &ControlPlane) {
        let entry = EntryPoints { fleet: Arc::clone(&plane.fleet), listening: Arc::clone(&plane.listening) };
        let prober = Prober::new(self.max_probes, plane.events.clone(), plane.counter.clone(), entry);
        spawn_local(prober.run(self.controller.targets()));
        spawn_local(self.controller.run(self.changes));
        let (fleet, registry) = (Arc::clone(&plane.fleet), Arc::clone(&plane.registry));
        spawn_local(Comparer::new(fleet, plane.clock, registry, self.imbalances).run());
    }
}

/// The part of the settings that holds for every request.
pub(crate) fn dispatch_config(
    settings: &Settings,
    clients: &Arc<ClientLimits>,
    readiness: &Readiness,
) -> DispatchConfig {
    let proxies = settings.server.trusted_proxies.iter().map(|network| network.0);
    let field = match settings.server.client_ip_header {
        ForwardingHeader::XForwardedFor => ClientIpHeader::XForwardedFor,
        ForwardingHeader::Forwarded => ClientIpHeader::Forwarded,
    };
    let limits = &settings.server.limits;
    let health_path = settings.server.health_path.as_ref();
    DispatchConfig {
        max_target: limits.max_target_bytes.0,
        max_headers: limits.max_headers.0.into(),
        trust: TrustedProxies::new(proxies, field),
        clients: Arc::clone(clients),
        health_path: health_path.map(|path| HealthPath::new(path.as_str(), readiness.clone())),
    }
}

/// Forgets clients whose limits are unused, now and then. Never returns.
pub(crate) async fn sweep(clients: Arc<ClientLimits>) {
    loop {
        tokio::time::sleep(ClientLimits::SWEEP).await;
        clients.sweep(Instant::now());
    }
}
