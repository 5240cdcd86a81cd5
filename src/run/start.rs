//! From settings and sockets to a process that serves.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use super::Process;
use super::data_plane::DataPlane;
use super::retiring::Retiring;
use super::shared_state::SharedState;
use super::signals::{self, ShutdownSignal, ShutdownSignals};
use crate::admin::{AdminContext, Scrapes};
use crate::control::reload::{ReloadTargets, Reloader};
use crate::control_plane::ControlPlane;
use crate::dispatch::client_limits::ClientLimits;
use crate::os::fd_limit::explained;
use crate::os::sd_notify::Notifier;
use crate::overrides::{self, Saver};
use crate::readiness::Readiness;
use crate::server::{ConnectionLimit, ListenerProtocol, Listeners};
use crate::settings::{Layers, Settings};
use crate::takeover::Predecessor;
use crate::telemetry::Telemetry;

impl<'t> Process<'t> {
    /// Starts everything but the workers. Must be called inside a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// Out of descriptors or memory, or settings that became invalid since they were read, such as a certificate.
    pub(super) async fn start(
        settings: &Settings,
        layers: Option<Layers>,
        listeners: Listeners,
        telemetry: &'t Telemetry,
        mut predecessor: Option<&mut Predecessor>,
        notifier: Notifier,
    ) -> io::Result<Self> {
        let signals = ShutdownSignals::listen()?;
        let hangup = signal(SignalKind::hangup())?;
        signals::log_ignored(layers.is_none())?;

        // The controller, the probes and the admin listener run on this thread.
        let (plane, tasks) = ControlPlane::new(settings, telemetry.dropped_lines())?;
        let state_path = watch::Sender::new(settings.admin.state_file.clone());
        let (saver, saved) = Saver::new(
            Arc::clone(&plane.fleet),
            plane.override_changes.clone(),
            state_path.subscribe(),
            Arc::clone(&plane.state_file),
            plane.events.clone(),
        );
        let (reload_requests, reloads_requested) = mpsc::channel(1);
        let handing_over = Arc::<AtomicBool>::default();
        let state = SharedState {
            admin: AdminContext {
                saved,
                handing_over: Arc::clone(&handing_over),
                registry: Arc::clone(&plane.exporter),
                scrapes: Scrapes::default(),
                readiness: Readiness::default(),
                fleet: Arc::clone(&plane.fleet),
                clock: plane.clock,
                events: plane.events.clone(),
                counter: plane.counter.clone(),
                reloads: layers.as_ref().map(|_| reload_requests),
            },
            plane: plane.clone(),
            connection_limit: ConnectionLimit::new(usize::MAX),
            clients: RefCell::new(ClientLimits::new(0, 0)),
            telemetry,
            certificates: watch::Sender::new(0),
        };
        let mut data_plane = DataPlane::new(settings, listeners, &state)?;
        let traffic = data_plane.traffic.iter().map(|(_, address)| *address);
        let watchdog = predecessor.as_ref().and_then(|predecessor| predecessor.watchdog);
        let notifier = notifier.watched(watchdog).listening_on(traffic, data_plane.admin);

        // A redirect to an address that is about to listen counts as a loop during the first round of checks already.
        plane.listening.store(Arc::new(data_plane.listening()));
        tasks.start(&plane);

        // The overrides of a predecessor are newer than the file.
        let state_file = match (&mut predecessor, &settings.admin.state_file) {
            (Some(predecessor), _) => {
                predecessor.restore_overrides(&plane.events).await;
                None
            }
            (None, Some(path)) => Some(overrides::load(path.clone(), &plane.events).await),
            (None, None) => None,
        };
        let (replace, replacements) = mpsc::channel(1);
        let reloader = layers.map(|layers| {
            let targets = ReloadTargets {
                events: plane.events,
                data_plane: replace,
                certificates: state.certificates.clone(),
                state_path: state_path.clone(),
                reloads: plane.reloads,
                notifier: notifier.clone(),
            };
            spawn_local(Reloader::new(layers, settings.clone(), targets).run(hangup, reloads_requested))
        });
        let mut saver = Some((saver, state_file));
        if predecessor.is_none() {
            save(&mut saver);
            // A predecessor's admin listener is shared with this process, where `/readyz` must not answer "starting".
            data_plane.open_admin(&state);
        }
        Ok(Self {
            keep_alive: spawn_local(notifier.clone().keep_alive()),
            state,
            data_plane,
            retiring: Retiring::default(),
            signals,
            notifier,
            settled: plane.settled,
            saver,
            state_path,
            reloader,
            replacements,
            handing_over,
            takeover: Box::pin(pending()),
        })
    }

    /// Waits until every backend is known to be up or down, or the checks have had their time. Until then new
    /// connections wait in the accept queue, or go to the predecessor. Returns a signal that arrives meanwhile, or if
    /// the predecessor disconnects.
    pub(super) async fn first_health_checks(
        &mut self,
        predecessor: Option<&Predecessor>,
    ) -> Option<ShutdownSignal> {
        let Self { settled, signals, .. } = self;
        if !*settled.borrow() {
            tracing::info!("waiting for the first round of health checks");
        }
        let report_start = async {
            match predecessor {
                Some(predecessor) => predecessor.starting().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // The controller lives as long as the process does.
            _ = settled.wait_for(|settled| *settled) => None,
            () = report_start => None,
            signal = signals.next() => Some(signal),
        }
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// A thread or a runtime cannot be created.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        self.data_plane.serve(&self.state)
    }

    /// Serves requests, makes a predecessor drain, and offers the sockets to a successor.
    ///
    /// # Errors
    /// Out of descriptors or threads, or the predecessor did not acknowledge; it keeps serving then.
    pub(super) async fn enter_service(
        &mut self,
        predecessor: Option<Predecessor>,
        ready: impl FnOnce(&[(ListenerProtocol, SocketAddr)], SocketAddr),
    ) -> io::Result<()> {
        // A predecessor drains once this process is ready, so everything that can fail comes first.
        let held = match self.data_plane.hold() {
            Err(error) if predecessor.is_some() => {
                return Err(io::Error::other(format!(
                    "out of file descriptors for the next takeover: {}",
                    explained(&error)
                )));
            }
            held => held,
        };
        self.serve()?;
        self.state.admin.readiness.enter();
        self.data_plane.open_admin(&self.state);
        if let Some(predecessor) = predecessor {
            self.replace(predecessor).await?;
        }
        self.data_plane.tune();
        save(&mut self.saver);
        self.offer_takeover(held);
        self.notifier.ready(self.data_plane.settings.pools.len());
        ready(&self.data_plane.traffic, self.data_plane.admin);
        Ok(())
    }

    /// Makes a predecessor drain.
    async fn replace(&mut self, predecessor: Predecessor) -> io::Result<()> {
        // Reported before the predecessor can exit: a service manager that misses its main process considers the
        // service ended.
        let pid = predecessor.pid;
        self.notifier.main_process(std::process::id());
        let acknowledged = predecessor.ready(self.data_plane.listeners()).await;
        if acknowledged.is_err() {
            self.notifier.main_process(pid);
            // Connections that this process accepted meanwhile get their responses.
            self.data_plane.withdraw();
            self.data_plane.close_admin();
            let grace = self.data_plane.settings.server.shutdown_grace.0;
            let _ = tokio::time::timeout(grace, self.data_plane.served()).await;
        }
        acknowledged
    }
}

/// Starts a saver, once.
fn save(saver: &mut Option<(Saver, Option<overrides::StateFile>)>) {
    if let Some((saver, file)) = saver.take() {
        spawn_local(saver.run(file));
    }
}
