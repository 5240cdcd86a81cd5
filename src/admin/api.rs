//! `/api/v1`: what there is, where it stands, and changing that while visitors are served.

use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::Shown;
use super::problem::Problem;
use crate::fleet::{Admin, Health, Pool, State as BackendState, Tier, Weight};
use crate::keeper::{Change, Event};

/// A pool, as the API shows it.
#[derive(Serialize)]
struct PoolView<'a> {
    name: &'a str,
    strategy: &'static str,
    /// Who of the backends new visitors are sent to.
    tier: Tier,
    fail_open: bool,
    backends: Vec<BackendView<'a>>,
}

/// A backend, as the API shows it.
#[derive(Serialize)]
struct BackendView<'a> {
    id: &'a str,
    url: &'a str,
    state: BackendState,
    admin: Admin,
    health: Health,
    backup: bool,
    weight: Weight,
    /// `weight`, or less of it in slow start.
    weight_in_effect: f64,
    /// What of `admin` and `weight` was set at run time.
    set_at_run_time: Vec<&'static str>,
    /// While draining: when no pin to it can be valid any more.
    drained_at: Option<String>,
    redirects: Redirects,
}

#[derive(Serialize)]
struct Redirects {
    pinned: u64,
    repinned: u64,
    picked: u64,
}

fn view<'a>(shown: &Shown, pool: &'a Pool) -> PoolView<'a> {
    PoolView {
        name: &pool.roster.name,
        strategy: pool.live().kind.name(),
        tier: pool.tier,
        fail_open: pool.tier == Tier::FailOpen,
        backends: (0..pool.roster.backends.len()).map(|index| backend_view(shown, pool, index)).collect(),
    }
}

fn backend_view<'a>(shown: &Shown, pool: &'a Pool, index: usize) -> BackendView<'a> {
    let (backend, standing) = (&pool.roster.backends[index], &pool.standings[index]);
    let [pinned, repinned, picked] = shown.registry.redirects(&pool.roster, index);
    let set = [("admin", standing.admin_is_set), ("weight", standing.weight_is_set)];
    BackendView {
        id: &backend.id,
        url: &backend.base,
        state: standing.state(),
        admin: standing.admin,
        health: standing.health,
        backup: standing.backup,
        weight: standing.weight,
        weight_in_effect: standing.weight_in_effect(),
        set_at_run_time: set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect(),
        drained_at: standing.drained_at.map(date),
        redirects: Redirects { pinned, repinned, picked },
    }
}

fn date(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn json(document: &impl Serialize) -> Response {
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
pub(super) async fn pools(State(shown): State<Shown>) -> Response {
    #[derive(Serialize)]
    struct Document<'a> {
        pools: Vec<PoolView<'a>>,
    }
    let fleet = shown.fleet.load_full();
    json(&Document { pools: fleet.pools.iter().map(|pool| view(&shown, pool)).collect() })
}

/// `PATCH /api/v1/pools/{pool}/backends/{id}`. Answers when every request that begins reads the change.
pub(super) async fn change_backend(
    State(shown): State<Shown>,
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
    // Written anew, so that a line stays a line.
    let change = serde_json::from_slice::<Value>(&body).map(|change| change.to_string()).unwrap_or_default();
    tracing::info!(pool, backend, change, "changed by the operator");
    let fleet = shown.fleet.load_full();
    let pool = fleet.pools.iter().find(|known| *known.roster.name == *pool);
    let changed = pool.and_then(|pool| {
        let index = pool.roster.backends.iter().position(|known| *known.id == *backend)?;
        Some(backend_view(&shown, pool, index))
    });
    Ok(json(&changed))
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
pub(super) async fn reload(State(shown): State<Shown>) -> Result<Response, Problem> {
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
