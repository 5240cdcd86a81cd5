//! Where a worker counts: a slab of its own, so that no two threads ever write one cache line.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::Slot;

/// Counts of one thread. That thread alone writes; a scrape reads.
///
/// It grows without moving: block k holds 2^k × 4096 counts and is made when one of them is first written.
#[derive(Debug, Default)]
pub struct Slab {
    blocks: [OnceLock<Box<[AtomicU64]>>; 20],
}

/// How many counts the first block holds.
const FIRST: u32 = 1 << 12;

impl Slab {
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

/// The block of a count, and its place there.
fn place(index: u32) -> (usize, usize) {
    let block = (index / FIRST + 1).ilog2();
    let first = ((1u32 << block) - 1) * FIRST;
    (block as usize, (index - first) as usize)
}

/// Gives out places in the slabs. A key keeps its place for as long as the process runs, so that counts outlive
/// fleets.
#[derive(Debug)]
pub struct Slots {
    next: u32,
    given: HashMap<String, Slot>,
}

impl Slots {
    /// Leaves the first `reserved` places to series that are always there.
    pub fn after(reserved: usize) -> Self {
        Self { next: reserved as u32, given: HashMap::new() }
    }

    /// The place of a key, `size` counts long.
    pub fn give(&mut self, key: String, size: usize) -> Slot {
        *self.given.entry(key).or_insert_with(|| {
            let slot = Slot(self.next);
            self.next += size as u32;
            slot
        })
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
        let slab = Slab::default();
        slab.add(Slot(1), 1, 5);
        slab.add(Slot(100_000), 0, 7);
        slab.add(Slot(1), 1, 1);
        assert_eq!([slab.get(Slot(2), 0), slab.get(Slot(100_000), 0), slab.get(Slot(9_000), 0)], [6, 7, 0]);
    }

    #[test]
    fn a_key_keeps_its_place() {
        let mut slots = Slots::after(10);
        let a = slots.give("a".into(), 3);
        let b = slots.give("b".into(), 3);
        assert_eq!((a, b, slots.give("a".into(), 3)), (Slot(10), Slot(13), Slot(10)));
    }
}
