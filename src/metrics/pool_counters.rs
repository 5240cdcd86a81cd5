//! The counters of a pool, its strategies and its backends: by the same indices as in the fleet, which knows nothing of
//! them.

use std::ops::Deref;
use std::sync::Arc;

use super::labels::Comparison;
use super::load_report_result::ReportResult;
use super::thread_counters::{
    CounterAllocator, CounterBlock, CounterId, Cursor, HistogramCounters, HistogramPerVariant, PerVariant,
};
use crate::fleet::{CheckResult, Fleet, NoRoute, Pool, PoolConfig};
use crate::request::outcome::Decision;
use crate::request::pin_cookie::PinError;
use crate::strategy::StrategyKind;

/// The upper bounds of `signpost_probe_duration_seconds`, in microseconds.
const PROBE_BOUNDS: [u64; 10] =
    [500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// The upper bounds of `signpost_pick_duration_seconds`, in nanoseconds: a pick takes some ten nanoseconds, reading the
/// clock as much again.
const PICK_BOUNDS: [u64; 10] = [25, 50, 100, 200, 400, 800, 1_600, 6_400, 25_600, 102_400];

/// A fleet, with the counters of each of its pools. It is published as one, so that indices of the one are always those of
/// the other.
#[derive(Debug)]
pub struct CountedFleet {
    fleet: Fleet,
    counters: Box<[Arc<PoolCounters>]>,
}

impl CountedFleet {
    /// `counters` has one for each pool of the fleet, in its order.
    pub fn new(fleet: Fleet, counters: Box<[Arc<PoolCounters>]>) -> Self {
        Self { fleet, counters }
    }

    /// The pool that serves a host and path, as [`Fleet::route`] finds it, with its counters.
    ///
    /// # Errors
    /// Whether it is the host or the path that no pool serves.
    pub fn counted_route(&self, host: Option<&[u8]>, path: &str) -> Result<(&Pool, &PoolCounters), NoRoute> {
        let index = self.fleet.routes.find(host, path)?;
        Ok((&self.fleet.pools[index], &self.counters[index]))
    }

    /// Every pool, in order, with its counters.
    pub fn counted_pools(&self) -> impl Iterator<Item = (&Pool, &PoolCounters)> {
        self.fleet.pools.iter().zip(&self.counters).map(|(pool, counters)| (&**pool, &**counters))
    }
}

impl Deref for CountedFleet {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        &self.fleet
    }
}

/// The counters of one pool.
#[derive(Debug)]
pub struct PoolCounters {
    pub(super) own: OwnCounters,
    /// By the index of the strategy.
    pub(super) strategies: Box<[StrategyCounters]>,
    /// By the index of the backend.
    backends: Box<[BackendCounters]>,
}

/// What is counted of a pool as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnCounters {
    pub(super) pins: PerVariant<PinError>,
    /// By result, how long probes take.
    pub(super) probe_durations: HistogramPerVariant<CheckResult>,
}

/// What is counted of a strategy of a pool.
#[derive(Debug)]
pub(super) struct StrategyCounters {
    pub(super) own: OwnStrategyCounters,
    /// By the index of the backend.
    pub(super) backends: Box<[DispatchCounters]>,
}

/// What is counted of a strategy whatever the backend is.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnStrategyCounters {
    pub(super) picks: HistogramCounters,
    pub(super) comparisons: PerVariant<Comparison>,
}

/// What a strategy does with a backend.
#[derive(Clone, Copy, Debug)]
pub struct DispatchCounters {
    pub(super) redirects: PerVariant<Decision>,
    pub(super) shadow_picks: CounterId,
    /// Requests that went elsewhere because the backend, their first choice, was full.
    pub(super) overflow: CounterId,
}

impl DispatchCounters {
    /// Identifies the strategy and the backend, in all fleets.
    pub fn key(self) -> CounterId {
        self.shadow_picks
    }
}

