//! The process's life: start everything, serve until a signal comes, leave in good order.

mod data_plane;
pub mod demo;
mod retiring;
mod signals;

use std::cell::RefCell;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::{Scrapes, Shown};
use crate::compare::Comparer;
use crate::control::Controller;
use crate::control::reload::{ReloadTargets, Reloader, ReplaceDataPlane};
use crate::dispatch::client_limits::ClientLimits;
use crate::health::{EntryPoints, Prober};
use crate::metrics::{
    Counter, CounterRegistry, Imbalances, Registry, Reloads, Sources, StateFileStatus, ThreadCounters,
};
use crate::os::fd_limit::explained;
use crate::os::sd_notify::Notifier;
use crate::overrides::{self, Saver, StateFile};
use crate::readiness::Readiness;
use crate::server::{BoundListener, ConnectionLimit, ListenerProtocol, Listeners, Shutdown};
use crate::settings::{Layers, Settings, Span};
use crate::takeover::{Predecessor, ReadySuccessor, TakeoverServer};
use crate::telemetry::Telemetry;
use data_plane::{DataPlane, SharedState};
use retiring::Retiring;
pub(crate) use signals::ignore_signals;
use signals::{ShutdownSignal, ShutdownSignals};

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// Every request was answered.
    Drained,
    /// `shutdown_grace` was over with requests still under way.
    CutShort,
    /// A second SIGTERM or SIGINT came.
    AtOnce,
}

/// How many changes may wait for the controller.
const QUEUE: usize = 1024;
/// How often a change that waits looks whether it may happen.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long workers may take to end at once. A worker is never busy for so long.
const CUT_OFF: Duration = Duration::from_millis(500);
/// How long the admin listener's last answers may take.
const LAST_FIGURES: Duration = Duration::from_millis(500);

