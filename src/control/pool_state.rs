//! What the controller knows of one pool.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ProbeTarget;
use super::agent_state::AgentState;
use super::backend_state::BackendState;
use super::build::PersistentState;
use crate::fleet::{
    BackendStatus, Check, CheckProgress, HealthState, Pool, PoolConfig, Priority, Roles, SplitRange,
};
use crate::load::agent::AgentReply;
use crate::metrics::{LastCounters, PoolCounters};
use crate::settings::{self, LoadSettings};

/// How long shares that agents ask for may wait for those of others.
const SHARES_PACE: Duration = Duration::from_millis(500);

/// A pool's settings, what is known of its backends, and the pool that was built of both. Cheap to clone but for the
/// list of its backends.
#[derive(Clone, Debug)]
pub(super) struct PoolState {
    settings: Arc<settings::PoolSettings>,
    config: Arc<PoolConfig>,
    counters: Arc<PoolCounters>,
    /// One for each backend of the settings.
    state: Vec<BackendState>,
    /// One for each backend that is probed: all or none.
    targets: Vec<Arc<ProbeTarget>>,
    indices: Arc<HashMap<String, usize>>,
    /// `None` until it is first built.
    pool: Option<Arc<Pool>>,
    /// Nothing was known of any of its backends, and some still wait for their first check.
    is_first_round: bool,
    /// Which backends new clients are sent to, as it was last logged.
    logged: Priority,
    /// Something changed since `pool` was built.
    is_changed: bool,
    /// When something changes by the passing of time.
    due: Option<Instant>,
}

impl PoolState {
    /// For these settings, with what is still true of the `last` ones.
    pub(super) fn new(
        settings: Arc<settings::PoolSettings>,
        last: Option<Self>,
        lasting: &mut PersistentState,
        now: Instant,
    ) -> Self {
        let last = match last {
            Some(last) if last.settings == settings => return last,
            last => last,
        };
        let config = Arc::new(lasting.config(&settings));
        let ids = settings.backends.iter().map(|backend| backend.id.as_str());
        let indices: Vec<_> = ids.map(|id| last.as_ref().and_then(|last| last.index(id))).collect();
        let known = last.as_ref().map(|last| LastCounters {
            config: &last.config,
            counters: &last.counters,
            indices: &indices,
        });
        let counters = Arc::new(PoolCounters::new(&lasting.counters, &config, known));
        let targets = targets(&settings, &counters);
        let waits_until = settings.health.is_on().then(|| now + settings.health.startup_timeout.0);
        let state = |(index, backend): (usize, &settings::BackendSettings)| {
            let id = backend.id.as_str();
            let known = last.as_ref().and_then(|last| Some((last, last.known(id, targets.get(index))?)));
            let mut state = match known {
                Some((last, before)) => {
                    let [built, before_it] = [&config.backends[index], &last.config.backends[before]];
                    built.agent_description.set(before_it.agent_description.get());
                    let mut state = last.state[before];
                    if settings.health.is_on() {
                        built.check.set(before_it.check.get());
                    } else {
                        // No check would ever change it.
                        state.note(HealthState::Unknown, now, false);
                    }
                    state
                }
                None => BackendState::new(now, waits_until),
            };
            if !asks_agents(&settings) {
                // Nobody would ever say that it is over.
                state.ask(AgentState::default(), now, false);
            }
            state
        };
        let indices = settings.backends.iter().enumerate();
        let indices = indices.map(|(index, backend)| (backend.id.as_str().to_owned(), index));
        let state: Vec<_> = settings.backends.iter().enumerate().map(state).collect();
        Self {
            is_first_round: last.as_ref().is_some_and(|last| last.is_first_round)
                || state.iter().all(|state| state.waits(now)),
            logged: last.as_ref().map_or(Priority::Primaries, |last| last.logged),
            state,
            indices: Arc::new(indices.collect()),
            targets,
            settings,
            config,
            counters,
            pool: last.and_then(|last| last.pool),
            is_changed: true,
            due: None,
        }
    }

    /// The index of a backend if what is known of it still holds: it is checked at the same place as before.
    fn known(&self, id: &str, target: Option<&Arc<ProbeTarget>>) -> Option<usize> {
        let index = self.index(id)?;
        let same = match (self.targets.get(index), target) {
            (Some(before), Some(now)) => before.is_at(now),
            (None, None) => true,
            _ => false,
        };
        same.then_some(index)
    }

