//! The keeper: the one who builds fleets and publishes them.
//!
//! Whoever knows of a change sends an [`Event`]; the keeper takes them one at a time, builds the next fleet and
//! publishes it in one step. It owns what outlives a fleet: the strategies' memory, the places of counts, the
//! key of pools without secrets.

mod build;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::fleet::{Fleet, Pool};
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
            // Nothing of `self` is changed before the next fleet is complete, so it is whole after a panic.
            if catch_unwind(AssertUnwindSafe(|| self.apply(event))).is_err() {
                tracing::error!("a change panicked and was dropped; the fleet stays as it was");
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Pools { pools, published } => {
                let fleet = build(&pools, &self.pools, &mut self.lasting);
                self.pools = pools.into_iter().zip(fleet.pools.iter().map(Arc::clone)).collect();
                self.published.store(Arc::new(fleet));
                // Whoever asked may have gone; then nobody needs to know.
                let _ = published.send(());
            }
        }
    }
}
