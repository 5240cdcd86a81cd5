//! Settings into what a request reads: everything that can be worked out beforehand is worked out here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use super::Change;
use super::backend_state::BackendState;
use super::load_state::LoadState;
use crate::estimate::{Estimates, LocalTrafficRatio};
use crate::fleet::{
    AdminState, AgentDescription, AllowedOrigin, Backend, BackendStatus, CLOCK_SKEW, Caching, Cookie, Cors,
    ErrorPages, HostMatch, LastCheck, PinPolicy, Pool, PoolConfig, Role, Roles, Route, Routes, Weight,
};
use crate::metrics::CounterAllocator;
use crate::settings::{self, CorsOrigin, HostPattern, SameSite, SecureAttribute};
use crate::strategy::{self, RateMeters, StrategyConfig, StrategyKind, StrategyState};
use crate::util::clock::{Clock, Moment};
use crate::util::gcra::RateLimit;

/// What outlives a fleet.
#[derive(Debug)]
pub(super) struct PersistentState {
    /// A strategy's memory, by pool, strategy and what it is for.
    memories: HashMap<(String, StrategyKind, Role), StrategyState>,
    /// What each pool's backends were sent, for their limits.
    meters: HashMap<String, RateMeters>,
    /// Gives counters to pools and backends, which keep them.
    pub(super) counters: CounterAllocator,
    /// The clock of all estimates.
    pub(super) clock: Clock,
    /// By pool.
    loads: HashMap<String, LoadState>,
    /// What the operator set at run time, by pool and in it by backend.
    overrides: HashMap<String, HashMap<String, Override>>,
    /// How many times these have changed.
    pub(super) override_changes: u64,
    /// The key for pools without secrets.
    random_key: [u8; 32],
}

/// What the operator set of one backend.
#[derive(Clone, Copy, Debug, Default)]
struct Override {
    admin: Option<AdminState>,
    weight: Option<Weight>,
    /// Since when `admin` is what it is, in seconds since 1970.
    since: u64,
    /// When no pin to it can be valid any more, where another instance has said so.
    drained_at: Option<u64>,
}

impl PersistentState {
    pub(super) fn new() -> Self {
        Self {
            memories: HashMap::new(),
            meters: HashMap::new(),
            counters: CounterAllocator::new(),
            clock: Clock::start(),
            loads: HashMap::new(),
            overrides: HashMap::new(),
            override_changes: 0,
            random_key: rand::random(),
        }
    }

    /// Sets or ends what the operator says of a backend. `now` is in seconds since 1970.
    pub(super) fn set_override(&mut self, pool: &str, backend: &str, change: Change, now: u64) {
        self.override_changes += 1;
        let of_pool = self.overrides.entry(pool.to_owned()).or_default();
        let set = of_pool.entry(backend.to_owned()).or_default();
        if let Some(admin) = change.admin {
            if admin != set.admin {
                set.since = now;
                set.drained_at = change.drained_at;
            }
            set.admin = admin;
        }
        if let Some(weight) = change.weight {
            set.weight = weight;
        }
    }

    /// Forgets what is known of pools and backends that are no more.
    pub(super) fn forget_others(&mut self, pools: &[Arc<settings::PoolSettings>]) {
        let stays = |name: &str| pools.iter().any(|pool| pool.name.as_str() == name);
        self.memories.retain(|(name, ..), _| stays(name));
        self.meters.retain(|name, _| stays(name));
        self.loads.retain(|name, _| stays(name));
        let count =
            |of: &HashMap<String, HashMap<String, Override>>| of.values().map(HashMap::len).sum::<usize>();
        let before = count(&self.overrides);
        self.overrides.retain(|name, set| {
            let Some(pool) = pools.iter().find(|pool| pool.name.as_str() == name) else { return false };
            let known: HashSet<&str> = pool.backends.iter().map(|backend| backend.id.as_str()).collect();
            set.retain(|id, _| known.contains(id.as_str()));
            !set.is_empty()
        });
        self.override_changes += u64::from(count(&self.overrides) != before);
    }

