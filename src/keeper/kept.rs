//! What the keeper knows of one pool.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Target;
use super::build::Lasting;
use super::vitals::Vitals;
use crate::fleet::{Health, Pool, Roster, Tier};
use crate::settings;

/// A pool's settings, what is known of its backends, and the pool that was built of both. Cheap to clone but for the
/// list of its backends.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    settings: Arc<settings::Pool>,
    roster: Arc<Roster>,
    /// One for each backend of the settings.
    vitals: Vec<Vitals>,
    /// One for each backend that is probed: all or none.
    targets: Vec<Arc<Target>>,
    indices: Arc<HashMap<String, usize>>,
    /// `None` until it is first built.
    pool: Option<Arc<Pool>>,
    /// Something changed since `pool` was built.
    is_changed: bool,
    /// When something changes by the passing of time.
    due: Option<Instant>,
}

impl Kept {
    /// For these settings, with what is still true of the `last` ones.
    pub(super) fn new(
        settings: Arc<settings::Pool>,
        last: Option<Self>,
        lasting: &mut Lasting,
        now: Instant,
    ) -> Self {
        let last = match last {
            Some(last) if last.settings == settings => return last,
            last => last,
        };
        let alike = last.as_ref().filter(|last| last.roster.kind == settings.strategy);
        let roster = lasting.roster(&settings, |id| {
            let last = alike?;
            Some(&last.roster.backends[last.index(id)?])
        });
        let roster = Arc::new(roster);
        let targets = targets(&settings, &roster);
        let waits_until = settings.health.is_on().then(|| now + settings.health.startup_timeout.0);
        let vitals = |(index, backend): (usize, &settings::Backend)| {
            let known = last.as_ref().and_then(|last| last.known(backend.id.as_str(), targets.get(index)));
            known.unwrap_or_else(|| Vitals::new(now, waits_until))
        };
        let indices = settings.backends.iter().enumerate();
        let indices = indices.map(|(index, backend)| (backend.id.as_str().to_owned(), index));
        Self {
            vitals: settings.backends.iter().enumerate().map(vitals).collect(),
            indices: Arc::new(indices.collect()),
            targets,
            settings,
            roster,
            pool: last.and_then(|last| last.pool),
            is_changed: true,
            due: None,
        }
    }

    /// What is known of a backend, where it is probed at the same place as before.
    fn known(&self, id: &str, target: Option<&Arc<Target>>) -> Option<Vitals> {
        let index = self.index(id)?;
        let same = match (self.targets.get(index), target) {
            (Some(before), Some(now)) => before.is_at(now),
            (None, None) => true,
            _ => false,
        };
        same.then(|| self.vitals[index])
    }

    pub(super) fn settings(&self) -> &settings::Pool {
        &self.settings
    }

    pub(super) fn targets(&self) -> &[Arc<Target>] {
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
        self.vitals.iter().any(|vitals| vitals.waits(now))
    }

    /// Notes what probes found of a backend, and returns what they had found before. `None` where that target is
    /// none any more, or nothing new.
    pub(super) fn note(
        &mut self,
        target: &Target,
        health: Health,
        lasting: &Lasting,
        now: Instant,
    ) -> Option<Health> {
        let index = self.index(&target.backend)?;
        self.targets.get(index).filter(|known| known.is_at(target))?;
        let before = self.vitals[index].health();
        if before == health {
            return None;
        }
        // Asked only where it matters: it may take a look at the whole pool.
        let recovers = before == Health::Down && health == Health::Up;
        let others_up = recovers
            && lasting.standings(&self.settings, &self.vitals, now).enumerate().any(|(other, standing)| {
                other != index && !standing.backup && standing.is_active() && standing.is_up()
            });
        self.vitals[index].note(health, now, others_up);
        self.changed();
        Some(before)
    }

    /// Builds the pool anew where something changed.
    pub(super) fn build(&mut self, lasting: &mut Lasting, now: Instant) {
        if !self.is_changed && self.due.is_none_or(|due| now < due) {
            return;
        }
        let standings = lasting.standings(&self.settings, &self.vitals, now).collect();
        let hold = self.settings.pin.as_ref().map_or(Duration::ZERO, |pin| pin.hold.0);
        let slow_start = self.settings.slow_start.0;
        self.due = self.vitals.iter().filter_map(|vitals| vitals.next_change(now, slow_start, hold)).min();
        self.is_changed = false;
        let pool = lasting.pool(Arc::clone(&self.roster), standings);
        self.log_tier(pool.tier);
        self.pool = Some(Arc::new(pool));
    }

    /// Says when visitors are sent to others than before.
    fn log_tier(&self, tier: Tier) {
        let before = self.pool.as_ref().map_or(Tier::Primaries, |pool| pool.tier);
        let pool = self.settings.name.as_str();
        if tier == before {
            return;
        }
        match tier {
            Tier::Primaries => tracing::info!(pool, "visitors are sent to primaries that are up again"),
            Tier::Backups => tracing::warn!(pool, "no primary is up: visitors are sent to backups"),
            Tier::FailOpen => tracing::error!(
                pool,
                panic_threshold = self.settings.panic_threshold.0,
                "too many backends are down: failing open, visitors are sent to all that are active"
            ),
            Tier::Nobody => tracing::error!(pool, "nobody is eligible: visitors are answered 503"),
        }
    }
}

fn targets(settings: &settings::Pool, roster: &Roster) -> Vec<Arc<Target>> {
    if !settings.health.is_on() {
        return Vec::new();
    }
    let (pool, health): (Arc<str>, _) = (settings.name.as_str().into(), Arc::new(settings.health.clone()));
    let target = |(backend, built): (&settings::Backend, &crate::fleet::Backend)| {
        Arc::new(Target {
            pool: Arc::clone(&pool),
            backend: backend.id.as_str().into(),
            url: backend.probe_url.as_ref().unwrap_or(&backend.url).clone(),
            health: Arc::clone(&health),
            results: built.probes,
            times: roster.probe_times,
        })
    };
    settings.backends.iter().zip(&roster.backends).map(target).collect()
}
