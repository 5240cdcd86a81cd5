//! What is counted, where, and how it is shown.
//!
//! Each worker counts in counters of its own ([`ThreadCounters`]); a scrape sums them. Which series exist follows from the
//! published fleet and from the variants of enums, so no label ever takes a value from a request, and every series is there
//! with 0 from the start.

mod labels;
mod load_report_result;
mod thread_counters;
mod process_counters;
mod pool_counters;
mod counter;
mod counter_registry;
mod queries;
mod exporter;
mod pools;
mod strategies;
mod family;
mod imbalances;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

pub use counter::{Counter, OpenConnection};
pub use counter_registry::CounterRegistry;
pub use exporter::{Registry, Sources};
pub use imbalances::{Imbalances, Integral, LoadFigures, LoadSource, StrategyFigures};
pub use labels::{Comparison, Handshake, Limit};
pub use load_report_result::ReportResult;
pub use pool_counters::{
    BackendCounters, CountedFleet, DispatchCounters, LastCounters, PoolCounters, ProbeCounters,
};
pub use process_counters::ListenerCounters;
pub use thread_counters::{CounterAllocator, CounterId, ThreadCounters};

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
