//! The process's life: start everything, serve until a signal comes, leave in good order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness, Shown};
use crate::certificates::{self, Published, Shelf};
use crate::clients::Clients;
use crate::dispatch::{Policy, Worker};
use crate::forwarded::{Field, Trust};
use crate::health::Prober;
use crate::keeper::Keeper;
use crate::metrics::{Counter, Registry, Reloads, Slab, Sources};
use crate::reload::Reloader;
use crate::server::{Crew, Listener, Listeners, Speaks, Tls, Traffic, max_connections, worker_count};
use crate::settings::{ForwardedBy, Layers, Settings, Span};
use crate::telemetry::Telemetry;

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request was answered.
    Drained,
    /// `shutdown_grace` was over with requests still under way.
    CutShort,
    /// A second signal came.
    AtOnce,
}

/// How many changes may wait for the keeper.
const QUEUE: usize = 1024;
/// How long the admin listener's last answers may take.
const LAST_FIGURES: Duration = Duration::from_millis(500);

/// Serves until a signal comes, then leaves.
///
/// `layers` are what the settings came from, to be read again on reload; `None` where they are fixed.
/// `listeners` were opened with the same settings; `ready` is called with them once visitors are served and signals
/// are heeded. Runs on the caller's runtime, inside a [`tokio::task::LocalSet`]; requests run on threads of
/// their own.
///
/// # Errors
/// What kept it from starting, or a worker that ended by itself.
pub async fn run(
    settings: &Settings,
    layers: Option<Layers>,
    listeners: Listeners,
    telemetry: &Telemetry,
    ready: impl FnOnce(&[(Speaks, SocketAddr)], SocketAddr),
) -> io::Result<Ended> {
    let mut signals = Signals::listen()?;
    let traffic: Vec<_> =
        listeners.traffic.iter().map(|traffic| (traffic.speaks, traffic.bound.address)).collect();
    let admin = listeners.admin.address;
    let certificates = certificates(settings)?;
    // One slab for each thread that counts: the workers, and this one for the admin listener, keeper and probes.
    let mut slabs = vec![Arc::<Slab>::default()];
    let own_counter = Counter::new(Arc::clone(&slabs[0]));
    let mut keeper = Keeper::start(settings, own_counter.clone());
    let fleet = keeper.published();

    let mut counted = Vec::new();
    let mut listener_slot = |address: SocketAddr| {
        let slot = keeper.slots().listener(&address.to_string());
        counted.push((address.to_string(), slot));
        slot
    };
    let workers = worker_count(settings);
    let mut of_worker: Vec<Vec<Listener>> = std::iter::repeat_with(Vec::new).take(workers).collect();
    for Traffic { bound, speaks, proxy_protocol } in listeners.traffic {
        let slot = listener_slot(bound.address);
        for (own, socket) in of_worker.iter_mut().zip(bound.sockets) {
            own.push(Listener { socket, speaks, slot, proxy_protocol });
        }
    }
    let admin_slot = listener_slot(admin);

    let limits = &settings.server.limits;
    let clients = Clients::new(limits.requests_per_second_per_client, limits.max_connections_per_client);
    let places = max_connections(limits.max_connections).map_err(io::Error::other)?;
    let tls = traffic.iter().any(|(speaks, _)| *speaks == Speaks::Tls);
    let tls = tls.then(|| Tls::new(&settings.server.tls, Arc::clone(&certificates)));
    let mut crew = Crew::new(&settings.server, tls.transpose().map_err(io::Error::other)?, places);
    let staffed = of_worker.into_iter().map(|own| {
        let slab = Arc::<Slab>::default();
        slabs.push(Arc::clone(&slab));
        let (counter, policy) = (Counter::new(slab), request_policy(settings, &clients));
        let worker =
            Worker::new(Arc::clone(&fleet), rand::make_rng(), counter, policy, telemetry.access_log());
        (worker, own)
    });
    let staffed: Vec<_> = staffed.collect();

    let readiness = Readiness::default();
    let admin_stop = CancellationToken::new();
    let reloads = Arc::<Reloads>::default();
    let registry = Registry::new(Sources {
        fleet: Arc::clone(&fleet),
        slabs,
        listeners: counted,
        dropped_lines: telemetry.dropped_lines(),
        reloads: Arc::clone(&reloads),
        certificates: Arc::clone(&certificates),
        version: env!("CARGO_PKG_VERSION"),
    })
    .map_err(io::Error::other)?;
    tokio::task::spawn_local(sweep(clients));
    let (events, changes) = mpsc::channel(QUEUE);
    let at_once = settings.server.limits.max_probes.0.into();
    let prober = Prober::new(at_once, events.clone(), own_counter.clone())?;
    tokio::task::spawn_local(prober.run(keeper.targets()));
    let settled = keeper.settled();
    tokio::task::spawn_local(keeper.run(changes));
    let hangup = signal(SignalKind::hangup())?;
    let (ask_reload, asked) = mpsc::channel(1);
    let (ask_certificates, certificates_asked) = watch::channel(0);
    let watching = tokio::task::spawn_local(certificates::watch(
        certificates,
        settings.server.watch.0,
        certificates_asked,
    ));
    // Fixed settings have nothing to reload, and SIGHUP is then heeded by nobody.
    let reloading = layers.map(|layers| {
        let reloader = Reloader::new(layers, settings.clone(), events.clone(), reloads, ask_certificates);
        tokio::task::spawn_local(reloader.run(hangup, asked))
    });

    let shown = Shown {
        registry: Arc::new(registry),
        readiness: readiness.clone(),
        fleet,
        events,
        reloads: reloading.as_ref().map(|_| ask_reload),
    };
    let admin_settings = settings.admin.clone();
    let admin_stopped = admin_stop.clone();
    let admin_ended = tokio::task::spawn_local(async move {
        admin::serve(listeners.admin, admin_slot, own_counter, &admin_settings, shown, admin_stopped).await
    });

    // Until the first round of probes is over, who comes waits in the kernel's queue.
    tokio::select! {
        () = first_round(settled) => {}
        _ = signals.next() => return Ok(Ended::Drained),
    }
    crew.start(staffed)?;
    readiness.enter();
    ready(&traffic, admin);

    let first = tokio::select! {
        first = signals.next() => first,
        () = crew.one_ended() => return Err(io::Error::other("a worker ended by itself")),
    };
    readiness.leave();
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    watching.abort();
    let ended = leave(settings, first, &mut signals, &mut crew).await;
    admin_stop.cancel();
    if ended == Ended::Drained {
        let _ = tokio::time::timeout(LAST_FIGURES, admin_ended).await;
    }
    Ok(ended)
}

