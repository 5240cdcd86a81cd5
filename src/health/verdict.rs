//! What a row of probe results says of a backend. Pure: it is given results and the time.

use std::time::{Duration, Instant};

use crate::fleet::{self, HealthState};
use crate::settings;

/// Counts results in a row. The first one decides; then it takes `rise` successes or `fall` failures.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    health: HealthState,
    /// Results in a row that say otherwise than `health`.
    streak: u16,
    flaps: Flaps,
}

/// [`crate::fleet::CheckProgress`] by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerdictProgress {
    Settled,
    Falling { failures: u16, fall: u16 },
    Rising { successes: u16, rise: u16 },
    Backoff { falls: u32, until: Instant },
}

impl VerdictProgress {
    /// The same by the wall clock, given the present time on both.
    pub(super) fn dated(self, now: Instant, unix_now: Duration) -> fleet::CheckProgress {
        match self {
            Self::Settled => fleet::CheckProgress::Settled,
            Self::Falling { failures, fall } => fleet::CheckProgress::Falling { failures, fall },
            Self::Rising { successes, rise } => fleet::CheckProgress::Rising { successes, rise },
            Self::Backoff { falls, until } => {
                let until = unix_now + until.saturating_duration_since(now);
                // Rounded up, so that it is over by then.
                fleet::CheckProgress::Backoff {
                    falls,
                    until: until.as_secs() + u64::from(until.subsec_nanos() > 0),
                }
            }
        }
    }
}

/// How often a backend fell lately.
///
/// Who falls a third time is not let in after `rise` successes alone: it must go on succeeding for a while that
/// doubles with each further fall. Each [`CALM`] that it is up takes one fall off.
#[derive(Debug, Default)]
struct Flaps {
    falls: u32,
    /// When it last came up.
    up_since: Option<Instant>,
    /// When the successes began that may let it in.
    well_since: Option<Instant>,
}

/// How long a backend is up until one fall is forgotten.
const CALM: Duration = Duration::from_secs(60);
/// How many falls cost nothing: a restart, and another one.
const FREE: u32 = 2;

impl Verdict {
    #[cfg(test)]
    fn new(health: HealthState) -> Self {
        Self { health, ..Self::default() }
    }

    /// The state that follows from the results so far.
    pub(super) fn health(&self) -> HealthState {
        self.health
    }

    /// Whether results lately say otherwise than the state: then the next probe comes sooner.
    pub(super) fn is_changing(&self) -> bool {
        self.streak > 0
    }

    /// How far the results so far have come in changing the state.
    pub(super) fn progress(&self, rules: &settings::HealthSettings) -> VerdictProgress {
        let penalty = self.flaps.penalty(rules);
        match (self.streak, self.health, self.flaps.well_since) {
            (0, ..) | (_, HealthState::Unknown, _) => VerdictProgress::Settled,
            (failures, HealthState::Up, _) => VerdictProgress::Falling { failures, fall: rules.fall.0 },
            (_, HealthState::Down, Some(since)) if !penalty.is_zero() => {
                VerdictProgress::Backoff { falls: self.flaps.falls, until: since + penalty }
            }
            (successes, HealthState::Down, _) => VerdictProgress::Rising { successes, rise: rules.rise.0 },
        }
    }

    /// Takes one result, and returns the new state where it changes.
    pub(super) fn note(
        &mut self,
        ok: bool,
        now: Instant,
        rules: &settings::HealthSettings,
    ) -> Option<HealthState> {
        let says = if ok { HealthState::Up } else { HealthState::Down };
        if says == self.health {
            self.streak = 0;
            self.flaps.well_since = None;
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        let enough = match (self.health, ok) {
            (HealthState::Unknown, _) => true,
            (_, true) => {
                let well_since = *self.flaps.well_since.get_or_insert(now);
                self.streak >= rules.rise.0
                    && now.saturating_duration_since(well_since) >= self.flaps.penalty(rules)
            }
            (_, false) => self.streak >= rules.fall.0,
        };
        if !enough {
            return None;
        }
        match says {
            HealthState::Down if self.health == HealthState::Up => self.flaps.fell(now),
            HealthState::Up => self.flaps.up_since = Some(now),
            _ => {}
        }
        self.flaps.well_since = None;
        self.streak = 0;
        self.health = says;
        Some(says)
    }
}

impl Flaps {
    fn fell(&mut self, now: Instant) {
        let up_for = self.up_since.map_or(CALM, |since| now.saturating_duration_since(since));
        let forgotten = u32::try_from(up_for.as_secs() / CALM.as_secs()).unwrap_or(u32::MAX);
        self.falls = self.falls.saturating_sub(forgotten).saturating_add(1);
    }

