//! The response to a request: one list of its header fields, encoded as HTTP/1.1 or handed to hyper.

use std::io::Write as _;

use bytes::Bytes;
use http::header;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::Full;

use super::date;
use crate::request::outcome::{CorsDecision, HttpsRedirect, NewPin, Outcome, Redirect, Rejected, Rejection};
use crate::request::pin_cookie;

/// A response for hyper: empty, one line of text, or a page.
pub type HttpResponse = http::Response<Full<Bytes>>;

static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// What a path may be asked with. Methods beyond these are redirected too, but can't all be listed.
static METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// The one field of ours that a script may not read by itself (Fetch, CORS-safelisted response-header name).
static EXPOSED: HeaderValue = HeaderValue::from_static("retry-after");
static PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
static HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
static TRUE: HeaderValue = HeaderValue::from_static("true");
static VARY_ACCEPT: HeaderValue = HeaderValue::from_static("accept");
static VARY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");
static VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

/// The name of a field.
struct FieldName {
    name: HeaderName,
    /// What a line of HTTP/1.1 has before the value, with the end of the line before.
    before_value: &'static str,
}

macro_rules! field_names {
    ($($name:ident = $text:literal),+ $(,)?) => {
        $(static $name: FieldName =
            FieldName { name: header::$name, before_value: concat!("\r\n", $text, ": ") };)+
    };
}

field_names! {
    ACCESS_CONTROL_ALLOW_CREDENTIALS = "access-control-allow-credentials",
    ACCESS_CONTROL_ALLOW_HEADERS = "access-control-allow-headers",
    ACCESS_CONTROL_ALLOW_METHODS = "access-control-allow-methods",
    ACCESS_CONTROL_ALLOW_ORIGIN = "access-control-allow-origin",
    ACCESS_CONTROL_EXPOSE_HEADERS = "access-control-expose-headers",
    ACCESS_CONTROL_MAX_AGE = "access-control-max-age",
    ALLOW = "allow",
    CACHE_CONTROL = "cache-control",
    CONTENT_LENGTH = "content-length",
    CONTENT_TYPE = "content-type",
    LOCATION = "location",
    RETRY_AFTER = "retry-after",
    SET_COOKIE = "set-cookie",
    STRICT_TRANSPORT_SECURITY = "strict-transport-security",
    VARY = "vary",
}

/// What an [`Outcome`] is sent as.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    outcome: &'a Outcome<'a>,
    /// Whether it responds to `HEAD`, which gets no body.
    is_head: bool,
    hsts: Option<&'a HeaderValue>,
}

/// The value of a header field.
enum Value<'a> {
    /// One that was there before the request.
    Ready(&'a HeaderValue),
    /// One that is written for this response.
    Written(&'a dyn Fn(&mut Vec<u8>)),
}

enum Body<'a> {
    Text(&'static str),
    Page(&'a Bytes),
}

impl Body<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Page(page) => page,
        }
    }

    fn to_bytes(&self) -> Bytes {
        match *self {
            Self::Text(text) => Bytes::from_static(text.as_bytes()),
            Self::Page(page) => page.clone(),
        }
    }
}

impl<'a> Response<'a> {
    /// The response of an outcome; `hsts` is its `Strict-Transport-Security`.
    pub fn new(outcome: &'a Outcome<'a>, is_head: bool, hsts: Option<&'a HeaderValue>) -> Self {
        Self { outcome, is_head, hsts }
    }

