//! What is sent back: an [`outcome`](crate::request::outcome) turned into a response.

use std::num::NonZeroU16;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, ORIGIN,
    RETRY_AFTER, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;

use super::prefers_html::prefers_html;
use crate::fleet::{Caching, Cors, PinPolicy, PoolConfig};
use crate::request::hash_key;
use crate::request::outcome::{Rejection, Selection};
use crate::request::pin_cookie;
use crate::request::{ClientInfo, PathAndQuery, Visit};

/// A response of ours: empty, one line of text, or a page.
pub type Answer = Response<Full<Bytes>>;

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// What a path may be asked with. Methods beyond these are redirected too, but can't all be listed.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// The one field of ours that a script may not read by itself (Fetch, CORS-safelisted response-header name).
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ACCEPT: HeaderValue = HeaderValue::from_static("accept");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

/// An empty answer that no cache keeps.
fn empty(status: StatusCode) -> Answer {
    empty_in(HeaderMap::default(), status)
}

/// The same in an empty map that may have room already.
fn empty_in(headers: HeaderMap, status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}

/// Redirects the client to a backend. `now` is in seconds since 1970 and only read if a pin is set; `headers` is an
/// empty map to write to.
///
/// # Errors
/// [`Rejection::BadTarget`] if the target is not valid in a `Location`.
pub fn redirect(
    config: &PoolConfig,
    choice: Selection,
    visit: &Visit<'_>,
    target: PathAndQuery<'_>,
    now: u64,
    headers: HeaderMap,
) -> Result<Answer, Rejection> {
    let plain = visit.method == Method::GET || visit.method == Method::HEAD;
    let location = location(&config.backends[choice.backend].base, target).ok_or(Rejection::BadTarget)?;
    let mut answer = empty_in(headers, if plain { config.status } else { config.status_other });
    answer.headers_mut().insert(LOCATION, location);
    if let Some(pins) = config.pins.as_ref().filter(|_| choice.pin)
        && let Some(cookie) = set_cookie(pins, choice.backend, visit.client, now)
    {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    share(Some(config), visit.headers, answer.headers_mut());
    if let Some(caching) = config.caching.as_ref().filter(|_| plain) {
        keep(caching, config, visit, answer.headers_mut());
    }
    Ok(answer)
}

/// Lets the answer be kept: by anybody where it follows from the request, by the visitor where it follows from the
/// address.
fn keep(caching: &Caching, config: &PoolConfig, visit: &Visit<'_>, answer: &mut HeaderMap) {
    let follows_from_request = config.key.as_ref().is_some_and(|key| hash_key::value(key, visit).is_some());
    let control = if follows_from_request { &caching.shared } else { &caching.private };
    answer.insert(CACHE_CONTROL, control.clone());
    if let Some(vary) = &caching.vary {
        answer.append(VARY, vary.clone());
    }
}

/// Redirects the client to `https://` on the host of the request. 308 keeps method and body; `no-store` keeps caches
/// from making it permanent. `config` is the pool that serves the target, if one does.
///
/// # Errors
/// [`Rejection::BadTarget`] if the target is not valid in a `Location`.
pub fn upgrade(
    host: &str,
    port: NonZeroU16,
    target: PathAndQuery<'_>,
    config: Option<&PoolConfig>,
    request: &HeaderMap,
) -> Result<Answer, Rejection> {
    let mut text = Vec::with_capacity("https://:65535".len() + host.len() + target.encoded_len());
    text.extend_from_slice(b"https://");
    text.extend_from_slice(host.as_bytes());
    if port.get() != 443 {
        text.extend_from_slice(format!(":{port}").as_bytes());
    }
    target.append_to(&mut text);
    let location = HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| Rejection::BadTarget)?;
    let mut answer = empty(StatusCode::PERMANENT_REDIRECT);
    answer.headers_mut().insert(LOCATION, location);
    share(config, request, answer.headers_mut());
    Ok(answer)
}

