//! Counters of one thread, and which counter stands where: all arithmetic on places is in this file.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::util::Enumerated;

/// The counters of one thread, which alone writes them: no two threads ever write one cache line. A scrape reads them.
///
/// They grow without moving: block k holds 2^k × 4096 counters and is made when one of them is first written.
#[derive(Debug, Default)]
pub struct ThreadCounters {
    blocks: [OnceLock<Box<[AtomicU64]>>; 20],
}

/// How many counters the first block holds.
const FIRST: u32 = 1 << 12;

impl ThreadCounters {
    /// Adds to a counter. Only the thread that owns the counters may call it: load and store are two steps, which is
    /// what makes them cheap.
    pub(super) fn add(&self, id: CounterId, count: u64) {
        let (block, at) = place(id.0);
        let Some(block_cell) = self.blocks.get(block) else { return };
        let counts = block_cell.get_or_init(|| {
            std::iter::repeat_with(AtomicU64::default).take((FIRST as usize) << block).collect()
        });
        let cell = &counts[at];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Counts a value in a histogram. Only the thread that owns the counters may call it.
    pub(super) fn observe(&self, histogram: HistogramCounters, value: u64) {
        let bounds = histogram.bounds;
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len());
        self.add(CounterId(histogram.first.0 + bucket as u32), 1);
        self.add(histogram.sum(), value);
    }

    /// Reads a counter; 0 if it was never written.
    pub(super) fn get(&self, id: CounterId) -> u64 {
        let (block, at) = place(id.0);
        let counts = self.blocks.get(block).and_then(OnceLock::get);
        counts.map_or(0, |counts| counts[at].load(Ordering::Relaxed))
    }

    /// Adds all counters of a thread that has ended. Only the thread that owns these counters may call it.
    pub(super) fn absorb(&self, other: &Self) {
        for (block, counts) in other.blocks.iter().enumerate() {
            let first = ((1u32 << block) - 1) * FIRST;
            for (at, count) in (0..).zip(counts.get().into_iter().flatten()) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    self.add(CounterId(first + at), count);
                }
            }
        }
    }
}

/// The block of a counter, and its place there.
fn place(index: u32) -> (usize, usize) {
    let block = (index / FIRST + 1).ilog2();
    let first = ((1u32 << block) - 1) * FIRST;
    (block as usize, (index - first) as usize)
}

/// One counter, in the counters of every thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterId(u32);

/// One counter for each variant of an enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerVariant<E> {
    first: CounterId,
    of: PhantomData<E>,
}

impl<E: Enumerated> PerVariant<E> {
    /// The counter of a variant.
    pub(super) fn of(self, variant: E) -> CounterId {
        CounterId(self.first.0 + variant.index() as u32)
    }
}

/// Numbered counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct CounterArray<const N: usize> {
    first: CounterId,
}

impl<const N: usize> CounterArray<N> {
    /// The counter of a number below N.
    pub(super) fn at(self, number: usize) -> CounterId {
        debug_assert!(number < N, "{number} of {N}");
        CounterId(self.first.0 + number as u32)
    }
}

/// The counters of a histogram: one for each bucket, one for what is over the last bound, and the sum of all values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistogramCounters {
    first: CounterId,
    bounds: &'static [u64],
}

impl HistogramCounters {
    /// The upper bound of each bucket, with its counter.
    pub(super) fn buckets(self) -> impl Iterator<Item = (u64, CounterId)> {
        (0..).zip(self.bounds).map(move |(at, &bound)| (bound, CounterId(self.first.0 + at)))
    }

    /// The counter of values over the last bound.
    pub(super) fn over(self) -> CounterId {
        CounterId(self.first.0 + self.bounds.len() as u32)
    }

    /// The sum of all values.
    pub(super) fn sum(self) -> CounterId {
        CounterId(self.over().0 + 1)
    }
}

/// The counters of one histogram for each variant of an enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistogramPerVariant<E> {
    first: HistogramCounters,
    of: PhantomData<E>,
}

impl<E: Enumerated> HistogramPerVariant<E> {
    /// The counters of a variant.
    pub(super) fn of(self, variant: E) -> HistogramCounters {
        let HistogramCounters { first, bounds } = self.first;
        HistogramCounters {
            first: CounterId(first.0 + (variant.index() * (bounds.len() + 2)) as u32),
            bounds,
        }
    }
}

/// Gives out counters, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor(u32);

impl Cursor {
    /// Begins with the very first counter.
    pub(super) const fn new() -> Self {
        Self(0)
    }

    const fn take(&mut self, count: usize) -> CounterId {
        let first = CounterId(self.0);
        self.0 += count as u32;
        first
    }

