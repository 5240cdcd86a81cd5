//! One connection that speaks HTTP/1.1: by hyper, deadlines and the last read by us.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::ReadBuf;
use tokio::task::coop::consume_budget;
use tokio::time::Sleep;

use super::connection_state::{ConnectionState, TrackedStream, Transport, passes};
use super::fast_path;
use crate::dispatch::response::Answer;
use crate::metrics::Limit;
use crate::request::outcome::Rejection;
use crate::server::connection_tracker::ConnectionHandle;
use crate::server::lingering::Finished;
use crate::server::unsent::Unsent;

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
    /// The most requests; [`u32::MAX`] is as good as no bound.
    pub max_requests: u32,
    /// Whether it may serve another request after its first.
    pub keep_alive: bool,
}

/// How a connection ended, as far as somebody counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// By one side in good order, or by a peer that vanished.
    Closed,
    /// A deadline passed.
    Limited(Limit),
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What a connection with HTTP/2 begins with (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection until its last answer is out: the commonest requests by `at_once`, where there is one, and the
/// others by `service`.
///
/// Once draining has begun, each answer says `Connection: close`, and a connection that waits for a request is
/// closed a quarter of a second later. `handle` says so, and when there is no room for a connection that waits.
/// `unsent` is given what was written of each answer that it knows of.
///
/// While it waits for a request the connection is parked: no more is kept of it than the socket and a timer.
pub async fn serve<T, S, B>(
    mut io: T,
    service: S,
    at_once: Option<impl Fn(Request<()>) -> Answer>,
    rules: &ConnectionLimits,
    handle: &ConnectionHandle,
    unsent: &Unsent<'_>,
) -> Finished<T>
where
    T: Transport,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let watch = ConnectionState::new(rules, handle, unsent);
    let mut timer = pin!(None);
    let mut unread = Bytes::new();
    let served = loop {
        if unread.is_empty() {
            match parked(&mut io, &watch, timer.as_mut(), rules).await {
                Ok(bytes) => unread = bytes,
                Err(end) => break Finished::cut(io, end),
            }
        }
        watch.bytes_came();
        if let Some(at_once) = &at_once
            && let Some(head) = fast_path::read(&unread, rules.max_headers)
        {
            unread = unread.split_off(head.length);
            watch.request(false, head.asks_close);
            let to_head = *head.request.method() == Method::HEAD;
            let answer = at_once(head.request);
            watch.answered_at_once();
            if watch.is_last() {
                watch.say_close();
            }
            if watch.ends() {
                io.socket().ends();
            }
            let written = fast_path::write(answer, to_head, watch.ends());
            if let Err(end) = send(&mut io, written.bytes(), &watch, timer.as_mut(), rules).await {
                break Finished::cut(io, end);
            }
            drop(written);
            if watch.ends() {
                break Finished::over(io, &unread, &watch);
            }
            // Who sends and sends must not keep the others waiting.
            consume_budget().await;
            continue;
        }
        if is_part_of_preface(&unread) {
            // What follows decides. hyper would take a part of the preface for a malformed request.
            match parked(&mut io, &watch, timer.as_mut(), rules).await {
                Ok(bytes) => unread = [unread, bytes].concat().into(),
                Err(end) => break Finished::cut(io, end),
            }
            continue;
        }
        let rejection = if unread.starts_with(HTTP2_PREFACE) {
            Rejection::Http2InTheClear
        } else {
            // Boxed: who is parked carries nothing of it.
            match Box::pin(converse(io, std::mem::take(&mut unread), &service, &watch, rules)).await {
                Next::Rest(rested, rest) => {
                    (io, unread) = (rested, rest);
                    continue;
                }
                Next::Reject(rejected, rejection) => {
                    io = rejected;
                    rejection
                }
                Next::Finished(served) => break served,
            }
        };
        let written = fast_path::write(watch.reject(rejection), false, true);
        io.socket().ends();
        break match send(&mut io, written.bytes(), &watch, timer.as_mut(), rules).await {
            Ok(()) => Finished::rejected(io),
            Err(end) => Finished::cut(io, end),
        };
    };
    watch.ended();
    served
}

/// For a service whose answers may take their time.
pub(crate) const NOTHING_AT_ONCE: Option<fn(Request<()>) -> Answer> = None;

/// The most bytes that are read of a request before it is known who is to read it: a browser's fits.
const FIRST: usize = 2 << 10;

