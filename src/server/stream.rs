//! What a connection is read from and written to, and the clock that is kept on it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connection::Rules;
use super::crowd::Seat;
use crate::metrics::Limit;

/// Where a connection stands between the peer and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted; no byte has come.
    Fresh,
    /// Some bytes of a head have come.
    Head,
    /// A request is being answered.
    Answering,
    /// An answer is out; the next request may come.
    Idle,
}

/// What HTTP is spoken over: a socket, or TLS on one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether a peer must be told of the end before FIN: with TLS it could not tell ours from an attacker's.
    const SAYS_GOODBYE: bool;

    /// The socket below.
    fn socket(&mut self) -> &mut TcpStream;
}

impl Transport for TcpStream {
    const SAYS_GOODBYE: bool = false;

    fn socket(&mut self) -> &mut TcpStream {
        self
    }
}

impl Transport for TlsStream<TcpStream> {
    const SAYS_GOODBYE: bool = true;

    fn socket(&mut self) -> &mut TcpStream {
        self.get_mut().0
    }
}

/// What stream, service and driver of one connection know together. hyper's own timer is one and the same for a
/// slow head and an idle connection; this tells them apart.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// The last request announced a body, which is never read.
    body_announced: Cell<bool>,
    /// How many more requests it may send.
    requests_left: Cell<u32>,
    draining_since: Cell<Option<Instant>>,
    /// The peer was told that the last answer was the last.
    said_close: Cell<bool>,
    seat: Rc<Seat>,
}

/// While draining, how long a connection that waits for a request goes on waiting: a request that was sent
/// before our FIN could arrive is still answered.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(250);

/// Returns when that has passed since draining began.
pub(super) async fn patience_ends(drain: &CancellationToken) {
    drain.cancelled().await;
    tokio::time::sleep(LAST_WAIT).await;
}

/// An answer in the making has no deadline of the connection's; the driver looks again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Watch {
    pub(super) fn new(rules: &Rules, seat: Rc<Seat>) -> Self {
        let now = Instant::now();
        seat.idle(Some(now));
        Self {
            phase: Cell::new(Phase::Fresh),
            since: Cell::new(now),
            body_announced: Cell::new(false),
            requests_left: Cell::new(rules.max_requests),
            draining_since: Cell::new(None),
            said_close: Cell::new(false),
            seat,
        }
    }

    fn enter(&self, phase: Phase) {
        let now = Instant::now();
        self.phase.set(phase);
        self.since.set(now);
        self.seat.idle((phase == Phase::Idle).then_some(now));
    }

    /// The connection waits for no request any more.
    pub(super) fn ended(&self) {
        self.seat.ended();
    }

    /// Whether it waits for a request and another needs its place; the waker is told when that changes.
    pub(super) fn is_evicted(&self, waker: &Waker) -> bool {
        self.seat.is_evicted(waker) && matches!(self.phase.get(), Phase::Fresh | Phase::Idle)
    }

    fn bytes_came(&self) {
        if matches!(self.phase.get(), Phase::Fresh | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// A head was read.
    pub(super) fn request(&self, announces_body: bool) {
        self.phase.set(Phase::Answering);
        self.body_announced.set(announces_body);
        self.requests_left.set(self.requests_left.get().saturating_sub(1));
    }

    /// Its answer is ready.
    pub(super) fn answered(&self) {
        self.enter(Phase::Idle);
    }

    pub(super) fn drain(&self) {
        self.draining_since.set(Some(Instant::now()));
    }

    /// Whether this answer is the connection's last: a body that is not read can't be told from a next request.
    pub(super) fn is_last(&self) -> bool {
        self.body_announced.get()
            || self.draining_since.get().is_some()
            || self.is_spent()
            || self.seat.is_pressed()
    }

    pub(super) fn say_close(&self) {
        self.said_close.set(true);
    }

    /// Whether the peer was told that the last answer was the last.
    pub(super) fn said_close(&self) -> bool {
        self.said_close.get()
    }

    /// Whether it has sent all the requests it may.
    pub(super) fn is_spent(&self) -> bool {
        self.requests_left.get() == 0
    }

    pub(super) fn body_announced(&self) -> bool {
        self.body_announced.get()
    }

    /// When the connection is to be ended if nothing more happens.
    pub(super) fn deadline(&self, rules: &Rules) -> Instant {
        let since = self.since.get();
        match (self.phase.get(), self.draining_since.get()) {
            (Phase::Answering, _) => Instant::now() + LOOK_AGAIN,
            (Phase::Head, _) => since + rules.header_timeout,
            (Phase::Fresh | Phase::Idle, Some(draining)) => draining + LAST_WAIT,
            (Phase::Fresh, None) => since + rules.header_timeout,
            (Phase::Idle, None) => since + rules.idle_timeout,
        }
    }

    /// The limit that a passed deadline stands for, where it is one: draining is none.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self.phase.get() {
            Phase::Fresh | Phase::Idle if self.draining_since.get().is_some() => None,
            Phase::Idle => Some(Limit::IdleTimeout),
            Phase::Fresh | Phase::Head | Phase::Answering => Some(Limit::HeaderTimeout),
        }
    }
}

/// A stream that tells its [`Watch`] when bytes come.
#[derive(Debug)]
pub(super) struct Stream<T> {
    pub(super) io: T,
    pub(super) watch: Rc<Watch>,
}

impl<T: Transport> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.bytes_came();
        }
        read
    }
}

impl<T: Transport> AsyncWrite for Stream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
