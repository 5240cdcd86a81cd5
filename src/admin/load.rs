//! `PUT /api/v1/pools/{pool}/backends/{id}/load`: a backend tells its load itself.
//!
//! # Trust
//! A backend may say what it likes of its own load, and with the load token of any other's too: that token is for
//! backends of one operator. How many reports come is bounded by the listener's connections, each of which waits for the
//! controller to have room for the next.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::AdminContext;
use super::problem::Problem;
use crate::control::Event;
use crate::estimate::Report;
use crate::load::{Refused, push as read};
use crate::metrics::ReportResult;

/// Takes a report, or says what is wrong with it. Whatever the pool's source is: a backend whose load has moved need not
/// wait to be asked.
pub(super) async fn push(
    State(shown): State<AdminContext>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let Path((pool, backend)) = path?;
    let body = body?;
    let fleet = shown.fleet.load_full();
    let found =
        fleet.counted_pools().find(|(known, _)| *known.config.name == *pool).and_then(|(pool, counters)| {
            let index = pool.config.backends.iter().position(|known| *known.id == *backend)?;
            Some((&pool.config, counters.backend(index)))
        });
    let Some((config, counters)) = found else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such backend in a pool of that name"));
    };
    let Some(expires) = config.reports_expire else {
        let detail = format!("the pool takes no reports: the settings have no [pools.{pool}.load]");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let claim = read(&body);
    let report = claim.as_ref().map_err(Clone::clone).and_then(|claim| Ok(Report::new(*claim, expires)?));
    shown.counter.load_report(counters, report.as_ref().map_or_else(Refused::told, |_| ReportResult::Ok));
    let report = report.map_err(|refused| {
        let detail = match &refused {
            Refused::InvalidReport(nonsense) => {
                let got = claim.map(|claim| claim.to_string()).unwrap_or_default();
                format!("got {got}: {}", nonsense.expected())
            }
            other => other.to_string(),
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    })?;
    let event =
        Event::Load { pool: Arc::from(pool), backend: Arc::from(backend), report, came: Instant::now() };
    match shown.events.send(event).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(_) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no report is taken any more while leaving"))
        }
    }
}