/// Waits for bytes and returns them, or how the connection ended instead. Allocates their buffer, and nothing before.
async fn parked<T: Transport>(
    io: &mut T,
    watch: &ConnectionState<'_>,
    mut timer: Pin<&mut Option<Sleep>>,
    rules: &ConnectionLimits,
) -> Result<Bytes, ConnectionEnd> {
    poll_fn(|cx| {
        let mut space = [const { MaybeUninit::uninit() }; FIRST];
        let mut first = ReadBuf::uninit(&mut space);
        match Pin::new(&mut *io).poll_read(cx, &mut first) {
            Poll::Ready(Ok(())) if !first.filled().is_empty() => {
                Poll::Ready(Ok(Bytes::copy_from_slice(first.filled())))
            }
            Poll::Ready(_) => Poll::Ready(Err(ConnectionEnd::Closed)),
            Poll::Pending => cut_off(cx, watch, timer.as_mut(), rules).map(Err),
        }
    })
    .await
}

/// Writes an answer, or returns how the connection ended instead.
async fn send<T: Transport>(
    io: &mut T,
    bytes: &[u8],
    watch: &ConnectionState<'_>,
    mut timer: Pin<&mut Option<Sleep>>,
    rules: &ConnectionLimits,
) -> Result<(), ConnectionEnd> {
    let mut left = bytes;
    poll_fn(|cx| {
        while !left.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, left) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    left = &left[count..];
                    if !left.is_empty() {
                        watch.wrote_some();
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Err(ConnectionEnd::Closed)),
                Poll::Pending => return cut_off(cx, watch, timer.as_mut(), rules).map(Err),
            }
        }
        match Pin::new(&mut *io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                watch.wrote_all();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(ConnectionEnd::Closed)),
            Poll::Pending => cut_off(cx, watch, timer.as_mut(), rules).map(Err),
        }
    })
    .await
}

/// Whether a connection that waits is not waited for any more, and how it ends then.
fn cut_off(
    cx: &mut Context<'_>,
    watch: &ConnectionState<'_>,
    timer: Pin<&mut Option<Sleep>>,
    rules: &ConnectionLimits,
) -> Poll<ConnectionEnd> {
    if watch.is_evicted(cx.waker()) {
        return Poll::Ready(ConnectionEnd::Limited(Limit::Evicted));
    }
    ready!(passes(timer, cx, || watch.deadline(rules)));
    Poll::Ready(watch.limit().map_or(ConnectionEnd::Closed, ConnectionEnd::Limited))
}

/// Whether the rest of HTTP/2's preface may follow.
fn is_part_of_preface(unread: &[u8]) -> bool {
    !unread.is_empty() && HTTP2_PREFACE.starts_with(unread) && unread.len() < HTTP2_PREFACE.len()
}

/// Why a connection is not served on.
enum Next<T> {
    /// It has been waiting for its next request for a while, of which there may be a part.
    Rest(T, Bytes),
    /// What came last is no request.
    Reject(T, Rejection),
    /// It has ended.
    Finished(Finished<T>),
}