    pub(super) fn settings(&self) -> &settings::PoolSettings {
        &self.settings
    }

    pub(super) fn config(&self) -> &PoolConfig {
        &self.config
    }

    pub(super) fn counters(&self) -> &Arc<PoolCounters> {
        &self.counters
    }

    pub(super) fn targets(&self) -> &[Arc<ProbeTarget>] {
        &self.targets
    }

    /// A backend's place in the roster.
    pub(super) fn index(&self, id: &str) -> Option<usize> {
        self.indices.get(id).copied()
    }

    /// The pool as it was last built; [`Self::new`] is always followed by [`Self::build`].
    pub(super) fn pool(&self) -> &Arc<Pool> {
        match &self.pool {
            Some(pool) => pool,
            None => unreachable!("built right after it was made"),
        }
    }

    /// Says that something changed.
    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// When it is to be built again though nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether some backend's first probe is waited for.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.state.iter().any(|state| state.waits(now))
    }

    /// Notes what health checks found of a backend, and logs what that changes. Ignored if the target is one no longer.
    pub(super) fn note(
        &mut self,
        target: &ProbeTarget,
        health: HealthState,
        check: Check,
        lasting: &PersistentState,
        now: Instant,
    ) {
        let Some(index) = self.index(&target.backend) else { return };
        if !self.targets.get(index).is_some_and(|known| known.health.is_on() && known.is_at(target)) {
            return;
        }
        let place = &self.config.backends[index].check;
        log_backoff(target, place.get().as_deref(), health, &check);
        let (result, detail) = (check.result.name(), Arc::clone(&check.detail));
        // Before the fleet is published: whoever reads the new state finds its reason.
        place.set(Some(Arc::new(check)));
        let before = self.state[index].probed();
        if before == health {
            return;
        }
        let others_up = self.others_up(index, lasting, now);
        self.state[index].note(health, now, others_up);
        self.changed();
        let (pool, backend, was) = (&*target.pool, &*target.backend, before.name());
        match health {
            HealthState::Down => {
                tracing::warn!(pool, backend, was, reason = result, %detail, "backend is down")
            }
            _ => tracing::info!(pool, backend, was, %detail, "backend is up"),
        }
    }

    /// Whether visitors have somewhere else to go, where a backend is down and may be so no more. Asked only then: it
    /// may take a look at the whole pool.
    fn others_up(&self, index: usize, lasting: &PersistentState, now: Instant) -> bool {
        self.state[index].health() == HealthState::Down
            && lasting.statuses(&self.settings, &self.state, now).enumerate().any(|(other, status)| {
                other != index && !status.backup && status.is_active() && status.is_up()
            })
    }

    /// Notes a line of a backend's agent; `None` where that target is none any more.
    pub(super) fn ask(
        &mut self,
        target: &ProbeTarget,
        line: AgentReply,
        lasting: &PersistentState,
        now: Instant,
    ) -> Option<()> {
        let index = self.index(&target.backend)?;
        self.targets.get(index).filter(|known| known.is_at(target))?;
        let load = self.settings.load.as_ref().filter(|load| load.asks_agents())?;
        let before = *self.state[index].asked();
        let asked = before.after(&line, now, unix_now().as_secs(), load.max_age.0);
        let others_up = before.is_down() && !asked.is_down() && self.others_up(index, lasting, now);
        self.state[index].ask(asked, now, others_up);
        if line.admin.is_some() || line.is_down.is_some() {
            let place = &self.config.backends[index].agent_description;
            if place.get().as_deref() != line.description.as_ref() {
                place.set(line.description.clone().map(Arc::new));
            }
        }
        if (asked.admin(), asked.is_down()) != (before.admin(), before.is_down()) {
            self.changed();
            let (pool, backend) = (&*target.pool, &*target.backend);
            let (admin, is_down) = (asked.admin().name(), asked.is_down());
            let reason = line.description.as_deref();
            tracing::info!(pool, backend, admin, is_down, reason, "agent state changed");
        } else if asked.weight(now, false) != before.weight(now, false) {
            // Thousands of agents never say the same twice; tables are not built for each of them.
            self.due = Some(self.due.map_or(now + SHARES_PACE, |due| due.min(now + SHARES_PACE)));
        }
        Some(())
    }

    /// Builds the pool anew where something changed.
    pub(super) fn build(&mut self, lasting: &mut PersistentState, now: Instant) {
        if !self.is_changed && self.due.is_none_or(|due| now < due) {
            return;
        }
        let mut statuses: Box<[BackendStatus]> = lasting.statuses(&self.settings, &self.state, now).collect();
        let grace_period = self.settings.pin.as_ref().map_or(Duration::ZERO, |pin| pin.grace_period.0);
        let slow_start = self.settings.slow_start.0;
        let unix = unix_now();
        for (status, state) in statuses.iter_mut().zip(&mut self.state) {
            status.since = state.publish(status.state(), unix.as_secs());
            let full = state.ramp_ends(now, slow_start);
            status.full_weight_at = full.map(|at| (unix + at.saturating_duration_since(now)).as_secs());
        }
        self.due =
            self.state.iter().filter_map(|state| state.next_change(now, slow_start, grace_period)).min();
        self.is_changed = false;
        let (roles, rotates_in) = roles(&self.settings, unix);
        self.due = self.due.into_iter().chain(rotates_in.map(|rest| now + rest)).min();
        self.is_first_round &= self.waits(now);
        let moment = lasting.clock.moment(now);
        let pool = lasting.pool(Arc::clone(&self.config), statuses, roles, self.is_first_round, moment);
        if !self.is_first_round {
            self.log_tier(&pool);
        }
        self.log_turn(&pool);
        self.pool = Some(Arc::new(pool));
    }

    /// Says when strategies take turns.
    fn log_turn(&self, pool: &Pool) {
        let Some(before) = &self.pool else { return };
        let (live, was) = (pool.live().name(), before.live().name());
        if live != was {
            tracing::info!(pool = self.settings.name.as_str(), live, was, "another strategy sends visitors");
        }
    }

    /// Logs which backends new clients are sent to, when that changes.
    fn log_tier(&mut self, now: &Pool) {
        if std::mem::replace(&mut self.logged, now.priority) == now.priority {
            return;
        }
        let pool = self.settings.name.as_str();
        let active = now.statuses.iter().filter(|status| status.is_active());
        let down = active.clone().filter(|status| status.health == HealthState::Down).count();
        let active = active.count();
        match now.priority {
            Priority::Primaries => tracing::info!(pool, active, down, "pool uses its primaries again"),
            Priority::Backups => {
                tracing::warn!(pool, active, down, "no primary is up: pool uses its backups")
            }
            Priority::FailOpen => tracing::error!(
                pool,
                active,
                down,
                panic_threshold = self.settings.panic_threshold.0,
                "pool is failing open: backends are used whether they are up or down"
            ),
            Priority::None => {
                tracing::error!(pool, active, down, "no backend is eligible: new clients get 503")
            }
        }
    }
}

