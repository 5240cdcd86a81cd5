//! What a connection is read from and written to, and the clock that is kept on it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::connection::ConnectionLimits;
use crate::dispatch::response::Answer;
use crate::metrics::Limit;
use crate::request::outcome::Rejection;
use crate::server::connection_tracker::ConnectionHandle;
use crate::server::tcp_stream::Socket;
use crate::server::unsent::Unsent;

/// Where a connection stands between the peer and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted; no byte has come.
    Accepted,
    /// Some bytes of a head have come.
    Head,
    /// A request is being answered.
    Answering,
    /// An answer is ready; not all of it is with the kernel.
    Writing,
    /// All of the last answer is with the kernel; the next request may come.
    Idle,
}

/// What HTTP is spoken over: a socket, or TLS on one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether a peer must be told of the end before FIN: with TLS it could not tell ours from an attacker's.
    const SAYS_GOODBYE: bool;

    /// The socket below.
    fn socket(&mut self) -> &mut Socket;
}

impl Transport for Socket {
    const SAYS_GOODBYE: bool = false;

    fn socket(&mut self) -> &mut Socket {
        self
    }
}

impl Transport for Box<TlsStream<Socket>> {
    const SAYS_GOODBYE: bool = true;

    fn socket(&mut self) -> &mut Socket {
        self.get_mut().0
    }
}

/// What stream, service and driver of one connection know together. hyper's own timer is one and the same for a
/// slow head and an idle connection; this tells them apart.
#[derive(Debug)]
pub(in crate::server) struct ConnectionState<'a> {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Nothing more can be written.
    is_broken: Cell<bool>,
    /// The last request announced a body, which is never read.
    body_announced: Cell<bool>,
    /// How many more requests it may send.
    requests_left: Cell<u32>,
    /// The peer was told that the last answer was the last.
    said_close: Cell<bool>,
    /// The peer says that its last request is its last.
    asked_close: Cell<bool>,
    keep_alive: bool,
    handle: &'a ConnectionHandle,
    unsent: &'a Unsent<'a>,
}

/// While draining, how long a connection that waits for a request goes on waiting: a request that was sent
/// before our FIN could arrive is still answered.
pub(in crate::server) const LAST_WAIT: Duration = Duration::from_millis(250);

/// Returns when that has passed since draining began.
pub(in crate::server) async fn patience_ends(handle: &ConnectionHandle) {
    handle.drained().await;
    tokio::time::sleep(LAST_WAIT).await;
}

/// Returns when draining does not wait for the rest of incomplete requests and [`LAST_WAIT`] has passed since then, or
/// since this was called.
pub(in crate::server) async fn prompt_patience_ends(handle: &ConnectionHandle) {
    handle.drained_promptly().await;
    tokio::time::sleep(LAST_WAIT).await;
}

