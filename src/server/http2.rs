//! One connection that speaks HTTP/2: streams by hyper, deadlines, floods and the end by us.
//!
//! # Trust
//! A peer may open streams and reset them, ping, change settings, and send frames that hold nothing, all of which
//! costs it less than us. h2 bounds what each of these may pile up and then says goodbye (`ENHANCE_YOUR_CALM`).
//! What it answers at once and bounds not is ended by time: what is no request keeps no connection from being
//! idle, and requests are counted whether or not they were reset.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_tracker::ConnectionHandle;
use super::http1::connection::{ConnectionEnd, ConnectionLimits};
use super::http1::connection_state::{LAST_WAIT, Transport, passes};
use super::lingering::{ExpectedBytes, Finished};
use super::unsent::{Made, UnsentStreams};
use crate::dispatch::response::Answer;
use crate::dispatch::{OpenLine, Worker};
use crate::metrics::Limit;

/// The most streams that may be open at once.
const STREAMS: u32 = 100;
/// What may be sent of bodies that nobody reads, by stream and by connection.
const WINDOW: u32 = 64 << 10;
/// What may wait to be written for one stream. Bodies are a line of text or an error page.
const SEND_BUFFER: usize = 16 << 10;
/// After how long a silent peer is pinged, and how long it may take to answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its answer a stream is reset whose body still comes.
const HELD: Duration = Duration::from_millis(500);
/// How many streams of which we sent the reset are remembered.
const RESETS: usize = 128;
/// How long a peer may take to end once it was told to: streams it knows of are answered, it acknowledges.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How many requests beyond the most may come before the peer has read that it was the last.
const OVERDRAFT: u32 = 2 * STREAMS;

/// Serves one connection until its last stream has ended.
///
/// A stream is answered at once, and a body is never read: its stream is reset with `NO_ERROR` a moment after the
/// answer.
/// Whatever ends a connection is said by GOAWAY first, so that a request that is under way is still answered.
pub(super) async fn serve<T: Transport>(
    io: T,
    answer: impl Fn(Request<()>) -> (Answer, OpenLine),
    worker: Rc<Worker>,
    rules: &ConnectionLimits,
    handle: &ConnectionHandle,
) -> Finished<T> {
    let unsent = UnsentStreams::new(worker);
    let tally = StreamTracker::new(rules, handle);
    let back = Rc::new(Cell::new(None));
    let (end, broken) = {
        let io = TokioIo::new(Lent { io: Some(io), back: Rc::clone(&back), unsent: Rc::clone(&unsent) });
        let connection = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(rules.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(RESETS)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, TrackedService { answer, tally: &tally, unsent });
        drive(pin!(connection), &tally, rules).await
    };
    tally.handle.ended();
    // The connection is dropped and has given back what it was served over. Last frames of the peer's may be under
    // way, and would be answered with a reset; nobody reads on from a peer that was cut off.
    Finished { end, rest: back.take(), expected: (!broken).then_some(ExpectedBytes::Body) }
}

/// Polls a connection to its end; returns how it ended and whether it was cut off.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    tally: &StreamTracker<'_>,
    rules: &ConnectionLimits,
) -> (ConnectionEnd, bool)
where
    C: Graceful,
{
    let mut timer = pin!(None);
    // Since when the peer is being told to end, and the limit that is the reason, where it is one.
    let mut leaving: Option<(Instant, Option<Limit>)> = None;
    poll_fn(|cx| {
        let end = |limit: Option<Limit>| limit.map_or(ConnectionEnd::Closed, ConnectionEnd::Limited);
        tally.handle.listen(cx.waker());
        loop {
            let why = match leaving {
                Some(_) => None,
                None if tally.handle.draining_since().is_some() => Some(None),
                None if tally.handle.is_evicted() => Some(Some(Limit::Evicted)),
                None if tally.requests_left() == 0 => Some(Some(Limit::Requests)),
                None if tally.deadline(rules) <= Instant::now() => Some(Some(tally.limit())),
                None => None,
            };
            if let Some(limit) = why {
                tally.handle.idle(None);
                leaving = Some((Instant::now(), limit));
                connection.as_mut().leave();
            }
            let limit = leaving.and_then(|(_, limit)| limit);
            match connection.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready((end(limit), false)),
                Poll::Ready(Err(error)) if is_flood(&error) => {
                    return Poll::Ready((ConnectionEnd::Limited(Limit::Http2Flood), true));
                }
                Poll::Ready(Err(_)) => return Poll::Ready((end(limit), true)),
                Poll::Pending if tally.overdraft.get() > OVERDRAFT => {
                    return Poll::Ready((ConnectionEnd::Limited(Limit::Requests), true));
                }
                Poll::Pending => {}
            }
            if leaving.is_none() && tally.requests_left() == 0 {
                continue;
            }
            ready!(passes(timer.as_mut(), cx, || match leaving {
                Some((since, _)) if tally.handle.draining_promptly_since().is_some() => since + LAST_WAIT,
                Some((since, _)) => since + LAST_WORDS,
                None => tally.deadline(rules),
            }));
            if leaving.is_some() {
                return Poll::Ready((end(limit), true));
            }
        }
    })
    .await
}