/// Logs that a backend is held back by `flap_backoff` from now on, or no longer.
fn log_backoff(target: &ProbeTarget, before: Option<&Check>, health: HealthState, check: &Check) {
    let held = |check: &Check| match check.progress {
        CheckProgress::Backoff { falls, until } => Some((falls, until)),
        _ => None,
    };
    let (pool, backend, flap_backoff) = (&*target.pool, &*target.backend, target.health.flap_backoff);
    match (before.and_then(held), held(check)) {
        (None, Some((falls, until))) => {
            let until = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(until));
            tracing::info!(pool, backend, falls, %until, %flap_backoff, "backend in flap back-off");
        }
        (Some((falls, _)), None) => {
            let admitted = health == HealthState::Up;
            tracing::info!(pool, backend, falls, admitted, detail = %check.detail, "backend left flap back-off");
        }
        _ => {}
    }
}

/// What each of a pool's strategies does at a time since 1970, and how long that stays so, where they take turns. By the
/// date, so that several dispatchers with the same settings take the same turns.
fn roles(settings: &settings::PoolSettings, unix_now: Duration) -> (Roles, Option<Duration>) {
    let interval = settings.rotation_interval.0;
    // The strategies of a pool are its own, those of its split, its shadows, in this order.
    let split = settings.split.len();
    let mut below = 0.0;
    let portion = |(index, portion): (usize, &settings::SplitShare)| {
        below += portion.share.0;
        SplitRange { below: (below * 2f64.powi(32)) as u64, slot: 1 + index }
    };
    let portions = settings.split.iter().enumerate().map(portion).collect();
    if interval.is_zero() || settings.shadow.is_empty() {
        return (Roles { live: 0, split: portions }, None);
    }
    let turn = unix_now.as_nanos() / interval.as_nanos() % (1 + settings.shadow.len() as u128);
    let live = if turn == 0 { 0 } else { split + turn as usize };
    let passed = unix_now.as_nanos() % interval.as_nanos();
    let rest = interval - Duration::from_nanos(passed as u64);
    (Roles { live, split: portions }, Some(rest))
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn asks_agents(settings: &settings::PoolSettings) -> bool {
    settings.load.as_ref().is_some_and(LoadSettings::asks_agents)
}

fn targets(settings: &settings::PoolSettings, counters: &PoolCounters) -> Vec<Arc<ProbeTarget>> {
    if !settings.health.is_on() && !asks_agents(settings) {
        return Vec::new();
    }
    let (pool, health): (Arc<str>, _) = (settings.name.as_str().into(), Arc::new(settings.health.clone()));
    let load = settings.load.clone().map(Arc::new);
    let target = |(index, backend): (usize, &settings::BackendSettings)| {
        Arc::new(ProbeTarget {
            pool: Arc::clone(&pool),
            backend: backend.id.as_str().into(),
            url: backend.probe_url.as_ref().unwrap_or(&backend.url).clone(),
            health: Arc::clone(&health),
            load: load.clone(),
            counters: counters.probes(index),
        })
    };
    settings.backends.iter().enumerate().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Role;
    use crate::settings::{Flags, Fraction, HumanDuration, Layers, Settings};
    use crate::strategy::StrategyKind;

    fn pool() -> settings::PoolSettings {
        let flags = Flags { backends: vec!["http://127.0.0.1:1".to_owned()], ..Flags::default() };
        let settings = Settings::load(&Layers { flags, ..Layers::default() }).unwrap().settings;
        settings.pools.into_iter().next().unwrap()
    }

    #[test]
    fn a_backend_keeps_its_counters_where_it_moves_and_when_it_returns() {
        let mut lasting = PersistentState::new();
        let mut last = None;
        let mut counters_of = |urls: &[&str]| {
            let flags =
                Flags { backends: urls.iter().map(|&url| url.to_owned()).collect(), ..Flags::default() };
            let settings = Settings::load(&Layers { flags, ..Layers::default() }).unwrap().settings;
            let pool = Arc::new(settings.pools.into_iter().next().unwrap());
            let state = PoolState::new(pool, last.take(), &mut lasting, Instant::now());
            let counters = Arc::clone(state.counters());
            last = Some(state);
            (0..urls.len())
                .map(|index| (counters.dispatches(0)[index].key(), counters.backend(index)))
                .collect::<Vec<_>>()
        };
        let (a, b, c) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        let before = counters_of(&[a, b]);
        assert!(before[0].0 != before[1].0 && before[0].1 != before[1].1);
        assert_eq!(counters_of(&[b]), before[1..], "moved");
        let after = counters_of(&[c, b, a]);
        assert_eq!([after[2], after[1]], before[..], "returned");
        assert!(!before.contains(&after[0]));
    }

    #[test]
    fn strategies_take_turns_by_the_date() {
        let mut pool = pool();
        pool.shadow = vec![StrategyKind::Random];
        let at = |pool: &settings::PoolSettings, seconds| roles(pool, Duration::from_secs(seconds));
        assert_eq!(at(&pool, 700), (Roles::alone(), None));
        pool.rotation_interval = HumanDuration::seconds(600);
        let live = |seconds| (at(&pool, seconds).0.live, at(&pool, seconds).1.unwrap().as_secs());
        assert_eq!([0, 599, 600, 1199, 1200].map(live), [(0, 600), (0, 1), (1, 600), (1, 1), (0, 600)]);
    }

    #[test]
    fn a_split_is_of_all_visitors() {
        let mut pool = pool();
        pool.split = vec![settings::SplitShare { strategy: StrategyKind::Random, share: Fraction(0.25) }];
        let (roles, _) = roles(&pool, Duration::ZERO);
        let senders = (0..1000u32).map(|n| roles.sender(n * 4_294_967 + 2_000_000));
        assert_eq!(senders.filter(|&slot| slot == 1).count(), 250);
        assert_eq!(roles.of(1), Role::Split);
        pool.split[0].share = Fraction(1.0);
        assert_eq!(super::roles(&pool, Duration::ZERO).0.sender(u32::MAX), 1);
    }
}