/// How long a client may take to read more of a response before it counts as waiting.
const READING: Duration = Duration::from_secs(1);
/// After how long without a byte an idle connection gives back what it needs to be served.
const PARKED_AFTER: Duration = Duration::from_secs(1);
/// An answer in the making has no deadline of the connection's; the driver looks again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl<'a> ConnectionState<'a> {
    pub(in crate::server) fn new(
        rules: &ConnectionLimits,
        handle: &'a ConnectionHandle,
        unsent: &'a Unsent<'a>,
    ) -> Self {
        let now = Instant::now();
        handle.idle(Some(now));
        Self {
            phase: Cell::new(Phase::Accepted),
            since: Cell::new(now),
            is_broken: Cell::new(false),
            body_announced: Cell::new(false),
            requests_left: Cell::new(rules.max_requests),
            said_close: Cell::new(false),
            asked_close: Cell::new(false),
            keep_alive: rules.keep_alive,
            handle,
            unsent,
        }
    }

    fn enter(&self, phase: Phase) {
        let now = Instant::now();
        self.phase.set(phase);
        self.since.set(now);
        self.handle.idle(match phase {
            Phase::Answering => None,
            // A client that reads makes room after all others.
            Phase::Writing => Some(now + READING),
            Phase::Accepted | Phase::Head | Phase::Idle => Some(now),
        });
    }

    /// The connection waits for no request any more, and what is not written will not be.
    pub(in crate::server) fn ended(&self) {
        self.unsent.settle(false);
        self.handle.ended();
    }

    /// Whether another connection needs its place while it waits for the peer, to send a request or to read a response.
    /// Wakes `waker` when that changes, and when draining begins.
    pub(in crate::server) fn is_evicted(&self, waker: &Waker) -> bool {
        self.handle.listen(waker);
        self.handle.is_evicted() && self.phase.get() != Phase::Answering
    }

    /// Whether it waits for a request.
    fn waits(&self) -> bool {
        matches!(self.phase.get(), Phase::Accepted | Phase::Idle)
    }

    /// The response to what can't be read as a request; it is the last.
    pub(in crate::server) fn reject(&self, rejection: Rejection) -> Answer {
        self.enter(Phase::Writing);
        self.said_close.set(true);
        self.unsent.reject(rejection)
    }

    /// Some bytes of a head have come.
    pub(in crate::server) fn bytes_came(&self) {
        if self.waits() {
            self.enter(Phase::Head);
        }
    }

    /// A head was read.
    pub(in crate::server) fn request(&self, announces_body: bool, asks_close: bool) {
        self.phase.set(Phase::Answering);
        self.handle.idle(None);
        self.body_announced.set(announces_body);
        self.asked_close.set(asks_close);
        self.requests_left.set(self.requests_left.get().saturating_sub(1));
    }

    /// Its answer is ready.
    pub(in crate::server) fn answered(&self) {
        self.enter(Phase::Writing);
    }

    /// The same, where no time has passed since its head came: that one look at the clock is enough.
    pub(in crate::server) fn answered_at_once(&self) {
        self.phase.set(Phase::Writing);
        self.handle.idle(Some(self.since.get()));
    }

    /// A part of it was written: the peer reads.
    pub(in crate::server) fn wrote_some(&self) {
        if self.is_writing() {
            self.enter(Phase::Writing);
        }
    }

    /// All of it was written.
    pub(in crate::server) fn wrote_all(&self) {
        if self.phase.get() == Phase::Writing {
            self.phase.set(Phase::Idle);
            self.handle.idle(Some(self.since.get()));
            self.unsent.settle(true);
        }
    }

    /// Nothing more can be written.
    fn broke(&self) {
        self.is_broken.set(true);
    }

    /// Whether an answer is ready that may still be written.
    pub(in crate::server) fn is_writing(&self) -> bool {
        self.phase.get() == Phase::Writing && !self.is_broken.get()
    }

    /// Whether hyper writes what no request was answered with: it rejects what it can't read.
    fn is_rejection_by_hyper(&self, buf: &[u8]) -> bool {
        !matches!(self.phase.get(), Phase::Answering | Phase::Writing) && buf.starts_with(b"HTTP/1.1 4")
    }

    /// Whether this answer is the connection's last: a body that is not read can't be told from a next request.
    pub(in crate::server) fn is_last(&self) -> bool {
        !self.keep_alive
            || self.body_announced.get()
            || self.handle.draining_since().is_some()
            || self.is_spent()
            || self.handle.is_pressed()
    }

    pub(in crate::server) fn say_close(&self) {
        self.said_close.set(true);
    }

    /// Whether it has sent all the requests it may.
    pub(in crate::server) fn is_spent(&self) -> bool {
        self.requests_left.get() == 0
    }

    /// Whether the connection is shut down or closed as soon as what is written now is out.
    pub(in crate::server) fn ends(&self) -> bool {
        self.said_close.get() || self.asked_close.get()
    }

    pub(in crate::server) fn body_announced(&self) -> bool {
        self.body_announced.get()
    }

    /// When the connection is to be ended if nothing more happens.
    pub(in crate::server) fn deadline(&self, rules: &ConnectionLimits) -> Instant {
        let since = self.since.get();
        if let Some(draining) = self.handle.draining_promptly_since()
            && matches!(self.phase.get(), Phase::Accepted | Phase::Head)
        {
            return draining + LAST_WAIT;
        }
        match (self.phase.get(), self.handle.draining_since()) {
            (Phase::Answering, _) => Instant::now() + LOOK_AGAIN,
            (Phase::Head, _) => since + rules.header_timeout,
            (Phase::Accepted | Phase::Idle, Some(draining)) => since.max(draining) + LAST_WAIT,
            (Phase::Accepted, None) => since + rules.header_timeout,
            (Phase::Idle, None) | (Phase::Writing, _) => since + rules.idle_timeout,
        }
    }

    /// When the connection is parked if nothing more happens: everything is said, and nothing is being read.
    pub(in crate::server) fn rests_from(&self) -> Option<Instant> {
        let may = self.phase.get() == Phase::Idle;
        let after = if self.handle.should_rest() { Duration::ZERO } else { PARKED_AFTER };
        may.then(|| self.since.get() + after)
    }

    /// See [`ConnectionHandle::wakes`].
    pub(in crate::server) fn wakes(&self) -> impl Drop {
        self.handle.wakes()
    }

    /// The limit that a passed deadline stands for, where it is one: draining is none.
    pub(in crate::server) fn limit(&self) -> Option<Limit> {
        match self.phase.get() {
            Phase::Accepted | Phase::Idle if self.handle.draining_since().is_some() => None,
            Phase::Head if self.handle.draining_promptly_since().is_some() => None,
            Phase::Idle | Phase::Writing => Some(Limit::IdleTimeout),
            Phase::Accepted | Phase::Head | Phase::Answering => Some(Limit::HeaderTimeout),
        }
    }
}

/// Waits until a deadline that may move. A timer is made by the first who has to wait, and only moved when it is
/// late or early: a request that is answered at once costs none.
pub(in crate::server) fn passes(
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

/// A stream that tells its [`ConnectionState`] when bytes come and go.
#[derive(Debug)]
pub(in crate::server) struct TrackedStream<'a, T> {
    pub(in crate::server) io: T,
    /// Bytes that were read already.
    pub(in crate::server) first: Bytes,
    pub(in crate::server) watch: &'a ConnectionState<'a>,
}

impl<T: Transport> AsyncRead for TrackedStream<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = buf.remaining().min(self.first.len());
            buf.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.bytes_came();
        }
        read
    }
}

impl<T: Transport> AsyncWrite for TrackedStream<'_, T> {
    /// Vectored writing is not offered, so that hyper writes head and body from one buffer.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.watch.is_rejection_by_hyper(buf) {
            // Discarded: `connection` sends one that is as clear as all others.
            return Poll::Ready(Ok(buf.len()));
        }
        if self.watch.ends() {
            self.io.socket().ends();
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        match &written {
            Ok(count) if *count < buf.len() => self.watch.wrote_some(),
            Ok(_) => {}
            Err(_) => self.watch.broke(),
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        // hyper flushes what is below it once it has nothing left itself, and bodies come in one frame.
        match &flushed {
            Ok(()) => self.watch.wrote_all(),
            Err(_) => self.watch.broke(),
        }
        Poll::Ready(flushed)
    }

    /// Does nothing: hyper has written all of its answer by then, and what comes next is not its to decide.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
