//! The keeper: the one who builds fleets and publishes them.
//!
//! Whoever knows of a change sends an [`Event`]; the keeper takes them one at a time, builds the next fleet and
//! publishes it in one step. It owns what outlives a fleet: the strategies' memory, the places of counts, the
//! key of pools without secrets.

mod build;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::fleet::{Admin, Fleet, Pool, Weight};
use crate::metrics::Slots;
use crate::settings::{self, Settings};
use build::{Lasting, build};

/// Something that changes the fleet.
#[derive(Debug)]
pub enum Event {
    /// The settings were read again, and are valid.
    Pools {
        /// All pools there are from now on.
        pools: Vec<settings::Pool>,
        /// Is told once every request that begins reads them; dropped where they could not be published.
        published: oneshot::Sender<()>,
    },
    /// The operator changes where a backend stands, until that is ended or the process is.
    Operate {
        /// The pool's name.
        pool: String,
        /// The backend's id.
        backend: String,
        /// What to change.
        change: Change,
        /// Is told once every request that begins reads it; dropped where there is no such backend.
        published: oneshot::Sender<()>,
    },
}

/// A change by the operator: what is `None` stays, `Some(None)` goes back to the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether visitors are sent there.
    pub admin: Option<Option<Admin>>,
    /// Its share of new visitors.
    pub weight: Option<Option<Weight>>,
}

/// The single writer of fleets.
#[derive(Debug)]
pub struct Keeper {
    published: Arc<ArcSwap<Fleet>>,
    /// What the published fleet was built from, beside each of its pools.
    pools: Vec<(settings::Pool, Arc<Pool>)>,
    lasting: Lasting,
}

impl Keeper {
    /// Builds the first fleet and publishes it.
    pub fn start(settings: &Settings) -> Self {
        let mut lasting = Lasting::new();
        let fleet = build(&settings.pools, &[], &mut lasting);
        let pools = settings.pools.iter().cloned().zip(fleet.pools.iter().map(Arc::clone)).collect();
        Self { published: Arc::new(ArcSwap::from_pointee(fleet)), pools, lasting }
    }

    /// Where the current fleet is read.
    pub fn published(&self) -> Arc<ArcSwap<Fleet>> {
        Arc::clone(&self.published)
    }

    /// Gives out places for counts.
    pub fn slots(&mut self) -> &mut Slots {
        &mut self.lasting.slots
    }

    /// Takes events until nobody can send one any more. An event that panics is dropped, and the last fleet
    /// goes on serving: a keeper that died would freeze it without a word.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            // What was published stays beside what it was built from until the next fleet is complete.
            if catch_unwind(AssertUnwindSafe(|| self.apply(event))).is_err() {
                tracing::error!("a change panicked and was dropped; the fleet stays as it was");
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Pools { pools, published } => {
                self.lasting.forget_others(&pools);
                let last = self.pools.clone();
                self.publish(pools, &last);
                // Whoever asked may have gone; then nobody needs to know.
                let _ = published.send(());
            }
            Event::Operate { pool, backend, change, published } => {
                let of_pool = self.pools.iter().find(|(settings, _)| settings.name.as_str() == pool);
                let known = of_pool.is_some_and(|(settings, _)| {
                    settings.backends.iter().any(|known| known.id.as_str() == backend)
                });
                if !known {
                    return;
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                self.lasting.operate(&pool, &backend, change, now);
                let mut last = self.pools.clone();
                let pools = last.iter().map(|(settings, _)| settings.clone()).collect();
                last.retain(|(settings, _)| settings.name.as_str() != pool);
                self.publish(pools, &last);
                let _ = published.send(());
            }
        }
    }

    /// Builds and publishes a fleet, taking from `last` what has not changed.
    fn publish(&mut self, pools: Vec<settings::Pool>, last: &[(settings::Pool, Arc<Pool>)]) {
        let fleet = build(&pools, last, &mut self.lasting);
        self.pools = pools.into_iter().zip(fleet.pools.iter().map(Arc::clone)).collect();
        self.published.store(Arc::new(fleet));
    }
}