    /// Appends the response as it is sent over HTTP/1.1, byte for byte as hyper would write it (RFC 9112 §4); `close`: it
    /// is the connection's last.
    pub fn encode_http1(&self, out: &mut Vec<u8>, close: bool) {
        let status = self.outcome.status();
        append_status_line(out, status);
        self.for_each_field(|name, value| {
            out.extend_from_slice(name.before_value.as_bytes());
            match value {
                Value::Ready(value) => out.extend_from_slice(value.as_bytes()),
                Value::Written(write) => write(out),
            }
        });
        if close {
            out.extend_from_slice(b"\r\nconnection: close");
        }
        let body = self.body();
        // `HEAD` is told the length by the list of fields, where it is known.
        if !self.is_head && status != StatusCode::NO_CONTENT {
            out.extend_from_slice(CONTENT_LENGTH.before_value.as_bytes());
            append_number(out, body.as_bytes().len());
        }
        date::append_field(out);
        out.extend_from_slice(b"\r\n\r\n");
        if !self.is_head {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// Makes a response that hyper sends, which adds what belongs to the connection.
    pub fn to_http(&self) -> HttpResponse {
        // Over HTTP/2 hyper would send a body to `HEAD` too.
        let body = if self.is_head { Bytes::new() } else { self.body().to_bytes() };
        let mut response = http::Response::new(Full::new(body));
        *response.status_mut() = self.outcome.status();
        self.for_each_field(|name, value| {
            let value = match value {
                Value::Ready(value) => Ok(value.clone()),
                Value::Written(write) => {
                    let mut text = Vec::with_capacity(128);
                    write(&mut text);
                    HeaderValue::from_maybe_shared(Bytes::from(text))
                }
            };
            // What values are written from was checked: each of them is valid.
            if let Ok(value) = value {
                response.headers_mut().append(&name.name, value);
            }
        });
        response
    }

    /// Visits the header fields in the order in which they are sent. Fields of one name stand together, because a header
    /// map keeps them so.
    fn for_each_field(&self, mut field: impl FnMut(&FieldName, Value<'_>)) {
        match self.outcome {
            Outcome::Redirect(redirect) => redirect_fields(redirect, &mut field),
            Outcome::HttpsRedirect(redirect) => https_redirect_fields(redirect, &mut field),
            Outcome::Options { cors, is_preflight } => options_fields(cors, *is_preflight, &mut field),
            Outcome::Rejected(rejected) => rejected_fields(rejected, &mut field),
            Outcome::Readiness(..) => {
                field(&CACHE_CONTROL, Value::Ready(&NO_STORE));
                field(&CONTENT_TYPE, Value::Ready(&PLAIN));
            }
        }
        // It tells the length of what `GET` would get (RFC 9110 §9.3.2).
        let length = if self.is_head { self.body().as_bytes().len() } else { 0 };
        if length > 0 {
            field(&CONTENT_LENGTH, Value::Written(&|out| append_number(out, length)));
        }
        if let Some(hsts) = self.hsts {
            field(&STRICT_TRANSPORT_SECURITY, Value::Ready(hsts));
        }
    }

    fn body(&self) -> Body<'a> {
        match self.outcome {
            Outcome::Rejected(Rejected { page: Some(page), prefers_page: true, .. }) => Body::Page(page),
            Outcome::Rejected(rejected) => Body::Text(rejected.reason.text()),
            Outcome::Readiness(_, text) => Body::Text(text),
            Outcome::Redirect(_) | Outcome::HttpsRedirect(_) | Outcome::Options { .. } => Body::Text(""),
        }
    }
}

#[inline]
fn redirect_fields(redirect: &Redirect<'_>, field: &mut impl FnMut(&FieldName, Value<'_>)) {
    let Redirect { base, target, pin, cache_control, vary, cors, .. } = redirect;
    field(&CACHE_CONTROL, Value::Ready(cache_control.unwrap_or(&NO_STORE)));
    let location = |out: &mut Vec<u8>| {
        out.extend_from_slice(base.as_bytes());
        target.append_to(out);
    };
    field(&LOCATION, Value::Written(&location));
    if let Some(pin) = pin {
        field(&SET_COOKIE, Value::Written(&|out| append_pin(out, pin)));
    }
    vary_by_origin(cors, field);
    if let Some(vary) = vary {
        field(&VARY, Value::Ready(vary));
    }
    allow_origin(cors, field);
}

/// 308 may be kept by default; `no-store` keeps caches from making it permanent.
fn https_redirect_fields(redirect: &HttpsRedirect<'_>, field: &mut impl FnMut(&FieldName, Value<'_>)) {
    let HttpsRedirect { host, port, target, cors } = redirect;
    field(&CACHE_CONTROL, Value::Ready(&NO_STORE));
    let location = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"https://");
        out.extend_from_slice(host);
        if port.get() != 443 {
            out.push(b':');
            append_number(out, port.get().into());
        }
        target.append_to(out);
    };
    field(&LOCATION, Value::Written(&location));
    vary_by_origin(cors, field);
    allow_origin(cors, field);
}

