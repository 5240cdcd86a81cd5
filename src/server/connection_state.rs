//! The state of a connection with HTTP/1.1 or HTTP/2: what it waits for, for how long, and whether it goes on.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::connection_tracker::{ActiveGuard, ConnectionHandle, DRAIN_WAIT};
use crate::metrics::Limit;

/// What one connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From the first byte of a request (or from accept) to the end of its head.
    pub header_timeout: Duration,
    /// How long it may wait between requests.
    pub idle_timeout: Duration,
    /// The longest head.
    pub max_header_bytes: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// The most requests; [`u32::MAX`] is no limit in effect.
    pub max_requests: u32,
    /// Whether another request may follow the first.
    pub keep_alive: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// In good order, or because the peer vanished.
    Closed,
    /// A limit was hit, which is counted.
    Limited(Limit),
}

/// Where a connection stands between the peer and us. HTTP/2 knows only the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No byte has been received.
    Accepted,
    /// A part of a head has been received.
    Head,
    /// A request is being answered.
    Responding,
    /// A response is ready, and not all of it is with the kernel.
    Writing,
    /// All of the last response is with the kernel; the next request may come.
    Idle,
}

/// How long a client may take to read more of a response before it counts as waiting.
const READING: Duration = Duration::from_secs(1);
/// After how long without a byte an idle connection gives back what it needs to be served.
const REST_AFTER: Duration = Duration::from_secs(1);
/// A response that is being made has no deadline of the connection's; the driver looks again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the transport, the service and the driver of a connection share. hyper's own timer does not distinguish between
/// a slow head and an idle connection; this does.
#[derive(Debug)]
pub struct ConnectionState<R> {
    /// Answers its requests.
    pub(super) responder: R,
    pub(super) limits: ConnectionLimits,
    handle: ConnectionHandle,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// How many requests have been received.
    requests: Cell<u32>,
    /// The last request announced a body, which is never read, or what came last was no request.
    more_announced: Cell<bool>,
    /// The client said that its last request is the last.
    close_received: Cell<bool>,
    /// The client was told that the last response is the last.
    close_sent: Cell<bool>,
    /// Nothing more can be written.
    is_broken: Cell<bool>,
}

impl<R> ConnectionState<R> {
    pub(crate) fn new(responder: R, limits: ConnectionLimits, handle: ConnectionHandle) -> Self {
        let now = Instant::now();
        handle.idle(Some(now));
        Self {
            responder,
            limits,
            handle,
            phase: Cell::new(Phase::Accepted),
            since: Cell::new(now),
            requests: Cell::new(0),
            more_announced: Cell::new(false),
            close_received: Cell::new(false),
            close_sent: Cell::new(false),
            is_broken: Cell::new(false),
        }
    }

    /// Returns the handle of a connection whose last response is written, or will not be.
    pub(super) fn into_handle(self) -> ConnectionHandle {
        self.handle.ended();
        self.handle
    }

    fn enter(&self, phase: Phase) {
        let now = Instant::now();
        self.phase.set(phase);
        self.since.set(now);
        self.handle.idle(match phase {
            Phase::Responding => None,
            // A client that reads makes room after all others.
            Phase::Writing => Some(now + READING),
            Phase::Accepted | Phase::Head | Phase::Idle => Some(now),
        });
    }

