//! The commonest requests, read and answered without hyper.
//!
//! Nearly every visitor sends a GET that comes whole, announces no body and asks for nothing but its answer. For those
//! hyper's state machine, two buffers of 8 KiB and its way through bodies and upgrades cost more than the redirect.
//! So such a head is read here, with the parser that hyper has, and its answer is written here. Everything else, and
//! everything that is wrong, goes to hyper with the bytes that have come: it alone decides what is no request.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use httparse::Status;
use httpdate::HttpDate;

use crate::dispatch::response::Answer;
use crate::request::outcome::Rejection;
use crate::server::connection_state::ConnectionLimits;

/// The most header fields that are read here; browsers send some twenty.
const FIELDS: usize = 64;

/// A head that was read.
#[derive(Debug)]
pub(in crate::server) struct Head {
    /// The request. It has no body.
    pub(in crate::server) request: Request<()>,
    /// How many bytes it took.
    pub(in crate::server) length: usize,
    /// Whether the client says that it is its last.
    pub(in crate::server) asks_close: bool,
}

thread_local! {
    /// The emptied header map of the last answer, for the next request.
    static SPARE: RefCell<HeaderMap> = RefCell::default();
    /// What an answer is written to.
    static OUT: RefCell<Vec<u8>> = RefCell::default();
    /// The text of `Date`, and the second that it tells.
    static DATE: Cell<(u64, [u8; DATE_LENGTH])> = const { Cell::new((u64::MAX, [0; DATE_LENGTH])) };
}

/// The length of an HTTP date (RFC 9110 §5.6.7).
const DATE_LENGTH: usize = 29;

/// Reads a head from the first of `bytes`, where it is one of the commonest; `None`: it is hyper's.
///
/// The URI and the values are slices of `bytes`. Allocates what a shared `Bytes` needs, and a header map where more
/// fields come than in the requests before.
pub(in crate::server) fn read(bytes: &Bytes, max_headers: usize) -> Option<Head> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(Status::Complete(length)) = parsed.parse_with_uninit_headers(bytes, &mut fields) else {
        return None;
    };
    let method = match parsed.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    if parsed.version != Some(1) || parsed.headers.len() > max_headers {
        return None;
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(parsed.path?.as_bytes())).ok()?;
    let (mut headers, mut asks_close) = (SPARE.take(), false);
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, UPGRADE].contains(&name) {
            return None;
        }
        if name == CONNECTION {
            match field.value {
                value if value.eq_ignore_ascii_case(b"close") => asks_close = true,
                value if value.eq_ignore_ascii_case(b"keep-alive") => {}
                _ => return None,
            }
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?);
    }
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    Some(Head { request, length, asks_close })
}

/// What of a head is too large, where hyper says that something is; `unread` begins with the head if hyper has not
/// taken it. If it has, the head itself is fine, and its `Content-Length` is beyond 64 bits.
pub(in crate::server) fn what_is_too_large(unread: &[u8], limits: &ConnectionLimits) -> Rejection {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.max_headers];
    match httparse::Request::new(&mut fields).parse(unread) {
        Err(httparse::Error::TooManyHeaders) => Rejection::HeadTooLarge,
        Ok(_) if unread.len() >= limits.max_header_bytes => Rejection::HeadTooLarge,
        // Longer than 65534 bytes.
        Ok(Status::Complete(_)) => Rejection::TargetTooLong,
        _ => Rejection::Malformed,
    }
}

/// An answer as it goes over the wire.
///
/// Its buffer is the thread's, and is given back when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Written(Vec<u8>);

impl Written {
    /// The bytes.
    pub(in crate::server) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.0.clear();
        OUT.set(std::mem::take(&mut self.0));
    }
}

