//! One thread picks, over and over.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use signpost::strategy::{PickContext, StrategyKind};

use crate::pools::{NOW, Shape};
use crate::table::{Bound, Table, ratios, taken};

const ROUNDS: usize = 15;
const PICKS: u32 = 1_000_000;

/// A few backends, then ten thousand with as long a cycle as is laid out, and with one far longer.
const SHAPES: [Shape; 6] = [
    Shape::new(2, 1),
    Shape::new(2, 2),
    Shape::new(100, 12),
    Shape::new(10_000, 12),
    Shape::new(10_000, 256),
    Shape::new(10_000, 12).with_one_in_slow_start(),
];

pub fn run(table: &mut Table) {
    let turns = AtomicU64::new(0);
    let mut rng = SmallRng::seed_from_u64(1);
    let pools = StrategyKind::ALL.map(|kind| SHAPES.map(|shape| shape.pool(kind)));
    let mut key = 0u64;
    let mut bare = Vec::new();
    let mut picks = StrategyKind::ALL.map(|_| SHAPES.map(|_| Vec::new()));
    for _ in 0..ROUNDS {
        bare.push(nanoseconds(|| turns.fetch_add(1, Ordering::Relaxed)));
        for (pools, picks) in pools.iter().zip(&mut picks) {
            for (pool, picks) in pools.iter().zip(picks) {
                picks.push(nanoseconds(|| {
                    // Far apart, as hashes are.
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    pool.pick(0, &mut PickContext::new(&mut rng, key, NOW))
                }));
            }
        }
    }
    table.row("a bare fetch_add", "ns", &bare, Bound::None);
    for (kind, picks) in StrategyKind::ALL.iter().zip(&picks) {
        for (shape, rounds) in SHAPES.iter().zip(picks) {
            let bound = match (kind, shape.backends) {
                (StrategyKind::Random, 2) => Bound::AtMost(5.0),
                (StrategyKind::Random, 10_000) => Bound::AtMost(10.0),
                (StrategyKind::LeastLoad, 2) => Bound::AtMost(200.0),
                (StrategyKind::LeastLoad, 10_000) => Bound::AtMost(400.0),
                _ => Bound::None,
            };
            let what = format!("{}, {}", kind.name(), shape.words());
            table.row(&what, "ns", rounds, bound);
            if *kind == StrategyKind::RoundRobin {
                let over = ratios(rounds, &bare);
                table.row("  against the bare fetch_add", "", &over, Bound::AtMost(2.0));
            }
        }
        let flat = ratios(&picks[3], &picks[0]);
        table.row(&format!("{}, 10000 against 2", kind.name()), "", &flat, Bound::AtMost(1.5));
    }
}

/// What one of many costs.
fn nanoseconds<T>(mut work: impl FnMut() -> T) -> f64 {
    let (taken, ()) = taken(|| {
        for _ in 0..PICKS {
            black_box(work());
        }
    });
    taken.as_nanos() as f64 / f64::from(PICKS)
}
