//! Strategies compared: how evenly each spreads visitors, and how even the load is that comes of it.
//!
//! Both are looked at once a second, away from the requests. They are never mixed up: a strategy that spreads visitors
//! less evenly may well be the one whose load is more even. Strategies that share backends share their load, so load is a
//! strategy's own only while it alone sends visitors; where strategies take turns, the beginning of each turn, while the
//! load is still the one before's, is left out.

mod decaying_counter;
mod rotation;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::fleet::{AdminState, PinAction, Pool, Role};
use crate::metrics::{
    CountedFleet, CounterId, CounterRegistry, DispatchCounters, Imbalances, Integral, LoadFigures,
    LoadSource, PoolCounters, StrategyFigures,
};
use crate::strategy::StrategyKind;
use crate::util::clock::{Clock, Moment};
use crate::util::fairness::Imbalance;
use decaying_counter::DecayingCounter;
use rotation::Rotation;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Looks at all pools again and again.
pub struct Comparer {
    fleet: Arc<ArcSwap<CountedFleet>>,
    counters: Arc<CounterRegistry>,
    shown: Arc<Imbalances>,
    /// What each strategy sent or picked lately, by the pool's name, the strategy's and the role.
    recent: HashMap<(Box<str>, &'static str, Role), DecayingCounter<CounterId>>,
    /// What pinned clients sent to draining backends lately, by where the pool's first strategy counts each.
    pinned: DecayingCounter<CounterId>,
    /// How even the load of each was over time, by the pool's name.
    so_far: HashMap<(Box<str>, StrategyKind, LoadSource), Integral>,
    turns: Rotation,
    clock: Clock,
    last: Instant,
}

impl Comparer {
    /// Publishes what it finds in `shown`.
    pub fn new(
        fleet: Arc<ArcSwap<CountedFleet>>,
        clock: Clock,
        counters: Arc<CounterRegistry>,
        shown: Arc<Imbalances>,
    ) -> Self {
        let (recent, so_far, turns) = (HashMap::new(), HashMap::new(), Rotation::default());
        let pinned = DecayingCounter::default();
        Self { fleet, counters, shown, recent, pinned, so_far, turns, clock, last: Instant::now() }
    }

    /// Compares for as long as it is polled.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now());
        }
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        let fleet = self.fleet.load_full();
        let mut before = std::mem::take(&mut self.recent);
        let mut figures = Vec::new();
        self.turns.keep(|name| fleet.pools.iter().any(|pool| &*pool.config.name == name));
        for (pool, counters) in fleet.counted_pools() {
            let (name, rotation_interval) = (&*pool.config.name, pool.config.rotation_interval);
            let is_settled = self.turns.is_settled(name, pool.live(), rotation_interval, now);
            for (index, &kind) in pool.config.strategies.iter().enumerate() {
                let role = pool.roles.of(index);
                let key = (pool.config.name.clone(), kind.name(), role);
                let mut recent = before.remove(&key).unwrap_or_default();
                let counters = counters.dispatches(index);
                let count = |of: &DispatchCounters| match role {
                    Role::Shadow => self.counters.shadow_picks(*of),
                    Role::Live | Role::Split => self.counters.redirects(*of),
                };
                recent.note(counters.iter().map(|of| (of.key(), count(of))), passed);
                figures.push(StrategyFigures {
                    pool: pool.config.name.clone(),
                    strategy: kind,
                    role,
                    dispatches: dispatches(pool, counters, &recent),
                    load: self.load(pool, index, is_settled, now, passed),
                });
                self.recent.insert(key, recent);
            }
        }
        self.so_far.retain(|(pool, kind, _), _| {
            figures.iter().any(|figures| figures.pool == *pool && figures.strategy == *kind)
        });
        let counts: Vec<_> = fleet
            .counted_pools()
            .flat_map(|(pool, counters)| self.pinned_to_draining(pool, counters))
            .collect();
        self.pinned.note(counts.iter().copied(), passed);
        let pinned = counts.iter().map(|(key, _)| (*key, self.pinned.of(*key))).collect();
        self.shown.publish(figures, pinned);
    }

    /// How many pinned requests each draining backend of a pool has had, by where its first strategy counts it.
    fn pinned_to_draining<'a>(
        &'a self,
        pool: &'a Pool,
        counters: &'a PoolCounters,
    ) -> impl Iterator<Item = (CounterId, u64)> + 'a {
        let is_draining = |index: &usize| pool.statuses[*index].admin == AdminState::Draining;
        (0..pool.statuses.len()).filter(is_draining).filter_map(|index| {
            let by_strategy = counters.by_strategy(index);
            let count = by_strategy.clone().map(|of| self.counters.pinned(of)).sum();
            Some((by_strategy.clone().next()?.key(), count))
        })
    }

    /// How even the load of a strategy is; `None` where it has none that is its own.
    fn load(
        &mut self,
        pool: &Pool,
        slot: usize,
        is_settled: bool,
        now: Instant,
        passed: Duration,
    ) -> Option<LoadFigures> {
        pool.config.reports_expire?;
        let (source, is_own) = match pool.roles.of(slot) {
            Role::Live if pool.roles.split.is_empty() => (LoadSource::Reported, is_settled),
            // The load of all of them together is nobody's.
            Role::Live | Role::Split => return None,
            Role::Shadow => (LoadSource::Modeled, true),
        };
        let now = is_own.then(|| loads(pool, slot, self.clock.moment(now))).flatten();
        let key = (pool.config.name.clone(), pool.config.strategies[slot], source);
        let so_far = self.so_far.entry(key).or_default();
        if let Some(imbalance) = &now {
            so_far.add(imbalance, passed);
        }
        Some(LoadFigures { source, now, so_far: *so_far })
    }
}

/// How even the load is that a strategy makes, over those who may be picked now and whose load is known. Each counts by its
/// capacity, where that is not told by its weight.
fn loads(pool: &Pool, slot: usize, now: Moment) -> Option<Imbalance> {
    let eligible = (0..pool.statuses.len()).filter(|&index| pool.keeps[index] == PinAction::AndRenews);
    Imbalance::of(eligible.filter_map(|index| {
        let load = pool.load(slot, index, now)?;
        let weight = f64::from(pool.statuses[index].weight.get());
        Some((load.utilization(weight)?, load.capacity.unwrap_or(weight)))
    }))
}

/// How even what a strategy sent lately is, per weight, over those who may be picked now.
fn dispatches(
    pool: &Pool,
    counters: &[DispatchCounters],
    recent: &DecayingCounter<CounterId>,
) -> Option<Imbalance> {
    let levels = pool.statuses.iter().zip(counters).zip(&pool.keeps);
    let eligible = levels.filter(|(_, keeps)| **keeps == PinAction::AndRenews);
    Imbalance::of(eligible.map(|((status, counters), _)| {
        let weight = status.weight_in_effect();
        (recent.of(counters.key()) / weight, weight)
    }))
}
