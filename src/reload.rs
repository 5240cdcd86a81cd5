//! Reading the settings again while visitors are served: on SIGHUP, and when a file has changed.
//!
//! New settings are validated whole. Wrong ones change nothing, and every problem is logged. Pools take effect at
//! once; what `server`, `admin` and `log` say takes effect at the next start, and a line says so.

use std::collections::hash_map::DefaultHasher;
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::{MissedTickBehavior, interval};

use crate::keeper::Event;
use crate::metrics::Reloads;
use crate::notify::Notifier;
use crate::settings::{Layers, Loaded, Problem, Settings};

/// Where the outcome of a reload that was asked for goes: an error has one line per problem.
pub type Answer = oneshot::Sender<Result<(), Vec<String>>>;

/// Why a reload was not asked for.
const CHANGED: &str = "a file has changed";

/// Reads settings again and hands them to the keeper.
#[derive(Debug)]
pub struct Reloader {
    layers: Layers,
    /// The settings in effect; of `server`, `admin` and `log` those of the start.
    current: Settings,
    events: mpsc::Sender<Event>,
    reloads: Arc<Reloads>,
    /// Has the certificates read again too.
    certificates: watch::Sender<u64>,
    notifier: Notifier,
}

impl Reloader {
    /// For a process that was started with `current`, as `layers` say.
    pub fn new(
        layers: Layers,
        current: Settings,
        events: mpsc::Sender<Event>,
        reloads: Arc<Reloads>,
        certificates: watch::Sender<u64>,
        notifier: Notifier,
    ) -> Self {
        Self { layers, current, events, reloads, certificates, notifier }
    }

    /// Waits for reasons to reload, for as long as it is polled. `hangup` is SIGHUP, `asked` comes from the API.
    pub async fn run(mut self, mut hangup: Signal, mut asked: mpsc::Receiver<Answer>) {
        let every = self.current.server.watch.0;
        let mut looks = interval(if every.is_zero() { Duration::MAX } else { every });
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut loaded = self.fingerprint().await;
        let mut last = loaded;
        // What changed between the start's own reading and this first look would never be seen.
        if !every.is_zero() && self.differs().await {
            let _ = self.reload(CHANGED).await;
        }
        loop {
            let mut answer = None;
            let why = tokio::select! {
                signal = hangup.recv() => match signal {
                    Some(()) => "SIGHUP",
                    None => pending().await,
                },
                Some(asked) = asked.recv() => {
                    answer = Some(asked);
                    "the API"
                }
                _ = looks.tick(), if !every.is_zero() => {
                    let now = self.fingerprint().await;
                    // Twice the same: an editor that is still writing is given the time to finish.
                    let settled = now == last;
                    last = now;
                    if now == loaded || !settled {
                        continue;
                    }
                    CHANGED
                }
            };
            if why != CHANGED {
                // Settings that are wrong elsewhere keep no certificate from being renewed.
                self.certificates.send_modify(|asked| *asked += 1);
            }
            loaded = self.fingerprint().await;
            last = loaded;
            let outcome = self.reload(why).await;
            if let Some(answer) = answer {
                // Whoever asked may have gone.
                let _ = answer.send(outcome);
            }
        }
    }

    /// Whether the settings that would be read now are others than those in effect.
    async fn differs(&self) -> bool {
        let read = self.read().await;
        !matches!(read, Ok(Ok(loaded)) if loaded.settings == self.current)
    }

    /// Reads all layers, on a thread that may block.
    async fn read(&self) -> Result<Result<Loaded, Vec<Problem>>, JoinError> {
        let layers = self.layers.clone();
        tokio::task::spawn_blocking(move || Settings::load(&layers)).await
    }

    /// Reloads once.
    ///
    /// # Errors
    /// A line for each problem; the old settings are then in effect.
    async fn reload(&mut self, why: &'static str) -> Result<(), Vec<String>> {
        self.notifier.reloading();
        let outcome = match self.read().await {
            Ok(Ok(loaded)) => match self.publish(loaded).await {
                true => Ok(()),
                false => Err(vec!["they could not be published".to_owned()]),
            },
            Ok(Err(problems)) => Err(problems.iter().map(ToString::to_string).collect()),
            Err(error) => Err(vec![format!("they could not be read: {error}")]),
        };
        self.reloads.note(outcome.is_ok());
        self.notifier.reloaded(self.current.pools.len(), outcome.is_ok());
        match &outcome {
            Ok(()) => tracing::info!(why, pools = self.current.pools.len(), "settings reloaded"),
            Err(problems) => {
                for problem in problems {
                    tracing::error!(why, "wrong settings: {problem}");
                }
                tracing::error!(why, "nothing was reloaded; the old settings stay");
            }
        }
        outcome
    }

    /// Has the pools published; returns whether they were.
    async fn publish(&mut self, loaded: Loaded) -> bool {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let Settings { server, admin, log, pools } = loaded.settings;
        let at_next_start = [
            ("server", server != self.current.server),
            ("admin", admin != self.current.admin),
            ("log", log != self.current.log),
        ];
        for (section, _) in at_next_start.iter().filter(|(_, changed)| *changed) {
            tracing::warn!("[{section}] has changed, which takes effect at the next start");
        }
        let (published, done) = oneshot::channel();
        let event = Event::Pools { pools: pools.clone(), published };
        let accepted = self.events.send(event).await.is_ok() && done.await.is_ok();
        if accepted {
            self.current.pools = pools;
        }
        accepted
    }

    /// A hash of what every file holds. By content and not by time or inode: an editor's rename, a swapped
    /// `..data` link of a mounted ConfigMap and a network file system then all look the same.
    async fn fingerprint(&self) -> u64 {
        let secrets = self.current.pools.iter().filter_map(|pool| pool.pin.as_ref()?.secrets_file.clone());
        let files: Vec<PathBuf> = self.layers.files.iter().cloned().chain(secrets).collect();
        let hash = move || {
            let mut hasher = DefaultHasher::new();
            for file in files {
                std::fs::read(file).map_err(|error| error.kind()).hash(&mut hasher);
            }
            hasher.finish()
        };
        tokio::task::spawn_blocking(hash).await.unwrap_or_default()
    }
}
