//! What is counted, where, and how it is shown.
//!
//! Workers count in slabs of their own ([`ThreadCounters`]); a scrape sums them. Which series exist is said by the
//! published fleet and by the enums whose `ALL` gives the order in a slab, so no label ever takes a value from
//! a request and every series stands there with 0 from the start.

mod queries;
mod exporter;
mod family;
mod pools;
mod imbalances;
mod counter_registry;
mod thread_counters;
mod load_report_result;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

pub use counter_registry::CounterRegistry;
pub use exporter::{Registry, Sources};
pub use imbalances::{Imbalances, Integral, LoadFigures, LoadSource, StrategyFigures};
pub use load_report_result::ReportResult;
pub use thread_counters::{Slots, ThreadCounters};

use crate::fleet::{CheckResult, PoolConfig, Slot, StrategySlot};
use crate::request::outcome::{Decision, Rejection, Selection};
use crate::request::pin_cookie::PinError;
use crate::util::enum_all;

/// The statuses of `signpost_responses_total`, in the order of their counts in a slab.
const CODES: [StatusCode; 16] = [
    StatusCode::OK,
    StatusCode::NO_CONTENT,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::URI_TOO_LONG,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
];

enum_all! {
    /// What a connection ran into.
    pub enum Limit {
        /// `header_timeout`.
        HeaderTimeout = "header_timeout",
        /// `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The process had no file descriptor left.
        FileDescriptors = "file_descriptors",
        /// `max_connections`.
        Connections = "connections",
        /// `max_connections_per_client`.
        ConnectionsPerClient = "connections_per_client",
        /// A connection was closed while idle, to make room: at `max_connections`, or on the way there.
        Evicted = "evicted",
        /// More clients than can be known at once; what is limited per client was not for these.
        ClientTable = "client_table",
        /// The admin listener's connections.
        AdminConnections = "admin_connections",
        /// Requests of the API and the status page at once.
        AdminRequests = "admin_requests",
        /// A header of the PROXY protocol that was malformed, or was not there within `header_timeout`.
        ProxyProtocolError = "proxy_protocol_error",
        /// A connection to a listener with the PROXY protocol from elsewhere than a trusted proxy.
        UntrustedProxy = "untrusted_proxy",
        /// `max_handshakes`: a handshake had to wait its turn.
        Handshakes = "handshakes",
        /// `max_requests_per_connection`.
        Requests = "requests_per_connection",
        /// What HTTP/2 allows a peer to ask for that costs it nothing: resets, pings, empty frames.
        Http2Flood = "http2_flood",
    }
}

enum_all! {
    /// How a TLS handshake went.
    pub enum Handshake {
        /// It was completed.
        Ok = "ok",
        /// One side turned the other down, or the visitor left.
        Failed = "failed",
        /// `handshake_timeout` passed.
        Timeout = "timeout",
    }
}

enum_all! {
    /// What a shadow's pick is to what was chosen for that visitor.
    pub enum Comparison {
        /// The same backend was picked.
        Agreed = "agreed",
        /// Another one was.
        Disagreed = "disagreed",
        /// The visitor stayed where its pin says, and the shadow would have sent it there too.
        PinKept = "pin_kept",
        /// The shadow would have sent it elsewhere.
        PinBroken = "pin_broken",
    }
}