    /// How long it must have succeeded before it is let in.
    fn penalty(&self, rules: &settings::HealthSettings) -> Duration {
        match self.falls.saturating_sub(FREE) {
            0 => Duration::ZERO,
            over => {
                let rise = rules.interval.0 * u32::from(rules.rise.0);
                let doubled = rise.checked_mul(1u32.checked_shl(over.min(31)).unwrap_or(u32::MAX));
                doubled.unwrap_or(Duration::MAX).min(rules.flap_backoff.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{CheckCount, HumanDuration};

    fn rules() -> settings::HealthSettings {
        settings::HealthSettings {
            rise: CheckCount(2),
            fall: CheckCount(3),
            ..settings::HealthSettings::default()
        }
    }

    #[test]
    fn the_first_result_decides() {
        let now = Instant::now();
        assert_eq!(Verdict::new(HealthState::Unknown).note(true, now, &rules()), Some(HealthState::Up));
        assert_eq!(Verdict::new(HealthState::Unknown).note(false, now, &rules()), Some(HealthState::Down));
    }

    #[test]
    fn then_it_takes_a_row() {
        let now = Instant::now();
        let mut verdict = Verdict::new(HealthState::Up);
        //            1      2      up     1      2      3 → down  1     2 → up
        let results = [false, false, true, false, false, false, true, true];
        let told: Vec<_> = results.iter().map(|&ok| verdict.note(ok, now, &rules())).collect();
        let mut expected = vec![None; 5];
        expected.extend([Some(HealthState::Down), None, Some(HealthState::Up)]);
        assert_eq!(told, expected);
        assert!(!verdict.is_changing());
        verdict.note(false, now, &rules());
        assert!(verdict.is_changing());
    }

    /// Falls and succeeds every `interval` until it is let in; how long that took.
    fn fall_and_recover(
        verdict: &mut Verdict,
        now: &mut Instant,
        rules: &settings::HealthSettings,
    ) -> Duration {
        while verdict.health() != HealthState::Down {
            *now += rules.interval.0;
            verdict.note(false, *now, rules);
        }
        let began = *now;
        while verdict.health() != HealthState::Up {
            *now += rules.interval.0;
            verdict.note(true, *now, rules);
        }
        *now - began
    }

    #[test]
    fn who_flaps_is_let_in_later_and_later() {
        let rules = settings::HealthSettings { flap_backoff: HumanDuration::seconds(60), ..rules() };
        let mut verdict = Verdict::new(HealthState::Up);
        let mut now = Instant::now();
        let took: Vec<_> =
            (0..7).map(|_| fall_and_recover(&mut verdict, &mut now, &rules).as_secs()).collect();
        // Two successes at an interval of 2 s, then doubled, and never over a minute (and the probe that sees it).
        assert_eq!(took, [4, 4, 10, 18, 34, 62, 62]);
        // Three minutes of calm, and three falls are forgotten.
        now += Duration::from_secs(181);
        assert_eq!(fall_and_recover(&mut verdict, &mut now, &rules).as_secs(), 34);
        // A calm of an hour, and all is.
        now += Duration::from_secs(3600);
        assert_eq!(fall_and_recover(&mut verdict, &mut now, &rules).as_secs(), 4);
    }

    #[test]
    fn a_failure_starts_the_wait_anew() {
        let rules = rules();
        let mut verdict = Verdict::new(HealthState::Up);
        let mut now = Instant::now();
        for _ in 0..3 {
            fall_and_recover(&mut verdict, &mut now, &rules);
        }
        while verdict.health() != HealthState::Down {
            verdict.note(false, now, &rules);
        }
        for ok in [true, true, true, false] {
            now += rules.interval.0;
            assert_eq!(verdict.note(ok, now, &rules), None);
        }
        let began = now;
        while verdict.health() != HealthState::Up {
            now += rules.interval.0;
            verdict.note(true, now, &rules);
        }
        assert!(now - began >= Duration::from_secs(16), "{:?}", now - began);
    }
}
