//! How many connections there are, who goes when there are too many, and how all are told that it is over.
//!
//! All workers share one count. At the cap nobody is accepted: who comes waits in the kernel's queue, and those who
//! have been waiting longest for a request of theirs are closed to make room. From half of the cap on, connections
//! may be idle for less and less; from four fifths on, an answer over HTTP/1.1 is its connection's last.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The count that all workers share.
#[derive(Debug)]
pub struct ConnectionLimit {
    taken: AtomicUsize,
    most: AtomicUsize,
    /// Is told when a place at the cap is free again.
    freed: Notify,
}

impl ConnectionLimit {
    /// As many as that.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), most: AtomicUsize::new(most), freed: Notify::new() })
    }

    /// Changes how many there are; nobody who has one loses it.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether connections should not outlive their next answer.
    fn are_few(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.taken.load(Ordering::Relaxed) >= most - most / 5
    }

    fn are_none(&self) -> bool {
        self.taken.load(Ordering::Acquire) >= self.most.load(Ordering::Relaxed)
    }

    /// How long a connection may be idle that may be idle for `timeout` while there is room: from half of the cap
    /// on less, in a straight line down to [`HASTE`] at the cap. `None` while there is room.
    fn shortened(&self, timeout: Duration) -> Option<Duration> {
        let most = self.most.load(Ordering::Relaxed);
        let free = most.saturating_sub(self.taken.load(Ordering::Relaxed));
        let half = most / 2;
        (free < half).then(|| timeout.mul_f64(free as f64 / half as f64).max(HASTE))
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

/// How connections make room at the cap. Those that wait for a request, or for the rest of its head, are closed in the
/// order in which they began to wait.
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
/// Where there are more, they give it back at once, for what was taken at a peak is not given back to the system.
const AWAKE: usize = 256;
/// What a shortened idle timeout comes down to.
const HASTE: Duration = Duration::from_secs(1);

/// One worker's connections.
#[derive(Debug)]
pub(crate) struct ConnectionTracker {
    places: Arc<ConnectionLimit>,
    eviction: Eviction,
    seats: RefCell<Vec<Rc<ConnectionHandle>>>,
    /// How many are being served or were a moment ago, and so have what that takes.
    awake: Cell<usize>,
    draining_since: Cell<Option<Instant>>,
    /// Since when draining does not wait for the rest of incomplete requests.
    prompt_since: Cell<Option<Instant>>,
    /// Is told when the last has left while draining.
    emptied: Notify,
}

/// What a connection and its worker know together: whether it is to make room, and whether it is over.
pub struct ConnectionHandle {
    /// Its place among the worker's seats.
    at: Cell<usize>,
    /// Since when it waits for a request, or for the rest of its head.
    idle_since: Cell<Option<Instant>>,
    is_evicted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    tracker: Rc<ConnectionTracker>,
}

impl fmt::Debug for ConnectionHandle {
    /// Without the crowd, which has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, idle_since, is_evicted, .. } = self;
        let mut handle = f.debug_struct("ConnectionHandle");
        handle.field("at", at).field("idle_since", idle_since).field("is_evicted", is_evicted);
        handle.finish_non_exhaustive()
    }
}

impl ConnectionTracker {
    pub(crate) fn new(places: Arc<ConnectionLimit>) -> Self {
        Self::with_eviction(places, Eviction::CLIENTS)
    }

    pub(crate) fn with_eviction(places: Arc<ConnectionLimit>, eviction: Eviction) -> Self {
        Self {
            places,
            eviction,
            seats: RefCell::default(),
            awake: Cell::new(0),
            draining_since: Cell::new(None),
            prompt_since: Cell::new(None),
            emptied: Notify::new(),
        }
    }

    /// Waits until there is a place. Where there is none, makes some; `full` is told once.
    ///
    /// A place is taken only once somebody has come, so that each worker may be one over the cap.
    pub(crate) async fn room(&self, full: impl FnOnce()) {
        if !self.places.are_none() {
            return;
        }
        full();
        let mut yields = 0;
        while self.places.are_none() {
            if self.evict() == 0 && yields < YIELDS {
                yields += 1;
                tokio::task::yield_now().await;
                continue;
            }
            let _ = tokio::time::timeout(self.eviction.interval, self.places.freed.notified()).await;
        }
    }

    /// Takes a place.
    pub(crate) fn enter(self: &Rc<Self>) -> ConnectionPermit {
        self.places.taken.fetch_add(1, Ordering::AcqRel);
        let mut seats = self.seats.borrow_mut();
        let handle = Rc::new(ConnectionHandle {
            at: Cell::new(seats.len()),
            idle_since: Cell::new(None),
            is_evicted: Cell::new(false),
            waker: RefCell::default(),
            tracker: Rc::clone(self),
        });
        seats.push(Rc::clone(&handle));
        ConnectionPermit(handle)
    }

