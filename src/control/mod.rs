//! The controller: the one who builds fleets and publishes them.
//!
//! Whoever knows of a change sends an [`Event`]; the controller takes what has come, works it into what it knows of
//! each pool, rebuilds the pools that changed and publishes in one step. It owns what outlives a fleet: what
//! probes and the operator said of each backend, the strategies' memory, the places of counts, the key of pools
//! without secrets. What is to be probed is told to the prober through [`Controller::targets`].

mod agent_state;
mod build;
mod pool_state;
pub mod reload;
mod load_state;
mod backend_state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::estimate::Report;
use crate::fleet::{AdminState, Check, ErrorPages, Fleet, HealthState, Routes, Weight};
use crate::load::agent::AgentReply;
use crate::metrics::{CountedFleet, Counter, CounterAllocator, ProbeCounters};
use crate::settings::{self, BackendUrl, Settings};
use crate::util::clock::Clock;
use build::{PersistentState, error_pages, routes};
use pool_state::PoolState;

/// Something that changes the fleet.
#[derive(Debug)]
pub enum Event {
    /// The settings were read again, and are valid.
    Pools {
        /// All pools there are from now on.
        pools: Vec<settings::PoolSettings>,
        /// The pages of errors, where a pool has none of its own.
        error_pages: Vec<settings::ErrorPage>,
        /// Is told once every request that begins reads them; dropped where they could not be published.
        published: oneshot::Sender<()>,
    },
    /// The operator changes where a backend stands, until that is ended or the process is.
    Operate {
        /// The pool's name.
        pool: String,
        /// The backend's id.
        backend: String,
        /// What to change.
        change: Change,
        /// Is told once every request that begins reads it; dropped where there is no such backend.
        published: oneshot::Sender<()>,
    },
    /// Health checks of a backend have found something new: another state, or another reason for the same.
    HealthState {
        /// What was checked. Ignored if it is no longer a target.
        target: Arc<ProbeTarget>,
        /// The state that follows from the checks.
        health: HealthState,
        /// The last of them.
        check: Check,
    },
    /// A backend has told its load. Nothing is built for it.
    Load {
        /// The pool's name.
        pool: Arc<str>,
        /// The backend's id.
        backend: Arc<str>,
        /// What it told.
        report: Report,
        /// When that came.
        came: Instant,
    },
    /// A backend's agent has said its line.
    Agent {
        /// Whose agent. Where that is no target any more, nothing changes.
        target: Arc<ProbeTarget>,
        /// What it said.
        line: AgentReply,
    },
    /// Makes the controller panic.
    #[cfg(test)]
    Panic,
}

/// A change by the operator: what is `None` stays, `Some(None)` goes back to the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether visitors are sent there.
    pub admin: Option<Option<AdminState>>,
    /// Its share of new visitors.
    pub weight: Option<Option<Weight>>,
    /// Beside `admin`: when no pin to it can be valid any more, in seconds since 1970, where it has been draining for a
    /// while elsewhere; `None`: it begins now.
    pub drained_at: Option<u64>,
}

/// A backend that is to be probed, or whose agent is to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeTarget {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's id.
    pub backend: Arc<str>,
    /// Where.
    pub url: BackendUrl,
    /// How.
    pub health: Arc<settings::HealthSettings>,
    /// Where it tells its load, where it does.
    pub load: Option<Arc<settings::LoadSettings>>,
    /// Where its probes and load reports are counted.
    pub counters: ProbeCounters,
}

impl ProbeTarget {
    /// Whether what is known of `other` holds for this one too.
    pub fn is_at(&self, other: &Self) -> bool {
        self.pool == other.pool && self.backend == other.backend && self.url == other.url
    }
}

/// The single writer of fleets.
#[derive(Debug)]
pub struct Controller {
    published: Arc<ArcSwap<CountedFleet>>,
    /// Fleets that were replaced, while somebody reads them still. A worker leaves one with the next request after it was
    /// replaced; were it the last to hold it, that request would wait until all of it is freed.
    retired: Vec<Arc<CountedFleet>>,
    kept: Vec<PoolState>,
    /// What was kept before the settings changed: freed when nobody waits for that.
    outdated: Vec<PoolState>,
    /// Which of them serves what: changes with the settings alone.
    routes: Arc<Routes>,
    error_pages: Arc<ErrorPages>,
    lasting: PersistentState,
    targets: watch::Sender<Vec<Arc<ProbeTarget>>>,
    settled: watch::Sender<bool>,
    /// The number of times that operator overrides have changed, and that is published.
    override_changes: watch::Sender<u64>,
    counter: Counter,
}

/// How many events are worked in before a fleet is published.
const BATCH: usize = 1024;
/// The least time from one fleet to the next: what changes meanwhile is published together.
const PACE: Duration = Duration::from_millis(10);

