//! The threads that count, and what they count for: changes when listeners do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pool_counters::{DispatchCounters, PoolCounters};
use super::process_counters::ListenerCounters;
use super::thread_counters::{CounterId, ThreadCounters};
use crate::certificates::Published;
use crate::request::outcome::Decision;

/// The counters of every thread, and the listeners and certificates whose figures are shown.
#[derive(Debug)]
pub struct CounterRegistry {
    /// Of the control thread, which keeps the counts of threads that have ended.
    own: Arc<ThreadCounters>,
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    threads: Vec<Arc<ThreadCounters>>,
    listeners: Vec<(String, ListenerCounters)>,
    certificates: Option<Published>,
}

impl CounterRegistry {
    /// With the counters of the control thread alone.
    pub fn new(own: Arc<ThreadCounters>) -> Self {
        Self { own, lists: Mutex::default() }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters for a thread that is about to count.
    pub fn enlist(&self) -> Arc<ThreadCounters> {
        let counters = Arc::<ThreadCounters>::default();
        self.lists().threads.push(Arc::clone(&counters));
        counters
    }

    /// Takes over the counts of a thread that has ended. To be called on the control thread alone.
    pub fn retire(&self, counters: &Arc<ThreadCounters>) {
        let mut lists = self.lists();
        lists.threads.retain(|known| !Arc::ptr_eq(known, counters));
        self.own.absorb(counters);
    }

    /// Shows figures of these from now on: each listener's address with its counters.
    pub fn show(&self, listeners: Vec<(String, ListenerCounters)>, certificates: Published) {
        let mut lists = self.lists();
        lists.listeners = listeners;
        lists.certificates = Some(certificates);
    }

    pub(super) fn listeners(&self) -> Vec<(String, ListenerCounters)> {
        self.lists().listeners.clone()
    }

    pub(super) fn certificates(&self) -> Option<Published> {
        self.lists().certificates.clone()
    }

    /// Requests that a strategy redirected to a backend.
    pub fn redirects(&self, counters: DispatchCounters) -> u64 {
        Decision::ALL.map(|decision| self.sum(counters.redirects.of(decision))).iter().sum()
    }

    /// The part of [`Self::redirects`] that pins decided.
    pub fn pinned(&self, counters: DispatchCounters) -> u64 {
        self.sum(counters.redirects.of(Decision::Pinned))
    }

    /// How often a strategy picked that backend as a shadow.
    pub fn shadow_picks(&self, counters: DispatchCounters) -> u64 {
        self.sum(counters.shadow_picks)
    }

    /// Requests that went elsewhere because a backend, their first choice, was full, by all strategies of its pool.
    pub(super) fn overflow(&self, pool: &PoolCounters, backend: usize) -> u64 {
        pool.by_strategy(backend).map(|counters| self.sum(counters.overflow)).sum()
    }

    /// One count, over all threads there are and were.
    pub(super) fn sum(&self, id: CounterId) -> u64 {
        let own = self.own.get(id);
        self.lists().threads.iter().map(|counters| counters.get(id)).fold(own, u64::wrapping_add)
    }
}