/// Who started this process, and who is told how it goes.
#[derive(Debug, Default)]
pub struct ProcessContext {
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
    mut family: ProcessContext,
    ready: impl FnOnce(&[(ListenerProtocol, SocketAddr)], SocketAddr),
) -> io::Result<ExitReason> {
    let mut signals = ShutdownSignals::listen()?;
    let hangup = signal(SignalKind::hangup())?;
    // Settings without layers can't be reloaded.
    let is_fixed = layers.is_none();
    signals::log_ignored(is_fixed)?;
    // Of this thread, on which controller, probes and admin listener run.
    let own = Arc::<ThreadCounters>::default();
    let counter = Counter::new(Arc::clone(&own));
    let controller = Controller::start(settings, counter.clone());
    let (fleet, slots, settled) = (controller.published(), controller.slots(), controller.settled());
    let (roll, reloads) = (Arc::new(CounterRegistry::new(own)), Arc::<Reloads>::default());
    let imbalances = Arc::<Imbalances>::default();
    let (events, changes) = mpsc::channel(QUEUE);
    let state_file = Arc::<StateFileStatus>::default();
    let state_path = watch::Sender::new(settings.admin.state_file.clone());
    let (saver, saved) = Saver::new(
        Arc::clone(&fleet),
        controller.override_changes(),
        state_path.subscribe(),
        Arc::clone(&state_file),
        events.clone(),
    );
    let registry = Registry::new(Sources {
        fleet: Arc::clone(&fleet),
        roll: Arc::clone(&roll),
        dropped_lines: telemetry.dropped_lines(),
        reloads: Arc::clone(&reloads),
        state_file,
        imbalances: Arc::clone(&imbalances),
        clock: controller.clock(),
        version: env!("CARGO_PKG_VERSION"),
    })
    .map_err(io::Error::other)?;
    let (ask_reload, asked) = mpsc::channel(1);
    let readiness = Readiness::default();
    let busy = Arc::<AtomicBool>::default();
    let ground = SharedState {
        shown: Shown {
            saved,
            handing_over: Arc::clone(&busy),
            registry: Arc::new(registry),
            scrapes: Scrapes::default(),
            readiness: readiness.clone(),
            fleet: Arc::clone(&fleet),
            clock: controller.clock(),
            events: events.clone(),
            counter: counter.clone(),
            reloads: layers.as_ref().map(|_| ask_reload),
        },
        clock: controller.clock(),
        slots,
        roll,
        places: ConnectionLimit::new(usize::MAX),
        listening: Arc::default(),
        clients: RefCell::new(ClientLimits::new(0, 0)),
        telemetry,
        counter: counter.clone(),
        certificates: watch::Sender::new(0),
    };
    let mut front = DataPlane::new(settings, listeners, &ground)?;
    let watchdog = family.predecessor.as_ref().and_then(|predecessor| predecessor.watchdog);
    let notifier = family
        .notifier
        .watched(watchdog)
        .listening_on(front.traffic.iter().map(|(_, address)| *address), front.admin);

    // A redirect to an address that will be listened on is one already, while the first round of checks runs.
    ground.listening.store(Arc::new(front.listening()));
    let entry = EntryPoints { fleet: Arc::clone(&fleet), listening: Arc::clone(&ground.listening) };
    let at_once = settings.server.limits.max_probes.0.into();
    let prober = Prober::new(at_once, events.clone(), counter, entry);
    tokio::task::spawn_local(prober.run(controller.targets()));
    tokio::task::spawn_local(controller.run(changes));
    tokio::task::spawn_local(
        Comparer::new(Arc::clone(&fleet), ground.clock, Arc::clone(&ground.roll), imbalances).run(),
    );
    // What a predecessor hands over is newer than the file.
    let read = match (&mut family.predecessor, &settings.admin.state_file) {
        (Some(predecessor), _) => {
            predecessor.operate_again(&events).await;
            None
        }
        (None, Some(path)) => Some(overrides::load(path.clone(), &events).await),
        (None, None) => None,
    };
    // Until its predecessor has left, a successor does not touch the file.
    let mut saver = Some((saver, read));
    if family.predecessor.is_none() {
        save(&mut saver);
    }
    let (ask_front, mut fronts_asked) = mpsc::channel(1);
    let reloading = layers.map(|layers| {
        let certificates = ground.certificates.clone();
        let (state_path, notifier) = (state_path.clone(), notifier.clone());
        let told = ReloadTargets { events, fronts: ask_front, certificates, state_path, reloads, notifier };
        tokio::task::spawn_local(Reloader::new(layers, settings.clone(), told).run(hangup, asked))
    });
    // A predecessor's admin listener is this one's too, and there `/readyz` must not say "starting".
    if family.predecessor.is_none() {
        front.open_office(&ground);
    }
    let alive = tokio::task::spawn_local(notifier.clone().keep_alive());

    // Until the first round of probes is over, who comes waits in the kernel's queue, or is the predecessor's.
    tokio::select! {
        () = first_round(settled) => {}
        () = starting(family.predecessor.as_ref()) => {}
        signal = signals.next() => {
            if family.predecessor.is_some() {
                return Ok(ExitReason::Drained);
            }
            // Who waits in the queue by now is answered still.
            front.serve(&ground)?;
            let (why, no_offer) = (ShutdownCause::ShutdownSignal(signal), Box::pin(pending()));
            return Ok(leave(why, no_offer, &mut signals, &mut front, Retiring::default()).await);
        }
    }
    // A predecessor leaves once this process is ready, so everything that can fail comes before that.
    let held = match front.hold() {
        Err(error) if family.predecessor.is_some() => {
            return Err(io::Error::other(format!(
                "out of file descriptors for the next takeover: {}",
                explained(&error)
            )));
        }
        held => held,
    };
    front.serve(&ground)?;
    readiness.enter();
    front.open_office(&ground);
    if let Some(predecessor) = family.predecessor {
        // Said before the old one can end: a manager that misses its main process takes the service for ended.
        let pid = predecessor.pid;
        notifier.main_process(std::process::id());
        if let Err(error) = predecessor.ready(front.listeners()).await {
            notifier.main_process(pid);
            // Whom this one has accepted by now it answers.
            front.withdraw();
            front.close_office();
            let _ = tokio::time::timeout(settings.server.shutdown_grace.0, front.served()).await;
            return Err(error);
        }
    }
    front.tune();
    save(&mut saver);
    let offer = |front: &DataPlane, held: io::Result<Vec<BoundListener>>| -> TakeoverOffer {
        match held {
            _ if is_fixed => Box::pin(pending()),
            Ok(held) => Box::pin(
                TakeoverServer::new(
                    front.admin,
                    held,
                    Arc::clone(&fleet),
                    Arc::clone(&busy),
                    notifier.watchdog(),
                )
                .taken(),
            ),
            Err(error) => {
                tracing::error!(%error, "out of file descriptors: takeover unavailable");
                Box::pin(pending())
            }
        }
    };
    let mut offering = offer(&front, held);
    notifier.ready(settings.pools.len());
    ready(&front.traffic, front.admin);

    let mut retiring = Retiring::default();
    let mut asked: Option<ReplaceDataPlane> = None;
    let why = loop {
        // While a successor is being spoken with, what it was told must stay true: a change waits for how that ends.
        if let Some(ReplaceDataPlane { settings, answer }) = asked.take_if(|_| !busy.load(Ordering::Relaxed))
        {
            let replaced = front.next(&settings, &ground).map(|next| {
                let old = std::mem::replace(&mut front, next);
                retiring.add(old, &front, Arc::clone(&ground.roll));
            });
            if replaced.is_ok() {
                // Dropped first: it holds descriptors of listeners that are to be closed, and the name.
                drop(std::mem::replace(&mut offering, Box::pin(pending())));
                offering = offer(&front, front.hold());
                log_listeners(&front);
            }
            let _ = answer.send(replaced);
        }
        tokio::select! {
            signal = signals.next() => break ShutdownCause::ShutdownSignal(signal),
            taken_over = &mut offering => break ShutdownCause::ReadySuccessor(taken_over),
            () = front.one_ended() => return Err(io::Error::other("a worker ended by itself")),
            Some(next) = fronts_asked.recv(), if asked.is_none() => asked = Some(next),
            () = tokio::time::sleep(LOOK_AGAIN), if asked.is_some() => {}
        }
    };
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    match &why {
        ShutdownCause::ShutdownSignal(_) => {
            readiness.leave();
            notifier.stopping();
        }
        // The address is served and the service goes on; the successor speaks for both, and writes the state file.
        ShutdownCause::ReadySuccessor(_) => {
            alive.abort();
            state_path.send_replace(None);
        }
    }
    let ended = leave(why, offering, &mut signals, &mut front, retiring).await;
    front.close_office();
    if ended == ExitReason::Drained {
        let _ = tokio::time::timeout(LAST_FIGURES, front.office_closed()).await;
    }
    Ok(ended)
}

