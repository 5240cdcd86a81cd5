//! How the workers of a process stop, in steps that they all see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// The steps, each of which begins once and implies those before it. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shutdown {
    /// Connections end with their next response. Clients that have connected already are still accepted.
    pub(super) draining: CancellationToken,
    /// Accept queues are emptied, and listeners are closed.
    pub(super) closing: CancellationToken,
    /// Connections are dropped.
    pub(super) aborting: CancellationToken,
    is_prompt: Arc<AtomicBool>,
}

impl Shutdown {
    /// Begins to drain. If `prompt`, the rest of incomplete requests is not waited for.
    pub(super) fn drain(&self, prompt: bool) {
        self.is_prompt.store(prompt, Ordering::Release);
        self.draining.cancel();
    }

    /// Drops all connections.
    pub(super) fn abort(&self) {
        self.draining.cancel();
        self.closing.cancel();
        self.aborting.cancel();
    }

    /// Whether draining does not wait for the rest of incomplete requests.
    pub(super) fn is_prompt(&self) -> bool {
        self.is_prompt.load(Ordering::Acquire)
    }
}
