//! What answers the requests of a connection, and accounts for the responses until they are written.
//!
//! Only then is an access line ended: as that of a response that was sent, or of one that was aborted, which is counted
//! too. What is dropped before that was not written, whatever the reason: the client has gone or does not read, a
//! deadline passed, the process ends.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;

use crate::dispatch::response::{HttpResponse, Response};
use crate::dispatch::{ConnectionInfo, ListenerRole, OpenLine, Worker, dispatch, reject_unreadable};
use crate::request::outcome::{Outcome, Rejected, Rejection};
use crate::request::{ClientInfo, RequestView};

/// Answers the requests of one connection with HTTP/1.1, one after the other.
pub trait Responder {
    /// The bodies of responses.
    type Body: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static;
    /// A response in the making.
    type Response: Future<Output = http::Response<Self::Body>> + Unpin;

    /// Answers a request that hyper has read.
    fn respond(&self, request: Request<Incoming>) -> Self::Response;

    /// Returns what answers common requests without hyper, if anything does.
    fn fast_path(&self) -> Option<&TrafficResponder> {
        None
    }

    /// Renders the response to what can't be read as a request.
    fn reject(&self, rejection: Rejection, render: impl FnOnce(&Response<'_>)) {
        render(&Response::new(&Outcome::Rejected(Rejected::bare(rejection)), false, None));
    }

    /// Notes that the last response was `sent`, or will not be.
    fn settle(&self, sent: bool) {
        let _ = sent;
    }
}

/// Answers the requests of a client.
#[derive(Debug)]
pub struct TrafficResponder {
    pub(super) worker: Rc<Worker>,
    pub(super) client: ClientInfo,
    pub(super) role: ListenerRole,
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
    /// Responds to a request. The line is to be ended once it is known whether the response was written.
    pub(super) fn dispatch<R>(
        &self,
        request: &RequestView<'_>,
        render: impl FnMut(&Response<'_>) -> R,
    ) -> (R, OpenLine) {
        dispatch(&self.worker, &self.info(), request, render)
    }

    /// Responds to a request with HTTP/1.1.
    pub(super) fn respond_next<R>(
        &self,
        request: &RequestView<'_>,
        render: impl FnMut(&Response<'_>) -> R,
    ) -> R {
        self.begin(self.dispatch(request, render))
    }

    fn info(&self) -> ConnectionInfo<'_> {
        ConnectionInfo { role: self.role, peer: self.client, hsts: self.hsts.as_ref() }
    }

    fn begin<R>(&self, (rendered, line): (R, OpenLine)) -> R {
        let before = self.unsent.replace(Some(line));
        self.end(before, false);
        rendered
    }

    fn end(&self, line: Option<OpenLine>, sent: bool) {
        if let Some(line) = line {
            self.worker.settle(line, sent);
        }
    }
}

impl Responder for TrafficResponder {
    type Body = Full<Bytes>;
    type Response = Ready<HttpResponse>;

    fn respond(&self, request: Request<Incoming>) -> Self::Response {
        ready(self.respond_next(&RequestView::of(&request), |response| response.to_http()))
    }

    fn fast_path(&self) -> Option<&TrafficResponder> {
        self.has_fast_path.then_some(self)
    }

    fn reject(&self, rejection: Rejection, render: impl FnOnce(&Response<'_>)) {
        self.begin(reject_unreadable(&self.worker, &self.info(), rejection, render));
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
