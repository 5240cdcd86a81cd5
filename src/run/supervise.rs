//! A process in service: signals, takeovers, and new data planes on reload.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Process;
use super::shutdown::ShutdownCause;
use crate::control::reload::ReplaceDataPlane;
use crate::server::BoundListener;
use crate::takeover::TakeoverServer;

/// How often a replacement that waits for the end of a takeover is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl Process<'_> {
    /// Runs until there is a reason to shut down.
    ///
    /// # Errors
    /// A worker ended by itself.
    pub(super) async fn supervise(&mut self) -> io::Result<ShutdownCause> {
        let mut waiting: Option<ReplaceDataPlane> = None;
        loop {
            if let Some(replacement) = waiting.take_if(|_| !self.handing_over.load(Ordering::Relaxed)) {
                self.replace_data_plane(replacement);
            }
            tokio::select! {
                signal = self.signals.next() => return Ok(ShutdownCause::Signal(signal)),
                successor = &mut self.takeover => return Ok(ShutdownCause::Takeover(successor)),
                () = self.data_plane.one_ended() => return Err(io::Error::other("a worker ended by itself")),
                Some(replacement) = self.replacements.recv(), if waiting.is_none() => waiting = Some(replacement),
                () = tokio::time::sleep(RETRY), if waiting.is_some() => {}
            }
        }
    }

    /// Replaces the data plane by one with the new settings, or keeps it and returns the errors to the reloader.
    fn replace_data_plane(&mut self, ReplaceDataPlane { settings, answer }: ReplaceDataPlane) {
        let replaced = self.data_plane.next(&settings, &self.state).map(|next| {
            let old = std::mem::replace(&mut self.data_plane, next);
            self.retiring.add(old, &self.data_plane, Arc::clone(&self.state.plane.registry));
        });
        if replaced.is_ok() {
            // Dropped first: it holds the name, and descriptors of listeners that are to be closed.
            self.takeover = Box::pin(pending());
            let held = self.data_plane.hold();
            self.offer_takeover(held);
            let traffic: Vec<_> =
                self.data_plane.traffic.iter().map(|(_, address)| address.to_string()).collect();
            tracing::info!(traffic = traffic.join(", "), admin = %self.data_plane.admin, "listeners replaced");
        }
        let _ = answer.send(replaced);
    }

    /// Waits for a successor, if there can be one.
    pub(super) fn offer_takeover(&mut self, held: io::Result<Vec<BoundListener>>) {
        if self.reloader.is_none() {
            return;
        }
        match held {
            Ok(held) => {
                let fleet = Arc::clone(&self.state.admin.fleet);
                let server = TakeoverServer::new(
                    self.data_plane.admin,
                    held,
                    fleet,
                    Arc::clone(&self.handing_over),
                    self.notifier.watchdog(),
                );
                self.takeover = Box::pin(server.taken());
            }
            Err(error) => tracing::error!(%error, "out of file descriptors: takeover unavailable"),
        }
    }
}
