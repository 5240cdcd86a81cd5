//! `random`: an alias table, so that a weighted throw costs one random number and one look-up.

use rand::Rng;

use super::{Turn, Weights};

/// Weighted random choice in O(1): Walker's alias method, built as Vose described
/// ("A linear algorithm for generating random numbers with a given distribution", 1991), in whole numbers, so
/// that the table holds the weights exactly.
#[derive(Debug)]
pub struct Random {
    columns: Box<[Column]>,
    /// The sum of the weights: the height of a column.
    height: u32,
}

/// A column belongs to its own backend up to `own`, and to `alias` above.
#[derive(Clone, Copy, Debug)]
struct Column {
    own: u32,
    alias: u32,
}

impl Random {
    /// Builds the table in O(number of backends).
    pub(super) fn build(weights: Weights<'_>) -> Self {
        let count = weights.count() as u32;
        let height: u32 = weights.iter().sum();
        // Backend i owns weight × count of the total area, count columns × height.
        let mut areas: Vec<u32> = weights.iter().map(|weight| weight * count).collect();
        let mut columns: Vec<Column> = (0..count).map(|i| Column { own: height, alias: i }).collect();
        let (mut low, mut high): (Vec<u32>, Vec<u32>) = (0..count).partition(|&i| areas[i as usize] < height);
        while let (Some(poor), Some(&rich)) = (low.pop(), high.last()) {
            let own = areas[poor as usize];
            columns[poor as usize] = Column { own, alias: rich };
            areas[rich as usize] -= height - own;
            if areas[rich as usize] < height {
                high.pop();
                low.push(rich);
            }
        }
        Self { columns: columns.into(), height }
    }

    /// Throws once. The upper half of one random number takes the column, the lower half the place in it; each
    /// is off by less than 2^-32 of the whole, as Lemire's multiply-shift without rejection is.
    pub(super) fn pick(&self, turn: &mut Turn<'_>) -> usize {
        let bits = turn.rng.next_u64();
        let index = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let place = ((bits & 0xffff_ffff) * u64::from(self.height)) >> 32;
        let column = self.columns[index as usize];
        if place < u64::from(column.own) { index as usize } else { column.alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_table_holds_the_weights_exactly(weights in prop::collection::vec(1u16..=256, 1..300)) {
            let nonzero: Vec<_> = weights.iter().map(|&weight| NonZeroU16::new(weight).unwrap()).collect();
            let table = Random::build(Weights::new(&nonzero).unwrap());
            let mut areas = vec![0u64; weights.len()];
            for (index, column) in table.columns.iter().enumerate() {
                areas[index] += u64::from(column.own);
                areas[column.alias as usize] += u64::from(table.height - column.own);
            }
            for (&weight, &area) in weights.iter().zip(&areas) {
                prop_assert_eq!(area, u64::from(weight) * weights.len() as u64);
            }
        }
    }
}
