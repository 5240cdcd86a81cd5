//! How the workers of a process stop, in steps that they all see.

use tokio_util::sync::CancellationToken;

/// The steps, each of which begins once and implies those before it. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Connections end with their next response. Clients that have connected already are still accepted.
    pub(super) draining: CancellationToken,
    /// Accept queues are emptied, and listeners are closed.
    pub(super) closing: CancellationToken,
    /// Connections are dropped.
    pub(super) aborting: CancellationToken,
    /// Not a step: from now on, draining does not wait for the rest of incomplete requests.
    pub(super) prompt: CancellationToken,
}

impl Shutdown {
    /// No longer waits for the rest of incomplete requests once it drains.
    pub fn hurry(&self) {
        self.prompt.cancel();
    }

    /// Drops all connections.
    pub fn abort(&self) {
        self.draining.cancel();
        self.closing.cancel();
        self.aborting.cancel();
    }
}
