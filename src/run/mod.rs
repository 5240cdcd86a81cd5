//! The life of the process: start, enter service, supervise, shut down. A file for each.

mod admin_server;
mod data_plane;
pub mod demo;
mod retiring;
mod shared_state;
mod shutdown;
mod signals;
mod start;
mod supervise;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::control::reload::ReplaceDataPlane;
use crate::os::sd_notify::Notifier;
use crate::overrides::{Saver, StateFile};
use crate::server::{ListenerProtocol, Listeners};
use crate::settings::{Layers, Settings};
use crate::takeover::{Predecessor, ReadySuccessor};
use crate::telemetry::Telemetry;
use data_plane::DataPlane;
use retiring::Retiring;
use shared_state::SharedState;
use shutdown::ShutdownCause;
use signals::ShutdownSignals;
pub(crate) use signals::ignore_signals;

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// Every request was answered.
    Drained,
    /// `shutdown_grace` expired with requests still open.
    CutShort,
    /// A second SIGTERM or SIGINT arrived.
    AtOnce,
}

/// What started this process.
#[derive(Debug, Default)]
pub struct ProcessContext {
    /// The instance that this process replaces. It keeps serving until this process does.
    pub predecessor: Option<Predecessor>,
    /// The service manager.
    pub notifier: Notifier,
}

/// Completes when a successor serves. Holds a descriptor of every listening socket until it is dropped.
type TakeoverOffer = Pin<Box<dyn Future<Output = ReadySuccessor>>>;

/// A process that has everything that serving needs.
struct Process<'t> {
    state: SharedState<'t>,
    data_plane: DataPlane,
    /// Data planes that were replaced on reload and still serve open connections.
    retiring: Retiring,
    signals: ShutdownSignals,
    notifier: Notifier,
    keep_alive: JoinHandle<()>,
    /// Whether the first round of health checks is complete.
    settled: watch::Receiver<bool>,
    /// Until the state file is this process's to write.
    saver: Option<(Saver, Option<StateFile>)>,
    state_path: watch::Sender<Option<PathBuf>>,
    /// `None` if the settings are fixed: they are never reloaded, and no successor can take over.
    reloader: Option<JoinHandle<()>>,
    replacements: mpsc::Receiver<ReplaceDataPlane>,
    /// Whether a successor is connected. What it was told must stay true, so changes wait.
    handing_over: Arc<AtomicBool>,
    takeover: TakeoverOffer,
}

/// Serves until a signal arrives or a successor serves, then drains.
///
/// `layers` are the sources of the settings, read again on reload; `None` if the settings are fixed, which rules out
/// takeovers too. `listeners` were opened with the same settings. `ready` is called with their addresses when requests
/// are served, signals are handled and a predecessor no longer accepts. Runs on the caller's runtime, inside a
/// [`tokio::task::LocalSet`]; requests run on threads of their own.
///
/// # Errors
/// What prevented the start, or a worker that ended by itself.
pub async fn run(
    settings: &Settings,
    layers: Option<Layers>,
    listeners: Listeners,
    telemetry: &Telemetry,
    context: ProcessContext,
    ready: impl FnOnce(&[(ListenerProtocol, SocketAddr)], SocketAddr),
) -> io::Result<ExitReason> {
    let ProcessContext { mut predecessor, notifier } = context;
    let mut process =
        Process::start(settings, layers, listeners, telemetry, predecessor.as_mut(), notifier).await?;
    let cause = match process.first_health_checks(predecessor.as_ref()).await {
        Some(_) if predecessor.is_some() => return Ok(ExitReason::Drained),
        Some(signal) => {
            // Connections that are in the accept queue by now still get their responses.
            process.serve()?;
            ShutdownCause::Signal(signal)
        }
        None => {
            process.enter_service(predecessor, ready).await?;
            process.supervise().await?
        }
    };
    Ok(process.shut_down(cause).await)
}
