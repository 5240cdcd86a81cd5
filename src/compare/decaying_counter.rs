//! What was counted lately.

use std::collections::HashMap;
use std::time::Duration;

use crate::fleet::Slot;

/// Counts that fade: what came a [`WINDOW`] ago weighs 1/e of what comes now, so that it takes one number a series and
/// not one for each second.
#[derive(Debug, Default)]
pub(super) struct DecayingCounter(HashMap<Slot, DecayedCount>);

/// The time constant.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct DecayedCount {
    counted: u64,
    lately: f64,
}

impl DecayingCounter {
    /// Notes how far all series have been counted by now. Those that are left out are forgotten; what a new one has had
    /// before is not lately.
    pub(super) fn note(&mut self, counts: impl Iterator<Item = (Slot, u64)>, passed: Duration) {
        let fade = (-passed.as_secs_f64() / WINDOW.as_secs_f64()).exp();
        let noted = counts.map(|(slot, counted)| {
            let before = self.0.get(&slot).copied().unwrap_or(DecayedCount { counted, lately: 0.0 });
            let more = counted.wrapping_sub(before.counted) as f64;
            (slot, DecayedCount { counted, lately: before.lately * fade + more })
        });
        self.0 = noted.collect();
    }

    /// What was counted lately.
    pub(super) fn of(&self, slot: Slot) -> f64 {
        self.0.get(&slot).map_or(0.0, |faded| faded.lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade() {
        let mut recent = DecayingCounter::default();
        let [a, b] = [Slot(1), Slot(2)];
        recent.note([(a, 1000), (b, 0)].into_iter(), WINDOW);
        assert_eq!(recent.of(a), 0.0, "that was before");
        recent.note([(a, 1100), (b, 10)].into_iter(), Duration::ZERO);
        assert_eq!((recent.of(a), recent.of(b)), (100.0, 10.0));
        recent.note([(a, 1100)].into_iter(), WINDOW);
        assert!((recent.of(a) - 100.0 / std::f64::consts::E).abs() < 1e-9);
        assert_eq!(recent.of(b), 0.0, "forgotten");
    }
}