    /// Where each backend of a pool stands now, with its vitals. Allocates nothing.
    pub(super) fn statuses<'a>(
        &'a self,
        pool: &'a settings::PoolSettings,
        state: &'a [BackendState],
        now: Instant,
    ) -> impl Iterator<Item = BackendStatus> + 'a {
        let of_pool = self.overrides.get(pool.name.as_str());
        let pins_end = pool.pin.as_ref().map_or(0, |pin| pin.max_age.0.as_secs() + CLOCK_SKEW);
        pool.backends.iter().zip(state).map(move |(backend, state)| {
            let set = of_pool.and_then(|set| set.get(backend.id.as_str())).copied().unwrap_or_default();
            let asked = state.asked();
            let admin = set.admin.unwrap_or(asked.admin());
            let since = if set.admin.is_some() { set.since } else { asked.since() };
            BackendStatus {
                admin,
                weight: set.weight.unwrap_or(backend.weight),
                health: state.health(),
                backup: backend.backup,
                ramp: state.ramp(now, pool.slow_start.0),
                agent_weight: asked.weight(now, set.weight.is_some()),
                waits: state.waits(now),
                in_grace_period: pool
                    .pin
                    .as_ref()
                    .is_some_and(|pin| state.in_grace_period(now, pin.grace_period.0)),
                agent_is_down: asked.is_down(),
                // Both are known once it is published.
                full_weight_at: None,
                since: 0,
                admin_is_set: set.admin.is_some(),
                weight_is_set: set.weight.is_some(),
                drained_at: (admin == AdminState::Draining)
                    .then(|| set.drained_at.unwrap_or(since + pins_end)),
            }
        })
    }

    /// Everything about a pool that does not depend on who may be picked.
    pub(super) fn config(&self, pool: &settings::PoolSettings) -> PoolConfig {
        let backend = |backend: &settings::BackendSettings| Backend {
            id: backend.id.as_str().into(),
            base: backend.url.as_str().into(),
            check: LastCheck::default(),
            agent_description: AgentDescription::default(),
        };
        let names =
            pool.backends.iter().map(|backend| strategy::hash(backend.id.as_str().as_bytes())).collect();
        let rules = StrategyConfig {
            names,
            balance_factor: pool.hash.balance_factor.0,
            max_utilization: pool.first.max_utilization.0,
        };
        let limits = limits(pool);
        let max_age = pool.cache_max_age.0.as_secs();
        PoolConfig {
            name: pool.name.as_str().into(),
            key: pool.strategies().any(StrategyKind::reads_key).then(|| pool.hash.key.clone()),
            caching: (max_age > 0).then(|| Caching::new(&pool.hash.key, max_age)),
            strategies: pool.strategies().collect(),
            rotation_interval: (!pool.rotation_interval.0.is_zero()).then_some(pool.rotation_interval.0),
            reads_clock: pool.load.is_some()
                || !limits.is_empty()
                || pool.strategies().any(|kind| kind.reads_clock(&rules)),
            rules,
            limits,
            backends: pool.backends.iter().map(backend).collect(),
            panic_threshold: pool.panic_threshold.0,
            status: pool.status.code(),
            status_non_get: pool.status_non_get.code(),
            pins: pool.pin.as_ref().map(|pin| build_pins(pool, pin, &self.random_key)),
            error_pages: error_pages(&pool.error_pages),
            cors: pool.cors.as_ref().map(build_cors),
            has_base_path: pool.backends.iter().any(|backend| backend.url.has_path()),
            is_probed: pool.health.is_on(),
            reports_expire: pool.load.as_ref().map(|load| load.max_age.0),
        }
    }

    /// A pool as requests read it from now on. `is_first_round` is as in [`Pool::new`].
    pub(super) fn pool(
        &mut self,
        config: Arc<PoolConfig>,
        statuses: Box<[BackendStatus]>,
        roles: Roles,
        is_first_round: bool,
        now: Moment,
    ) -> Pool {
        let (mut loads, local_traffic_ratio) = self.loads_of_arms(&config, &roles, now);
        // A shadow has a state of its own: what it remembers is not what visitors saw.
        let mut memory = |(index, &kind): (usize, &StrategyKind)| {
            let key = (config.name.as_ref().to_owned(), kind, roles.of(index));
            // Any turn of any cycle, and far from the end of the counter.
            let begin = || StrategyState::from_turn(rand::random::<u64>() >> 16);
            let memory = self.memories.entry(key).or_insert_with(begin);
            memory.meters = metered(&memory.meters, &config, kind.is_metered(&config.rules));
            memory.clone().with_loads(loads.next().unwrap_or_default())
        };
        let memories: Vec<_> = config.strategies.iter().enumerate().map(&mut memory).collect();
        let meters = self.meters.entry(config.name.as_ref().to_owned()).or_default();
        *meters = metered(meters, &config, !config.limits.is_empty());
        let meters = meters.clone();
        Pool::new(config, statuses, roles, is_first_round, &memories, meters, local_traffic_ratio)
    }

    /// The loads that each strategy goes by, none where backends report none, and the share of visitors that is ours.
    fn loads_of_arms(
        &mut self,
        config: &PoolConfig,
        roles: &Roles,
        now: Moment,
    ) -> (impl Iterator<Item = Estimates> + use<>, Arc<LocalTrafficRatio>) {
        let kinds = || config.strategies.iter().copied().enumerate();
        let is_shadow = |index: usize| roles.of(index) == Role::Shadow;
        let Some(known) = self.loads_of(config) else { return (Vec::new().into_iter(), Arc::default()) };
        known.keep_shadows(
            &kinds().filter(|(index, _)| is_shadow(*index)).map(|(_, kind)| kind).collect::<Vec<_>>(),
        );
        let loads =
            kinds().map(
                |(index, kind)| {
                    if is_shadow(index) { known.modeled(kind, now) } else { known.loads().clone() }
                },
            );
        (loads.collect::<Vec<_>>().into_iter(), Arc::clone(known.local_traffic_ratio()))
    }

    /// What is known of the load of a pool's backends; `None` where they report none.
    pub(super) fn loads_of(&mut self, config: &PoolConfig) -> Option<&mut LoadState> {
        let name = &*config.name;
        let Some(expires) = config.reports_expire else {
            self.loads.remove(name);
            return None;
        };
        if !self.loads.get(name).is_some_and(|known| known.is_of(config)) {
            let before = self.loads.remove(name);
            self.loads.insert(name.to_owned(), LoadState::of(config, expires, before));
        }
        self.loads.get_mut(name)
    }
}

