//! Operator overrides: what the API has set of backends, in a form that outlives the process.
//!
//! A successor receives them by takeover; after a restart they come from `admin.state_file`.

mod saver;
mod state_file;

use std::path::PathBuf;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub use saver::{SaveStatus, Saver};
use state_file::FileContents;
pub use state_file::StateFile;

use crate::control::{Change, Event};
use crate::fleet::{AdminState, Weight};
use crate::metrics::CountedFleet;

/// What is set of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorOverride {
    pool: String,
    backend: String,
    #[serde(default)]
    admin: Option<AdminState>,
    #[serde(default)]
    weight: Option<u16>,
    #[serde(default)]
    drained_at: Option<u64>,
}

/// The last second of the year 9999, in seconds since 1970: later dates have no text.
const LAST_DATE: u64 = 253_402_300_799;
/// How long the state file may take to be read.
const READ: Duration = Duration::from_secs(5);

/// All that are in effect, in the order of the fleet.
pub fn of(fleet: &ArcSwap<CountedFleet>) -> Vec<OperatorOverride> {
    let fleet = fleet.load();
    let of_pools = fleet.pools.iter().flat_map(|pool| {
        pool.config.backends.iter().zip(&pool.statuses).map(|(backend, status)| OperatorOverride {
            pool: pool.config.name.to_string(),
            backend: backend.id.to_string(),
            admin: status.admin_is_set.then_some(status.admin),
            weight: status.weight_is_set.then_some(status.weight.get()),
            drained_at: status.drained_at.filter(|_| status.admin_is_set),
        })
    });
    of_pools.filter(|set| set.admin.is_some() || set.weight.is_some()).collect()
}

/// Sets the same in this process, and returns when every new request reads it. An override of a backend that is not in
/// the settings is dropped, as it is when a reload removes the backend.
pub async fn restore(overrides: Vec<OperatorOverride>, events: &mpsc::Sender<Event>) {
    let mut sent = Vec::new();
    for OperatorOverride { pool, backend, admin, weight, drained_at } in overrides {
        let weight = weight.and_then(Weight::new).map(Some);
        let drained_at = drained_at.map(|seconds| seconds.min(LAST_DATE));
        let change = Change { admin: admin.map(Some), weight, drained_at };
        let (published, done) = oneshot::channel();
        let event = Event::Operate { pool: pool.clone(), backend: backend.clone(), change, published };
        if events.send(event).await.is_ok() {
            sent.push((pool, backend, done));
        }
    }
    for (pool, backend, done) in sent {
        match done.await {
            Ok(()) => tracing::info!(pool, backend, "operator override restored"),
            Err(_) => tracing::warn!(pool, backend, "operator override dropped: no such backend"),
        }
    }
}

/// Restores the overrides of a state file, and returns the file. What is wrong with it is logged, and then the process
/// serves as if none were set.
pub async fn load(path: PathBuf, events: &mpsc::Sender<Event>) -> StateFile {
    let (file, contents) = read(path).await;
    if let FileContents::Valid(overrides, _) = contents {
        restore(overrides, events).await;
    }
    file
}

/// Reads a state file, on a thread that may block, and logs what is wrong with it.
async fn read(path: PathBuf) -> (StateFile, FileContents) {
    let of_thread = path.clone();
    let read = tokio::task::spawn_blocking(move || StateFile::read(of_thread));
    let (file, contents) = match tokio::time::timeout(READ, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => (StateFile::unread(path), FileContents::Broken(error.to_string())),
        Err(_) => {
            (StateFile::unread(path), FileContents::Broken(format!("reading takes longer than {READ:?}")))
        }
    };
    if let FileContents::Broken(reason) = &contents {
        let path = file.path().display();
        tracing::error!(%path, reason, "broken state file ignored: no operator override restored");
    }
    (file, contents)
}
