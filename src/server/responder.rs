//! What answers the requests of a connection, and accounts for the responses until they are written.
//!
//! Only then is an access line ended: as that of a response that was sent, or of one that was aborted, which is counted
//! too. What is dropped before that was not written, whatever the reason: the client has gone or does not read, a
//! deadline passed, the process ends.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::num::NonZeroU16;
use std::rc::Rc;

use bytes::Bytes;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;

use crate::dispatch::response::{self, Answer};
use crate::dispatch::{OpenLine, Worker, dispatch, reject_plain_http, upgrade};
use crate::request::ClientInfo;
use crate::request::outcome::Rejection;

/// Answers the requests of one connection with HTTP/1.1, one after the other.
pub trait Responder {
    /// The bodies of responses.
    type Body: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static;
    /// A response in the making.
    type Response: Future<Output = Response<Self::Body>> + Unpin;

    /// Answers a request that hyper has read.
    fn respond(&self, request: Request<Incoming>) -> Self::Response;

    /// Returns what answers common requests without hyper, if anything does.
    fn fast_path(&self) -> Option<&TrafficResponder> {
        None
    }

    /// Makes the response to what can't be read as a request.
    fn reject(&self, rejection: Rejection) -> Answer {
        response::refuse(rejection, None, None, &HeaderMap::new(), 0)
    }

    /// Notes that the last response was `sent`, or will not be.
    fn settle(&self, sent: bool) {
        let _ = sent;
    }
}

/// How the requests of a connection are answered.
#[derive(Clone, Copy, Debug)]
pub enum Respond {
    /// They are redirected to a backend.
    Dispatch,
    /// They are redirected to TLS on this port.
    Upgrade(NonZeroU16),
    /// They are rejected, as plain HTTP on a TLS listener.
    PlainHttp,
}

/// Answers the requests of a client.
#[derive(Debug)]
pub struct TrafficResponder {
    pub(super) worker: Rc<Worker>,
    pub(super) client: ClientInfo,
    pub(super) respond: Respond,
    /// The `Strict-Transport-Security` of responses.
    pub(super) hsts: Option<HeaderValue>,
    /// Whether common requests are answered without hyper.
    pub(super) has_fast_path: bool,
    pub(super) unsent: UnsentLine,
}

/// The access line of a response with HTTP/1.1 that is not written yet, if there is one: the next request is answered
/// only after that.
pub(super) type UnsentLine = RefCell<Option<OpenLine>>;

impl TrafficResponder {
    /// Answers a request. The line is to be ended once it is known whether the response was written.
    pub(super) fn answer<B>(&self, request: Request<B>) -> (Answer, OpenLine) {
        let (worker, client) = (&self.worker, self.client);
        self.secured(match self.respond {
            Respond::Dispatch => dispatch(worker, request, client),
            Respond::Upgrade(port) => upgrade(worker, request, client, port),
            Respond::PlainHttp => reject_plain_http(worker, request, client),
        })
    }

    /// Answers a request with HTTP/1.1.
    pub(super) fn answer_next<B>(&self, request: Request<B>) -> Answer {
        self.begin(self.answer(request))
    }

    fn secured(&self, (mut answer, line): (Answer, OpenLine)) -> (Answer, OpenLine) {
        if let Some(hsts) = &self.hsts {
            answer.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        (answer, line)
    }

    fn begin(&self, (answer, line): (Answer, OpenLine)) -> Answer {
        let before = self.unsent.replace(Some(line));
        self.end(before, false);
        answer
    }

    fn end(&self, line: Option<OpenLine>, sent: bool) {
        if let Some(line) = line {
            self.worker.settle(line, sent);
        }
    }
}

impl Responder for TrafficResponder {
    type Body = Full<Bytes>;
    type Response = Ready<Answer>;

    fn respond(&self, request: Request<Incoming>) -> Self::Response {
        ready(self.answer_next(request))
    }

    fn fast_path(&self) -> Option<&TrafficResponder> {
        self.has_fast_path.then_some(self)
    }

    fn reject(&self, rejection: Rejection) -> Answer {
        self.begin(self.secured(self.worker.reject_unreadable(rejection, self.client)))
    }

    fn settle(&self, sent: bool) {
        self.end(self.unsent.take(), sent);
    }
}

impl Drop for TrafficResponder {
    fn drop(&mut self) {
        self.settle(false);
    }
}
