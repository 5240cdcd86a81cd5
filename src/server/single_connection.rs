//! One connection served apart from listeners and workers, with or without the fast path: the fuzz target
//! `request_paths` compares the two.

use std::future::ready;
use std::num::NonZeroU16;
use std::rc::Rc;

use http::{HeaderValue, Request};
use hyper::service::service_fn;

use super::connection_tracker::{ConnectionLimit, ConnectionTracker};
use super::http1::connection::{self, ConnectionLimits};
use super::http1::connection_state::Transport;
use super::lingering::Finished;
use super::unsent::Unsent;
use crate::dispatch::response::Answer;
use crate::dispatch::{OpenLine, Worker, dispatch, reject_plain_http, upgrade};
use crate::request::ClientInfo;

/// How requests are answered.
#[derive(Clone, Copy, Debug)]
pub enum Respond {
    /// They are redirected to a backend.
    Dispatch,
    /// They are redirected to TLS on this port.
    Upgrade(NonZeroU16),
    /// They are rejected, as plain HTTP on a TLS listener.
    PlainHttp,
}

/// A connection and what is decided about it before its first byte.
#[derive(Clone, Debug)]
pub struct SingleConnection<'w> {
    /// Answers and counts its requests.
    pub worker: &'w Worker,
    /// Who sends them.
    pub peer: ClientInfo,
    /// How they are answered.
    pub respond: Respond,
    /// The `Strict-Transport-Security` of its responses.
    pub hsts: Option<HeaderValue>,
    /// Its limits.
    pub rules: ConnectionLimits,
    /// Whether common requests are answered without hyper.
    pub has_fast_path: bool,
    /// Whether its worker is draining.
    pub is_draining: bool,
    /// Whether it takes the last of the places that there are for connections.
    pub takes_last_place: bool,
}

impl SingleConnection<'_> {
    /// Serves it until its last response is written.
    pub async fn serve<T: Transport>(&self, io: T) -> Finished<T> {
        let tracker =
            Rc::new(ConnectionTracker::new(ConnectionLimit::new(if self.takes_last_place { 1 } else { 10 })));
        let place = tracker.enter();
        if self.is_draining {
            tracker.drain();
        }
        let unsent = Unsent::new(self.worker, self.peer, self.hsts.as_ref());
        let service = service_fn(|request| ready(Ok(unsent.made(self.answer(request)))));
        let at_once = self.has_fast_path.then_some(|request| unsent.made(self.answer(request)));
        connection::serve(io, service, at_once, &self.rules, place.handle(), &unsent).await
    }

    fn answer<B>(&self, request: Request<B>) -> (Answer, OpenLine) {
        match self.respond {
            Respond::Dispatch => dispatch(self.worker, request, self.peer),
            Respond::Upgrade(port) => upgrade(self.worker, request, self.peer, port),
            Respond::PlainHttp => reject_plain_http(self.worker, request, self.peer),
        }
    }
}
