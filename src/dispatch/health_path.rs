//! `server.health_path`: balancers ask there whether this process should get clients.
//!
//! It is answered before everything else: whatever the host, because balancers send addresses, names of their own or
//! none; without a limit per client, because one balancer asks for many; and without an access line.

use super::{ListenerRole, Worker};
use crate::readiness::Readiness;
use crate::request::RequestView;
use crate::request::outcome::Outcome;

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
    /// What a request for the health path comes to, which is counted by its status alone; `None` for all others. Every
    /// method is answered, because the checks of balancers use GET, HEAD or OPTIONS.
    pub(super) fn health(&self, role: ListenerRole, request: &RequestView<'_>) -> Option<Outcome<'static>> {
        let health = self.policy.health_path.as_ref()?;
        if role == ListenerRole::RejectPlainHttp || request.target.path() != &*health.path {
            return None;
        }
        let (status, text) = health.readiness.response();
        Some(Outcome::Readiness(status, text))
    }
}