/// The base, then the path and query; one allocation. The parts were checked before, so it is `None` for
/// nothing that `Visit` lets through; the header type is the second wall.
fn location(base: &str, target: PathAndQuery<'_>) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(base.len() + target.encoded_len());
    text.extend_from_slice(base.as_bytes());
    target.append_to(&mut text);
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

fn set_cookie(pins: &PinPolicy, backend: usize, client: ClientInfo, now: u64) -> Option<HeaderValue> {
    let cookie = &pins.cookie;
    let attributes = if client.by_tls { &cookie.attributes_tls } else { &cookie.attributes };
    let mut text = Vec::with_capacity(cookie.name.len() + 1 + pin_cookie::TOKEN_CHARS + attributes.len());
    text.extend_from_slice(cookie.name.as_bytes());
    text.push(b'=');
    pin_cookie::write(pins, backend, now, &mut text);
    text.extend_from_slice(attributes.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

/// Adds the pool's CORS fields to a response. Every response of a pool has them: a browser follows a redirect only if
/// it passes the CORS check too (Fetch, HTTP fetch), and shows a script a status only then. Returns the policy if it
/// allows the origin of the request.
fn share<'a>(
    config: Option<&'a PoolConfig>,
    request: &HeaderMap,
    answer: &mut HeaderMap,
) -> Option<&'a Cors> {
    let cors = config?.cors.as_ref()?;
    if cors.varies() {
        answer.append(VARY, VARY_ORIGIN);
    }
    let allowed = request.get(ORIGIN).and_then(|origin| cors.allow(origin))?;
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    if answer.contains_key(RETRY_AFTER) {
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    Some(cors)
}

/// Whether a request is a CORS preflight (Fetch, CORS-preflight request).
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(ACCESS_CONTROL_REQUEST_METHOD) && has(ORIGIN)
}

/// Answers `OPTIONS`: browsers reject a preflight that is redirected (Fetch, CORS-preflight fetch). `OPTIONS *` has no
/// pool.
pub fn options(config: Option<&PoolConfig>, request: &HeaderMap) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(ALLOW, METHODS);
    let allowed = share(config, request, headers);
    if let Some(cors) = allowed.filter(|_| request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
        if let Some(names) = &cors.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
        headers.insert(VARY, VARY_PREFLIGHT);
    }
    answer
}

/// One line of text that no cache keeps.
pub fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(Bytes::from_static(text.as_bytes()));
    answer.headers_mut().insert(CONTENT_TYPE, PLAIN);
    answer
}

/// The response to a rejected request; `config` is the pool that the request is for, if one is known. A client that
/// prefers HTML gets the `page` of the status, if there is one, others a line of text. `spread` is any
/// number: it spreads `Retry-After` over 2 to 8 seconds, so that clients that were rejected together do not return
/// together.
pub fn refuse(
    rejection: Rejection,
    config: Option<&PoolConfig>,
    page: Option<&Bytes>,
    request: &HeaderMap,
    spread: u32,
) -> Answer {
    let mut answer = empty(rejection.status());
    let html = page.filter(|_| prefers_html(request));
    let text = || Bytes::from_static(rejection.text().as_bytes());
    *answer.body_mut() = Full::new(html.cloned().unwrap_or_else(text));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, if html.is_some() { HTML } else { PLAIN });
    if page.is_some() {
        headers.insert(VARY, VARY_ACCEPT);
    }
    match rejection {
        Rejection::MethodNotAllowed => {
            headers.insert(ALLOW, METHODS);
        }
        Rejection::NoBackend => {
            headers.insert(RETRY_AFTER, HeaderValue::from(2 + spread % 7));
        }
        // Within a second a client is owed at least one request.
        Rejection::RateLimited => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    share(config, request, headers);
    answer
}

/// The same answer to `HEAD`: it tells the length of what `GET` would get (RFC 9110 §9.3.2). hyper leaves the body
/// away over HTTP/1.1, but not over HTTP/2.
pub fn head_alone(mut answer: Answer) -> Answer {
    let length = answer.body().size_hint().exact().unwrap_or(0);
    if length > 0 {
        *answer.body_mut() = Full::default();
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer
}
