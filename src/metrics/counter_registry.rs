//! Who counts, and what for: changes when listeners do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{OVERFLOW_AT, SHADOW_AT, ThreadCounters};
use crate::certificates::Published;
use crate::fleet::{PoolConfig, Slot};
use crate::request::outcome::Decision;

/// The slabs of every thread that counts, and the listeners and certificates that figures are shown of.
#[derive(Debug)]
pub struct CounterRegistry {
    /// Of the control thread, which keeps the counts of threads that have ended.
    own: Arc<ThreadCounters>,
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    slabs: Vec<Arc<ThreadCounters>>,
    listeners: Vec<(String, Slot)>,
    certificates: Option<Published>,
}

impl CounterRegistry {
    /// With the control thread's slab alone.
    pub fn new(own: Arc<ThreadCounters>) -> Self {
        Self { own, lists: Mutex::default() }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slab for a thread that is about to count.
    pub fn enlist(&self) -> Arc<ThreadCounters> {
        let slab = Arc::<ThreadCounters>::default();
        self.lists().slabs.push(Arc::clone(&slab));
        slab
    }

    /// Takes over the counts of a thread that has ended. To be called on the control thread alone.
    pub fn retire(&self, slab: &Arc<ThreadCounters>) {
        let mut lists = self.lists();
        lists.slabs.retain(|known| !Arc::ptr_eq(known, slab));
        self.own.absorb(slab);
    }

    /// Shows figures of these from now on: each listener's address with the place of its counts.
    pub fn show(&self, listeners: Vec<(String, Slot)>, certificates: Published) {
        let mut lists = self.lists();
        lists.listeners = listeners;
        lists.certificates = Some(certificates);
    }

    pub(super) fn listeners(&self) -> Vec<(String, Slot)> {
        self.lists().listeners.clone()
    }

    pub(super) fn certificates(&self) -> Option<Published> {
        self.lists().certificates.clone()
    }

    /// Visitors that a strategy sent to a backend, by where that is counted.
    pub fn redirects(&self, slot: Slot) -> u64 {
        Decision::ALL.map(|decision| self.sum(slot, decision as usize)).iter().sum()
    }

    /// The part of [`Self::redirects`] that pins decided.
    pub fn pinned(&self, slot: Slot) -> u64 {
        self.sum(slot, Decision::Pinned as usize)
    }

    /// Requests that went elsewhere because a backend, their first choice, was full, by all strategies of its pool.
    pub(super) fn overflow(&self, config: &PoolConfig, backend: usize) -> u64 {
        config.arms.iter().map(|arm| self.sum(arm.counts[backend], OVERFLOW_AT)).sum()
    }

    /// How often a strategy picked that backend as a shadow.
    pub fn shadow_picks(&self, slot: Slot) -> u64 {
        self.sum(slot, SHADOW_AT)
    }

    /// One count, over all threads there are and were.
    pub(super) fn sum(&self, slot: Slot, offset: usize) -> u64 {
        let own = self.own.get(slot, offset);
        self.lists().slabs.iter().map(|slab| slab.get(slot, offset)).fold(own, u64::wrapping_add)
    }
}
