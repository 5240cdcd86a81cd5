//! The commonest requests, read without hyper.
//!
//! Nearly every client sends a GET that comes whole, announces no body and asks for nothing but its response. For those
//! hyper's state machine, two buffers of 8 KiB and its handling of bodies and upgrades cost more than the redirect. So
//! such a head is read here, with the parser that hyper has, and nothing of it is copied. Everything else, and
//! everything that is wrong, goes to hyper with the bytes that have come: it alone decides what is no request.

use std::mem::MaybeUninit;

use http::{Method, Version};
use httparse::Status;

use crate::request::outcome::Rejection;
use crate::request::{Headers, PathAndQuery, RequestTarget, RequestView};
use crate::server::connection_state::ConnectionLimits;

/// The most header fields that are read here; browsers send some twenty.
const MAX_FIELDS: usize = 64;

static GET: Method = Method::GET;
static HEAD: Method = Method::HEAD;

/// A request that was read. It has no body.
#[derive(Debug)]
pub(in crate::server) struct ParsedRequest<'a> {
    pub(in crate::server) view: RequestView<'a>,
    /// How many bytes its head took.
    pub(in crate::server) length: usize,
    /// Whether the client says that it is its last.
    pub(in crate::server) asks_close: bool,
}

/// Reads a head from the first of `bytes` and returns what `serve` makes of it, if it is one of the commonest; `None`: it
/// is hyper's. The fields stay on the stack.
pub(in crate::server) fn parse<R>(
    bytes: &[u8],
    max_headers: usize,
    serve: impl FnOnce(&ParsedRequest<'_>) -> R,
) -> Option<R> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let fields = &mut fields[..max_headers.min(MAX_FIELDS)];
    let Ok(Status::Complete(length)) = parsed.parse_with_uninit_headers(bytes, fields) else {
        return None;
    };
    let method = match parsed.method? {
        "GET" => &GET,
        "HEAD" => &HEAD,
        _ => return None,
    };
    if parsed.version != Some(1) {
        return None;
    }
    let target = RequestTarget::Origin(PathAndQuery::from_origin_form(parsed.path?)?);
    let mut asks_close = false;
    for field in &*parsed.headers {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // These announce a body, or ask for more than a response.
        if is("content-length") || is("transfer-encoding") || is("expect") || is("upgrade") {
            return None;
        }
        if is("connection") {
            match field.value {
                value if value.eq_ignore_ascii_case(b"close") => asks_close = true,
                value if value.eq_ignore_ascii_case(b"keep-alive") => {}
                _ => return None,
            }
        }
    }
    let headers = Headers::Raw(parsed.headers);
    let view = RequestView { method, version: Version::HTTP_11, target, headers };
    Some(serve(&ParsedRequest { view, length, asks_close }))
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

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HOST};

    use super::*;

    fn is_read(text: &str) -> bool {
        parse(text.as_bytes(), 100, |_| ()).is_some()
    }

    #[test]
    fn the_commonest_are_read() {
        let text = "GET /a?b HTTP/1.1\r\nHost: a\r\nCookie: x=1\r\ncookie: y=\r\nConnection: Close\r\n\r\n";
        parse(format!("{text}GET /").as_bytes(), 100, |request| {
            let view = &request.view;
            assert_eq!((view.method, &*view.target.shown()), (&Method::GET, "/a?b"));
            assert_eq!((request.length, request.asks_close), (text.len(), true));
            assert_eq!(view.headers.get_all(&COOKIE).collect::<Vec<_>>(), [&b"x=1"[..], b"y="]);
            assert_eq!(view.headers.get(&HOST), Some(&b"a"[..]));
        })
        .unwrap();
        let asks_close = |text: &str| parse(text.as_bytes(), 100, |request| request.asks_close);
        assert_eq!(asks_close("HEAD / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"), Some(false));
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
            "GET http://a/ HTTP/1.1\r\n\r\n",
            "GET a HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nUPGRADE: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: keep-alive, close\r\n\r\n",
            "GET / HTTP/1.1\r\nbad name: x\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\n\r\n",
            "GET /#a HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(!is_read(text), "{text:?}");
        }
        let many = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(is_read(&many(MAX_FIELDS)) && !is_read(&many(MAX_FIELDS + 1)));
        assert!(parse(many(4).as_bytes(), 3, |_| ()).is_none(), "over max_headers");
        assert!(parse(many(3).as_bytes(), 3, |_| ()).is_some());
    }
}
