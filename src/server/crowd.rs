//! How many connections there are, and who goes when there are too many.
//!
//! All workers share one count. At the cap nobody is accepted: who comes waits in the kernel's queue, and those who
//! have been waiting longest for a request of theirs are closed to make room. From four fifths of the cap on, an
//! answer over HTTP/1.1 is its connection's last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The count that all workers share.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    most: AtomicUsize,
    /// Is told when a place at the cap is free again.
    freed: Notify,
}

impl Places {
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

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

/// How long a connection must have been idle to be closed for another.
const SPARED: Duration = Duration::from_millis(250);
/// How many are closed at a time: looking for them takes a look at all.
const AT_A_TIME: usize = 64;

/// One worker's connections.
#[derive(Debug)]
pub(crate) struct Crowd {
    places: Arc<Places>,
    seats: RefCell<Vec<Rc<Seat>>>,
}

/// What a connection and its worker know together of the room there is.
#[derive(Debug)]
pub struct Seat {
    /// Its place among the worker's seats.
    at: Cell<usize>,
    /// Since when it waits for a request, while it does.
    idle_since: Cell<Option<Instant>>,
    is_evicted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    places: Arc<Places>,
}

impl Crowd {
    pub(crate) fn new(places: Arc<Places>) -> Self {
        Self { places, seats: RefCell::default() }
    }

    /// Waits until there is a place. Where there is none, makes some; `full` is told once.
    ///
    /// A place is taken only once somebody has come, so that each worker may be one over the cap.
    pub(crate) async fn room(&self, full: impl FnOnce()) {
        if !self.places.are_none() {
            return;
        }
        full();
        while self.places.are_none() {
            self.evict();
            // It may be another worker that can make room, or that is told of it.
            let _ = tokio::time::timeout(SPARED, self.places.freed.notified()).await;
        }
    }

    /// Takes a place.
    pub(crate) fn enter(self: &Rc<Self>) -> Taken {
        self.places.taken.fetch_add(1, Ordering::AcqRel);
        let mut seats = self.seats.borrow_mut();
        let seat = Rc::new(Seat {
            at: Cell::new(seats.len()),
            idle_since: Cell::new(None),
            is_evicted: Cell::new(false),
            waker: RefCell::default(),
            places: Arc::clone(&self.places),
        });
        seats.push(Rc::clone(&seat));
        Taken { crowd: Rc::clone(self), seat }
    }

    /// Closes those who have been idle longest, where some have been for a while. O(connections).
    fn evict(&self) {
        let seats = self.seats.borrow();
        let mut idle: Vec<(Instant, &Rc<Seat>)> = seats
            .iter()
            .filter_map(|seat| Some((seat.idle_since.get().filter(|since| since.elapsed() >= SPARED)?, seat)))
            .collect();
        if idle.len() > AT_A_TIME {
            idle.select_nth_unstable_by_key(AT_A_TIME, |(since, _)| *since);
            idle.truncate(AT_A_TIME);
        }
        for (_, seat) in idle {
            seat.evict();
        }
    }
}

impl Seat {
    /// Its last answer is out: what was asked of it so far has been done, or is no more to be done.
    pub(super) fn ended(&self) {
        self.idle_since.set(None);
        self.is_evicted.set(false);
    }

    /// Says since when the connection waits for a request; `None` while it does not.
    pub(super) fn idle(&self, since: Option<Instant>) {
        self.idle_since.set(since);
    }

    /// Whether it is to make room. The waker is told when that changes.
    pub(super) fn is_evicted(&self, waker: &Waker) -> bool {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        self.is_evicted.get()
    }

    /// Whether its next answer should be its last.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_marked() || self.places.are_few()
    }

    /// Whether it was told to make room and has not yet.
    pub(super) fn is_marked(&self) -> bool {
        self.is_evicted.get()
    }

    /// Waits until it is to make room.
    pub(super) async fn evicted(&self) {
        poll_fn(|cx| if self.is_evicted(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn evict(&self) {
        self.is_evicted.set(true);
        // Others are looked for next time, whether or not it goes at once.
        self.idle_since.set(None);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    crowd: Rc<Crowd>,
    seat: Rc<Seat>,
}

impl Taken {
    /// What the connection is to know of it.
    pub(crate) fn seat(&self) -> Rc<Seat> {
        Rc::clone(&self.seat)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut seats = self.crowd.seats.borrow_mut();
        let at = self.seat.at.get();
        seats.swap_remove(at);
        if let Some(moved) = seats.get(at) {
            moved.at.set(at);
        }
        self.crowd.places.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_idle_longest_makes_room() {
        let crowd = Rc::new(Crowd::new(Places::new(3)));
        let mut taken: Vec<_> = (0..3).map(|_| crowd.enter()).collect();
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
        taken[0].seat.idle(Some(ago(100)));
        taken[1].seat.idle(Some(ago(10_000)));
        taken[2].seat.idle(None);
        let mut is_full = false;
        let waited = tokio::time::timeout(Duration::ZERO, crowd.room(|| is_full = true)).await;
        assert!(waited.is_err() && is_full, "nobody has gone yet");
        let evicted: Vec<_> = taken.iter().map(|taken| taken.seat.is_evicted.get()).collect();
        assert_eq!(evicted, [false, true, false]);
        drop(taken.remove(1));
        crowd.room(|| panic!("there is room")).await;
        let next = crowd.enter();
        assert_eq!(crowd.seats.borrow().iter().map(|seat| seat.at.get()).collect::<Vec<_>>(), [0, 1, 2]);
        drop((next, taken));
        assert_eq!((crowd.seats.borrow().len(), crowd.places.taken.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn from_four_fifths_on_places_are_few() {
        let crowd = Rc::new(Crowd::new(Places::new(10)));
        let mut taken = Vec::new();
        for count in 1..=10 {
            taken.push(crowd.enter());
            assert_eq!(taken[0].seat.is_pressed(), count >= 8, "{count}");
        }
    }
}
