//! Fronts that others have replaced, until what they have under way is finished.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::data_plane::DataPlane;
use crate::metrics::CounterRegistry;
use crate::server::Shutdown;

/// These fronts: how each stops, and the task that waits for it.
#[derive(Default)]
pub(super) struct Retiring(Vec<(Shutdown, JoinHandle<()>)>);

impl Retiring {
    /// Has a front leave everything to the next one. Must be called inside a [`tokio::task::LocalSet`].
    pub(super) fn add(&mut self, front: DataPlane, next: &DataPlane, roll: Arc<CounterRegistry>) {
        self.0.retain(|(_, task)| !task.is_finished());
        let shutdown = front.shutdown().clone();
        self.0.push((shutdown, tokio::task::spawn_local(front.retire(next.listeners(), roll))));
    }

    /// How each of them stops.
    pub(super) fn shutdowns(&self) -> impl Iterator<Item = &Shutdown> {
        self.0.iter().map(|(shutdown, _)| shutdown)
    }

    /// Waits until all have finished.
    pub(super) async fn finished(&mut self) {
        while let Some((_, task)) = self.0.last_mut() {
            // One that has failed has finished too.
            let _ = task.await;
            self.0.pop();
        }
    }
}