    /// The next counter.
    pub(super) const fn counter(&mut self) -> CounterId {
        self.take(1)
    }

    /// The next N counters.
    pub(super) const fn array<const N: usize>(&mut self) -> CounterArray<N> {
        CounterArray { first: self.take(N) }
    }

    /// One counter for each variant of an enum.
    pub(super) const fn per_variant<E: Enumerated>(&mut self) -> PerVariant<E> {
        PerVariant { first: self.take(E::COUNT), of: PhantomData }
    }

    /// The counters of a histogram with these upper bounds.
    pub(super) const fn histogram(&mut self, bounds: &'static [u64]) -> HistogramCounters {
        HistogramCounters { first: self.take(bounds.len() + 2), bounds }
    }

    /// The counters of a histogram with these upper bounds, for each variant of an enum.
    pub(super) const fn histogram_per_variant<E: Enumerated>(
        &mut self,
        bounds: &'static [u64],
    ) -> HistogramPerVariant<E> {
        let first = HistogramCounters { first: self.take((bounds.len() + 2) * E::COUNT), bounds };
        HistogramPerVariant { first, of: PhantomData }
    }
}

/// Counters that belong together.
pub(super) trait CounterBlock {
    /// Takes them from a cursor, always as many.
    fn take(cursor: &mut Cursor) -> Self;
}

/// Allocates counters by name. A name keeps its counters for as long as the process runs, so that counts outlive fleets
/// and listeners. Cheap to clone: clones share it.
#[derive(Clone, Debug)]
pub struct CounterAllocator(Arc<Mutex<Allocated>>);

#[derive(Debug)]
struct Allocated {
    next: Cursor,
    blocks: HashMap<String, Cursor>,
}

impl CounterAllocator {
    /// Leaves the counters before `next` to what is always there.
    pub(super) fn after(next: Cursor) -> Self {
        Self(Arc::new(Mutex::new(Allocated { next, blocks: HashMap::new() })))
    }

    /// The counters of a name.
    pub(super) fn block<B: CounterBlock>(&self, name: String) -> B {
        let mut allocated = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Allocated { next, blocks } = &mut *allocated;
        if let Some(mut known) = blocks.get(&name).copied() {
            return B::take(&mut known);
        }
        blocks.insert(name, *next);
        B::take(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Three(CounterArray<3>);

    impl CounterBlock for Three {
        fn take(cursor: &mut Cursor) -> Self {
            Self(cursor.array())
        }
    }

    #[test]
    fn every_place_is_in_one_block() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(FIRST - 1), (0, FIRST as usize - 1));
        assert_eq!(place(FIRST), (1, 0));
        assert_eq!(place(3 * FIRST - 1), (1, 2 * FIRST as usize - 1));
        assert_eq!(place(3 * FIRST), (2, 0));
    }

    #[test]
    fn counts_stay_when_the_counters_grow() {
        let counters = ThreadCounters::default();
        counters.add(CounterId(2), 5);
        counters.add(CounterId(100_000), 7);
        counters.add(CounterId(2), 1);
        assert_eq!([2, 100_000, 9_000].map(|id| counters.get(CounterId(id))), [6, 7, 0]);
    }

    #[test]
    fn absorbs_the_counts_of_another_thread() {
        let (counters, ended) = (ThreadCounters::default(), ThreadCounters::default());
        for (id, count) in [(3, 5), (FIRST, 7), (50_000, 11)] {
            ended.add(CounterId(id), count);
            counters.add(CounterId(id), 1);
        }
        counters.absorb(&ended);
        assert_eq!([3, FIRST, 50_000, 4].map(|id| counters.get(CounterId(id))), [6, 8, 12, 0]);
    }

    #[test]
    fn a_histogram_counts_each_value_in_one_bucket() {
        let counters = ThreadCounters::default();
        let mut cursor = Cursor::new();
        let (histogram, next) = (cursor.histogram(&[10, 20]), cursor.counter());
        for value in [10, 11, 20, 21] {
            counters.observe(histogram, value);
        }
        let buckets: Vec<_> = histogram.buckets().map(|(bound, id)| (bound, counters.get(id))).collect();
        assert_eq!(buckets, [(10, 1), (20, 2)]);
        assert_eq!([histogram.over(), histogram.sum(), next].map(|id| counters.get(id)), [1, 62, 0]);
    }

    #[test]
    fn a_name_keeps_its_counters() {
        let allocator = CounterAllocator::after(Cursor(10));
        let first = |name: &str| allocator.block::<Three>(name.to_owned()).0.at(0);
        assert_eq!(["a", "b", "a"].map(first), [CounterId(10), CounterId(13), CounterId(10)]);
    }
}