impl Controller {
    /// Builds the first fleet and publishes it. Backends that are probed count as not up until their first probe or
    /// their `startup_timeout`; see [`Self::settled`].
    pub fn start(settings: &Settings, counter: Counter) -> Self {
        let mut lasting = PersistentState::new();
        let now = Instant::now();
        let pools = settings.pools.iter().cloned().map(Arc::new);
        let mut kept: Vec<_> = pools.map(|pool| PoolState::new(pool, None, &mut lasting, now)).collect();
        for kept in &mut kept {
            kept.build(&mut lasting, now);
        }
        let routes = Arc::new(routes(kept.iter().map(PoolState::settings)));
        let error_pages = Arc::new(error_pages(&settings.server.error_pages));
        let this = Self {
            published: Arc::new(ArcSwap::from_pointee(fleet(&routes, &error_pages, &kept))),
            retired: Vec::new(),
            outdated: Vec::new(),
            routes,
            error_pages,
            kept,
            lasting,
            targets: watch::Sender::new(Vec::new()),
            settled: watch::Sender::new(false),
            override_changes: watch::Sender::new(0),
            counter,
        };
        this.tell_targets();
        this.settle(now);
        this
    }

    /// Where the current fleet is read.
    pub fn published(&self) -> Arc<ArcSwap<CountedFleet>> {
        Arc::clone(&self.published)
    }

    /// The clock of all that goes with its fleets.
    pub fn clock(&self) -> Clock {
        self.lasting.clock
    }

    /// What is to be probed.
    pub fn targets(&self) -> watch::Receiver<Vec<Arc<ProbeTarget>>> {
        self.targets.subscribe()
    }

    /// True once no backend's first probe is waited for any more.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Counts the changes of operator overrides. One is counted before its sender learns that it is published.
    pub fn override_changes(&self) -> watch::Receiver<u64> {
        self.override_changes.subscribe()
    }

    /// Gives out counters.
    pub fn counters(&self) -> CounterAllocator {
        self.lasting.counters.clone()
    }

    /// Takes events until nobody can send one any more. An event that panics is dropped and counted, and the last
    /// fleet goes on serving: a controller that died would freeze it without a word.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut batch = Vec::new();
        loop {
            let due = self.kept.iter().filter_map(PoolState::due).min();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = due => {}
            }
            self.work(batch.drain(..), Instant::now());
            tokio::time::sleep(PACE).await;
            self.free_retired();
        }
    }

    /// Works events in and publishes what came of them.
    fn work(&mut self, events: impl Iterator<Item = Event>, now: Instant) {
        let mut told = Vec::new();
        for event in events {
            told.extend(self.guarded(|this| this.apply(event, now)).flatten());
        }
        if self.guarded(|this| this.publish(now)).is_none() {
            // Built anew with the next change; whoever waits for this one is not told that it is in effect.
            self.kept.iter_mut().for_each(PoolState::changed);
            return;
        }
        let changes = self.lasting.override_changes;
        self.override_changes.send_if_modified(|known| std::mem::replace(known, changes) != changes);
        for published in told {
            // Whoever asked may have gone; then nobody needs to know.
            let _ = published.send(());
        }
    }

    /// Does something that must not end the controller.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let worked = catch_unwind(AssertUnwindSafe(|| work(self)));
        if worked.is_err() {
            self.counter.panicked();
            tracing::error!("a change panicked and was dropped; the fleet stays as it was");
        }
        worked.ok()
    }

    /// Works one event in, and returns who is to be told once it is published.
    fn apply(&mut self, event: Event, now: Instant) -> Option<oneshot::Sender<()>> {
        match event {
            Event::Pools { pools, error_pages: pages, published } => {
                let pools: Vec<_> = pools.into_iter().map(Arc::new).collect();
                self.lasting.forget_others(&pools);
                // Not in place: were it to panic halfway, what there was must still be there.
                let mut last = self.kept.clone();
                let mut next = Vec::with_capacity(pools.len());
                for pool in pools {
                    let at = last.iter().position(|kept| kept.settings().name == pool.name);
                    let last = at.map(|at| last.swap_remove(at));
                    next.push(PoolState::new(pool, last, &mut self.lasting, now));
                }
                self.routes = Arc::new(routes(next.iter().map(PoolState::settings)));
                self.error_pages = Arc::new(error_pages(&pages));
                self.outdated = std::mem::replace(&mut self.kept, next);
                self.tell_targets();
                Some(published)
            }
            Event::Operate { pool, backend, change, published } => {
                let kept = self.kept.iter_mut().find(|kept| kept.settings().name.as_str() == pool)?;
                kept.index(&backend)?;
                let unix_now =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                self.lasting.set_override(&pool, &backend, change, unix_now);
                kept.changed();
                Some(published)
            }
            Event::HealthState { target, health, check } => {
                let mut kept = self.kept.iter_mut();
                let kept = kept.find(|kept| kept.settings().name.as_str() == &*target.pool)?;
                kept.note(&target, health, check, &self.lasting, now);
                None
            }
            Event::Load { pool, backend, report, came } => {
                let kept = self.kept.iter().find(|kept| kept.settings().name.as_str() == &*pool)?;
                let index = kept.index(&backend)?;
                let moment = self.lasting.clock.moment(came);
                self.lasting.loads_of(kept.config())?.report(index, &report, moment);
                None
            }
            Event::Agent { target, line } => {
                let mut kept = self.kept.iter_mut();
                let kept = kept.find(|kept| kept.settings().name.as_str() == &*target.pool)?;
                kept.ask(&target, line, &self.lasting, now)?;
                None
            }
            #[cfg(test)]
            Event::Panic => panic!("asked to"),
        }
    }

    /// Builds the pools that changed, by events or by the passing of time, and publishes them with the others.
    fn publish(&mut self, now: Instant) {
        for kept in &mut self.kept {
            kept.build(&mut self.lasting, now);
        }
        let last = self.published.load();
        let same = Arc::ptr_eq(&last.routes, &self.routes)
            && last.pools.iter().zip(&self.kept).all(|(last, kept)| Arc::ptr_eq(last, kept.pool()));
        if !same {
            self.retired.push(self.published.swap(Arc::new(fleet(
                &self.routes,
                &self.error_pages,
                &self.kept,
            ))));
        }
        self.settle(now);
    }

    /// Frees what nobody else holds any more; and nobody can take hold of it again. A worker without requests keeps the
    /// one it has read last, so there are never more of them than workers, and what was published since the last look.
    fn free_retired(&mut self) {
        self.outdated.clear();
        self.retired.retain(|fleet| Arc::strong_count(fleet) > 1);
    }

    /// Says that the first round of probes is over, where it is.
    fn settle(&self, now: Instant) {
        if !*self.settled.borrow() && !self.kept.iter().any(|kept| kept.waits(now)) {
            self.settled.send_replace(true);
        }
    }

    fn tell_targets(&self) {
        self.targets.send_replace(self.kept.iter().flat_map(PoolState::targets).cloned().collect());
    }
}