/// Waits until every backend is known to be up or down, or was waited for long enough.
async fn first_round(mut settled: watch::Receiver<bool>) {
    if !*settled.borrow() {
        tracing::info!("waiting for the first round of health checks");
    }
    // The keeper lives as long as the process does.
    let _ = settled.wait_for(|settled| *settled).await;
}

/// Has clients forgotten who need not be remembered.
async fn sweep(clients: Arc<Clients>) {
    loop {
        tokio::time::sleep(Clients::SWEEP).await;
        clients.sweep(Instant::now());
    }
}

/// Reads every certificate. The settings have read them before; what has changed since then may be wrong.
fn certificates(settings: &Settings) -> io::Result<Published> {
    let shelf = Shelf::load(settings.server.tls.files()).map_err(|wrongs| {
        let lines: Vec<_> = wrongs.iter().map(|(_, wrong)| wrong.to_string()).collect();
        io::Error::other(lines.join("; "))
    })?;
    Ok(Arc::new(ArcSwap::from_pointee(shelf)))
}

/// What the settings say of every request.
fn request_policy(settings: &Settings, clients: &Arc<Clients>) -> Policy {
    let proxies = settings.server.trusted_proxies.iter().map(|network| network.0);
    let field = match settings.server.forwarded_by {
        ForwardedBy::XForwardedFor => Field::XForwardedFor,
        ForwardedBy::Forwarded => Field::Forwarded,
    };
    let limits = &settings.server.limits;
    Policy {
        max_target: limits.max_target_bytes.0,
        max_headers: limits.max_headers.0.into(),
        trust: Trust::new(proxies, field),
        clients: Arc::clone(clients),
    }
}

/// Stops accepting and waits for what is under way.
async fn leave(settings: &Settings, first: Asked, signals: &mut Signals, crew: &mut Crew) -> Ended {
    let delay = if first == Asked::Terminate { settings.server.shutdown_delay } else { Span::seconds(0) };
    let grace = settings.server.shutdown_grace;
    tracing::info!(signal = first.name(), %delay, %grace, "leaving");
    let (delay, grace) = (delay.0, grace.0);
    if !delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = signals.next() => return Ended::AtOnce,
        }
    }
    crew.stop();
    tokio::select! {
        () = crew.all_ended() => Ended::Drained,
        () = tokio::time::sleep(grace) => Ended::CutShort,
        _ = signals.next() => Ended::AtOnce,
    }
}

/// Which signal asked us to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Interrupt,
    Terminate,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}
