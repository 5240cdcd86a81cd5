//! Requests over HTTP/1.1 that hyper reads and answers, with the deadlines and the last read of our own.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fast_path;
use crate::metrics::Limit;
use crate::request::outcome::Rejection;
use crate::server::connection_state::{ConnectionEnd, ConnectionLimits, ConnectionState, poll_deadline};
use crate::server::responder::Responder;
use crate::server::transport::Transport;

/// What a connection with HTTP/2 begins with (RFC 9113 §3.4).
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why hyper does not go on serving.
pub(super) enum Next<T> {
    /// The connection has been waiting for its next request for a while, of which there may be a part.
    Rest(T, Bytes),
    /// What came last is no request.
    Reject(T, Rejection),
    /// The last response is written; what was received behind its request is left.
    Completed(T, Bytes),
    /// The connection is not waited for any more.
    Aborted(T, ConnectionEnd),
}

/// Serves requests while they keep coming; `first` is what was read of the first.
pub(super) async fn serve_with_hyper<T, R>(io: T, first: Bytes, state: &ConnectionState<R>) -> Next<T>
where
    T: Transport,
    R: Responder,
{
    let _active = state.activate();
    let limits = &state.limits;
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        // `max_header_size` is looked at when the head is complete, `max_buf_size` bounds it on the way.
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes)
        .max_headers(limits.max_headers)
        // A peer that sends FIN after its request still gets its response.
        .half_close(true)
        .serve_connection(TokioIo::new(TrackedStream { io, first, state }), TrackedService(state));

    let mut timer = pin!(None);
    let mut ended = None;
    // `Ok(None)` if it is to rest.
    let served = poll_fn(|cx| {
        while let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            // After a request that asks for another protocol hyper returns without a flush. Polled again it flushes.
            let is_last = ended.is_some() || !state.is_writing();
            let result = ended.take().unwrap_or(result);
            if is_last {
                return Poll::Ready(Ok(Some(result)));
            }
            ended = Some(result);
        }
        if state.is_evicted(cx.waker()) {
            return Poll::Ready(Err(ConnectionEnd::Limited(Limit::Evicted)));
        }
        let deadline = || {
            let deadline = state.deadline();
            state.rests_from().map_or(deadline, |rest| rest.min(deadline))
        };
        ready!(poll_deadline(timer.as_mut(), cx, deadline));
        let is_over = state.deadline() <= Instant::now();
        Poll::Ready(if is_over { Err(state.end_at_deadline()) } else { Ok(None) })
    })
    .await;

    let parts = connection.into_parts();
    let TrackedStream { io, first, .. } = parts.io.into_inner();
    // hyper may not have read all of what had been received. Copied: a slice would keep all of hyper's buffer.
    let unread = Bytes::from([&parts.read_buf[..], &first[..]].concat());
    match served {
        Ok(None) => Next::Rest(io, unread),
        Err(end) => Next::Aborted(io, end),
        Ok(Some(Ok(()))) => Next::Completed(io, unread),
        // A part of the preface, behind another request: what follows decides.
        Ok(Some(Err(error)))
            if is_invalid_version(&error) && !unread.is_empty() && may_become_preface(&unread) =>
        {
            Next::Rest(io, unread)
        }
        Ok(Some(Err(error))) => match rejection(&error, &parts.read_buf, limits) {
            Some(rejection) => Next::Reject(io, rejection),
            None => Next::Completed(io, unread),
        },
    }
}

/// Whether what was received, which may be nothing, is the beginning of HTTP/2's preface and not all of it.
pub(super) fn may_become_preface(received: &[u8]) -> bool {
    // Mostly it is nothing, which needs no comparison.
    received.is_empty() || (received.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(received))
}

/// Whether hyper rejected the version of a request. It has taken nothing of its head then, which it may have of others
/// that it rejects. hyper has no method that tells.
fn is_invalid_version(error: &hyper::Error) -> bool {
    error.to_string() == "invalid HTTP version parsed"
}

/// Returns why hyper rejected what it read; `unread` is what it has not taken of that.
fn rejection(error: &hyper::Error, unread: &[u8], limits: &ConnectionLimits) -> Option<Rejection> {
    if error.is_parse_version_h2() {
        Some(Rejection::CleartextHttp2)
    } else if error.is_parse_too_large() {
        Some(fast_path::what_is_too_large(unread, limits))
    } else if error.is_parse() {
        Some(Rejection::Malformed)
    } else {
        None
    }
}

/// A service that notes in the [`ConnectionState`] what it serves, and marks the last response as such.
struct TrackedService<'a, R>(&'a ConnectionState<R>);

