//! What is known of a backend while the process runs, and outlives fleets.

use std::time::{Duration, Instant};

use super::agent_state::AgentState;
use crate::fleet::{EffectiveState, HealthState, SlowStart};

/// What probes and its agent have told of a backend so far. Every method is given the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendState {
    probed: HealthState,
    asked: AgentState,
    /// When [`Self::health`] last changed.
    health_since: Instant,
    /// The state as it was last published, and since when, in seconds since 1970.
    published: Option<(EffectiveState, u64)>,
    /// When its slow start began, while it is in one.
    ramps_since: Option<Instant>,
    /// Until when its first probe is waited for.
    waits_until: Option<Instant>,
}

impl BackendState {
    /// A backend that nothing is known of; its first probe is waited for until then, where it has one.
    pub(super) fn new(now: Instant, waits_until: Option<Instant>) -> Self {
        Self {
            probed: HealthState::Unknown,
            asked: AgentState::default(),
            health_since: now,
            published: None,
            ramps_since: None,
            waits_until,
        }
    }

    /// Down where probes or its agent say so.
    pub(super) fn health(&self) -> HealthState {
        if self.asked.is_down() { HealthState::Down } else { self.probed }
    }

    /// What probes alone say.
    pub(super) fn probed(&self) -> HealthState {
        self.probed
    }

    /// What its agent asks for.
    pub(super) fn asked(&self) -> &AgentState {
        &self.asked
    }

    /// Notes what probes say from now on. `others_up` is whether visitors have somewhere else to go: only then
    /// does a backend that was down begin slowly.
    pub(super) fn note(&mut self, probed: HealthState, now: Instant, others_up: bool) {
        let before = self.health();
        self.waits_until = None;
        self.probed = probed;
        self.changed(before, now, others_up);
    }

    /// Notes what its agent asks for from now on; the rest is as in [`Self::note`].
    pub(super) fn ask(&mut self, asked: AgentState, now: Instant, others_up: bool) {
        let before = self.health();
        self.asked = asked;
        self.changed(before, now, others_up);
    }

    fn changed(&mut self, before: HealthState, now: Instant, others_up: bool) {
        if self.health() != before {
            self.ramps_since = (before == HealthState::Down && others_up).then_some(now);
            self.health_since = now;
        }
    }

    /// Records the state that is about to be published, and returns since when the backend is in it, in seconds since
    /// 1970. `unix_now` is in seconds too.
    pub(super) fn publish(&mut self, state: EffectiveState, unix_now: u64) -> u64 {
        if self.published.is_none_or(|(before, _)| before != state) {
            self.published = Some((state, unix_now));
        }
        self.published.map_or(unix_now, |(_, since)| since)
    }

    /// When its slow start is over, if it is in one.
    pub(super) fn ramp_ends(&self, now: Instant, slow_start: Duration) -> Option<Instant> {
        let ends = self.ramps_since? + slow_start;
        (self.ramp(now, slow_start) < SlowStart::FULL).then_some(ends)
    }

    /// How far its slow start has come.
    pub(super) fn ramp(&self, now: Instant, slow_start: Duration) -> SlowStart {
        let step = slow_start / u32::from(SlowStart::STEPS);
        match self.ramps_since {
            Some(since) if !step.is_zero() => {
                let passed = now.saturating_duration_since(since).as_nanos() / step.as_nanos();
                SlowStart::after(u8::try_from(passed).unwrap_or(SlowStart::STEPS))
            }
            _ => SlowStart::FULL,
        }
    }

    /// Whether its first probe is waited for.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.waits_until.is_some_and(|until| now < until)
    }

    /// Whether it is down, but for less than `grace_period`.
    pub(super) fn in_grace_period(&self, now: Instant, grace_period: Duration) -> bool {
        self.health() == HealthState::Down && now < self.health_since + grace_period
    }

    /// When something of this is next different by the passing of time alone.
    pub(super) fn next_change(
        &self,
        now: Instant,
        slow_start: Duration,
        grace_period: Duration,
    ) -> Option<Instant> {
        let ramp = self.ramps_since.and_then(|since| {
            let step = slow_start / u32::from(SlowStart::STEPS);
            let passed = u32::from(self.ramp(now, slow_start).tenths());
            (passed < u32::from(SlowStart::STEPS)).then(|| since + step * passed)
        });
        let held = self.in_grace_period(now, grace_period).then(|| self.health_since + grace_period);
        let waits = self.waits_until.filter(|until| now < *until);
        [ramp, held, waits, self.asked.expires(now)].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_recovered_backend_takes_ten_steps() {
        let start = Instant::now();
        let mut state = BackendState::new(start, None);
        state.note(HealthState::Down, start, true);
        state.note(HealthState::Up, start, true);
        let slow = 10 * SECOND;
        let mut now = start;
        for step in 1..=9 {
            assert_eq!(state.ramp(now, slow).tenths(), step);
            let next = state.next_change(now, slow, SECOND).unwrap();
            assert_eq!(next, now + SECOND);
            now = next;
        }
        assert_eq!(state.ramp(now, slow), SlowStart::FULL);
        assert_eq!(state.next_change(now, slow, SECOND), None);
    }

    #[test]
    fn nobody_ramps_at_the_start_or_alone() {
        let start = Instant::now();
        let mut state = BackendState::new(start, Some(start + SECOND));
        assert!(state.waits(start) && !state.waits(start + SECOND));
        state.note(HealthState::Up, start, true);
        assert!(!state.waits(start));
        assert_eq!(state.ramp(start, SECOND), SlowStart::FULL);
        state.note(HealthState::Down, start, true);
        state.note(HealthState::Up, start, false);
        assert_eq!(state.ramp(start, SECOND), SlowStart::FULL);
        state.note(HealthState::Down, start, true);
        state.note(HealthState::Up, start, true);
        assert_eq!(state.ramp(start, Duration::ZERO), SlowStart::FULL, "no slow start");
    }

    #[test]
    fn a_pin_is_held_for_a_while() {
        let start = Instant::now();
        let mut state = BackendState::new(start, None);
        assert!(!state.in_grace_period(start, SECOND));
        state.note(HealthState::Down, start, true);
        assert!(state.in_grace_period(start, SECOND) && !state.in_grace_period(start + SECOND, SECOND));
        assert_eq!(state.next_change(start, SECOND, SECOND), Some(start + SECOND));
    }
}
