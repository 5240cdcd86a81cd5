//! How many connections the process may have.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The number of connections and its maximum, which all workers share.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: AtomicUsize,
    /// Notified when a connection has ended.
    freed: Notify,
    /// Notified when idle timeouts begin to be shortened.
    crowded: Notify,
}

/// The least that an idle timeout is shortened to.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

impl ConnectionLimit {
    /// Allows `max` connections.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            freed: Notify::new(),
            crowded: Notify::new(),
        })
    }

    /// Changes the maximum. Connections that are open stay open.
    pub fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.crowded.notify_waiters();
    }

    /// Whether so many connections are open that they should end with their next response: four fifths.
    pub(super) fn is_nearly_reached(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        self.open.load(Ordering::Relaxed) >= max - max / 5
    }

    pub(super) fn is_reached(&self) -> bool {
        self.open.load(Ordering::Acquire) >= self.max.load(Ordering::Relaxed)
    }

    /// Returns how long a connection may be idle instead of `timeout`: from half of the maximum on less, in a straight
    /// line down to [`MIN_IDLE_TIMEOUT`] at the maximum. `None` below that.
    pub(super) fn shortened(&self, timeout: Duration) -> Option<Duration> {
        let max = self.max.load(Ordering::Relaxed);
        let open = self.open.load(Ordering::Relaxed);
        let free = max.saturating_sub(open) as f64;
        (open > half(max)).then(|| timeout.mul_f64(free / (max / 2).max(1) as f64).max(MIN_IDLE_TIMEOUT))
    }

    /// Waits until idle timeouts are shortened.
    pub(super) async fn crowded(&self) {
        loop {
            let mut crowded = pin!(self.crowded.notified());
            crowded.as_mut().enable();
            if self.open.load(Ordering::Relaxed) > half(self.max.load(Ordering::Relaxed)) {
                return;
            }
            crowded.await;
        }
    }

    pub(super) fn opened(&self) {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        // Every number is reached by one worker, which notifies the others.
        if before == half(self.max.load(Ordering::Relaxed)) {
            self.crowded.notify_waiters();
        }
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }

    /// Waits until a connection has ended.
    pub(super) async fn one_closed(&self) {
        self.freed.notified().await;
    }

    /// Returns how many connections are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Half of the maximum, rounded up: with more connections, idle timeouts are shortened.
const fn half(max: usize) -> usize {
    max - max / 2
}
