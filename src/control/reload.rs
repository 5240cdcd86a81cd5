//! Reading the settings again while visitors are served: on SIGHUP, and when a file has changed.
//!
//! New settings are validated whole. Wrong ones change nothing, and every problem is logged; so do listeners that can't
//! be opened. What `log` says and how many probes run at once take effect at the next start, and a line says so.

use std::collections::hash_map::DefaultHasher;
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::control::Event;
use crate::metrics::Reloads;
use crate::os::fd_limit;
use crate::os::files;
use crate::os::sd_notify::Notifier;
use crate::settings::{Layers, LoadedSettings, Settings, SettingsError};

/// Where the outcome of a reload that was asked for goes: an error has one line per problem.
pub type ReloadReply = oneshot::Sender<Result<(), Vec<String>>>;

/// How long reading files may take.
const LONG: Duration = Duration::from_secs(5);

/// How much of a file is looked at: more than a settings file for ten thousand backends has.
const MOST: u64 = 16 << 20;

/// Why a reload was not asked for.
const CHANGED: &str = "a file has changed";

/// Asks for other listeners and workers, since `[server]` or `[admin]` have changed.
#[derive(Debug)]
pub struct ReplaceDataPlane {
    /// All settings, valid.
    pub settings: Settings,
    /// Is told once they serve, or why they can't: then nothing has changed.
    pub answer: ReloadReply,
}

/// Who is told of a reload.
#[derive(Debug)]
pub struct ReloadTargets {
    /// The controller.
    pub events: mpsc::Sender<Event>,
    /// Who has the listeners.
    pub data_plane: mpsc::Sender<ReplaceDataPlane>,
    /// Who reads certificates.
    pub certificates: watch::Sender<u64>,
    /// Who writes the state file, and where it is.
    pub state_path: watch::Sender<Option<PathBuf>>,
    /// Metrics.
    pub reloads: Arc<Reloads>,
    /// The service manager.
    pub notifier: Notifier,
}

/// Reads settings again and hands them to whom they concern.
#[derive(Debug)]
pub struct Reloader {
    layers: Layers,
    /// The settings in effect; of `log` those of the start.
    current: Settings,
    told: ReloadTargets,
    /// What was last read, also if it was wrong: a file that was missing may be there later.
    files: Vec<PathBuf>,
    /// The fingerprint of that.
    fingerprint: Option<u64>,
    /// A look at the files that has not come back.
    looking: Option<JoinHandle<Option<u64>>>,
}

