//! Shutting down: stop accepting, let clients receive their responses, close.

use std::future::pending;
use std::time::Duration;

use super::signals::ShutdownSignal;
use super::{ExitReason, Process};
use crate::server::Shutdown;
use crate::settings::HumanDuration;
use crate::takeover::ReadySuccessor;

/// How long workers may take to end at once. A worker is never busy for so long.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last responses of the admin listener may take.
const ADMIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the process shuts down.
#[derive(Debug)]
pub(super) enum ShutdownCause {
    Signal(ShutdownSignal),
    Takeover(ReadySuccessor),
}

impl Process<'_> {
    /// Shuts down in order; returns how far that went.
    pub(super) async fn shut_down(mut self, cause: ShutdownCause) -> ExitReason {
        if let Some(reloader) = self.reloader.take() {
            reloader.abort();
        }
        match &cause {
            ShutdownCause::Signal(_) => {
                self.state.admin.readiness.leave();
                self.notifier.stopping();
            }
            // The addresses stay in service. The successor notifies for both, and writes the state file.
            ShutdownCause::Takeover(_) => {
                self.keep_alive.abort();
                self.state_path.send_replace(None);
            }
        }
        let ended = self.drain(cause).await;
        self.data_plane.close_admin();
        if ended == ExitReason::Drained {
            let _ = tokio::time::timeout(ADMIN_TIMEOUT, self.data_plane.admin_closed()).await;
        }
        ended
    }

    /// Stops accepting and waits for the responses.
    async fn drain(&mut self, cause: ShutdownCause) -> ExitReason {
        let server = &self.data_plane.settings.server;
        let (delay, grace) = (server.shutdown_delay, server.shutdown_grace);
        let mut successor = None;
        let prompt = matches!(cause, ShutdownCause::Signal(ShutdownSignal::Interrupt));
        match cause {
            ShutdownCause::Takeover(by) => successor = Some(by),
            ShutdownCause::Signal(signal) => {
                let delay = if prompt { HumanDuration::seconds(0) } else { delay };
                tracing::info!(signal = signal.name(), %delay, %grace, "leaving");
                if !delay.0.is_zero() {
                    tokio::select! {
                        () = tokio::time::sleep(delay.0) => {}
                        by = &mut self.takeover => successor = Some(by),
                        _ = self.signals.second() => {
                            self.abort().await;
                            return ExitReason::AtOnce;
                        }
                    }
                }
            }
        }
        // First of all: a listener lives as long as one descriptor of it does.
        self.takeover = Box::pin(pending());
        self.data_plane.drain();
        if prompt {
            self.shutdowns().for_each(Shutdown::hurry);
        }
        if let Some(successor) = successor {
            tracing::info!(version = successor.version, pid = successor.pid, %grace, "taken over; leaving");
            // `/readyz` is the successor's from now on.
            self.data_plane.close_admin();
            tokio::task::yield_now().await;
            successor.left().await;
        }
        let Self { data_plane, retiring, signals, .. } = self;
        let all_served = async {
            data_plane.served().await;
            retiring.finished().await;
        };
        let ended = tokio::select! {
            () = all_served => return ExitReason::Drained,
            () = tokio::time::sleep(grace.0) => ExitReason::CutShort,
            _ = signals.second() => ExitReason::AtOnce,
        };
        self.abort().await;
        ended
    }

    /// Ends all workers at once. They log the responses that they could not send.
    async fn abort(&mut self) {
        self.shutdowns().for_each(Shutdown::abort);
        let all_ended = async {
            self.data_plane.served().await;
            self.retiring.finished().await;
        };
        let _ = tokio::time::timeout(ABORT_TIMEOUT, all_ended).await;
    }

    /// The shutdown steps of every data plane.
    fn shutdowns(&self) -> impl Iterator<Item = &Shutdown> {
        [self.data_plane.shutdown()].into_iter().chain(self.retiring.shutdowns())
    }
}
