//! One connection served apart from listeners and workers, with or without the fast path: the fuzz target
//! `request_paths` compares the two.

use std::rc::Rc;

use http::HeaderValue;

use super::connection_limit::ConnectionLimit;
use super::connection_state::{ConnectionLimits, ConnectionState};
use super::connection_tracker::ConnectionTracker;
use super::http1::connection::Connection;
use super::lingering::Finished;
use super::responder::{TrafficResponder, UnsentLine};
use super::transport::Transport;
use crate::dispatch::{ListenerRole, Worker};
use crate::request::ClientInfo;

/// A connection and what is decided about it before its first byte.
#[derive(Clone, Debug)]
pub struct SingleConnection {
    /// Answers and counts its requests.
    pub worker: Rc<Worker>,
    /// Who sends them.
    pub client: ClientInfo,
    /// What they come to.
    pub role: ListenerRole,
    /// The `Strict-Transport-Security` of its responses.
    pub hsts: Option<HeaderValue>,
    /// Its limits.
    pub limits: ConnectionLimits,
    /// Whether common requests are answered without hyper.
    pub has_fast_path: bool,
    /// Whether its worker is draining.
    pub is_draining: bool,
    /// Whether it takes the last of the places that there are for connections.
    pub takes_last_place: bool,
}

impl SingleConnection {
    /// Serves it until its last response is written.
    pub async fn serve<T: Transport>(self, io: T) -> Finished<T> {
        let tracker =
            ConnectionTracker::new(ConnectionLimit::new(if self.takes_last_place { 1 } else { 10 }));
        let handle = tracker.enter();
        if self.is_draining {
            tracker.drain();
        }
        let Self { worker, client, role, hsts, limits, has_fast_path, .. } = self;
        let unsent = UnsentLine::default();
        let responder = TrafficResponder { worker, client, role, hsts, has_fast_path, unsent };
        Connection::new(io, ConnectionState::new(responder, limits, handle)).serve().await
    }
}