    /// Notes that bytes were received.
    pub(super) fn received(&self) {
        if matches!(self.phase.get(), Phase::Accepted | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// Notes a head of HTTP/1.1.
    pub(super) fn request(&self, announces_body: bool, asks_close: bool) {
        self.phase.set(Phase::Responding);
        self.handle.idle(None);
        self.more_announced.set(announces_body);
        self.close_received.set(asks_close);
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Notes a request of HTTP/2, which takes no time: the connection is idle at once.
    pub(super) fn stream_opened(&self) {
        let now = Instant::now();
        self.phase.set(Phase::Idle);
        self.since.set(now);
        if !self.handle.is_evicted() {
            self.handle.idle(Some(now));
        }
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Notes that what was received is no request. The response to it is the last.
    pub(super) fn rejected(&self) {
        self.enter(Phase::Writing);
        self.more_announced.set(true);
        self.close_sent.set(true);
    }

    /// Notes that a response is ready. Returns whether it is to say that it is the last of its connection.
    pub(super) fn responded(&self) -> bool {
        self.enter(Phase::Writing);
        self.decide_close()
    }

    /// Notes a head of HTTP/1.1 whose response is ready at once: it has waited since its head began, as it is noted.
    pub(super) fn request_with_response(&self, asks_close: bool) {
        self.phase.set(Phase::Writing);
        self.more_announced.set(false);
        self.close_received.set(asks_close);
        self.requests.set(self.requests.get().saturating_add(1));
        self.decide_close();
    }

    /// Decides once whether a response is the last: a body that is not read can't be told from a next request.
    fn decide_close(&self) -> bool {
        let is_last = !self.limits.keep_alive
            || self.more_announced.get()
            || self.handle.draining_since().is_some()
            || self.limit_reached()
            || self.handle.is_pressed();
        if is_last {
            self.close_sent.set(true);
        }
        is_last
    }

    /// Notes that a part of the response was written: the client reads.
    pub(super) fn wrote_some(&self) {
        if self.is_writing() {
            self.enter(Phase::Writing);
        }
    }

    /// Notes that all that there was to write is written. Returns whether that was a response.
    pub(super) fn wrote_all(&self) -> bool {
        let is_response = self.phase.get() == Phase::Writing;
        if is_response {
            self.phase.set(Phase::Idle);
            self.handle.idle(Some(self.since.get()));
        }
        is_response
    }

    /// Notes that nothing more can be written.
    pub(super) fn broke(&self) {
        self.is_broken.set(true);
    }

    /// Whether a response is ready that may still be written.
    pub(super) fn is_writing(&self) -> bool {
        self.phase.get() == Phase::Writing && !self.is_broken.get()
    }

    /// Whether no response is due: what is written then rejects what is no request.
    pub(super) fn owes_no_response(&self) -> bool {
        !matches!(self.phase.get(), Phase::Responding | Phase::Writing)
    }

    /// Whether the connection is shut down or closed as soon as the response is written.
    pub(super) fn closes(&self) -> bool {
        self.close_sent.get() || self.close_received.get()
    }

    /// Whether the peer may be sending a body, or what follows something that is no request.
    pub(super) fn more_announced(&self) -> bool {
        self.more_announced.get()
    }

    /// Whether it has sent all the requests it may.
    pub(super) fn limit_reached(&self) -> bool {
        self.requests.get() >= self.limits.max_requests
    }

    /// Returns how many requests it has sent beyond the limit.
    pub(super) fn overdraft(&self) -> u32 {
        self.requests.get().saturating_sub(self.limits.max_requests)
    }

    /// Whether another connection needs its place while it waits for the peer, to send a request or to read a response.
    /// Has `waker` woken when that changes, and when draining begins.
    pub(super) fn is_evicted(&self, waker: &Waker) -> bool {
        self.handle.listen(waker);
        self.handle.is_evicted() && self.phase.get() != Phase::Responding
    }

    /// Notes that the connection is being ended and is not to be evicted any more.
    pub(super) fn leaving(&self) {
        self.handle.idle(None);
    }

    /// Returns when the connection is to be ended if nothing more happens.
    pub(super) fn deadline(&self) -> Instant {
        let since = self.since.get();
        if let Some(draining) = self.handle.draining_promptly_since()
            && matches!(self.phase.get(), Phase::Accepted | Phase::Head)
        {
            // A connection that was accepted later has as long.
            return since.max(draining) + DRAIN_WAIT;
        }
        match (self.phase.get(), self.handle.draining_since()) {
            (Phase::Responding, _) => Instant::now() + LOOK_AGAIN,
            (Phase::Head, _) => since + self.limits.header_timeout,
            (Phase::Accepted | Phase::Idle, Some(draining)) => since.max(draining) + DRAIN_WAIT,
            (Phase::Accepted, None) => since + self.limits.header_timeout,
            (Phase::Idle, None) | (Phase::Writing, _) => since + self.limits.idle_timeout,
        }
    }

    /// Returns what a deadline that has passed stands for.
    pub(super) fn end_at_deadline(&self) -> ConnectionEnd {
        match self.phase.get() {
            Phase::Accepted | Phase::Idle if self.is_draining() => ConnectionEnd::Closed,
            Phase::Head if self.handle.draining_promptly_since().is_some() => ConnectionEnd::Closed,
            Phase::Idle | Phase::Writing => ConnectionEnd::Limited(Limit::IdleTimeout),
            Phase::Accepted | Phase::Head | Phase::Responding => ConnectionEnd::Limited(Limit::HeaderTimeout),
        }
    }

    /// Whether the worker is draining.
    pub(super) fn is_draining(&self) -> bool {
        self.handle.draining_since().is_some()
    }

    /// Whether the worker is draining without waiting for clients.
    pub(super) fn is_draining_promptly(&self) -> bool {
        self.handle.draining_promptly_since().is_some()
    }

    /// Returns when the connection gives back what it is served with if nothing more happens; `None` while something
    /// is being read or written.
    pub(super) fn rests_from(&self) -> Option<Instant> {
        let may = self.phase.get() == Phase::Idle;
        let after = if self.handle.should_rest() { Duration::ZERO } else { REST_AFTER };
        may.then(|| self.since.get() + after)
    }

    /// See [`ConnectionHandle::activate`].
    pub(super) fn activate(&self) -> ActiveGuard<'_> {
        self.handle.activate()
    }

    /// Returns how a connection ends that waits, if it is not waited for any more.
    pub(super) fn poll_end(
        &self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Option<Sleep>>,
    ) -> Poll<ConnectionEnd> {
        if self.is_evicted(cx.waker()) {
            return Poll::Ready(ConnectionEnd::Limited(Limit::Evicted));
        }
        ready!(poll_deadline(timer, cx, || self.deadline()));
        Poll::Ready(self.end_at_deadline())
    }
}

/// Waits until a deadline that may move. The timer is created by the first call that has to wait, and only moved when it
/// is late or early: a request that is answered at once needs none.
pub(super) fn poll_deadline(
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
    deadline: impl Fn() -> Instant,
) -> Poll<()> {
    let mut due = deadline();
    if let Some(sleep) = timer.as_mut().as_pin_mut()
        && due >= sleep.deadline().into_std()
    {
        ready!(sleep.poll(cx));
        due = deadline();
    }
    while due > Instant::now() {
        timer.set(Some(sleep_until(due.into())));
        if let Some(sleep) = timer.as_mut().as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        due = deadline();
    }
    Poll::Ready(())
}