/// Serves requests while they keep coming; `first` is what was read of the first.
async fn converse<T, S, B>(
    io: T,
    first: Bytes,
    service: &S,
    watch: &ConnectionState<'_>,
    rules: &ConnectionLimits,
) -> Next<T>
where
    T: Transport,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _awake = watch.wakes();
    let stream = TokioIo::new(TrackedStream { io, first, watch });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        // `max_header_size` is looked at when the head is complete, `max_buf_size` bounds it on the way.
        .max_header_size(rules.max_header_bytes)
        .max_buf_size(rules.max_header_bytes)
        .max_headers(rules.max_headers)
        // A peer that sends FIN after its request still gets its answer.
        .half_close(true)
        .serve_connection(stream, Watched { service, watch });

    let mut timer = pin!(None);
    let mut ended = None;
    // `Ok(None)` where it is to rest.
    let served = poll_fn(|cx| {
        while let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            // After a request that asks for another protocol hyper returns without a flush. Polled again it flushes.
            let is_last = ended.is_some() || !watch.is_writing();
            let result = ended.take().unwrap_or(result);
            if is_last {
                return Poll::Ready(Ok(Some(result)));
            }
            ended = Some(result);
        }
        if watch.is_evicted(cx.waker()) {
            return Poll::Ready(Err(Some(Limit::Evicted)));
        }
        let deadline = || {
            let deadline = watch.deadline(rules);
            watch.rests_from().map_or(deadline, |rest| rest.min(deadline))
        };
        ready!(passes(timer.as_mut(), cx, deadline));
        let is_over = watch.deadline(rules) <= Instant::now();
        Poll::Ready(if is_over { Err(watch.limit()) } else { Ok(None) })
    })
    .await;

    let parts = connection.into_parts();
    let (io, unread) = (parts.io.into_inner().io, parts.read_buf);
    Next::Finished(match served {
        // A copy: however few they are, they hold on to all of hyper's buffer.
        Ok(None) => return Next::Rest(io, Bytes::copy_from_slice(&unread)),
        Err(limit) => Finished::cut(io, limit.map_or(ConnectionEnd::Closed, ConnectionEnd::Limited)),
        Ok(Some(Ok(()))) => Finished::over(io, &unread, watch),
        // A part of the preface, behind another request: as in `serve`, what follows decides.
        Ok(Some(Err(error))) if is_invalid_version(&error) && is_part_of_preface(&unread) => {
            return Next::Rest(io, Bytes::copy_from_slice(&unread));
        }
        Ok(Some(Err(error))) => match refused(&error, &unread, rules) {
            Some(rejection) => return Next::Reject(io, rejection),
            None => Finished::over(io, &unread, watch),
        },
    })
}

/// Whether hyper rejected the version of a request. It has taken nothing of its head then, which it may have of others
/// that it rejects. hyper has no method that tells.
fn is_invalid_version(error: &hyper::Error) -> bool {
    error.to_string() == "invalid HTTP version parsed"
}

/// Why hyper rejected what it read; `unread` is what it has not taken of that.
fn refused(error: &hyper::Error, unread: &[u8], rules: &ConnectionLimits) -> Option<Rejection> {
    if error.is_parse_version_h2() {
        Some(Rejection::Http2InTheClear)
    } else if error.is_parse_too_large() {
        Some(fast_path::what_is_too_large(unread, rules))
    } else if error.is_parse() {
        Some(Rejection::Malformed)
    } else {
        None
    }
}

/// A service that tells the [`ConnectionState`] what it serves, and says on the last answer that it is the last.
struct Watched<'a, S> {
    service: &'a S,
    watch: &'a ConnectionState<'a>,
}

impl<'a, S, B> Service<Request<Incoming>> for Watched<'a, S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Answering<'a, S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // What follows CONNECT may be bytes for the tunnel.
        let announces_body = !request.body().is_end_stream() || *request.method() == Method::CONNECT;
        self.watch.request(announces_body, asks_close(&request));
        let version = request.version();
        Answering { future: self.service.call(request), watch: self.watch, version }
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

struct Answering<'a, F> {
    future: F,
    watch: &'a ConnectionState<'a>,
    version: Version,
}

impl<F, B> Future for Answering<'_, F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(Pin::new(&mut self.future).poll(cx));
        self.watch.answered();
        if let Ok(answer) = &mut answer
            && self.watch.is_last()
        {
            answer.headers_mut().insert(CONNECTION, CLOSE);
            if self.version < Version::HTTP_11 {
                // Otherwise hyper adds `keep-alive` for a client that asked for it.
                *answer.version_mut() = Version::HTTP_10;
            }
            self.watch.say_close();
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;

    use http_body_util::Full;
    use hyper::service::service_fn;

    use super::*;
    use crate::server::connection_tracker::{ConnectionLimit, ConnectionTracker};
    use crate::server::tcp_stream::Socket;

    const RULES: ConnectionLimits = ConnectionLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        max_header_bytes: 16 << 10,
        max_headers: 100,
        max_requests: u32::MAX,
        keep_alive: true,
    };

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
        let place = Rc::new(ConnectionTracker::new(ConnectionLimit::new(1))).enter();
        // To CONNECT, success would have no body.
        let response = || Response::builder().status(405).body(Full::new(Bytes::from_static(b"response")));
        let service = service_fn(|_| std::future::ready(Ok(response().unwrap())));
        let unsent = Unsent::default();
        let served =
            serve(Socket::new(ours.into()), service, NOTHING_AT_ONCE, &RULES, place.handle(), &unsent).await;
        served.linger(place.handle()).await;
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