impl<'a, R: Responder> Service<Request<Incoming>> for TrackedService<'a, R> {
    type Response = Response<R::Body>;
    type Error = Infallible;
    type Future = TrackedResponse<'a, R>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Self(state) = *self;
        // What follows CONNECT may be bytes for the tunnel.
        let announces_body = !request.body().is_end_stream() || *request.method() == Method::CONNECT;
        state.request(announces_body, asks_close(&request));
        let version = request.version();
        TrackedResponse { response: state.responder.respond(request), state, version }
    }
}

/// Whether no request follows this one, as hyper reads it too (RFC 9112 §9.3).
fn asks_close<B>(request: &Request<B>) -> bool {
    let has = |option: &[u8]| {
        let fields = request.headers().get_all(CONNECTION).iter();
        let mut options = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b','));
        options.any(|found| found.trim_ascii().eq_ignore_ascii_case(option))
    };
    has(b"close") || (request.version() < Version::HTTP_11 && !has(b"keep-alive"))
}

struct TrackedResponse<'a, R: Responder> {
    response: R::Response,
    state: &'a ConnectionState<R>,
    version: Version,
}

impl<R: Responder> Future for TrackedResponse<'_, R> {
    type Output = Result<Response<R::Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.response).poll(cx));
        if self.state.responded() {
            response.headers_mut().insert(CONNECTION, CLOSE);
            if self.version < Version::HTTP_11 {
                // Otherwise hyper adds `keep-alive` for a client that asked for it.
                *response.version_mut() = Version::HTTP_10;
            }
        }
        Poll::Ready(Ok(response))
    }
}

/// A transport that notes in the [`ConnectionState`] when bytes come and go.
#[derive(Debug)]
struct TrackedStream<'a, T, R> {
    io: T,
    /// Bytes that were read already.
    first: Bytes,
    state: &'a ConnectionState<R>,
}

impl<T: Transport, R> AsyncRead for TrackedStream<'_, T, R> {
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
            self.state.received();
        }
        read
    }
}

impl<T: Transport, R: Responder> AsyncWrite for TrackedStream<'_, T, R> {
    /// Vectored writing is not offered, so that hyper writes head and body from one buffer.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.owes_no_response() && buf.starts_with(b"HTTP/1.1 4") {
            // hyper's own rejection is discarded: `serve_with_hyper` returns it, to be sent like all others.
            return Poll::Ready(Ok(buf.len()));
        }
        if self.state.closes() {
            self.io.socket().cork_until_close();
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        match &written {
            Ok(count) if *count < buf.len() => self.state.wrote_some(),
            Ok(_) => {}
            Err(_) => self.state.broke(),
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        match &flushed {
            // hyper flushes what is below it once it has nothing left itself, and bodies come in one frame.
            Ok(()) if self.state.wrote_all() => self.state.responder.settle(true),
            Ok(()) => {}
            Err(_) => self.state.broke(),
        }
        Poll::Ready(flushed)
    }

    /// Does nothing: hyper has written all of its response by then, and what comes next is decided elsewhere.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use http_body_util::Full;

    use super::*;
    use crate::server::connection_limit::ConnectionLimit;
    use crate::server::connection_tracker::ConnectionTracker;
    use crate::server::http1::connection::Connection;
    use crate::server::tcp_stream::Socket;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        max_header_bytes: 16 << 10,
        max_headers: 100,
        max_requests: u32::MAX,
        keep_alive: true,
    };

    struct Fixed;

    impl Responder for Fixed {
        type Body = Full<Bytes>;
        type Response = std::future::Ready<Response<Self::Body>>;

        fn respond(&self, _: Request<Incoming>) -> Self::Response {
            let mut response = Response::new(Full::new(Bytes::from_static(b"response")));
            // To CONNECT, success would have no body.
            *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
            std::future::ready(response)
        }
    }

    /// Serves a client whose socket takes nothing more at first; returns what the client reads behind what filled it.
    async fn response_behind_a_full_socket(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        // The kernel moves bytes to the other side for a while.
        for _ in 0..10 {
            while let Ok(count) = ours.write(&[b'.'; 4096]) {
                filled += count;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        theirs.write_all(request.as_bytes()).unwrap();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).map(|_| read)
        });
        let handle = ConnectionTracker::new(ConnectionLimit::new(1)).enter();
        let connection =
            Connection::new(Socket::new(ours.into()), ConnectionState::new(Fixed, LIMITS, handle));
        connection.serve().await.lingering_close().await;
        String::from_utf8(reading.join().unwrap().unwrap().split_off(filled)).unwrap()
    }

    #[tokio::test]
    async fn a_response_is_written_though_the_socket_is_full_when_hyper_returns() {
        for request in [
            "POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 9\r\n\r\n",
            "POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT a:443 HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nbody",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            let response = response_behind_a_full_socket(request).await;
            assert!(
                response.starts_with("HTTP/1.") && response.ends_with("\r\n\r\nresponse"),
                "{request:?}: {response:?}"
            );
        }
        let response = response_behind_a_full_socket("no request\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response:?}");
    }
}
