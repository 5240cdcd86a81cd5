//! What all data planes of the process share.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::watch;

use crate::admin::AdminContext;
use crate::control_plane::ControlPlane;
use crate::dispatch::client_limits::ClientLimits;
use crate::server::ConnectionLimit;
use crate::telemetry::Telemetry;

/// What all data planes of the process share.
pub(super) struct SharedState<'t> {
    pub(super) admin: AdminContext,
    pub(super) plane: ControlPlane,
    pub(super) connection_limit: Arc<ConnectionLimit>,
    pub(super) clients: RefCell<Arc<ClientLimits>>,
    pub(super) telemetry: &'t Telemetry,
    /// Asks for certificates to be read again.
    pub(super) certificates: watch::Sender<u64>,
}
