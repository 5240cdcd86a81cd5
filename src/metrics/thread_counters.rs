//! Where a worker counts: a slab of its own, so that no two threads ever write one cache line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::fleet::Slot;

/// Counts of one thread. That thread alone writes; a scrape reads.
///
/// It grows without moving: block k holds 2^k × 4096 counts and is made when one of them is first written.
#[derive(Debug, Default)]
pub struct ThreadCounters {
    blocks: [OnceLock<Box<[AtomicU64]>>; 20],
}

/// How many counts the first block holds.
const FIRST: u32 = 1 << 12;

impl ThreadCounters {
    /// Adds to a count. Only the slab's own thread may call it: load and store are two steps, which is what
    /// makes them cheap.
    pub fn add(&self, slot: Slot, offset: usize, count: u64) {
        let (block, at) = place(slot.0 + offset as u32);
        let Some(block_cell) = self.blocks.get(block) else { return };
        let counts = block_cell.get_or_init(|| {
            std::iter::repeat_with(AtomicU64::default).take((FIRST as usize) << block).collect()
        });
        let cell = &counts[at];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Reads a count; 0 where it was never written.
    pub fn get(&self, slot: Slot, offset: usize) -> u64 {
        let (block, at) = place(slot.0 + offset as u32);
        let counts = self.blocks.get(block).and_then(OnceLock::get);
        counts.map_or(0, |counts| counts[at].load(Ordering::Relaxed))
    }
}

impl ThreadCounters {
    /// Adds all counts of another, whose thread has ended. Only this slab's own thread may call it.
    pub fn absorb(&self, other: &Self) {
        for (block, counts) in other.blocks.iter().enumerate() {
            let first = ((1u32 << block) - 1) * FIRST;
            for (at, count) in counts.get().into_iter().flat_map(|counts| counts.iter().enumerate()) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    self.add(Slot(first), at, count);
                }
            }
        }
    }
}

/// The block of a count, and its place there.
fn place(index: u32) -> (usize, usize) {
    let block = (index / FIRST + 1).ilog2();
    let first = ((1u32 << block) - 1) * FIRST;
    (block as usize, (index - first) as usize)
}

/// Gives out places in the slabs. A key keeps its place for as long as the process runs, so that counts outlive
/// fleets and listeners. Cheap to clone: clones share it.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<Given>>);

#[derive(Debug)]
struct Given {
    next: u32,
    slots: HashMap<String, Slot>,
}

impl Slots {
    /// Leaves the first `reserved` places to series that are always there.
    pub fn after(reserved: usize) -> Self {
        Self(Arc::new(Mutex::new(Given { next: reserved as u32, slots: HashMap::new() })))
    }

    /// The place of a key, `size` counts long.
    pub fn give(&self, key: String, size: usize) -> Slot {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = given.slots.get(&key) {
            return *slot;
        }
        let slot = Slot(given.next);
        given.next += size as u32;
        given.slots.insert(key, slot);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_in_one_block() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(FIRST - 1), (0, FIRST as usize - 1));
        assert_eq!(place(FIRST), (1, 0));
        assert_eq!(place(3 * FIRST - 1), (1, 2 * FIRST as usize - 1));
        assert_eq!(place(3 * FIRST), (2, 0));
    }

    #[test]
    fn counts_stay_where_they_were_when_it_grows() {
        let slab = ThreadCounters::default();
        slab.add(Slot(1), 1, 5);
        slab.add(Slot(100_000), 0, 7);
        slab.add(Slot(1), 1, 1);
        assert_eq!([slab.get(Slot(2), 0), slab.get(Slot(100_000), 0), slab.get(Slot(9_000), 0)], [6, 7, 0]);
    }

    #[test]
    fn what_one_absorbs_is_added() {
        let (slab, ended) = (ThreadCounters::default(), ThreadCounters::default());
        for (at, count) in [(3, 5), (FIRST, 7), (50_000, 11)] {
            ended.add(Slot(at), 0, count);
            slab.add(Slot(at), 0, 1);
        }
        slab.absorb(&ended);
        assert_eq!([3, FIRST, 50_000, 4].map(|at| slab.get(Slot(at), 0)), [6, 8, 12, 0]);
    }

    #[test]
    fn a_key_keeps_its_place() {
        let slots = Slots::after(10);
        let a = slots.give("a".into(), 3);
        let b = slots.give("b".into(), 3);
        assert_eq!((a, b, slots.give("a".into(), 3)), (Slot(10), Slot(13), Slot(10)));
    }
}