    /// Closes the connections that have waited longest, of those that have waited for long enough, and returns how many. O(connections).
    pub(crate) fn evict(&self) -> usize {
        let Eviction { min_wait, batch, .. } = self.eviction;
        let seats = self.seats.borrow();
        let mut idle: Vec<(Instant, &Rc<ConnectionHandle>)> = seats
            .iter()
            .filter_map(|handle| {
                Some((handle.idle_since.get().filter(|since| since.elapsed() >= min_wait)?, handle))
            })
            .collect();
        if idle.len() > batch {
            idle.select_nth_unstable_by_key(batch, |(since, _)| *since);
            idle.truncate(batch);
        }
        for (_, handle) in &idle {
            handle.evict();
        }
        idle.len()
    }

    /// Closes those who have been idle for too long, now that there are so many. To be called now and then;
    /// O(connections) from half of the cap on.
    pub(crate) fn tidy(&self, idle_timeout: Duration) {
        let Some(patience) = self.places.shortened(idle_timeout) else { return };
        let now = Instant::now();
        for handle in &*self.seats.borrow() {
            if handle.idle_since.get().is_some_and(|since| now.saturating_duration_since(since) >= patience) {
                handle.evict();
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
        self.seats.borrow().iter().for_each(|handle| handle.wake());
    }

    /// Waits until nobody is left of those who are drained.
    pub(crate) async fn emptied(&self) {
        while !self.seats.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }
}

impl ConnectionHandle {
    /// Its last answer is out: what was asked of it so far has been done, or is no more to be done.
    pub(super) fn ended(&self) {
        self.idle_since.set(None);
        self.is_evicted.set(false);
    }

    /// Notes since when the connection waits for a request, or for the rest of its head; `None` while it does not.
    pub(super) fn idle(&self, since: Option<Instant>) {
        self.idle_since.set(since);
    }

    /// Has the waker told when it is to make room, or when draining begins.
    pub(super) fn listen(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Whether its next answer should be its last, for there is little room.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_evicted() || self.tracker.places.are_few()
    }

    /// Whether it is to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted.get()
    }

    /// Takes note that the connection is awake until what is returned is dropped.
    pub(super) fn wakes(&self) -> impl Drop {
        self.tracker.awake.update(|awake| awake + 1);
        ActiveGuard(&self.tracker)
    }

    /// Whether it should rest as soon as it can, for many others are awake.
    pub(super) fn should_rest(&self) -> bool {
        self.tracker.awake.get() > AWAKE
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

    /// Waits until draining has begun.
    pub(super) async fn drained(&self) {
        self.until(|| self.draining_since().is_some()).await;
    }

    /// Waits until draining has begun that does not wait for the rest of incomplete requests.
    pub(super) async fn drained_promptly(&self) {
        self.until(|| self.draining_promptly_since().is_some()).await;
    }

    /// One task waits at a time, for as many things as it likes.
    async fn until(&self, is_so: impl Fn() -> bool) {
        poll_fn(|cx| {
            self.listen(cx.waker());
            if is_so() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn evict(&self) {
        self.is_evicted.set(true);
        // Others are looked for next time, whether or not it goes at once.
        self.idle_since.set(None);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// A connection that is awake.
struct ActiveGuard<'a>(&'a ConnectionTracker);

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.awake.update(|awake| awake - 1);
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Rc<ConnectionHandle>);

impl ConnectionPermit {
    /// What the connection is to know of it.
    pub(crate) fn handle(&self) -> &ConnectionHandle {
        &self.0
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let tracker = &self.0.tracker;
        let mut seats = tracker.seats.borrow_mut();
        let at = self.0.at.get();
        seats.swap_remove(at);
        if let Some(moved) = seats.get(at) {
            moved.at.set(at);
        }
        tracker.places.give_back();
        if seats.is_empty() && tracker.draining_since.get().is_some() {
            tracker.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_idle_longest_makes_room() {
        let tracker = Rc::new(ConnectionTracker::new(ConnectionLimit::new(3)));
        let mut taken: Vec<_> = (0..3).map(|_| tracker.enter()).collect();
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
        taken[0].0.idle(Some(ago(100)));
        taken[1].0.idle(Some(ago(10_000)));
        taken[2].0.idle(None);
        let mut is_full = false;
        let waited = tokio::time::timeout(Duration::ZERO, tracker.room(|| is_full = true)).await;
        assert!(waited.is_err() && is_full, "nobody has gone yet");
        let evicted: Vec<_> = taken.iter().map(|taken| taken.0.is_evicted.get()).collect();
        assert_eq!(evicted, [false, true, false]);
        drop(taken.remove(1));
        tracker.room(|| panic!("there is room")).await;
        let next = tracker.enter();
        assert_eq!(
            tracker.seats.borrow().iter().map(|handle| handle.at.get()).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        drop((next, taken));
        assert_eq!((tracker.seats.borrow().len(), tracker.places.taken.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn from_four_fifths_on_places_are_few() {
        let tracker = Rc::new(ConnectionTracker::new(ConnectionLimit::new(10)));
        let mut taken = Vec::new();
        for count in 1..=10 {
            taken.push(tracker.enter());
            assert_eq!(taken[0].0.is_pressed(), count >= 8, "{count}");
        }
    }
}
