//! What a backend told of its load, judged, counted and passed on to the controller.

use std::sync::Arc;
use std::time::Instant;

use super::HealthContext;
use crate::control::{Event, ProbeTarget};
use crate::estimate::RawReport;
use crate::load::{self, Refused};
use crate::metrics::ReportResult;

/// The reports of one backend.
pub(super) struct ReportSink {
    target: Arc<ProbeTarget>,
    /// What became of the last one: a line in the log says when that changes.
    last: Option<ReportResult>,
}

impl ReportSink {
    pub(super) fn new(target: Arc<ProbeTarget>) -> Self {
        Self { target, last: None }
    }

    /// Takes what was told, whatever it is.
    pub(super) async fn take(&mut self, shared: &HealthContext, heard: Result<RawReport, Refused>) {
        let target = &self.target;
        let Some(settings) = &target.load else { return };
        match heard.and_then(|claim| load::report(claim, settings)) {
            Ok(report) => {
                self.note(shared, ReportResult::Ok, String::new);
                let (pool, backend) = (Arc::clone(&self.target.pool), Arc::clone(&self.target.backend));
                let event = Event::Load { pool, backend, report, came: Instant::now() };
                // Where the controller is gone, nobody needs to know.
                let _ = shared.events.send(event).await;
            }
            Err(refused) => self.note(shared, refused.told(), || refused.to_string()),
        }
    }

    /// Counts what became of a report, or of its lack.
    pub(super) fn note(
        &mut self,
        shared: &HealthContext,
        told: ReportResult,
        reason: impl FnOnce() -> String,
    ) {
        let (pool, backend) = (&*self.target.pool, &*self.target.backend);
        shared.counter.load_report(self.target.counters.backend, told);
        if told != ReportResult::Ok && self.last != Some(told) {
            tracing::warn!(pool, backend, reason = reason(), "no load report was taken");
        } else if told == ReportResult::Ok && self.last.is_some_and(|last| last != ReportResult::Ok) {
            tracing::info!(pool, backend, "load reports are taken again");
        }
        self.last = Some(told);
    }
}
