//! Whether this process should get clients: what `/readyz` and `server.health_path` answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::StatusCode;

/// Whether the process is ready; at first it is not. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

const READY: u8 = 1;
const LEAVING: u8 = 2;

impl Readiness {
    /// Ready from now on.
    pub fn enter(&self) {
        self.0.store(READY, Ordering::Relaxed);
    }

    /// Not ready any more.
    pub fn leave(&self) {
        self.0.store(LEAVING, Ordering::Relaxed);
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed) == READY
    }

    /// The status of a response that reports it, and a line of text.
    pub fn response(&self) -> (StatusCode, &'static str) {
        match self.0.load(Ordering::Relaxed) {
            READY => (StatusCode::OK, "ready\n"),
            LEAVING => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
            _ => {
                (StatusCode::SERVICE_UNAVAILABLE, "starting: waiting for the first round of health checks\n")
            }
        }
    }
}
