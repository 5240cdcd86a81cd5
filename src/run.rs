//! The process's life: start everything, serve until a signal comes, leave in good order.

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
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
use crate::notify::Notifier;
use crate::reload::Reloader;
use crate::server::{Crew, Listener, Listeners, Speaks, Tls, Traffic, max_connections, worker_count};
use crate::settings::{ForwardedBy, Layers, Settings, Span};
use crate::takeover::{Offer, Predecessor, TakenOver};
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

/// Who started this process, and who is told how it goes.
#[derive(Debug, Default)]
pub struct Family {
    /// The instance that is replaced, which waits for this one to serve.
    pub predecessor: Option<Predecessor>,
    /// The way to the service manager.
    pub notifier: Notifier,
}

/// Serves until a signal comes or a successor serves, then leaves.
///
/// `layers` are what the settings came from, to be read again on reload; `None` where they are fixed, and then nobody
/// can take over either.
/// `listeners` were opened with the same settings; `ready` is called with them once visitors are served, signals are
/// heeded and a predecessor accepts no more. Runs on the caller's runtime, inside a [`tokio::task::LocalSet`]; requests run on threads of
/// their own.
///
/// # Errors
/// What kept it from starting, or a worker that ended by itself.
pub async fn run(
    settings: &Settings,
    layers: Option<Layers>,
    listeners: Listeners,
    telemetry: &Telemetry,
    mut family: Family,
    ready: impl FnOnce(&[(Speaks, SocketAddr)], SocketAddr),
) -> io::Result<Ended> {
    let mut signals = Signals::listen()?;
    let traffic: Vec<_> =
        listeners.traffic.iter().map(|traffic| (traffic.speaks, traffic.bound.address)).collect();
    let admin = listeners.admin.address;
    let certificates = certificates(settings)?;
    let served: Vec<_> = listeners.all().map(|bound| (bound.kind, bound.address)).collect();
    let held = layers.as_ref().map(|_| listeners.hold()).transpose()?;
    let notifier =
        family.notifier.listening_on(listeners.traffic.iter().map(|traffic| traffic.bound.address), admin);
    // One slab for each thread that counts: the workers, and this one for the admin listener, keeper and probes.
    let mut slabs = vec![Arc::<Slab>::default()];
    let own_counter = Counter::new(Arc::clone(&slabs[0]));
    let mut keeper = Keeper::start(settings, own_counter.clone());
    let fleet = keeper.published();
    let offered = Arc::clone(&fleet);

    let mut counted = Vec::new();
    let mut listener_slot = |address: SocketAddr| {
        let slot = keeper.slots().listener(&address.to_string());
        counted.push((address.to_string(), slot));
        slot
    };
    let workers = worker_count(settings);
    let mut of_worker: Vec<Vec<Listener>> = std::iter::repeat_with(Vec::new).take(workers).collect();
    for Traffic { bound, speaks, proxy_protocol } in listeners.traffic {
        let (slot, passed) = (listener_slot(bound.address), bound.passed.clone());
        for (own, sockets) in of_worker.iter_mut().zip(bound.deal(workers)?) {
            own.extend(sockets.into_iter().map(|socket| {
                let passed = passed.clone();
                Listener { socket, speaks, slot, proxy_protocol, passed }
            }));
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
    if let Some(predecessor) = &mut family.predecessor {
        predecessor.operate_again(&events).await;
    }
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
        let notifier = notifier.clone();
        let reloader =
            Reloader::new(layers, settings.clone(), events.clone(), reloads, ask_certificates, notifier);
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
    let (admin_start, admin_stopped) = (CancellationToken::new(), admin_stop.clone());
    // A predecessor's admin listener is this one's too, and there `/readyz` must not say "starting".
    if family.predecessor.is_none() {
        admin_start.cancel();
    }
    let admin_started = admin_start.clone();
    let admin_ended = tokio::task::spawn_local(async move {
        admin_started.cancelled().await;
        admin::serve(listeners.admin, admin_slot, own_counter, &admin_settings, shown, admin_stopped).await
    });
    let alive = tokio::task::spawn_local(notifier.clone().keep_alive());

    // Until the first round of probes is over, who comes waits in the kernel's queue, or is the predecessor's.
    tokio::select! {
        () = first_round(settled) => {}
        () = starting(family.predecessor.as_ref()) => {}
        _ = signals.next() => return Ok(Ended::Drained),
    }
    crew.start(staffed)?;
    readiness.enter();
    admin_start.cancel();
    if let Some(predecessor) = family.predecessor {
        // Said before the old one can end: a manager that misses its main process takes the service for ended.
        let pid = predecessor.pid;
        notifier.main_process(std::process::id());
        if let Err(error) = predecessor.ready(served).await {
            notifier.main_process(pid);
            // Whom this one has accepted by now it answers.
            crew.stop();
            admin_stop.cancel();
            let _ = tokio::time::timeout(settings.server.shutdown_grace.0, crew.all_ended()).await;
            return Err(error);
        }
    }
    let mut offering: Offering = match held {
        Some(held) => Box::pin(Offer::new(admin, held, offered).taken()),
        None => Box::pin(pending()),
    };
    notifier.ready(settings.pools.len());
    ready(&traffic, admin);

    let why = tokio::select! {
        signal = signals.next() => Why::Asked(signal),
        taken_over = &mut offering => Why::TakenOver(taken_over),
        () = crew.one_ended() => return Err(io::Error::other("a worker ended by itself")),
    };
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    watching.abort();
    match &why {
        Why::Asked(_) => {
            readiness.leave();
            notifier.stopping();
        }
        // The address is served and the service goes on; the successor speaks for both.
        Why::TakenOver(_) => alive.abort(),
    }
    let ended = leave(settings, why, offering, &mut signals, &mut crew, &admin_stop).await;
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

/// Tells a predecessor that it will be replaced. Never ends.
async fn starting(predecessor: Option<&Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.starting().await,
        None => pending().await,
    }
}

/// Ends when a successor serves. Until it is dropped it holds a descriptor of every listening socket.
type Offering = Pin<Box<dyn Future<Output = TakenOver>>>;

/// Why to leave.
#[derive(Debug)]
enum Why {
    Asked(Asked),
    TakenOver(TakenOver),
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
async fn leave(
    settings: &Settings,
    why: Why,
    mut offering: Offering,
    signals: &mut Signals,
    crew: &mut Crew,
    admin_stop: &CancellationToken,
) -> Ended {
    let grace = settings.server.shutdown_grace;
    let mut successor = None;
    match why {
        Why::TakenOver(by) => successor = Some(by),
        Why::Asked(signal) => {
            let delay =
                if signal == Asked::Terminate { settings.server.shutdown_delay } else { Span::seconds(0) };
            tracing::info!(signal = signal.name(), %delay, %grace, "leaving");
            if !delay.0.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(delay.0) => {}
                    by = &mut offering => successor = Some(by),
                    _ = signals.next() => return Ended::AtOnce,
                }
            }
        }
    }
    // First of all: a listener lives for as long as one descriptor of it does.
    drop(offering);
    crew.stop();
    if let Some(successor) = successor {
        tracing::info!(version = successor.version, pid = successor.pid, %grace, "taken over; leaving");
        // `/readyz` is the successor's from now on.
        admin_stop.cancel();
        tokio::task::yield_now().await;
        successor.left().await;
    }
    tokio::select! {
        () = crew.all_ended() => Ended::Drained,
        () = tokio::time::sleep(grace.0) => Ended::CutShort,
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
