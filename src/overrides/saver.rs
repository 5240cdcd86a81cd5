//! Keeps `admin.state_file` true to the fleet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::state_file::FileContents;
use super::{StateFile, load, of, read};
use crate::control::Event;
use crate::metrics::{CountedFleet, StateFileStatus};

/// How long a write may take before it counts as failed; it goes on.
const SLOW: Duration = Duration::from_secs(5);
/// How long a change by the API waits for the file.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Writes the state file when overrides change.
#[derive(Debug)]
pub struct Saver {
    fleet: Arc<ArcSwap<CountedFleet>>,
    /// The number of changes of overrides that are published.
    changes: watch::Receiver<u64>,
    /// Where the file is from now on; `None`: there is none.
    paths: watch::Receiver<Option<PathBuf>>,
    /// The number of changes that are dealt with.
    done: watch::Sender<u64>,
    status: Arc<StateFileStatus>,
    events: mpsc::Sender<Event>,
    /// Whether the file could not be written when that was last tried.
    failed: bool,
}

/// Tells whether changes are in the file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SaveStatus {
    changes: watch::Receiver<u64>,
    paths: watch::Receiver<Option<PathBuf>>,
    done: watch::Receiver<u64>,
}

impl SaveStatus {
    /// Waits until every published change is in the file, or could not be written, or the disk takes too long. Returns at
    /// once without a file.
    pub async fn up_to_date(&self) {
        if self.paths.borrow().is_none() {
            return;
        }
        let published = *self.changes.borrow();
        let _ = timeout(PATIENCE, self.done.clone().wait_for(|done| *done >= published)).await;
    }
}

impl Saver {
    /// For the overrides of a fleet; `changes` counts what is published of them, `events` restores them.
    pub fn new(
        fleet: Arc<ArcSwap<CountedFleet>>,
        changes: watch::Receiver<u64>,
        paths: watch::Receiver<Option<PathBuf>>,
        status: Arc<StateFileStatus>,
        events: mpsc::Sender<Event>,
    ) -> (Self, SaveStatus) {
        let done = watch::Sender::new(0);
        let saved = SaveStatus { changes: changes.clone(), paths: paths.clone(), done: done.subscribe() };
        (Self { fleet, changes, paths, done, status, events, failed: false }, saved)
    }

    /// Writes for as long as it is polled. `file` is the one that this process has restored its overrides from; without
    /// it, they count for more than those in the file.
    pub async fn run(mut self, file: Option<StateFile>) {
        let path = self.paths.borrow_and_update().clone();
        // A file that is there already is left alone until something changes, whatever the settings say now.
        let mut is_check = file.as_ref().is_some_and(|file| !file.is_missing());
        let mut file = match (file, path) {
            (None, Some(path)) => Some(self.supersede(path).await),
            (file, _) => file,
        };
        loop {
            let change = *self.changes.borrow_and_update();
            file = match file {
                Some(file) => self.save(file, is_check).await,
                None => {
                    self.status.clear();
                    None
                }
            };
            self.done.send_replace(change);
            let failed = file.is_some() && self.failed;
            tokio::select! {
                changed = self.changes.changed() => match changed {
                    Ok(()) => is_check = false,
                    // The controller has ended, and nothing changes any more.
                    Err(_) => return,
                },
                Ok(()) = self.paths.changed() => {
                    let path = self.paths.borrow_and_update().clone();
                    (is_check, self.failed) = (false, false);
                    file = match path {
                        // As at a start.
                        Some(path) if of(&self.fleet).is_empty() => Some(load(path, &self.events).await),
                        Some(path) => Some(self.supersede(path).await),
                        None => None,
                    };
                }
                () = sleep(RETRY), if failed => {}
            }
        }
    }

    /// Reads a file that is to be replaced. Overrides in it that are not in effect are kept aside.
    async fn supersede(&self, path: PathBuf) -> StateFile {
        let (mut file, contents) = read(path).await;
        if let FileContents::Valid(overrides, _) = contents
            && !overrides.is_empty()
            && overrides != of(&self.fleet)
        {
            file.supersede();
        }
        file
    }

    /// Writes the file, or only checks that this is possible, on a thread that may block.
    async fn save(&mut self, mut file: StateFile, is_check: bool) -> Option<StateFile> {
        let path = file.path().display().to_string();
        let overrides = of(&self.fleet);
        let mut work = tokio::task::spawn_blocking(move || {
            let saved = if is_check { file.check() } else { file.write(&overrides) };
            (file, saved)
        });
        let worked = match timeout(SLOW, &mut work).await {
            Ok(worked) => worked,
            Err(_) => {
                self.failed = true;
                self.status.note(false);
                tracing::error!(
                    path,
                    reason = format!("it takes longer than {SLOW:?}"),
                    "state file not written"
                );
                work.await
            }
        };
        // A panic in there would cost the file, not the process.
        let (file, saved) = worked.ok()?;
        match saved {
            Ok(()) => {
                match std::mem::take(&mut self.failed) {
                    true if is_check => tracing::info!(path, "state file can be written again"),
                    true => tracing::info!(path, "state file written again"),
                    false => {}
                }
                self.status.note(!file.is_ignored());
            }
            Err(error) => {
                match std::mem::replace(&mut self.failed, true) {
                    false if is_check => {
                        tracing::error!(path, %error, "state file cannot be written: changes would not survive a restart");
                    }
                    false => {
                        tracing::error!(path, %error, "state file not written: operator overrides would not survive a restart");
                    }
                    true => {}
                }
                self.status.note(false);
            }
        }
        Some(file)
    }
}
