//! Settings into what a request reads: everything that can be worked out beforehand is worked out here.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use crate::fleet::{Backend, Cookie, Cors, Fleet, HostMatch, Pins, Pool, Roster, Route, Routes};
use crate::metrics::Slots;
use crate::settings::{self, HostPattern, Origin, SameSite, SecureAttribute, Token};
use crate::strategy::Memory;

/// What outlives a fleet.
#[derive(Debug)]
pub(super) struct Lasting {
    /// A strategy's memory, by pool and strategy.
    memories: HashMap<(String, &'static str), Memory>,
    pub(super) slots: Slots,
    /// The key for pools without secrets.
    random_key: [u8; 32],
}

impl Lasting {
    pub(super) fn new() -> Self {
        Self { memories: HashMap::new(), slots: Slots::new(), random_key: rand::random() }
    }
}

/// Builds a fleet of these pools, taking from the last one what has not changed.
pub(super) fn build(
    pools: &[settings::Pool],
    last: &[(settings::Pool, Arc<Pool>)],
    lasting: &mut Lasting,
) -> Fleet {
    let routes = Routes::new(pools.iter().enumerate().flat_map(|(index, pool)| routes_of(pool, index)));
    let unchanged = |pool: &settings::Pool| last.iter().find(|(settings, _)| settings == pool);
    let pools = pools.iter().map(|pool| match unchanged(pool) {
        Some((_, built)) => Arc::clone(built),
        None => Arc::new(build_pool(pool, lasting)),
    });
    Fleet { routes, pools: pools.collect() }
}

fn routes_of(pool: &settings::Pool, index: usize) -> Vec<Route> {
    let route = |host| Route { host, prefix: pool.path_prefix.as_str().into(), pool: index };
    if pool.hosts.is_empty() {
        return vec![route(HostMatch::Any)];
    }
    let host_match = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => HostMatch::Exact(name.as_str().into()),
        HostPattern::Suffix(suffix) => HostMatch::Suffix(suffix.as_str().into()),
    };
    pool.hosts.iter().map(host_match).map(route).collect()
}

fn build_pool(pool: &settings::Pool, lasting: &mut Lasting) -> Pool {
    let name = pool.name.as_str();
    let strategy = pool.strategy.name();
    let backend = |backend: &settings::Backend| Backend {
        id: backend.id.as_str().into(),
        base: backend.url.as_str().into(),
        weight: backend.weight,
        slot: lasting.slots.backend(name, strategy, backend.id.as_str()),
    };
    let roster = Roster {
        name: name.into(),
        kind: pool.strategy,
        backends: pool.backends.iter().map(backend).collect(),
        status: pool.status.code(),
        status_other: pool.status_other.code(),
        pins: pool.pin.as_ref().map(|pin| build_pins(pool, pin, &lasting.random_key)),
        cors: pool.cors.as_ref().map(build_cors),
        has_base_path: pool.backends.iter().any(|backend| backend.url.has_path()),
        slot: lasting.slots.pool(name, strategy),
    };
    let memory = lasting.memories.entry((name.to_owned(), strategy)).or_default();
    Pool::new(Arc::new(roster), memory)
}

fn build_pins(pool: &settings::Pool, pin: &settings::Pin, random_key: &[u8]) -> Pins {
    let mut keys = pin.secrets.iter().map(settings::Secret::expose);
    let signing_key = keys.next().unwrap_or(random_key);
    Pins::new(
        pool.name.as_str(),
        pool.backends.iter().map(|backend| backend.id.as_str()),
        signing_key,
        keys,
        pin.generation,
        pin.max_age.0.as_secs(),
        cookie(pin),
    )
}

fn cookie(pin: &settings::Pin) -> Cookie {
    let same_site = match pin.same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    let mut common = format!("; HttpOnly; SameSite={same_site}; Path=/; Max-Age={}", pin.max_age.0.as_secs());
    if let Some(domain) = &pin.domain {
        common.push_str("; Domain=");
        common.push_str(domain.as_str());
    }
    let secure = format!("{common}; Secure");
    let (attributes, attributes_tls) = match pin.secure {
        SecureAttribute::Auto => (common, secure),
        SecureAttribute::Always => (secure.clone(), secure),
        SecureAttribute::Never => (common.clone(), common),
    };
    Cookie {
        name: pin.cookie.as_str().into(),
        attributes: attributes.into(),
        attributes_tls: attributes_tls.into(),
    }
}

fn build_cors(cors: &settings::Cors) -> Cors {
    let origins = if cors.origins.contains(&Origin::Any) { &[][..] } else { &cors.origins };
    let named = origins.iter().filter_map(|origin| match origin {
        Origin::Any => None,
        Origin::One(name) => Some((name.as_str().into(), HeaderValue::from_str(name).ok()?)),
    });
    let max_age = HeaderValue::from(cors.max_age.0.as_secs());
    Cors::new(
        named.collect(),
        list(&cors.methods).unwrap_or(HeaderValue::from_static("")),
        list(&cors.headers),
        cors.credentials,
        max_age,
    )
}

/// A list header of tokens, `None` where there are none.
fn list(tokens: &[Token]) -> Option<HeaderValue> {
    let joined = tokens.iter().map(|token| token.0.as_str()).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&joined).ok().filter(|value| !value.is_empty())
}
