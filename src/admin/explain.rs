//! `GET /api/v1/pools/{pool}/explain?key=…`: where a visitor would be sent who came now, and why not elsewhere. Nobody is
//! sent anywhere: no turn is taken, no count goes up.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::AdminContext;
use super::api::json;
use super::problem::Problem;
use crate::fleet::{EffectiveState, HashKey, Pool, Priority, Role};
use crate::request::hash_key;
use crate::strategy::Score;

#[derive(Serialize)]
struct ExplainDocument<'a> {
    pool: &'a str,
    /// Who of its backends new visitors are sent to.
    priority: Priority,
    /// What of a request is hashed, where a strategy asks.
    hashed_by: Option<&'a HashKey>,
    /// The hash of what was given for that, as sixteen digits.
    hash: Option<String>,
    strategies: Vec<Explained<'a>>,
}

/// What a strategy would do.
#[derive(Serialize)]
struct Explained<'a> {
    name: &'static str,
    role: Role,
    /// Whom it would pick; `None` where that is nobody, or chance decides.
    picked: Option<&'a str>,
    /// What the scores are; `None` where nobody may be picked.
    score: Option<Score>,
    /// All of the pool: in the order in which the strategy turns to them, then those who may not be picked.
    candidates: Vec<CandidateView<'a>>,
}

#[derive(Serialize)]
struct CandidateView<'a> {
    backend: &'a str,
    state: EffectiveState,
    score: Option<f64>,
    picked: bool,
    why: String,
}

/// `GET /api/v1/pools/{pool}/explain`
pub(super) async fn explain(
    State(shown): State<AdminContext>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path(name) = path?;
    let fleet = shown.fleet.load_full();
    let pool = fleet.pools.iter().find(|pool| *pool.config.name == *name);
    let pool = pool.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no pool of that name"))?;
    let query = query.unwrap_or_default();
    let given = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "key");
    let hashed_by = pool.config.key.as_ref();
    let hash = hashed_by.map(|key| {
        let given = given.as_ref().map_or("", |(_, value)| value);
        hash_key::of_text(key, given).ok_or_else(|| {
            let takes = match key {
                HashKey::Client => "an address".to_owned(),
                other => format!("what a visitor has for {other}"),
            };
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("key: got {given:?}, takes {takes}"))
        })
    });
    let hash = hash.transpose()?;
    let strategies = (0..pool.config.strategies.len()).map(|slot| explained(&shown, pool, slot, hash));
    Ok(json(&ExplainDocument {
        pool: &pool.config.name,
        priority: pool.priority,
        hashed_by,
        hash: hash.map(|hash| format!("{hash:016x}")),
        strategies: strategies.collect(),
    }))
}

fn explained<'a>(shown: &AdminContext, pool: &'a Pool, slot: usize, hash: Option<u64>) -> Explained<'a> {
    let explanation = pool.explain(slot, hash.unwrap_or(0), shown.clock.now());
    let candidate = |backend: usize, score, picked, why| CandidateView {
        backend: &pool.config.backends[backend].id,
        state: pool.statuses[backend].state(),
        score,
        picked,
        why,
    };
    let excluded = (0..pool.statuses.len()).filter_map(|index| {
        pool.excluded(index).map(|excluded| candidate(index, None, false, excluded.text().to_owned()))
    });
    let picked = explanation.as_ref().and_then(|explanation| explanation.picked);
    let score = explanation.as_ref().map(|explanation| explanation.score);
    let eligible = explanation.into_iter().flat_map(|explanation| explanation.candidates);
    let eligible = eligible.map(|of| candidate(of.backend, of.score, picked == Some(of.backend), of.why));
    Explained {
        name: pool.config.strategies[slot].name(),
        role: pool.roles.of(slot),
        picked: picked.map(|backend| &*pool.config.backends[backend].id),
        score,
        candidates: eligible.chain(excluded).collect(),
    }
}
