//! What a backend told of its load, judged, counted and passed on to the controller.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::control::{Event, Target};
use crate::estimate::Claim;
use crate::load::{self, Refused};
use crate::metrics::Told;

/// The reports of one backend.
pub(super) struct Reports {
    target: Arc<Target>,
    /// What became of the last one: a line in the log says when that changes.
    last: Option<Told>,
}

impl Reports {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, last: None }
    }

    /// Takes what was told, whatever it is.
    pub(super) async fn take(&mut self, shared: &Shared, heard: Result<Claim, Refused>) {
        let target = &self.target;
        let Some(settings) = &target.load else { return };
        match heard.and_then(|claim| load::report(claim, settings)) {
            Ok(report) => {
                self.note(shared, Told::Ok, String::new);
                let (pool, backend) = (Arc::clone(&self.target.pool), Arc::clone(&self.target.backend));
                let event = Event::Load { pool, backend, report, came: Instant::now() };
                // Where the controller is gone, nobody needs to know.
                let _ = shared.events.send(event).await;
            }
            Err(refused) => self.note(shared, refused.told(), || refused.to_string()),
        }
    }

    /// Counts what became of a report, or of its lack.
    pub(super) fn note(&mut self, shared: &Shared, told: Told, reason: impl FnOnce() -> String) {
        let (pool, backend) = (&*self.target.pool, &*self.target.backend);
        shared.counter.told(self.target.reports, told);
        if told != Told::Ok && self.last != Some(told) {
            tracing::warn!(pool, backend, reason = reason(), "no load report was taken");
        } else if told == Told::Ok && self.last.is_some_and(|last| last != Told::Ok) {
            tracing::info!(pool, backend, "load reports are taken again");
        }
        self.last = Some(told);
    }
}
