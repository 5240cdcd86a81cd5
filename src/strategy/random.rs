//! `random`: an alias table, so that a weighted throw costs one random number and one look-up.

use rand::Rng;

use super::explain::{Candidate, percent};
use super::{PickContext, WeightedBackend, Weights};

/// Weighted random choice in O(1): Walker's alias method, built as Vose described
/// ("A linear algorithm for generating random numbers with a given distribution", 1991), in whole numbers, so
/// that the table holds the weights exactly.
#[derive(Debug)]
pub struct Random {
    columns: Box<[AliasColumn]>,
    /// The sum of the weights: the height of a column.
    height: u32,
}

/// A column belongs to one backend up to `own`, and to another above. Eight bytes, so that ten thousand stay in a
/// core's own cache.
#[derive(Clone, Copy, Debug)]
struct AliasColumn {
    own: u32,
    backend: u16,
    alias: u16,
}

impl Random {
    /// Builds the table in O(number of backends).
    pub(super) fn build(weights: Weights<'_>) -> Self {
        let count = weights.count() as u32;
        let height = weights.sum();
        // Each backend owns weight × count of the total area, count columns × height: at most 2^15 × 2^16.
        let mut areas: Vec<u32> = weights.iter().map(|share| u32::from(share.weight.get()) * count).collect();
        let whole = |share: WeightedBackend| AliasColumn {
            own: height,
            backend: share.backend,
            alias: share.backend,
        };
        let mut columns: Box<[AliasColumn]> = weights.iter().map(whole).collect();
        let (mut low, mut high): (Vec<u32>, Vec<u32>) = (0..count).partition(|&i| areas[i as usize] < height);
        while let (Some(poor), Some(&rich)) = (low.pop(), high.last()) {
            let own = areas[poor as usize];
            columns[poor as usize].own = own;
            columns[poor as usize].alias = columns[rich as usize].backend;
            areas[rich as usize] -= height - own;
            if areas[rich as usize] < height {
                high.pop();
                low.push(rich);
            }
        }
        Self { columns, height }
    }

    /// Throws once. The upper half of one random number takes the column, the lower half the place in it; each
    /// is off by less than 2^-32 of the whole, as Lemire's multiply-shift without rejection is.
    #[inline]
    pub(super) fn pick(&self, turn: &mut PickContext<'_>) -> usize {
        let bits = turn.rng.next_u64();
        let index = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let place = ((bits & 0xffff_ffff) * u64::from(self.height)) >> 32;
        let column = self.columns[index as usize];
        if place < u64::from(column.own) { column.backend.into() } else { column.alias.into() }
    }
}

/// Each one's chance.
pub(super) fn explain(weights: Weights<'_>) -> Vec<Candidate> {
    let sum = f64::from(weights.sum());
    let candidate = |share: WeightedBackend| {
        let weight = f64::from(share.weight.get());
        let why = format!("{} of the throws", percent(weight, sum));
        Candidate::new(share.backend.into(), Some(weight / sum), why)
    };
    weights.iter().map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::tests::shares;

    proptest! {
        #[test]
        fn the_table_holds_the_weights_exactly(weights in prop::collection::vec(1u16..=256, 1..300)) {
            let table = Random::build(Weights::new(&shares(&weights)).unwrap());
            let mut areas = vec![0u64; weights.len()];
            for column in &table.columns {
                areas[usize::from(column.backend)] += u64::from(column.own);
                areas[usize::from(column.alias)] += u64::from(table.height - column.own);
            }
            for (&weight, &area) in weights.iter().zip(&areas) {
                prop_assert_eq!(area, u64::from(weight) * weights.len() as u64);
            }
        }
    }
}
