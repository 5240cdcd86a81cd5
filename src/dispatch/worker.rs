//! What a worker thread owns for its requests, and what it notes of each.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Cache};
use http::StatusCode;
use rand::rngs::SmallRng;

use super::HealthPath;
use super::access_log::{AccessLog, Line, OpenLine};
use super::client_limits::{Admission, ClientLimits};
use crate::fleet::PoolConfig;
use crate::metrics::{CountedFleet, Counter, Limit};
use crate::request::client_address::TrustedProxies;
use crate::request::outcome::{Rejection, Selection};
use crate::request::{CheckedRequest, ClientInfo, RequestView};
use crate::util::clock::Clock;

/// What a worker thread owns for its requests. Nothing here is shared with another thread but the fleet.
#[derive(Debug)]
pub struct Worker {
    pub(super) fleet: RefCell<Cache<Arc<ArcSwap<CountedFleet>>, Arc<CountedFleet>>>,
    pub(super) clock: Clock,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) picks: Cell<u32>,
    pub(super) policy: DispatchConfig,
    access_log: Option<AccessLog>,
    /// Where it counts.
    pub counter: Counter,
}

/// What the settings say of every request, whatever its pool.
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// The longest target, in bytes.
    pub max_target: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// Who may tell where a visitor came from.
    pub trust: TrustedProxies,
    /// What each client has had, where that is limited.
    pub clients: Arc<ClientLimits>,
    /// Where balancers ask whether this process is ready.
    pub health_path: Option<HealthPath>,
}

/// What was found out about a request, for the access log.
#[derive(Default)]
pub(super) struct LogContext<'f> {
    pub(super) config: Option<&'f PoolConfig>,
    pub(super) selection: Option<Selection>,
    pub(super) rejection: Option<Rejection>,
}

impl Worker {
    /// Without an access log no request is logged.
    pub fn new(
        fleet: Arc<ArcSwap<CountedFleet>>,
        clock: Clock,
        rng: SmallRng,
        counter: Counter,
        policy: DispatchConfig,
        access_log: Option<AccessLog>,
    ) -> Self {
        Self {
            fleet: RefCell::new(Cache::new(fleet)),
            clock,
            rng: RefCell::new(rng),
            picks: Cell::new(0),
            policy,
            access_log,
            counter,
        }
    }

    /// Whether this is the address of a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.policy.trust.is_proxy(address)
    }

    /// What the clients of all workers have had.
    pub fn clients(&self) -> &Arc<ClientLimits> {
        &self.policy.clients
    }

    /// Returns the time where anybody asks when a request came.
    pub(super) fn request_time(&self) -> Option<Instant> {
        (self.access_log.is_some() || self.policy.clients.limits_requests()).then(Instant::now)
    }

    /// Turns a client away that sends more than it may; but not a preflight, whose rejection would hide the 429 of the
    /// request behind it from its script.
    pub(super) fn admit(
        &self,
        request: &RequestView<'_>,
        client: ClientInfo,
        started: Option<Instant>,
    ) -> Result<(), Rejection> {
        let Some(now) = started else { return Ok(()) };
        match self.policy.clients.request(client.address, now) {
            Admission::TooMany if !request.is_preflight() => return Err(Rejection::RateLimited),
            Admission::Unknown => self.counter.limited(Limit::ClientTable),
            Admission::TooMany | Admission::Serve => {}
        }
        Ok(())
    }

    /// Checks a request. The target of a preflight may be too long: rejecting it would hide the 414 of the request
    /// behind it from its script.
    pub(super) fn check<'a>(
        &self,
        request: &RequestView<'a>,
        client: ClientInfo,
    ) -> Result<CheckedRequest<'a>, Rejection> {
        match CheckedRequest::new(request, client, self.policy.max_target) {
            Err(Rejection::TargetTooLong) if request.is_preflight() => {
                CheckedRequest::new(request, client, usize::MAX)
            }
            checked => checked,
        }
    }

    /// Begins the access line of a response; `request` is `None` where it could not be read, `started` when it came.
    pub(super) fn begin_line(
        &self,
        request: Option<&RequestView<'_>>,
        client: ClientInfo,
        context: &LogContext<'_>,
        status: StatusCode,
        started: Option<Instant>,
    ) -> OpenLine {
        let wanting = self.access_log.as_ref().filter(|log| log.wants(&mut self.rng.borrow_mut()));
        let Some(log) = wanting else { return OpenLine::default() };
        log.begin(&Line {
            time: SystemTime::now(),
            request: request.copied(),
            client: client.address,
            status,
            config: context.config,
            choice: context.selection,
            rejection: context.rejection,
            took: started.map_or(Duration::ZERO, |started| started.elapsed()),
        })
    }

    /// Ends the access line of a response and counts the response if it was not `sent`: not all of it was written to
    /// the socket.
    pub fn settle(&self, line: OpenLine, sent: bool) {
        if !sent {
            self.counter.aborted();
        }
        if let Some(log) = &self.access_log {
            log.end(line, sent);
        }
    }
}