/// What is counted of a backend whatever the strategy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendCounters {
    pub(super) probes: PerVariant<CheckResult>,
    pub(super) reports: PerVariant<ReportResult>,
}

/// Where the probes of a backend are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCounters {
    /// What is counted of the backend.
    pub backend: BackendCounters,
    /// How long the probes of its pool take.
    pub(super) durations: HistogramPerVariant<CheckResult>,
}

impl CounterBlock for OwnCounters {
    fn take(cursor: &mut Cursor) -> Self {
        Self { pins: cursor.per_variant(), probe_durations: cursor.histogram_per_variant(&PROBE_BOUNDS) }
    }
}

impl CounterBlock for OwnStrategyCounters {
    fn take(cursor: &mut Cursor) -> Self {
        Self { picks: cursor.histogram(&PICK_BOUNDS), comparisons: cursor.per_variant() }
    }
}

impl CounterBlock for DispatchCounters {
    fn take(cursor: &mut Cursor) -> Self {
        Self { redirects: cursor.per_variant(), shadow_picks: cursor.counter(), overflow: cursor.counter() }
    }
}

impl CounterBlock for BackendCounters {
    fn take(cursor: &mut Cursor) -> Self {
        Self { probes: cursor.per_variant(), reports: cursor.per_variant() }
    }
}

/// The same pool before its settings changed.
#[derive(Clone, Copy, Debug)]
pub struct LastCounters<'a> {
    /// Its configuration.
    pub config: &'a PoolConfig,
    /// Its counters.
    pub counters: &'a PoolCounters,
    /// For each backend of the new one, its index in the last one.
    pub indices: &'a [Option<usize>],
}

impl PoolCounters {
    /// For a pool: those that `last` had, which spares most look-ups, and for the rest those of their names.
    pub fn new(allocator: &CounterAllocator, config: &PoolConfig, last: Option<LastCounters<'_>>) -> Self {
        let pool = &*config.name;
        let known = |index: usize| last.and_then(|last| last.indices[index]).zip(last);
        let ids = || config.backends.iter().map(|backend| &*backend.id).enumerate();
        let strategy = |kind: StrategyKind| {
            let name = kind.name();
            let at_last = last.and_then(|last| last.config.strategies.iter().position(|&last| last == kind));
            let backend = |(index, id): (usize, &str)| {
                let known = at_last.zip(known(index));
                let known = known.map(|(at, (backend, last))| last.counters.strategies[at].backends[backend]);
                known.unwrap_or_else(|| allocator.block(format!("backend/{pool}/{name}/{id}")))
            };
            StrategyCounters {
                own: allocator.block(format!("strategy/{pool}/{name}")),
                backends: ids().map(backend).collect(),
            }
        };
        let backend = |(index, id): (usize, &str)| {
            let known = known(index).map(|(backend, last)| last.counters.backends[backend]);
            known.unwrap_or_else(|| allocator.block(format!("probes/{pool}/{id}")))
        };
        Self {
            own: allocator.block(format!("pool/{pool}")),
            strategies: config.strategies.iter().copied().map(strategy).collect(),
            backends: ids().map(backend).collect(),
        }
    }

    /// What a strategy does with each backend.
    pub fn dispatches(&self, strategy: usize) -> &[DispatchCounters] {
        &self.strategies[strategy].backends
    }

    /// What each strategy does with a backend.
    pub fn by_strategy(&self, backend: usize) -> impl Iterator<Item = DispatchCounters> + Clone {
        self.strategies.iter().map(move |strategy| strategy.backends[backend])
    }

    /// What is counted of a backend whatever the strategy is.
    pub fn backend(&self, index: usize) -> BackendCounters {
        self.backends[index]
    }

    /// Where the probes of a backend are counted.
    pub fn probes(&self, index: usize) -> ProbeCounters {
        ProbeCounters { backend: self.backends[index], durations: self.own.probe_durations }
    }
}
