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

use super::connection_state::{ConnectionEnd, ConnectionState, poll_deadline};
use super::connection_tracker::DRAIN_WAIT;
use super::lingering::{ExpectedBytes, Finished};
use super::responder::TrafficResponder;
use super::transport::Transport;
use super::unsent::{Made, UnsentStreams};
use crate::dispatch::response::HttpResponse;
use crate::metrics::Limit;
use crate::request::RequestView;

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
const GOAWAY_WAIT: Duration = Duration::from_secs(3);
/// How many requests beyond the most may come before the peer has read that it was the last.
const OVERDRAFT: u32 = 2 * STREAMS;

/// Serves one connection until its last stream has ended.
///
/// A request gets its response at once, and a body is never read: its stream is reset with `NO_ERROR` a moment after the
/// response. Whatever ends a connection is announced by GOAWAY first, so that a request that is under way still gets its
/// response.
pub(super) async fn serve<T: Transport>(io: T, state: ConnectionState<TrafficResponder>) -> Finished<T> {
    let unsent = UnsentStreams::new(Rc::clone(&state.responder.worker));
    let back = Rc::new(Cell::new(None));
    let (end, is_aborted) = {
        let io = TokioIo::new(Lent { io: Some(io), back: Rc::clone(&back), unsent: Rc::clone(&unsent) });
        let connection = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(state.limits.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(RESETS)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, StreamService { state: &state, unsent });
        drive(pin!(connection), &state).await
    };
    // The connection is dropped and has given back what it was served over. Last frames of the peer's may be under
    // way, and would be answered with a reset; nothing more is read from a peer that was cut off.
    let expected = (!is_aborted).then_some(ExpectedBytes::Body);
    Finished { end, io: back.take(), expected, handle: state.into_handle() }
}

/// Polls a connection to its end; returns how it ended and whether it was aborted.
async fn drive<C: Graceful>(
    mut connection: Pin<&mut C>,
    state: &ConnectionState<TrafficResponder>,
) -> (ConnectionEnd, bool) {
    let mut timer = pin!(None);
    // Since when the peer is being told to end, and why.
    let mut leaving: Option<(Instant, ConnectionEnd)> = None;
    poll_fn(|cx| {
        loop {
            let is_evicted = state.is_evicted(cx.waker());
            let why = match leaving {
                Some(_) => None,
                None if state.is_draining() => Some(ConnectionEnd::Closed),
                None if is_evicted => Some(ConnectionEnd::Limited(Limit::Evicted)),
                None if state.limit_reached() => Some(ConnectionEnd::Limited(Limit::Requests)),
                None if state.deadline() <= Instant::now() => Some(state.end_at_deadline()),
                None => None,
            };
            if let Some(end) = why {
                state.leaving();
                leaving = Some((Instant::now(), end));
                connection.as_mut().leave();
            }
            let end = leaving.map_or(ConnectionEnd::Closed, |(_, end)| end);
            match connection.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready((end, false)),
                Poll::Ready(Err(error)) if is_flood(&error) => {
                    return Poll::Ready((ConnectionEnd::Limited(Limit::Http2Flood), true));
                }
                Poll::Ready(Err(_)) => return Poll::Ready((end, true)),
                Poll::Pending if state.overdraft() > OVERDRAFT => {
                    return Poll::Ready((ConnectionEnd::Limited(Limit::Requests), true));
                }
                Poll::Pending => {}
            }
            if leaving.is_none() && state.limit_reached() {
                continue;
            }
            ready!(poll_deadline(timer.as_mut(), cx, || match leaving {
                Some((since, _)) if state.is_draining_promptly() => since + DRAIN_WAIT,
                Some((since, _)) => since + GOAWAY_WAIT,
                None => state.deadline(),
            }));
            if leaving.is_some() {
                return Poll::Ready((end, true));
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

impl<T: Transport> Graceful for http2::Connection<TokioIo<Lent<T>>, StreamService<'_>, Local> {
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// A service that notes in the [`ConnectionState`] what it serves.
struct StreamService<'a> {
    state: &'a ConnectionState<TrafficResponder>,
    unsent: Rc<UnsentStreams>,
}

impl Service<Request<Incoming>> for StreamService<'_> {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Made;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.state.stream_opened();
        let view = RequestView::of(&request);
        let made = self.unsent.made(self.state.responder.dispatch(&view, |response| response.to_http()));
        let body = request.into_body();
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
