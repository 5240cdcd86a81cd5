//! `/api/v1`: what there is, where it stands, and changing that while visitors are served.

use std::sync::atomic::Ordering;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::AdminContext;
use super::problem::Problem;
use super::view::{BackendView, Changes, Overview, redirects};
use crate::control::{Change, Event};
use crate::fleet::Weight;

pub(super) fn json(document: &impl Serialize) -> Response {
    match serde_json::to_string(document) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `GET /api/v1/openapi.json`
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

/// `GET /api/v1/pools`
pub(super) async fn pools(
    State(shown): State<AdminContext>,
    Extension(changes): Extension<Changes>,
) -> Response {
    let fleet = shown.fleet.load_full();
    json(&Overview::of(&shown, changes, &fleet))
}

/// `PATCH /api/v1/pools/{pool}/backends/{id}`. Answers when every new request reads the change, and the state file, if
/// there is one, contains it.
pub(super) async fn change_backend(
    State(shown): State<AdminContext>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Path((pool, backend)) = path?;
    let body = body?;
    let change =
        parse_change(&body).map_err(|detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))?;
    if shown.handing_over.load(Ordering::Relaxed) {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "a successor is taking over: change it there, in a moment",
        ));
    }
    let (published, done) = oneshot::channel();
    let event = Event::Operate { pool: pool.clone(), backend: backend.clone(), change, published };
    if shown.events.send(event).await.is_err() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing is changed any more while leaving",
        ));
    }
    if done.await.is_err() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such backend in a pool of that name"));
    }
    // It is in effect, whether it could be written or not; that is logged.
    shown.saved.up_to_date().await;
    // Written anew, so that a line stays a line.
    let change = serde_json::from_slice::<Value>(&body).map(|change| change.to_string()).unwrap_or_default();
    tracing::info!(pool, backend, change, "changed by the operator");
    let fleet = shown.fleet.load_full();
    let pool = fleet.counted_pools().find(|(known, _)| *known.config.name == *pool);
    let mut backends = pool.into_iter().flat_map(|(pool, counters)| {
        BackendView::of(&shown, pool, counters, &redirects(&shown, pool, counters))
    });
    Ok(json(&backends.find(|known| known.id == backend)))
}

/// Reads `{"admin": "active"|"draining"|"maintenance"|null, "weight": 0..256|null}`; each may be left out.
fn parse_change(body: &[u8]) -> Result<Change, String> {
    let document: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let Value::Object(members) = document else { return Err("the body takes an object".to_owned()) };
    let mut change = Change::default();
    for (name, value) in members {
        match name.as_str() {
            "admin" => {
                change.admin = Some(serde_json::from_value(value.clone()).map_err(|_| {
                    format!("admin: got {value}, takes \"active\", \"draining\", \"maintenance\" or null")
                })?);
            }
            "weight" => {
                let weight = value.as_u64().and_then(|weight| Weight::new(u16::try_from(weight).ok()?));
                if weight.is_none() && !value.is_null() {
                    return Err(format!("weight: got {value}, takes a whole number from 0 to 256 or null"));
                }
                change.weight = Some(weight);
            }
            _ => return Err(format!("{name}: no such member, takes admin and weight")),
        }
    }
    if change == Change::default() {
        return Err("the body changes nothing, takes admin, weight or both".to_owned());
    }
    Ok(change)
}

/// A path of the API that is none.
pub(super) async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, super::paths())
}

/// A method that a path of the API does not take.
pub(super) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method; see Allow")
}

/// `POST /api/v1/reload`. Answers when every request that begins reads the new settings.
pub(super) async fn reload(State(shown): State<AdminContext>) -> Result<Response, Problem> {
    let Some(reloads) = &shown.reloads else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "these settings are fixed: there is nothing to read again",
        ));
    };
    let (answer, result) = oneshot::channel();
    if reloads.send(answer).await.is_err() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing is changed any more while leaving",
        ));
    }
    match result.await {
        Ok(Ok(())) => Ok(json(&serde_json::json!({ "reloaded": true }))),
        Ok(Err(problems)) => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the settings are wrong; the old ones stay")
                .with_problems(problems))
        }
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the reload was cut off; see the log")),
    }
}