fn fleet(routes: &Arc<Routes>, error_pages: &Arc<ErrorPages>, kept: &[PoolState]) -> CountedFleet {
    let fleet = Fleet {
        routes: Arc::clone(routes),
        pools: kept.iter().map(|kept| Arc::clone(kept.pool())).collect(),
        error_pages: Arc::clone(error_pages),
    };
    CountedFleet::new(fleet, kept.iter().map(|kept| Arc::clone(kept.counters())).collect())
}

#[cfg(test)]
mod tests {
    use arc_swap::Cache;

    use super::*;
    use crate::settings::{Flags, Layers};

    fn settings(backend: &str) -> Settings {
        let flags = Flags { backends: vec![backend.to_owned()], ..Flags::default() };
        Settings::load(&Layers { flags, ..Layers::default() }).unwrap().settings
    }

    #[tokio::test]
    async fn a_panic_costs_one_change() {
        let counter = Counter::default();
        let controller = Controller::start(&settings("http://127.0.0.1:1"), counter.clone());
        let fleet = controller.published();
        let (events, changes) = mpsc::channel(8);
        let keeping = tokio::spawn(controller.run(changes));
        events.send(Event::Panic).await.unwrap();
        let (published, done) = oneshot::channel();
        events
            .send(Event::Pools {
                pools: settings("http://127.0.0.1:2").pools,
                error_pages: Vec::new(),
                published,
            })
            .await
            .unwrap();
        done.await.unwrap();
        assert_eq!(&*fleet.load().pools[0].config.backends[0].base, "http://127.0.0.1:2");
        assert_eq!(counter.panics(), 1);
        drop(events);
        keeping.await.unwrap();
    }

    #[test]
    fn the_keeper_frees_what_a_worker_leaves() {
        let mut controller = Controller::start(&settings("http://127.0.0.1:1"), Counter::default());
        let published = controller.published();
        let mut publish = |port: u16| {
            let (published, done) = oneshot::channel();
            let pools = settings(&format!("http://127.0.0.1:{port}")).pools;
            controller.work(
                [Event::Pools { pools, error_pages: Vec::new(), published }].into_iter(),
                Instant::now(),
            );
            done.blocking_recv().unwrap();
            controller.free_retired();
            controller.retired.len()
        };
        let (mut busy, mut idle) = (Cache::new(Arc::clone(&published)), Cache::new(Arc::clone(&published)));
        let first = Arc::downgrade(busy.load());
        assert_eq!(publish(2), 1);
        let second = Arc::downgrade(busy.load());
        assert_eq!(publish(3), 2);
        busy.load();
        assert_eq!(second.strong_count(), 1, "the worker has left, and the controller has it still");
        assert_eq!(publish(4), 2, "the first, which a worker reads, and the third");
        assert_eq!(second.strong_count(), 0);
        idle.load();
        busy.load();
        assert_eq!(first.strong_count(), 1);
        assert_eq!(publish(5), 1);
        assert_eq!(first.strong_count(), 0);
    }
}
