//! What all data planes of the process share.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::AdminContext;
use crate::dispatch::client_limits::ClientLimits;
use crate::health::Listening;
use crate::metrics::{Counter, CounterAllocator, CounterRegistry};
use crate::server::ConnectionLimit;
use crate::telemetry::Telemetry;
use crate::util::clock::Clock;

/// What all data planes of the process share.
pub(super) struct SharedState<'t> {
    pub(super) admin: AdminContext,
    pub(super) clock: Clock,
    pub(super) counters: CounterAllocator,
    pub(super) registry: Arc<CounterRegistry>,
    pub(super) connection_limit: Arc<ConnectionLimit>,
    /// Where clients are listened for at present.
    pub(super) listening: Arc<ArcSwap<Listening>>,
    pub(super) clients: RefCell<Arc<ClientLimits>>,
    pub(super) telemetry: &'t Telemetry,
    pub(super) counter: Counter,
    /// Asks for certificates to be read again.
    pub(super) certificates: watch::Sender<u64>,
}