/// Has a saver keep its file true from now on; once.
fn save(saver: &mut Option<(Saver, Option<StateFile>)>) {
    if let Some((saver, file)) = saver.take() {
        tokio::task::spawn_local(saver.run(file));
    }
}

/// Says where visitors and operator are served from now on.
fn log_listeners(front: &DataPlane) {
    let traffic: Vec<_> = front.traffic.iter().map(|(_, address)| address.to_string()).collect();
    tracing::info!(traffic = traffic.join(", "), admin = %front.admin, "listeners are served by new workers");
}

/// Waits until every backend is known to be up or down, or was waited for long enough.
async fn first_round(mut settled: watch::Receiver<bool>) {
    if !*settled.borrow() {
        tracing::info!("waiting for the first round of health checks");
    }
    // The controller lives as long as the process does.
    let _ = settled.wait_for(|settled| *settled).await;
}

/// Tells a predecessor that it will be replaced. Never ends.
async fn starting(predecessor: Option<&Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.starting().await,
        None => pending().await,
    }
}

/// Ends when a successor serves. Until it is dropped it holds a descriptor of every listening socket.
type TakeoverOffer = Pin<Box<dyn Future<Output = ReadySuccessor>>>;

/// Why to leave.
#[derive(Debug)]
enum ShutdownCause {
    ShutdownSignal(ShutdownSignal),
    ReadySuccessor(ReadySuccessor),
}

/// Stops accepting and waits for what is under way.
async fn leave(
    why: ShutdownCause,
    mut offering: TakeoverOffer,
    signals: &mut ShutdownSignals,
    front: &mut DataPlane,
    mut retiring: Retiring,
) -> ExitReason {
    let (delay, grace) = (front.settings.server.shutdown_delay, front.settings.server.shutdown_grace);
    let mut successor = None;
    let prompt = matches!(why, ShutdownCause::ShutdownSignal(ShutdownSignal::Interrupt));
    match why {
        ShutdownCause::ReadySuccessor(by) => successor = Some(by),
        ShutdownCause::ShutdownSignal(signal) => {
            let delay = if prompt { Span::seconds(0) } else { delay };
            tracing::info!(signal = signal.name(), %delay, %grace, "leaving");
            if !delay.0.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(delay.0) => {}
                    by = &mut offering => successor = Some(by),
                    _ = signals.second() => {
                        cut_off(front, &mut retiring).await;
                        return ExitReason::AtOnce;
                    }
                }
            }
        }
    }
    // First of all: a listener lives for as long as one descriptor of it does.
    drop(offering);
    front.drain();
    if prompt {
        [front.shutdown()].into_iter().chain(retiring.shutdowns()).for_each(Shutdown::hurry);
    }
    if let Some(successor) = successor {
        tracing::info!(version = successor.version, pid = successor.pid, %grace, "taken over; leaving");
        // `/readyz` is the successor's from now on.
        front.close_office();
        tokio::task::yield_now().await;
        successor.left().await;
    }
    let ended = tokio::select! {
        () = all_served(front, &mut retiring) => return ExitReason::Drained,
        () = tokio::time::sleep(grace.0) => ExitReason::CutShort,
        _ = signals.second() => ExitReason::AtOnce,
    };
    cut_off(front, &mut retiring).await;
    ended
}

/// Waits until every client has its response.
async fn all_served(front: &mut DataPlane, retiring: &mut Retiring) {
    front.served().await;
    retiring.finished().await;
}

/// Has all workers end at once, so that they log what they could not write.
async fn cut_off(front: &mut DataPlane, retiring: &mut Retiring) {
    [front.shutdown()].into_iter().chain(retiring.shutdowns()).for_each(Shutdown::abort);
    let _ = tokio::time::timeout(CUT_OFF, all_served(front, retiring)).await;
}
