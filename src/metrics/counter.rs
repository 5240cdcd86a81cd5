//! What a thread counts by.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::labels::{Comparison, Handshake, Limit};
use super::load_report_result::ReportResult;
use super::pool_counters::{BackendCounters, PoolCounters, ProbeCounters};
use super::process_counters::{ListenerCounters, PROCESS, STATUSES};
use super::thread_counters::{CounterId, ThreadCounters};
use crate::fleet::CheckResult;
use crate::request::outcome::{Decision, Rejection, Selection};
use crate::request::pin_cookie::PinError;

/// A thread's way to count. Every method is a load and a store, or two.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<ThreadCounters>);

impl Counter {
    /// For one thread; the same counters go to the [`CounterRegistry`](super::CounterRegistry).
    pub fn new(counters: Arc<ThreadCounters>) -> Self {
        Self(counters)
    }

    fn count(&self, id: CounterId) {
        self.0.add(id, 1);
    }

    /// A response was sent.
    pub fn response(&self, status: StatusCode) {
        if let Some(number) = STATUSES.iter().position(|&known| known == status) {
            self.count(PROCESS.responses.at(number));
        }
    }

    /// A response was not written to the socket as a whole.
    pub fn aborted(&self) {
        self.count(PROCESS.aborted);
    }

    /// A request was rejected. The response is counted apart.
    pub fn rejection(&self, rejection: Rejection) {
        self.count(PROCESS.rejections.of(rejection));
    }

    /// A request was redirected to a backend.
    pub fn redirect(&self, pool: &PoolCounters, selection: Selection) {
        let Selection { slot, backend, decision, .. } = selection;
        self.count(pool.dispatches(slot)[backend].redirects.of(decision));
    }

    /// A request went to another backend because this one, its first choice, was full.
    pub fn overflowed(&self, pool: &PoolCounters, strategy: usize, full: usize) {
        self.count(pool.dispatches(strategy)[full].overflow);
    }

    /// A shadow picked this backend for a request with that selection.
    pub fn shadowed(&self, pool: &PoolCounters, strategy: usize, backend: usize, selection: Selection) {
        let agrees = backend == selection.backend;
        let comparison = match (selection.decision, agrees) {
            (Decision::Pinned, true) => Comparison::PinKept,
            (Decision::Pinned, false) => Comparison::PinBroken,
            (_, true) => Comparison::Agreed,
            (_, false) => Comparison::Disagreed,
        };
        let counters = &pool.strategies[strategy];
        self.count(counters.backends[backend].shadow_picks);
        self.count(counters.own.comparisons.of(comparison));
    }

    /// A pin was rejected.
    pub fn pin_rejected(&self, pool: &PoolCounters, pin_error: PinError) {
        self.count(pool.own.pins.of(pin_error));
    }

    /// A pick was timed.
    pub fn pick(&self, pool: &PoolCounters, strategy: usize, took: Duration) {
        self.0.observe(pool.strategies[strategy].own.picks, took.as_nanos() as u64);
    }

    /// A limit was hit.
    pub fn limited(&self, limit: Limit) {
        self.count(PROCESS.limits.of(limit));
    }

    /// A probe ended.
    pub fn probed(&self, probes: ProbeCounters, result: CheckResult, took: Duration) {
        self.count(probes.backend.probes.of(result));
        self.0.observe(probes.durations.of(result), took.as_micros() as u64);
    }

    /// A backend reported its load, or should have.
    pub fn load_report(&self, backend: BackendCounters, result: ReportResult) {
        self.count(backend.reports.of(result));
    }

    /// A request or a change panicked, and the panic was caught.
    pub fn panicked(&self) {
        self.count(PROCESS.panics);
    }

    /// How often that was.
    #[cfg(test)]
    pub fn panics(&self) -> u64 {
        self.0.get(PROCESS.panics)
    }

    /// A TLS handshake is over.
    pub fn handshake(&self, handshake: Handshake) {
        self.count(PROCESS.handshakes.of(handshake));
    }

    /// A connection was accepted on a listener; it counts as open until what is returned is dropped, however its task
    /// ends.
    pub fn open(&self, listener: ListenerCounters) -> OpenConnection {
        self.count(listener.opened);
        OpenConnection { counters: Arc::clone(&self.0), closed: listener.closed }
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub struct OpenConnection {
    counters: Arc<ThreadCounters>,
    closed: CounterId,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counters.add(self.closed, 1);
    }
}