/// The upper bounds of `signpost_probe_duration_seconds`, in microseconds.
const PROBE_BOUNDS: [u64; 10] =
    [500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// The upper bounds of `signpost_pick_duration_seconds`, in nanoseconds: a pick takes some ten nanoseconds,
/// reading the clock as much again.
const PICK_BOUNDS: [u64; 10] = [25, 50, 100, 200, 400, 800, 1_600, 6_400, 25_600, 102_400];

// The places that are always there, at the front of every slab.
const CODES_AT: usize = 0;
const REFUSALS_AT: usize = CODES_AT + CODES.len();
const LIMITS_AT: usize = REFUSALS_AT + Rejection::ALL.len();
const PANICS_AT: usize = LIMITS_AT + Limit::ALL.len();
const ABORTED_AT: usize = PANICS_AT + 1;
const HANDSHAKES_AT: usize = ABORTED_AT + 1;
const RESERVED: usize = HANDSHAKES_AT + Handshake::ALL.len();

// The places of a pool's strategy: the histogram's buckets (one more for what is over) and its sum, then what a shadow's
// picks came to.
const PICKS_AT: usize = 0;
const PICK_SUM_AT: usize = PICKS_AT + PICK_BOUNDS.len() + 1;
const COMPARED_AT: usize = PICK_SUM_AT + 1;
const ARM_SIZE: usize = COMPARED_AT + Comparison::ALL.len();

// The places of a backend, for each strategy: visitors sent there, the picks of a shadow, and visitors for whom it was full.
const SHADOW_AT: usize = Decision::ALL.len();
const OVERFLOW_AT: usize = SHADOW_AT + 1;
const BACKEND_SIZE: usize = OVERFLOW_AT + 1;

// The places of a pool's probe times: for each result the buckets, one more for what is over, and the sum.
const PROBE_SUM_AT: usize = PROBE_BOUNDS.len() + 1;
const PROBE_TIMES_SIZE: usize = PROBE_SUM_AT + 1;

// A listener's places.
const OPENED_AT: usize = 0;
const CLOSED_AT: usize = 1;
const LISTENER_SIZE: usize = 2;

impl Slots {
    /// For a controller at program start.
    pub fn new() -> Self {
        Self::after(RESERVED)
    }

    /// The place of a pool's own counts.
    pub fn pool(&self, pool: &str) -> Slot {
        self.give(format!("pool/{pool}"), PinError::ALL.len())
    }

    /// The place of the counts of one of its strategies.
    pub fn arm(&self, pool: &str, strategy: &str) -> Slot {
        self.give(format!("arm/{pool}/{strategy}"), ARM_SIZE)
    }

    /// The place of a backend's counts, per strategy.
    pub fn backend(&self, pool: &str, strategy: &str, id: &str) -> Slot {
        self.give(format!("backend/{pool}/{strategy}/{id}"), BACKEND_SIZE)
    }

    /// The place of a backend's probes, whatever the strategy.
    pub fn probes(&self, pool: &str, id: &str) -> Slot {
        self.give(format!("probes/{pool}/{id}"), CheckResult::ALL.len())
    }

    /// The place of a backend's load reports, whatever the strategy.
    pub fn reports(&self, pool: &str, id: &str) -> Slot {
        self.give(format!("reports/{pool}/{id}"), ReportResult::ALL.len())
    }

    /// The place of the times that a pool's probes took.
    pub fn probe_times(&self, pool: &str) -> Slot {
        self.give(format!("probe_times/{pool}"), CheckResult::ALL.len() * PROBE_TIMES_SIZE)
    }

    /// The place of a listener's counts.
    pub fn listener(&self, address: &str) -> Slot {
        self.give(format!("listener/{address}"), LISTENER_SIZE)
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread's way to count. Every method is a load and a store, or two.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<ThreadCounters>);

impl Counter {
    /// For one thread; the same slab goes to the [`Registry`].
    pub fn new(slab: Arc<ThreadCounters>) -> Self {
        Self(slab)
    }

    /// An answer was sent.
    pub fn response(&self, status: StatusCode) {
        if let Some(at) = CODES.iter().position(|&code| code == status) {
            self.0.add(Slot(0), CODES_AT + at, 1);
        }
    }

    /// A response was not written to the socket as a whole.
    pub fn aborted(&self) {
        self.0.add(Slot(0), ABORTED_AT, 1);
    }

    /// A request was refused. The answer is counted apart.
    pub fn rejection(&self, rejection: Rejection) {
        self.0.add(Slot(0), REFUSALS_AT + rejection as usize, 1);
    }

    /// A visitor was sent to a backend.
    pub fn redirect(&self, config: &PoolConfig, choice: Selection) {
        let slot = config.arms[choice.arm].counts[choice.backend];
        self.0.add(slot, choice.decision as usize, 1);
    }

    /// A request went to another backend because this one, its first choice, was full.
    pub fn overflowed(&self, arm: &StrategySlot, full: usize) {
        self.0.add(arm.counts[full], OVERFLOW_AT, 1);
    }

    /// A shadow picked this backend for a visitor of whom that was chosen.
    pub fn shadowed(&self, arm: &StrategySlot, backend: usize, choice: Selection) {
        let agrees = backend == choice.backend;
        let comparison = match (choice.decision, agrees) {
            (Decision::Pinned, true) => Comparison::PinKept,
            (Decision::Pinned, false) => Comparison::PinBroken,
            (_, true) => Comparison::Agreed,
            (_, false) => Comparison::Disagreed,
        };
        self.0.add(arm.counts[backend], SHADOW_AT, 1);
        self.0.add(arm.slot, COMPARED_AT + comparison as usize, 1);
    }

    /// A pin did not count.
    pub fn pin_rejected(&self, config: &PoolConfig, pin_error: PinError) {
        self.0.add(config.slot, pin_error as usize, 1);
    }

    /// A pick was timed.
    pub fn pick(&self, arm: &StrategySlot, took: Duration) {
        let nanos = took.as_nanos() as u64;
        let bucket = PICK_BOUNDS.iter().position(|&bound| nanos <= bound).unwrap_or(PICK_BOUNDS.len());
        self.0.add(arm.slot, PICKS_AT + bucket, 1);
        self.0.add(arm.slot, PICK_SUM_AT, nanos);
    }

    /// A connection ran into a limit.
    pub fn limited(&self, limit: Limit) {
        self.0.add(Slot(0), LIMITS_AT + limit as usize, 1);
    }

    /// A probe ended.
    pub fn probed(&self, results: Slot, times: Slot, result: CheckResult, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = PROBE_BOUNDS.iter().position(|&bound| micros <= bound).unwrap_or(PROBE_BOUNDS.len());
        let of_result = result as usize * PROBE_TIMES_SIZE;
        self.0.add(results, result as usize, 1);
        self.0.add(times, of_result + bucket, 1);
        self.0.add(times, of_result + PROBE_SUM_AT, micros);
    }

    /// A backend told its load, or should have.
    pub fn told(&self, reports: Slot, told: ReportResult) {
        self.0.add(reports, told as usize, 1);
    }

    /// A request or a change panicked and was given up.
    pub fn panicked(&self) {
        self.0.add(Slot(0), PANICS_AT, 1);
    }

    /// How often that was.
    #[cfg(test)]
    pub fn panics(&self) -> u64 {
        self.0.get(Slot(0), PANICS_AT)
    }

    /// A TLS handshake is over.
    pub fn handshake(&self, handshake: Handshake) {
        self.0.add(Slot(0), HANDSHAKES_AT + handshake as usize, 1);
    }

    /// A connection was accepted on a listener; it counts as open until what is returned is dropped, however
    /// its task ends.
    pub fn open(&self, listener: Slot) -> OpenConnection {
        self.0.add(listener, OPENED_AT, 1);
        OpenConnection { slab: Arc::clone(&self.0), listener }
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub struct OpenConnection {
    slab: Arc<ThreadCounters>,
    listener: Slot,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.slab.add(self.listener, CLOSED_AT, 1);
    }
}

/// How reloads went. Counted by one task, read at a scrape.
#[derive(Debug)]
pub struct Reloads {
    successes: AtomicU64,
    errors: AtomicU64,
    last_successful: AtomicBool,
}

impl Default for Reloads {
    /// None yet; the start itself was a success.
    fn default() -> Self {
        Self {
            successes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_successful: AtomicBool::new(true),
        }
    }
}

impl Reloads {
    /// One more.
    pub fn note(&self, successful: bool) {
        self.last_successful.store(successful, Ordering::Relaxed);
        let count = if successful { &self.successes } else { &self.errors };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether operator overrides are in `admin.state_file`. Noted by one task, read at a scrape.
#[derive(Debug, Default)]
pub struct StateFileStatus(AtomicU8);

const SAVED: u8 = 1;
const NOT_SAVED: u8 = 2;

impl StateFileStatus {
    /// There is no such file.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether it is valid, and could be written when that was last tried.
    pub fn note(&self, successful: bool) {
        self.0.store(if successful { SAVED } else { NOT_SAVED }, Ordering::Relaxed);
    }

    /// The last note; `None` without a file.
    fn is_saved(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            SAVED => Some(true),
            NOT_SAVED => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_we_answer_with_is_counted() {
        for rejection in Rejection::ALL {
            assert!(CODES.contains(&rejection.status()), "{rejection:?}");
        }
    }
}