/// Writes an answer to a request of HTTP/1.1, as hyper does (RFC 9112 §4): the fields in small letters, then
/// `Connection` where it is the last, the length and the date.
pub(in crate::server) fn write(mut answer: Answer, to_head: bool, is_last: bool) -> Written {
    let mut out = OUT.take();
    let status = answer.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    let mut field = |name: &[u8], value: &[u8]| {
        for part in [b"\r\n", name, b": ", value] {
            out.extend_from_slice(part);
        }
    };
    for (name, value) in answer.headers() {
        field(name.as_str().as_bytes(), value.as_bytes());
    }
    if is_last {
        field(b"connection", b"close");
    }
    let body = if to_head { Bytes::new() } else { body(&mut answer) };
    // What GET would have got is told to HEAD by whoever knows it (RFC 9110 §9.3.2).
    if !to_head && body.is_empty() && status != StatusCode::NO_CONTENT {
        field(b"content-length", b"0");
    } else if !to_head && status != StatusCode::NO_CONTENT {
        let mut digits = [0; 20];
        let mut rest = &mut digits[..];
        // Twenty digits are enough for any length.
        let _ = write!(rest, "{}", body.len());
        let unused = rest.len();
        field(b"content-length", &digits[..20 - unused]);
    }
    field(b"date", &date());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(&body);
    let mut headers = std::mem::take(answer.headers_mut());
    headers.clear();
    SPARE.set(headers);
    Written(out)
}

/// Takes the body out of an answer: it is there as a whole, or empty.
fn body(answer: &mut Answer) -> Bytes {
    let frame = Pin::new(answer.body_mut()).poll_frame(&mut Context::from_waker(Waker::noop()));
    match frame {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}

/// The date as answers say it, worked out once a second.
fn date() -> [u8; DATE_LENGTH] {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (known, text) = DATE.get();
    if known == second {
        return text;
    }
    let mut text = [b' '; DATE_LENGTH];
    // The length of what is written is always the same.
    let _ = write!(&mut text[..], "{}", HttpDate::from(now));
    DATE.set((second, text));
    text
}

#[cfg(test)]
mod tests {
    use http::Response;
    use http::header::LOCATION;
    use http_body_util::Full;

    use std::time::Duration;

    use super::*;

    fn head(text: &str) -> Option<Head> {
        read(&Bytes::copy_from_slice(text.as_bytes()), 100)
    }

    #[test]
    fn the_commonest_are_read() {
        let text = "GET /a?b HTTP/1.1\r\nHost: a\r\nCookie: x=1\r\ncookie: y=\r\nConnection: Close\r\n\r\n";
        let Head { request, length, asks_close } = head(&format!("{text}GET /")).unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::GET, "/a?b"));
        assert_eq!((length, asks_close), (text.len(), true));
        assert_eq!(request.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["x=1", "y="]);
        assert_eq!(request.headers()["host"], "a");
        assert!(!head("HEAD http://a/ HTTP/1.1\r\nConnection: keep-alive\r\n\r\n").unwrap().asks_close);
    }

    #[test]
    fn the_rest_is_hyper_s() {
        for text in [
            "",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: keep-alive, close\r\n\r\n",
            "GET / HTTP/1.1\r\nbad name: x\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(head(text).is_none(), "{text:?}");
        }
        let many = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(head(&many(FIELDS)).is_some() && head(&many(FIELDS + 1)).is_none());
        assert!(read(&Bytes::from(many(4)), 3).is_none(), "over max_headers");
        assert_eq!(
            head("GET / HTTP/1.1\r\n\r\n").unwrap().request.headers().len(),
            0,
            "nothing is left over"
        );
    }

    #[test]
    fn answers_are_what_hyper_writes() {
        let answer = |body: &'static str| {
            let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            *answer.status_mut() = StatusCode::FOUND;
            answer.headers_mut().insert(LOCATION, HeaderValue::from_static("http://b/"));
            answer
        };
        let text = |written: Written| {
            let text = String::from_utf8(written.bytes().to_vec()).unwrap();
            let (start, rest) = text.split_once("date: ").unwrap();
            let (date, end) = rest.split_at(DATE_LENGTH);
            let told = httpdate::parse_http_date(date).unwrap();
            assert!(told.elapsed().unwrap() < Duration::from_secs(5), "{date}");
            format!("{start}{end}")
        };
        let head = "HTTP/1.1 302 Found\r\nlocation: http://b/\r\n";
        assert_eq!(text(write(answer(""), false, false)), format!("{head}content-length: 0\r\n\r\n\r\n"));
        assert_eq!(
            text(write(answer("said\n"), false, true)),
            format!("{head}connection: close\r\ncontent-length: 5\r\n\r\n\r\nsaid\n")
        );
        assert_eq!(text(write(answer(""), true, false)), format!("{head}\r\n\r\n"));
    }
}
