//! A connection that speaks HTTP/1.1: common requests are answered at once, the others by hyper.

use std::cell::Cell;
use std::future::poll_fn;
use std::mem::{MaybeUninit, take};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;

use super::fast_path;
use super::hyper_connection::{HTTP2_PREFACE, Next, may_become_preface, serve_with_hyper};
use crate::request::outcome::Rejection;
use crate::server::connection_state::{ConnectionEnd, ConnectionState};
use crate::server::lingering::Finished;
use crate::server::responder::Responder;
use crate::server::transport::Transport;

/// The most bytes that are read of a request before it is known what is to read it: a browser's fits.
const FIRST_READ: usize = 2 << 10;

/// How many requests in a row are served before other tasks run: of one connection, and of a queue of new ones.
pub(in crate::server) const TURNS: u32 = 16;

/// A connection and what it has received and is sending. While it waits for a request it holds no more than the
/// socket, its state and a timer.
#[derive(Debug)]
pub struct Connection<T, R> {
    io: T,
    state: ConnectionState<R>,
    /// What was received behind the last request.
    unread: Bytes,
    /// What the kernel has not taken of the last response.
    unwritten: Bytes,
}

thread_local! {
    /// What a response is encoded into.
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How far a connection has come.
#[derive(Debug)]
enum Turn {
    /// A response is written, and a request may follow.
    Responded,
    /// hyper is to read what was received.
    Hyper,
    /// The last response is written.
    Completed,
    /// It is not waited for any more.
    Aborted(ConnectionEnd),
}

impl<T: Transport, R: Responder> Connection<T, R> {
    /// Takes over a connection whose first request has not been read.
    pub fn new(io: T, state: ConnectionState<R>) -> Self {
        Self { io, state, unread: Bytes::new(), unwritten: Bytes::new() }
    }

    /// Does what can be done without waiting, and returns the connection if it goes on. If it waits already, its waker is
    /// registered when [`Self::serve`] is polled.
    pub(in crate::server) fn first_turn(mut self) -> ControlFlow<Finished<T>, Self> {
        match self.poll_turn(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Turn::Completed) => {
                ControlFlow::Break(Finished::completed(self.io, !self.unread.is_empty(), self.state))
            }
            Poll::Ready(Turn::Aborted(end)) => {
                ControlFlow::Break(Finished::aborted(self.io, end, self.state))
            }
            Poll::Ready(Turn::Responded | Turn::Hyper) | Poll::Pending => ControlFlow::Continue(self),
        }
    }

    /// Serves it until its last response is written.
    ///
    /// Once draining has begun, each response says `Connection: close`, and a connection that waits for a request is
    /// closed a quarter of a second later. So is one that waits when there are too many.
    pub async fn serve(mut self) -> Finished<T> {
        let mut timer = pin!(None);
        let mut in_a_row = 0_u32;
        loop {
            let turn = poll_fn(|cx| match self.poll_turn(cx) {
                Poll::Pending => {
                    in_a_row = 0;
                    self.state.poll_end(cx, timer.as_mut()).map(Turn::Aborted)
                }
                turn => turn,
            })
            .await;
            match turn {
                // A client that sends without end must not keep the others waiting.
                Turn::Responded => {
                    in_a_row += 1;
                    if in_a_row.is_multiple_of(TURNS) { yield_now().await } else { consume_budget().await }
                }
                // Boxed: a connection that waits holds nothing of it.
                Turn::Hyper => {
                    match Box::pin(serve_with_hyper(self.io, take(&mut self.unread), &self.state)).await {
                        Next::Rest(io, unread) => (self.io, self.unread) = (io, unread),
                        Next::Reject(io, rejection) => {
                            self.io = io;
                            self.reject(rejection);
                        }
                        Next::Completed(io, unread) => {
                            return Finished::completed(io, !unread.is_empty(), self.state);
                        }
                        Next::Aborted(io, end) => return Finished::aborted(io, end, self.state),
                    }
                }
                Turn::Completed => return Finished::completed(self.io, !self.unread.is_empty(), self.state),
                Turn::Aborted(end) => return Finished::aborted(self.io, end, self.state),
            }
        }
    }

    /// Sends the rest of a response, or else receives a request and responds.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.state.is_writing() {
            return self.poll_send(cx);
        }
        // What is received now stays on the stack, and is copied only if it outlives this turn.
        let mut space = [const { MaybeUninit::uninit() }; FIRST_READ];
        let mut received = ReadBuf::uninit(&mut space);
        let mut unread = take(&mut self.unread);
        if may_become_preface(&unread) {
            received.put_slice(&unread);
            if let Err(end) = ready!(self.poll_receive(cx, &mut received)) {
                return Poll::Ready(Turn::Aborted(end));
            }
        }
        self.state.received();
        let is_new = !received.filled().is_empty();
        let response = self.encode_response(if is_new { received.filled() } else { &unread });
        let taken = response.as_ref().map_or(0, |(taken, _)| *taken);
        if !is_new {
            unread.advance(taken);
            self.unread = unread;
        } else if taken < received.filled().len() {
            self.unread = Bytes::copy_from_slice(&received.filled()[taken..]);
        }
        match response {
            Some((_, response)) => {
                let turn = self.poll_respond(cx, &response);
                WRITE.set(response);
                turn
            }
            None if self.unread.starts_with(HTTP2_PREFACE) => {
                self.reject(Rejection::CleartextHttp2);
                self.poll_send(cx)
            }
            None => Poll::Ready(Turn::Hyper),
        }
    }

    /// Receives until it is known whether HTTP/2 is spoken, or returns how the connection ended instead: hyper would take
    /// a part of HTTP/2's preface for a malformed request.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        received: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), ConnectionEnd>> {
        while may_become_preface(received.filled()) {
            let before = received.filled().len();
            match Pin::new(&mut self.io).poll_read(cx, received) {
                Poll::Ready(Ok(())) if received.filled().len() > before => self.state.received(),
                Poll::Ready(_) => return Poll::Ready(Err(ConnectionEnd::Closed)),
                Poll::Pending => {
                    if !received.filled().is_empty() {
                        self.unread = Bytes::copy_from_slice(received.filled());
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encodes the response to a request that is responded to without hyper, and returns it behind the length of the
    /// request's head.
    fn encode_response(&self, received: &[u8]) -> Option<(usize, Vec<u8>)> {
        let responder = self.state.responder.fast_path()?;
        fast_path::parse(received, self.state.limits.max_headers, |request| {
            self.state.request_with_response(request.asks_close);
            let mut response = WRITE.take();
            responder.respond_next(&request.view, |rendered| {
                response.clear();
                rendered.encode_http1(&mut response, self.state.closes());
            });
            (request.length, response)
        })
    }

    /// Has the response to what can't be read as a request sent next.
    fn reject(&mut self, rejection: Rejection) {
        self.state.rejected();
        let mut out = Vec::new();
        self.state.responder.reject(rejection, |response| response.encode_http1(&mut out, true));
        self.unwritten = out.into();
    }

    /// Sends a response. Nearly always the kernel takes all of it; what it does not take is kept.
    fn poll_respond(&mut self, cx: &mut Context<'_>, response: &[u8]) -> Poll<Turn> {
        self.cork_if_last();
        let sent = match Pin::new(&mut self.io).poll_write(cx, response) {
            Poll::Ready(Ok(count)) if count > 0 => count,
            Poll::Ready(_) => return Poll::Ready(Turn::Aborted(ConnectionEnd::Closed)),
            Poll::Pending => 0,
        };
        if sent < response.len() {
            self.unwritten = Bytes::copy_from_slice(&response[sent..]);
        }
        self.poll_send(cx)
    }

    /// Sends what is left of a response.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.cork_if_last();
        while !self.unwritten.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.unwritten)) {
                Ok(count) if count > 0 => self.unwritten.advance(count),
                _ => return Poll::Ready(Turn::Aborted(ConnectionEnd::Closed)),
            }
            if !self.unwritten.is_empty() {
                self.state.wrote_some();
            }
        }
        if ready!(Pin::new(&mut self.io).poll_flush(cx)).is_err() {
            return Poll::Ready(Turn::Aborted(ConnectionEnd::Closed));
        }
        if self.state.wrote_all() {
            self.state.responder.settle(true);
        }
        Poll::Ready(if self.state.closes() { Turn::Completed } else { Turn::Responded })
    }

    fn cork_if_last(&mut self) {
        if self.state.closes() {
            self.io.socket().cork_until_close();
        }
    }
}