/// When files are looked at; 0 is never.
fn looks(every: Duration) -> Interval {
    let mut looks = interval(if every.is_zero() { Duration::MAX } else { every });
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

impl Reloader {
    /// For a process that was started with `current`, as `layers` say.
    pub fn new(layers: Layers, current: Settings, told: ReloadTargets) -> Self {
        Self { layers, current, told, files: Vec::new(), fingerprint: None, looking: None }
    }

    /// Waits for reasons to reload, for as long as it is polled. `hangup` is SIGHUP, `asked` comes from the API.
    pub async fn run(mut self, mut hangup: Signal, mut asked: mpsc::Receiver<ReloadReply>) {
        let mut every = self.current.server.watch_interval.0;
        let mut looks = looks(every);
        // What changed between the start's own reading and this one would never be seen.
        if !every.is_zero() && self.differs().await {
            let _ = self.reload(CHANGED).await;
        }
        let mut last = self.fingerprint;
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
                    let now = self.look().await;
                    if now.is_none() {
                        continue;
                    }
                    // Twice the same: an editor that is still writing is given the time to finish.
                    let settled = now == last;
                    last = now;
                    if now == self.fingerprint || !settled {
                        continue;
                    }
                    CHANGED
                }
            };
            if why != CHANGED {
                // Settings that are wrong elsewhere keep no certificate from being renewed.
                self.told.certificates.send_modify(|asked| *asked += 1);
            }
            let outcome = self.reload(why).await;
            last = self.fingerprint;
            if every != self.current.server.watch_interval.0 {
                every = self.current.server.watch_interval.0;
                looks = self::looks(every);
            }
            if let Some(answer) = answer {
                // Whoever asked may have gone.
                let _ = answer.send(outcome);
            }
        }
    }

    /// Whether the settings that would be read now are others than those in effect.
    async fn differs(&mut self) -> bool {
        let read = self.read().await;
        !matches!(read, Ok(Ok(loaded)) if loaded.settings == self.current)
    }

    /// Reads all layers, on a thread that may block.
    async fn read(&mut self) -> Result<Result<LoadedSettings, Vec<SettingsError>>, String> {
        loop {
            self.fingerprint = self.look().await;
            let layers = self.layers.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut files = Vec::new();
                (Settings::load_listing(&layers, &mut files), files)
            });
            let read = timeout(LONG, read).await.map_err(|_| format!("it took longer than {LONG:?}"))?;
            let (loaded, files) = read.map_err(|error| error.to_string())?;
            if files == self.files {
                return Ok(loaded);
            }
            // Read once more: what changes in a file between its first reading and its first look would never be seen.
            self.files = files;
        }
    }

    /// Reloads once.
    ///
    /// # Errors
    /// A line for each problem; the old settings are then in effect.
    async fn reload(&mut self, why: &'static str) -> Result<(), Vec<String>> {
        self.told.notifier.reloading();
        let outcome = match self.read().await {
            Ok(Ok(loaded)) => self.publish(loaded).await,
            Ok(Err(problems)) => Err(problems.iter().map(ToString::to_string).collect()),
            Err(error) => Err(vec![format!("they could not be read: {error}")]),
        };
        self.told.reloads.note(outcome.is_ok());
        self.told.notifier.reloaded(self.current.pools.len(), outcome.is_ok());
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

    /// Has what has changed put into effect: listeners first, since they may be lacking.
    ///
    /// # Errors
    /// What was lacking, a line each; then nothing has changed.
    async fn publish(&mut self, loaded: LoadedSettings) -> Result<(), Vec<String>> {
        let lost = || vec!["they could not be published".to_owned()];
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let settings = loaded.settings;
        let at_next_start = [
            ("[log]", settings.log != self.current.log),
            (
                "server.limits.max_probes",
                settings.server.limits.max_probes != self.current.server.limits.max_probes,
            ),
        ];
        for (what, _) in at_next_start.iter().filter(|(_, changed)| *changed) {
            tracing::warn!("{what} has changed, which takes effect at the next start");
        }
        // Pages are published with the pools: other pages need no other listeners.
        let mut current = self.current.server.clone();
        current.error_pages.clone_from(&settings.server.error_pages);
        if (&settings.server, &settings.admin) != (&current, &self.current.admin) {
            let (answer, served) = oneshot::channel();
            let asked = ReplaceDataPlane { settings: settings.clone(), answer };
            self.told.data_plane.send(asked).await.map_err(|_| lost())?;
            served.await.map_err(|_| lost())??;
            self.current.server = settings.server.clone();
            self.current.admin = settings.admin;
        }
        let (published, done) = oneshot::channel();
        let event = Event::Pools {
            pools: settings.pools.clone(),
            error_pages: settings.server.error_pages.clone(),
            published,
        };
        self.told.events.send(event).await.map_err(|_| lost())?;
        done.await.map_err(|_| lost())?;
        self.current.pools = settings.pools;
        self.current.server.error_pages = settings.server.error_pages;
        // After the pools: overrides in it may be of new backends.
        let state_file = &self.current.admin.state_file;
        self.told.state_path.send_if_modified(|path| {
            let changed = path != state_file;
            path.clone_from(state_file);
            changed
        });
        Ok(())
    }

    /// A hash of what every file holds. By content and not by time or inode: an editor's rename, a swapped
    /// `..data` link of a mounted ConfigMap and a network file system then all look the same.
    /// `None` while no descriptor is left to read with, or a file does not end: that says nothing of the files.
    async fn look(&mut self) -> Option<u64> {
        if self.looking.as_ref().is_some_and(|look| !look.is_finished()) {
            return None;
        }
        let files = self.files.clone();
        let hash = move || {
            let mut hasher = DefaultHasher::new();
            for file in files {
                let read = files::read_first(&file, MOST);
                if read.as_ref().is_err_and(fd_limit::are_out) {
                    return None;
                }
                read.map_err(|error| error.kind()).hash(&mut hasher);
            }
            Some(hasher.finish())
        };
        let mut look = tokio::task::spawn_blocking(hash);
        match timeout(LONG, &mut look).await {
            Ok(hash) => hash.ok().flatten(),
            Err(_) => {
                tracing::error!(
                    "a settings file can't be read to its end; files are not looked at until it can"
                );
                self.looking = Some(look);
                None
            }
        }
    }
}
