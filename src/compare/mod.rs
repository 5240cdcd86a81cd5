//! Strategies compared: how evenly each spreads visitors, and how even the load is that comes of it.
//!
//! Both are looked at once a second, away from the requests. They are never mixed up: a strategy that spreads visitors
//! less evenly may well be the one whose load is more even. Arms that share backends share their load, so load is a
//! strategy's own only while it alone sends visitors; where strategies take turns, the beginning of each turn, while the
//! load is still the one before's, is left out.

mod recent;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::fleet::{Arm, Fleet, Keeps, Pool, Role, Slot};
use crate::imbalance::Imbalance;
use crate::metrics::{Figures, Imbalances, Roll};
use recent::Recent;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Looks at all pools again and again.
pub struct Comparer {
    fleet: Arc<ArcSwap<Fleet>>,
    roll: Arc<Roll>,
    shown: Arc<Imbalances>,
    /// What each arm sent or picked lately, by the pool's name, the strategy's and the role.
    recent: HashMap<(Box<str>, &'static str, Role), Recent>,
    last: Instant,
}

impl Comparer {
    /// Publishes what it finds in `shown`.
    pub fn new(fleet: Arc<ArcSwap<Fleet>>, roll: Arc<Roll>, shown: Arc<Imbalances>) -> Self {
        Self { fleet, roll, shown, recent: HashMap::new(), last: Instant::now() }
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
        for pool in &fleet.pools {
            for (index, arm) in pool.roster.arms.iter().enumerate() {
                let role = pool.roles.of(index);
                let key = (pool.roster.name.clone(), arm.kind.name(), role);
                let mut recent = before.remove(&key).unwrap_or_default();
                let count = |slot: &Slot| match role {
                    Role::Shadow => self.roll.shadow_picks(*slot),
                    Role::Live | Role::Split => self.roll.redirects(*slot),
                };
                recent.note(arm.counts.iter().map(|slot| (*slot, count(slot))), passed);
                figures.push(Figures {
                    pool: pool.roster.name.clone(),
                    strategy: arm.kind,
                    role,
                    dispatches: dispatches(pool, arm, &recent),
                    load: None,
                });
                self.recent.insert(key, recent);
            }
        }
        self.shown.publish(figures);
    }
}

/// How even what an arm sent lately is, per weight, over those who may be picked now.
fn dispatches(pool: &Pool, arm: &Arm, recent: &Recent) -> Option<Imbalance> {
    let levels = pool.standings.iter().zip(&arm.counts).zip(&pool.keeps);
    let eligible = levels.filter(|(_, keeps)| **keeps == Keeps::AndRenews);
    Imbalance::of(eligible.map(|((standing, slot), _)| {
        let weight = standing.weight_in_effect();
        (recent.of(*slot) / weight, weight)
    }))
}