fn options_fields(
    cors: &CorsDecision<'_>,
    is_preflight: bool,
    field: &mut impl FnMut(&FieldName, Value<'_>),
) {
    field(&CACHE_CONTROL, Value::Ready(&NO_STORE));
    field(&ALLOW, Value::Ready(&METHODS));
    let Some((policy, _)) = cors.allowed.filter(|_| is_preflight) else {
        vary_by_origin(cors, field);
        return allow_origin(cors, field);
    };
    field(&VARY, Value::Ready(&VARY_PREFLIGHT));
    allow_origin(cors, field);
    field(&ACCESS_CONTROL_ALLOW_METHODS, Value::Ready(&policy.methods));
    if let Some(names) = &policy.headers {
        field(&ACCESS_CONTROL_ALLOW_HEADERS, Value::Ready(names));
    }
    field(&ACCESS_CONTROL_MAX_AGE, Value::Ready(&policy.max_age));
}

fn rejected_fields(rejected: &Rejected<'_>, field: &mut impl FnMut(&FieldName, Value<'_>)) {
    let Rejected { reason, page, prefers_page, retry_after, cors } = rejected;
    field(&CACHE_CONTROL, Value::Ready(&NO_STORE));
    field(&CONTENT_TYPE, Value::Ready(if page.is_some() && *prefers_page { &HTML } else { &PLAIN }));
    if page.is_some() {
        field(&VARY, Value::Ready(&VARY_ACCEPT));
    }
    vary_by_origin(cors, field);
    if *reason == Rejection::MethodNotAllowed {
        field(&ALLOW, Value::Ready(&METHODS));
    }
    if let Some(seconds) = *retry_after {
        field(&RETRY_AFTER, Value::Written(&|out| append_number(out, seconds as usize)));
    }
    allow_origin(cors, field);
    if cors.allowed.is_some() && retry_after.is_some() {
        field(&ACCESS_CONTROL_EXPOSE_HEADERS, Value::Ready(&EXPOSED));
    }
}

#[inline]
fn vary_by_origin(cors: &CorsDecision<'_>, field: &mut impl FnMut(&FieldName, Value<'_>)) {
    if cors.varies {
        field(&VARY, Value::Ready(&VARY_ORIGIN));
    }
}

#[inline]
fn allow_origin(cors: &CorsDecision<'_>, field: &mut impl FnMut(&FieldName, Value<'_>)) {
    let Some((policy, origin)) = cors.allowed else { return };
    field(&ACCESS_CONTROL_ALLOW_ORIGIN, Value::Written(&|out| out.extend_from_slice(origin)));
    if policy.credentials {
        field(&ACCESS_CONTROL_ALLOW_CREDENTIALS, Value::Ready(&TRUE));
    }
}