/// Whether h2 ended the connection because the peer sent too much of what costs it nothing.
fn is_flood(error: &hyper::Error) -> bool {
    let of_h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    of_h2.is_some_and(|error| !error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// A connection that can be told to end.
trait Graceful: Future<Output = hyper::Result<()>> {
    /// GOAWAY: new streams are turned down once the peer has read it.
    fn leave(self: Pin<&mut Self>);
}

impl<T, F> Graceful for http2::Connection<TokioIo<Lent<T>>, TrackedService<'_, F>, Local>
where
    T: Transport,
    F: Fn(Request<()>) -> (Answer, OpenLine),
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What service and driver of one connection know together.
struct StreamTracker<'a> {
    started: Instant,
    handle: &'a ConnectionHandle,
    /// When the last request came.
    last: Cell<Option<Instant>>,
    left: Cell<u32>,
    overdraft: Cell<u32>,
}

impl<'a> StreamTracker<'a> {
    fn new(rules: &ConnectionLimits, handle: &'a ConnectionHandle) -> Self {
        let now = Instant::now();
        handle.idle(Some(now));
        Self {
            started: now,
            handle,
            last: Cell::new(None),
            left: Cell::new(rules.max_requests),
            overdraft: Cell::new(0),
        }
    }

    fn request(&self) {
        let now = Instant::now();
        self.last.set(Some(now));
        if !self.handle.is_evicted() {
            self.handle.idle(Some(now));
        }
        match self.left.get() {
            0 => self.overdraft.set(self.overdraft.get().saturating_add(1)),
            left => self.left.set(left - 1),
        }
    }

    fn requests_left(&self) -> u32 {
        self.left.get()
    }

    /// When the peer is to be told to end if no request comes.
    fn deadline(&self, rules: &ConnectionLimits) -> Instant {
        match self.last.get() {
            None => self.started + rules.header_timeout,
            Some(last) => last + rules.idle_timeout,
        }
    }

    /// The limit that a passed deadline stands for.
    fn limit(&self) -> Limit {
        match self.last.get() {
            None => Limit::HeaderTimeout,
            Some(_) => Limit::IdleTimeout,
        }
    }
}

/// A service that tells the [`StreamTracker`] what it serves.
struct TrackedService<'a, F> {
    answer: F,
    tally: &'a StreamTracker<'a>,
    unsent: Rc<UnsentStreams>,
}

impl<F: Fn(Request<()>) -> (Answer, OpenLine)> Service<Request<Incoming>> for TrackedService<'_, F> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Made;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.tally.request();
        let (head, body) = request.into_parts();
        let made = self.unsent.made((self.answer)(Request::from_parts(head, ())));
        if !body.is_end_stream() {
            tokio::task::spawn_local(hold(body));
        }
        made
    }
}

/// Keeps a body that nobody reads for a moment. When it is dropped hyper resets its stream with `NO_ERROR`, and
/// clients there are that throw the answer away where both come at once.
async fn hold(body: Incoming) {
    tokio::time::sleep(HELD).await;
    drop(body);
}

/// Spawns on the worker's own thread.
#[derive(Clone, Copy)]
struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A transport that is given back when it is dropped: hyper keeps that of HTTP/2 to itself.
struct Lent<T> {
    io: Option<T>,
    back: Rc<Cell<Option<T>>>,
    unsent: Rc<UnsentStreams>,
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        self.back.set(self.io.take());
    }
}

impl<T: Transport> Lent<T> {
    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: Transport> AsyncRead for Lent<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A client that keeps to `STREAMS` has no more responses to read than that.
        ready!(self.unsent.poll_room(STREAMS as usize, cx));
        self.io()?.poll_read(cx, buf)
    }
}

impl<T: Transport> AsyncWrite for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io()?.poll_flush(cx))?;
        self.unsent.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}
