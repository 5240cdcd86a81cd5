//! The keeper: the one who builds fleets and publishes them.
//!
//! It translates settings into what a request reads, and owns what outlives a fleet: the strategies' memory and
//! the places of counts. Today there is one event, the start; probes, reloads and the operator will be others.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::fleet::{Backend, Cookie, Cors, Fleet, HostMatch, Pins, Pool, Roster, Route, Routes};
use crate::metrics::Slots;
use crate::settings::{self, HostPattern, Origin, SameSite, SecureAttribute, Settings, Token};
use crate::strategy::Memory;

/// The single writer of fleets.
#[derive(Debug)]
pub struct Keeper {
    published: Arc<ArcSwap<Fleet>>,
    lasting: Lasting,
}

/// What outlives a fleet.
#[derive(Debug)]
struct Lasting {
    /// A strategy's memory, by pool and strategy.
    memories: HashMap<(String, &'static str), Memory>,
    slots: Slots,
    /// The key for pools without secrets.
    random_key: [u8; 32],
}

impl Keeper {
    /// Builds the first fleet and publishes it.
    pub fn start(settings: &Settings) -> Self {
        let mut lasting =
            Lasting { memories: HashMap::new(), slots: Slots::new(), random_key: rand::random() };
        let fleet = build(&settings.pools, &mut lasting);
        Self { published: Arc::new(ArcSwap::from_pointee(fleet)), lasting }
    }

    /// Where the current fleet is read.
    pub fn published(&self) -> Arc<ArcSwap<Fleet>> {
        Arc::clone(&self.published)
    }

    /// Gives out places for counts.
    pub fn slots(&mut self) -> &mut Slots {
        &mut self.lasting.slots
    }
}

fn build(pools: &[settings::Pool], lasting: &mut Lasting) -> Fleet {
    let routes = Routes::new(pools.iter().enumerate().flat_map(|(index, pool)| routes_of(pool, index)));
    let pools = pools.iter().map(|pool| Arc::new(build_pool(pool, lasting))).collect();
    Fleet { routes, pools }
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
