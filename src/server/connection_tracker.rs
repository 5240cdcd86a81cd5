//! The connections of a worker: which of them are closed when there are too many, and how draining reaches all.
//!
//! At the limit no connection is accepted: new ones wait in the kernel's queue, and the connections that have waited
//! longest for a request are closed. From half of the limit on, connections may be idle for less and less; from four
//! fifths on, a response over HTTP/1.1 is the last of its connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

use super::connection_limit::ConnectionLimit;

/// How connections are closed for others at the limit. Those that wait for a request, or for the rest of its head, are
/// closed in the order in which they began to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eviction {
    /// How long a connection must have waited to be closed.
    pub(crate) min_wait: Duration,
    /// How many are closed at a time. Finding them costs O(connections).
    pub(crate) batch: usize,
    /// How often a worker that waits for room looks for connections to close: more may wait by then, or another worker
    /// may have closed some.
    pub(crate) interval: Duration,
}

impl Eviction {
    /// For clients: a connection that has just been accepted has time to send its request.
    const CLIENTS: Self =
        Self { min_wait: Duration::from_millis(250), batch: 64, interval: Duration::from_millis(250) };
}

/// How often other tasks are run before a worker waits for room: connections that were accepted just now read what has
/// come, and can be closed only after that.
const YIELDS: u32 = 8;
/// How many of a worker's connections keep what they are served with while they wait for the next request: some 3 MB.
/// If there are more, they give it back at once, because memory that was taken at a peak is not returned to the system.
const MAX_ACTIVE: usize = 256;
/// While draining, how long a connection that waits for a request goes on waiting: a request that was sent before our
/// FIN could arrive still gets its response.
pub(super) const DRAIN_WAIT: Duration = Duration::from_millis(250);

/// One worker's connections.
#[derive(Debug)]
pub(crate) struct ConnectionTracker {
    limit: Arc<ConnectionLimit>,
    eviction: Eviction,
    connections: RefCell<Slab<Tracked>>,
    /// How many are being served or were a moment ago, and so have what that takes.
    active: Cell<usize>,
    draining_since: Cell<Option<Instant>>,
    /// Since when draining does not wait for the rest of incomplete requests.
    prompt_since: Cell<Option<Instant>>,
    /// Notified when the last connection ends while draining.
    emptied: Notify,
}

/// What the tracker knows of a connection.
#[derive(Debug, Default)]
struct Tracked {
    /// Since when it waits for a request, or for the rest of its head.
    idle_since: Option<Instant>,
    is_evicted: bool,
    /// Its task's, woken on eviction and when draining begins.
    waker: Option<Waker>,
}

impl Tracked {
    fn evict(&mut self) {
        self.is_evicted = true;
        // The next eviction closes others, whether or not this connection ends at once.
        self.idle_since = None;
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl ConnectionTracker {
    pub(crate) fn new(limit: Arc<ConnectionLimit>) -> Rc<Self> {
        Self::with_eviction(limit, Eviction::CLIENTS)
    }

    pub(crate) fn with_eviction(limit: Arc<ConnectionLimit>, eviction: Eviction) -> Rc<Self> {
        Rc::new(Self {
            limit,
            eviction,
            connections: RefCell::default(),
            active: Cell::new(0),
            draining_since: Cell::new(None),
            prompt_since: Cell::new(None),
            emptied: Notify::new(),
        })
    }

    /// Waits until another connection is allowed. If none is, closes some; `full` is called once.
    ///
    /// A connection counts only once it is accepted, so that each worker may exceed the limit by one.
    pub(crate) async fn room(&self, full: impl FnOnce()) {
        if !self.limit.is_reached() {
            return;
        }
        full();
        let mut yields = 0;
        while self.limit.is_reached() {
            if self.evict() == 0 && yields < YIELDS {
                yields += 1;
                tokio::task::yield_now().await;
                continue;
            }
            let _ = tokio::time::timeout(self.eviction.interval, self.limit.one_closed()).await;
        }
    }

    /// Counts a connection until the handle is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> ConnectionHandle {
        self.limit.opened();
        let key = self.connections.borrow_mut().insert(Tracked::default());
        ConnectionHandle { tracker: Rc::clone(self), key }
    }

    /// Closes the connections that have waited longest, of those that have waited for long enough, and returns how
    /// many. O(connections).
    pub(crate) fn evict(&self) -> usize {
        let Eviction { min_wait, batch, .. } = self.eviction;
        let mut connections = self.connections.borrow_mut();
        let idle = connections.iter_mut().map(|(_, connection)| connection);
        let mut idle: Vec<_> = idle
            .filter_map(|connection| {
                Some((connection.idle_since.filter(|since| since.elapsed() >= min_wait)?, connection))
            })
            .collect();
        if idle.len() > batch {
            idle.select_nth_unstable_by_key(batch, |(since, _)| *since);
            idle.truncate(batch);
        }
        let count = idle.len();
        idle.into_iter().for_each(|(_, connection)| connection.evict());
        count
    }

    /// Waits until [`Self::tidy`] has something to do.
    pub(crate) async fn crowded(&self) {
        self.limit.crowded().await;
    }

    /// Closes connections that have been idle for too long, considering how many there are. To be called now and then;
    /// O(connections) from half of the limit on.
    pub(crate) fn tidy(&self, idle_timeout: Duration) {
        let Some(timeout) = self.limit.shortened(idle_timeout) else { return };
        let now = Instant::now();
        for (_, connection) in &mut *self.connections.borrow_mut() {
            if connection.idle_since.is_some_and(|since| now.saturating_duration_since(since) >= timeout) {
                connection.evict();
            }
        }
    }

    /// Has every connection, also those accepted later, end with its next response.
    pub(crate) fn drain(&self) {
        self.draining_since.set(Some(Instant::now()));
        self.wake_all();
    }

    /// Has draining, which has begun, no longer wait for the rest of incomplete requests.
    pub(super) fn hurry(&self) {
        self.prompt_since.set(Some(Instant::now()));
        self.wake_all();
    }

    fn wake_all(&self) {
        self.connections.borrow().iter().for_each(|(_, connection)| connection.wake());
    }

    /// Waits until all connections have ended. Draining must have begun.
    pub(crate) async fn emptied(&self) {
        while !self.connections.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }
}

/// A connection, which counts until this is dropped, and what its worker wants of it: to make room, or to end.
pub(crate) struct ConnectionHandle {
    tracker: Rc<ConnectionTracker>,
    key: usize,
}

impl fmt::Debug for ConnectionHandle {
    /// Without the other connections.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionHandle").field(&self.key).finish()
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        let mut connections = self.tracker.connections.borrow_mut();
        let gone = connections.try_remove(self.key);
        let is_last = connections.is_empty();
        drop(connections);
        drop(gone);
        self.tracker.limit.closed();
        if is_last && self.tracker.draining_since.get().is_some() {
            self.tracker.emptied.notify_one();
        }
    }
}

