//! The strategies of a pool: the one that sends visitors, those that have a share of them, and those that only run
//! beside it to be compared.

use crate::estimate::Estimates;
use crate::strategy::Strategy;
use crate::util::enum_all;

enum_all! {
    /// What a strategy of a pool is for.
    #[derive(Hash)]
    pub enum Role {
        /// Sends all visitors, but those of a split.
        Live = "live",
        /// Sends a share of the visitors.
        Split = "split",
        /// Picks for each visitor whom another strategy sends, and sends nobody.
        Shadow = "shadow",
    }
}

/// What the strategies of a roster do. Strategies are named by their place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// The one that sends visitors.
    pub live: usize,
    /// The ones that have a share of them.
    pub split: Box<[SplitRange]>,
}

/// A share of the visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitRange {
    /// Those are in it whose hash of 32 bits is below this and not in a portion before.
    pub below: u64,
    /// The strategy that sends them.
    pub slot: usize,
}

impl Roles {
    /// One strategy alone.
    pub fn alone() -> Self {
        Self { live: 0, split: Box::default() }
    }

    /// What a strategy is for.
    pub fn of(&self, slot: usize) -> Role {
        if slot == self.live {
            Role::Live
        } else if self.split.iter().any(|portion| portion.slot == slot) {
            Role::Split
        } else {
            Role::Shadow
        }
    }

    /// The strategy that sends a visitor, `visitor` being a hash of who that is, even over all 32 bits.
    pub fn sender(&self, visitor: u32) -> usize {
        self.split
            .iter()
            .find(|portion| u64::from(visitor) < portion.below)
            .map_or(self.live, |portion| portion.slot)
    }
}

/// A strategy at work.
#[derive(Debug)]
pub struct ActiveStrategy {
    /// What it is for.
    pub role: Role,
    /// What is estimated of the load of each backend of the roster, of nobody where they report none. For a shadow: what
    /// would be, were its picks those that are made.
    pub loads: Estimates,
    /// Over those who may be picked, where there is somebody.
    pub(super) strategy: Option<Strategy>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_takes_its_share_of_hashes() {
        let tenth = u32::MAX / 10;
        let split =
            [SplitRange { below: tenth.into(), slot: 2 }, SplitRange { below: (3 * tenth).into(), slot: 1 }];
        let roles = Roles { live: 3, split: split.into() };
        for (visitor, slot) in
            [(0, 2), (tenth - 1, 2), (tenth, 1), (3 * tenth - 1, 1), (3 * tenth, 3), (u32::MAX, 3)]
        {
            assert_eq!(roles.sender(visitor), slot, "{visitor}");
        }
        assert_eq!(
            [0, 1, 2, 3].map(|slot| roles.of(slot)),
            [Role::Shadow, Role::Split, Role::Split, Role::Live]
        );
        assert_eq!(Roles::alone().sender(0), 0);
    }
}