/// Appends the status line, without its end.
fn append_status_line(out: &mut Vec<u8>, status: StatusCode) {
    // Nearly every response has this one.
    if status == StatusCode::FOUND {
        return out.extend_from_slice(b"HTTP/1.1 302 Found");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
}

fn append_pin(out: &mut Vec<u8>, pin: &NewPin<'_>) {
    let cookie = &pin.policy.cookie;
    out.extend_from_slice(cookie.name.as_bytes());
    out.push(b'=');
    pin_cookie::write(pin.policy, pin.backend, pin.issued, out);
    let attributes = if pin.by_tls { &cookie.attributes_tls } else { &cookie.attributes };
    out.extend_from_slice(attributes.as_bytes());
}

fn append_number(out: &mut Vec<u8>, number: usize) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    // A `Vec` takes everything.
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{AllowedOrigin, Cookie, Cors, PinPolicy};
    use crate::request::PathAndQuery;

    fn policy() -> Cors {
        let origins = AllowedOrigin::one("https://app.example").into_iter().collect();
        let [methods, headers, max_age] = ["PUT", "x-a", "60"].map(HeaderValue::from_static);
        Cors::new(origins, methods, Some(headers), true, max_age)
    }

    /// The fields of a response as it is sent over HTTP/1.1, without those of the connection.
    fn encoded(response: &Response<'_>) -> Vec<(String, String)> {
        let mut out = Vec::new();
        response.encode_http1(&mut out, false);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut fields: Vec<_> = head.lines().skip(1).map(|line| line.split_once(": ").unwrap()).collect();
        assert_eq!(fields.pop().unwrap().0, "date");
        if !response.is_head && response.outcome.status() != StatusCode::NO_CONTENT {
            assert_eq!(fields.pop().unwrap(), ("content-length", &*body.len().to_string()));
        }
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn both_encoders_send_the_same_fields_in_the_same_order() {
        let policy = policy();
        let allowed = policy.allow(b"https://app.example").map(|origin| (&policy, origin));
        let cors = CorsDecision { varies: true, allowed };
        let cookie = Cookie { name: "pin".into(), attributes: "; Path=/".into(), attributes_tls: "".into() };
        let pins = PinPolicy::new("p", ["a"], &[7; 32], [], 0, 100, cookie);
        let target = PathAndQuery::from_origin_form("/p?q").unwrap();
        let (page, vary) = (Bytes::from_static(b"<!DOCTYPE html>"), HeaderValue::from_static("x-user"));
        let rejected = |reason, retry_after| {
            let page = Some(&page);
            Outcome::Rejected(Rejected { reason, page, prefers_page: true, retry_after, cors })
        };
        let outcomes = [
            Outcome::Redirect(Redirect {
                status: StatusCode::FOUND,
                base: "https://b.example/base",
                target,
                pin: Some(NewPin { policy: &pins, backend: 0, issued: 7, by_tls: false }),
                cache_control: Some(&vary),
                vary: Some(&vary),
                cors,
            }),
            Outcome::HttpsRedirect(HttpsRedirect {
                host: b"a"[..].into(),
                port: 8443.try_into().unwrap(),
                target,
                cors,
            }),
            Outcome::Options { cors, is_preflight: true },
            Outcome::Options { cors, is_preflight: false },
            rejected(Rejection::NoBackend, Some(12)),
            rejected(Rejection::MethodNotAllowed, None),
            Outcome::Rejected(Rejected::bare(Rejection::Malformed)),
            Outcome::Readiness(StatusCode::OK, "ready\n"),
        ];
        let hsts = HeaderValue::from_static("max-age=1");
        for outcome in &outcomes {
            for (is_head, hsts) in [(false, None), (true, Some(&hsts))] {
                let response = Response::new(outcome, is_head, hsts);
                let map = response.to_http();
                let fields = map.headers().iter();
                let fields: Vec<_> = fields
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                assert_eq!(encoded(&response), fields, "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_redirect_is_its_base_and_the_target() {
        let outcome = Outcome::Redirect(Redirect {
            status: StatusCode::FOUND,
            base: "https://b.example/base",
            target: PathAndQuery::from_origin_form("/p?q").unwrap(),
            pin: None,
            cache_control: None,
            vary: None,
            cors: CorsDecision::default(),
        });
        let mut out = Vec::new();
        Response::new(&outcome, false, None).encode_http1(&mut out, true);
        let text = String::from_utf8(out).unwrap();
        let fields = "cache-control: no-store\r\nlocation: https://b.example/base/p?q\r\nconnection: close";
        let head = format!("HTTP/1.1 302 Found\r\n{fields}\r\ncontent-length: 0\r\ndate: ");
        assert!(text.starts_with(&head) && text.ends_with("\r\n\r\n"), "{text}");
    }
}