impl ConnectionHandle {
    fn tracked<R>(&self, read: impl FnOnce(&mut Tracked) -> R) -> R {
        read(&mut self.tracker.connections.borrow_mut()[self.key])
    }

    /// Notes that the last response is written: an eviction so far has been obeyed, or does not matter any more.
    pub(super) fn ended(&self) {
        self.tracked(|tracked| (tracked.idle_since, tracked.is_evicted) = (None, false));
    }

    /// Notes since when the connection waits for a request, or for the rest of its head; `None` while it does not.
    pub(super) fn idle(&self, since: Option<Instant>) {
        self.tracked(|tracked| tracked.idle_since = since);
    }

    /// Has `waker` woken when the connection is evicted, and when draining begins.
    pub(super) fn listen(&self, waker: &Waker) {
        let replaced = self.tracked(|tracked| {
            let is_known = tracked.waker.as_ref().is_some_and(|known| known.will_wake(waker));
            if is_known { None } else { tracked.waker.replace(waker.clone()) }
        });
        drop(replaced);
    }

    /// Whether its next response should be its last because there are many connections.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_evicted() || self.tracker.limit.is_nearly_reached()
    }

    /// Whether it is to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.tracked(|tracked| tracked.is_evicted)
    }

    /// Notes that the connection is active until the guard is dropped.
    pub(super) fn activate(&self) -> ActiveGuard<'_> {
        self.tracker.active.update(|active| active + 1);
        ActiveGuard(&self.tracker)
    }

    /// Whether it should rest as soon as it can because many others are active.
    pub(super) fn should_rest(&self) -> bool {
        self.tracker.active.get() > MAX_ACTIVE
    }

    /// Since when the worker has been draining.
    pub(super) fn draining_since(&self) -> Option<Instant> {
        self.tracker.draining_since.get()
    }

    /// Since when the worker has been draining without waiting for the rest of incomplete requests.
    pub(super) fn draining_promptly_since(&self) -> Option<Instant> {
        self.tracker.prompt_since.get()
    }

    /// Waits until it is to make room.
    pub(super) async fn evicted(&self) {
        self.until(|| self.is_evicted()).await;
    }

    /// Waits until draining begins, and [`DRAIN_WAIT`] more.
    pub(super) async fn drain_wait(&self) {
        self.until(|| self.draining_since().is_some()).await;
        tokio::time::sleep(DRAIN_WAIT).await;
    }

    /// Waits until draining does not wait for the rest of incomplete requests, and [`DRAIN_WAIT`] more.
    pub(super) async fn prompt_drain_wait(&self) {
        self.until(|| self.draining_promptly_since().is_some()).await;
        tokio::time::sleep(DRAIN_WAIT).await;
    }

    /// One task waits at a time, for any number of conditions.
    async fn until(&self, holds: impl Fn() -> bool) {
        poll_fn(|cx| {
            self.listen(cx.waker());
            if holds() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Counts a connection as active until it is dropped.
pub(super) struct ActiveGuard<'a>(&'a ConnectionTracker);

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.active.update(|active| active - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn evicts_longest_idle_connection_first() {
        let limit = ConnectionLimit::new(3);
        let tracker = ConnectionTracker::new(Arc::clone(&limit));
        let mut handles: Vec<_> = (0..3).map(|_| tracker.enter()).collect();
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
        handles[0].idle(Some(ago(100)));
        handles[1].idle(Some(ago(10_000)));
        handles[2].idle(None);
        let mut is_full = false;
        let waited = tokio::time::timeout(Duration::ZERO, tracker.room(|| is_full = true)).await;
        assert!(waited.is_err() && is_full, "no connection has ended yet");
        let evicted: Vec<_> = handles.iter().map(ConnectionHandle::is_evicted).collect();
        assert_eq!(evicted, [false, true, false]);
        drop(handles.remove(1));
        tracker.room(|| panic!("there is room")).await;
        let next = tracker.enter();
        assert!(!next.is_evicted());
        drop((next, handles));
        assert_eq!((tracker.connections.borrow().len(), limit.open()), (0, 0));
    }

    #[test]
    fn asks_connections_to_end_from_four_fifths_of_the_limit_on() {
        let tracker = ConnectionTracker::new(ConnectionLimit::new(10));
        let mut handles = Vec::new();
        for count in 1..=10 {
            handles.push(tracker.enter());
            assert_eq!(handles[0].is_pressed(), count >= 8, "{count}");
        }
    }
}
