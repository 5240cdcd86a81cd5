//! What requests come to that are not served.

use rand::Rng;

use super::prefers_html::prefers_html;
use super::response::Response;
use super::worker::LogContext;
use super::{ConnectionInfo, OpenLine, Worker, cors};
use crate::fleet::{Fleet, PoolConfig};
use crate::request::outcome::{Outcome, Rejected, Rejection};
use crate::request::{RequestView, Target};

/// Rejects what can't be read as a request.
pub fn reject_unreadable<R>(
    worker: &Worker,
    connection: &ConnectionInfo<'_>,
    rejection: Rejection,
    render: impl FnOnce(&Response<'_>) -> R,
) -> (R, OpenLine) {
    let status = rejection.status();
    worker.counter.rejection(rejection);
    worker.counter.response(status);
    let outcome = Outcome::Rejected(Rejected::bare(rejection));
    let rendered = render(&Response::new(&outcome, false, connection.hsts));
    let context = LogContext { rejection: Some(rejection), ..LogContext::default() };
    (rendered, worker.begin_line(None, connection.peer, &context, status, None))
}

/// What a rejected request comes to, counted.
pub(super) fn reject<'a>(
    worker: &Worker,
    fleet: &'a Fleet,
    request: &RequestView<'a>,
    reason: Rejection,
    context: &mut LogContext<'a>,
) -> Outcome<'a> {
    context.rejection = Some(reason);
    worker.counter.rejection(reason);
    if context.config.is_none() && reason.may_have_pool() {
        context.config = pool_config(fleet, request);
    }
    let of_pool = context.config.and_then(|config| config.error_pages.get(reason.status()));
    let page = of_pool.or_else(|| fleet.error_pages.get(reason.status()));
    let retry_after = match reason {
        // Spread, so that clients that were rejected together do not return together.
        Rejection::NoBackend => Some(2 + worker.rng.borrow_mut().next_u32() % 7),
        // Within a second a client is owed at least one request.
        Rejection::RateLimited => Some(1),
        _ => None,
    };
    let prefers_page = page.is_some() && prefers_html(request.headers);
    let cors = cors(context.config, request.headers);
    Outcome::Rejected(Rejected { reason, page, prefers_page, retry_after, cors })
}

/// The pool that a request is for, whatever it was rejected for: scripts may read the responses of their pool only.
fn pool_config<'a>(fleet: &'a Fleet, request: &RequestView<'_>) -> Option<&'a PoolConfig> {
    match request.host_and_target().ok()? {
        (host, Target::Path(target)) => Some(&fleet.route(host.as_deref(), target.path()).ok()?.config),
        (_, Target::Server) => None,
    }
}
