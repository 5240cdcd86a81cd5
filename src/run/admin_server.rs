//! The admin listener of a data plane.

use std::io;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::shared_state::SharedState;
use crate::admin::{self, AdminListener};
use crate::server::BoundListener;
use crate::settings::AdminSettings;

/// The admin listener: bound, then open, then closed.
pub(super) struct AdminServer {
    /// Until it is opened.
    bound: Option<AdminListener>,
    task: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl AdminServer {
    /// Must be called inside a runtime.
    ///
    /// # Errors
    /// Out of memory or epoll watches.
    pub(super) fn new(bound: BoundListener) -> io::Result<Self> {
        Ok(Self { bound: Some(AdminListener::new(bound)?), task: None, stop: CancellationToken::new() })
    }

    /// Serves requests, if it does not yet. Must be called inside a [`tokio::task::LocalSet`].
    pub(super) fn open(&mut self, settings: &AdminSettings, state: &SharedState<'_>) {
        let Some(listener) = self.bound.take() else { return };
        let counters = state.plane.counters.listener(&listener.address().to_string());
        let (counter, context) = (state.plane.counter.clone(), state.admin.clone());
        let (settings, stop) = (settings.clone(), self.stop.clone());
        self.task = Some(tokio::task::spawn_local(async move {
            if let Err(error) = admin::serve(listener, counters, counter, &settings, context, stop).await {
                tracing::error!(%error, "admin listener failed");
            }
        }));
    }

    /// Stops accepting; requests that are open get their responses.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Waits until the last response is sent.
    pub(super) async fn closed(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
        }
    }
}