/// A roster's meters with what was counted so far, or none where nobody reads them.
fn metered(before: &RateMeters, config: &PoolConfig, is_read: bool) -> RateMeters {
    if is_read { before.of_roster(&config.rules.names) } else { RateMeters::default() }
}

/// The limit of each backend; none at all where nobody has one.
fn limits(pool: &settings::PoolSettings) -> Box<[Option<RateLimit>]> {
    let limit = |backend: &settings::BackendSettings| {
        RateLimit::per_second(backend.max_requests_per_second.unwrap_or(pool.max_requests_per_second).0)
    };
    let limits: Box<[_]> = pool.backends.iter().map(limit).collect();
    if limits.iter().any(Option::is_some) { limits } else { Box::default() }
}

/// Which pool serves what.
pub(super) fn routes<'a>(pools: impl Iterator<Item = &'a settings::PoolSettings>) -> Routes {
    Routes::new(pools.enumerate().flat_map(|(index, pool)| routes_of(pool, index)))
}

fn routes_of(pool: &settings::PoolSettings, index: usize) -> Vec<Route> {
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

fn build_pins(pool: &settings::PoolSettings, pin: &settings::PinSettings, random_key: &[u8]) -> PinPolicy {
    let mut keys = pin.secrets.iter().map(settings::Secret::expose);
    let signing_key = keys.next().unwrap_or(random_key);
    PinPolicy::new(
        pool.name.as_str(),
        pool.backends.iter().map(|backend| backend.id.as_str()),
        signing_key,
        keys,
        pin.generation,
        pin.max_age.0.as_secs(),
        cookie(pin),
    )
}

fn cookie(pin: &settings::PinSettings) -> Cookie {
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
    // Browsers reject `Partitioned` without `Secure`.
    let secure = format!("{common}; Secure{}", if pin.partitioned { "; Partitioned" } else { "" });
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

pub(super) fn error_pages(pages: &[settings::ErrorPage]) -> ErrorPages {
    ErrorPages::new(pages.iter().map(|page| (page.status, page.html.clone())))
}

fn build_cors(cors: &settings::CorsSettings) -> Cors {
    let origins = if cors.origins.contains(&CorsOrigin::Any) { &[][..] } else { &cors.origins };
    let allowed = origins.iter().filter_map(|origin| match origin {
        CorsOrigin::Any => None,
        CorsOrigin::One(name) => AllowedOrigin::one(name),
        CorsOrigin::Below(scheme, domain) => Some(AllowedOrigin::below(scheme, domain)),
    });
    let max_age = HeaderValue::from(cors.max_age.0.as_secs());
    Cors::new(
        allowed.collect(),
        list(&cors.methods).unwrap_or(HeaderValue::from_static("")),
        list(&cors.headers),
        cors.credentials,
        max_age,
    )
}

/// Returns a list field, or `None` if the list is empty.
fn list(items: &[impl AsRef<str>]) -> Option<HeaderValue> {
    let joined = items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&joined).ok().filter(|value| !value.is_empty())
}
