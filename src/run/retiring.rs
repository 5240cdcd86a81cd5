//! Data planes that were replaced, until their open requests are complete.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::data_plane::DataPlane;
use crate::metrics::CounterRegistry;
use crate::server::Shutdown;

/// The shutdown steps of each, and the task that waits for it.
#[derive(Default)]
pub(super) struct Retiring(Vec<(Shutdown, JoinHandle<()>)>);

impl Retiring {
    /// Drains a data plane for the next one. Must be called inside a [`tokio::task::LocalSet`].
    pub(super) fn add(&mut self, data_plane: DataPlane, next: &DataPlane, counters: Arc<CounterRegistry>) {
        self.0.retain(|(_, task)| !task.is_finished());
        let shutdown = data_plane.shutdown().clone();
        self.0.push((shutdown, tokio::task::spawn_local(data_plane.retire(next.listeners(), counters))));
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
