//! `server.health_path`: balancers ask there whether this process should get clients.
//!
//! It is answered before everything else: whatever the host, because balancers send addresses, names of their own or
//! none; without a limit per client, because one balancer asks for many; and without an access line.

use http::{Method, Request};

use super::response::{self, Answer};
use super::{OpenLine, Worker};
use crate::readiness::Readiness;

/// The path, and what is reported there.
#[derive(Clone, Debug)]
pub struct HealthPath {
    path: Box<str>,
    readiness: Readiness,
}

impl HealthPath {
    /// Reports readiness at this path, which is compared byte by byte. A query changes nothing.
    pub fn new(path: &str, readiness: Readiness) -> Self {
        Self { path: path.into(), readiness }
    }
}

impl Worker {
    /// Returns the response to a request for the health path, which is counted by its status alone; `None` for all
    /// others. Every method is answered, because the checks of balancers use GET, HEAD or OPTIONS.
    pub(super) fn health<B>(&self, request: &Request<B>) -> Option<(Answer, OpenLine)> {
        let health = self.policy.health_path.as_ref()?;
        if request.uri().path() != &*health.path {
            return None;
        }
        let (status, text) = health.readiness.response();
        self.counter.response(status);
        let answer = response::text(status, text);
        let is_head = *request.method() == Method::HEAD;
        Some((if is_head { response::head_alone(answer) } else { answer }, OpenLine::default()))
    }
}
