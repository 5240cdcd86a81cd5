//! What is known of the load of a pool's backends, which outlives fleets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::estimate::{Estimates, LoadModel, LocalTrafficRatio, Report};
use crate::fleet::PoolConfig;
use crate::strategy::StrategyKind;
use crate::util::clock::Moment;

/// The load of a pool's backends as they report it, and as it would be were it for one of the shadows.
#[derive(Debug)]
pub(super) struct LoadState {
    /// Whose load it is: the hash of each backend's id, in the order of the roster.
    names: Arc<[u64]>,
    learner: LoadModel,
    modeled: HashMap<StrategyKind, Estimates>,
}

impl LoadState {
    /// Of a roster whose reports are good for `expires`, with what is known `before`.
    pub(super) fn of(config: &PoolConfig, expires: Duration, before: Option<Self>) -> Self {
        let names = &config.rules.names;
        let Some(before) = before else {
            let learner = LoadModel::new(names.len(), expires);
            return Self { names: Arc::clone(names), learner, modeled: HashMap::new() };
        };
        if before.names == *names {
            return Self { names: Arc::clone(names), learner: before.learner.good_for(expires), ..before };
        }
        let places: HashMap<u64, usize> = before.names.iter().copied().zip(0..).collect();
        let place = |name: &u64| places.get(name).copied();
        let rearrange = |loads: &Estimates| {
            let stays = |name| Some(Arc::clone(loads.get(place(name)?)?));
            names.iter().map(|name| stays(name).unwrap_or_default()).collect()
        };
        Self {
            modeled: before.modeled.iter().map(|(kind, loads)| (*kind, rearrange(loads))).collect(),
            learner: before.learner.rearranged(names.iter().map(place), expires),
            names: Arc::clone(names),
        }
    }

    /// Whether it is of that very roster.
    pub(super) fn is_of(&self, config: &PoolConfig) -> bool {
        Arc::ptr_eq(&self.names, &config.rules.names)
    }

    /// What is estimated of each backend.
    pub(super) fn loads(&self) -> &Estimates {
        self.learner.loads()
    }

    /// The share of visitors that this process sends.
    pub(super) fn local_traffic_ratio(&self) -> &Arc<LocalTrafficRatio> {
        self.learner.local_traffic_ratio()
    }

    /// The loads that a shadow would make. It begins with those that there are.
    pub(super) fn modeled(&mut self, shadow: StrategyKind, now: Moment) -> Estimates {
        let begin = || {
            let truths = self.learner.loads().iter();
            truths.map(|truth| Arc::new(truth.copied(now))).collect()
        };
        Arc::clone(self.modeled.entry(shadow).or_insert_with(begin))
    }

    /// Forgets the loads of all who are no shadows any more.
    pub(super) fn keep_shadows(&mut self, shadows: &[StrategyKind]) {
        self.modeled.retain(|kind, _| shadows.contains(kind));
    }

    /// Takes a report. What would be there were it for a shadow goes on by the rates that it taught.
    pub(super) fn report(&mut self, backend: usize, report: &Report, now: Moment) {
        self.learner.report(backend, report, now);
        let Some(truth) = self.learner.loads().get(backend) else { return };
        for loads in self.modeled.values() {
            loads[backend].carry_on(truth, now);
        }
    }
}
