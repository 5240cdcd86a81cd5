//! What was counted lately.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Counts that fade: what came a [`WINDOW`] ago weighs 1/e of what comes now, so that it takes one number a series and
/// not one for each second.
#[derive(Debug)]
pub(super) struct DecayingCounter<K>(HashMap<K, DecayedCount>);

impl<K> Default for DecayingCounter<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// The time constant.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct DecayedCount {
    counted: u64,
    lately: f64,
}

impl<K: Copy + Eq + Hash> DecayingCounter<K> {
    /// Notes how far all series have been counted by now. Those that are left out are forgotten; what a new one has had
    /// before is not lately.
    pub(super) fn note(&mut self, counts: impl Iterator<Item = (K, u64)>, passed: Duration) {
        let fade = (-passed.as_secs_f64() / WINDOW.as_secs_f64()).exp();
        let noted = counts.map(|(key, counted)| {
            let before = self.0.get(&key).copied().unwrap_or(DecayedCount { counted, lately: 0.0 });
            let more = counted.wrapping_sub(before.counted) as f64;
            (key, DecayedCount { counted, lately: before.lately * fade + more })
        });
        self.0 = noted.collect();
    }

    /// What was counted lately.
    pub(super) fn of(&self, key: K) -> f64 {
        self.0.get(&key).map_or(0.0, |faded| faded.lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade() {
        let mut recent = DecayingCounter::default();
        let [a, b] = [1, 2];
        recent.note([(a, 1000), (b, 0)].into_iter(), WINDOW);
        assert_eq!(recent.of(a), 0.0, "that was before");
        recent.note([(a, 1100), (b, 10)].into_iter(), Duration::ZERO);
        assert_eq!((recent.of(a), recent.of(b)), (100.0, 10.0));
        recent.note([(a, 1100)].into_iter(), WINDOW);
        assert!((recent.of(a) - 100.0 / std::f64::consts::E).abs() < 1e-9);
        assert_eq!(recent.of(b), 0.0, "forgotten");
    }
}
