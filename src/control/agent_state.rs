//! What a backend's own agent asks for, by the words it said last.

use std::time::{Duration, Instant};

use crate::fleet::{AdminState, AgentWeight};
use crate::load::agent::AgentReply;

/// All that an agent has said so far. What it never spoke of is as if there were no agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AgentState {
    admin: AdminState,
    /// Since when, in seconds since 1970.
    since: u64,
    is_down: bool,
    /// The weight, and until when that holds.
    weight: Option<(AgentWeight, Instant)>,
}

impl AgentState {
    /// Returns the state after one more line that was received now. Its weight holds for as long as reports do.
    pub(super) fn after(self, line: &AgentReply, now: Instant, unix_now: u64, expires: Duration) -> Self {
        let admin = line.admin.unwrap_or(self.admin);
        Self {
            admin,
            since: if admin == self.admin { self.since } else { unix_now },
            is_down: line.is_down.unwrap_or(self.is_down),
            weight: line.weight.map(|weight| (weight, now + expires)).or(self.weight),
        }
    }

    /// Whether it wants visitors.
    pub(super) fn admin(&self) -> AdminState {
        self.admin
    }

    /// Since when that is so, in seconds since 1970.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// Whether it calls its backend down.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Returns the weight that it asks for. An absolute one does not count if the operator has set the weight.
    pub(super) fn weight(&self, now: Instant, weight_is_set: bool) -> AgentWeight {
        match self.weight.filter(|(_, until)| now < *until) {
            Some((AgentWeight::Absolute(_), _)) if weight_is_set => AgentWeight::ALL,
            Some((weight, _)) => weight,
            None => AgentWeight::ALL,
        }
    }

    /// Returns when its weight expires.
    pub(super) fn expires(&self, now: Instant) -> Option<Instant> {
        self.weight.map(|(_, until)| until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Weight;

    #[test]
    fn words_hold_until_others_come_and_a_weight_until_it_expires() {
        let (now, expires) = (Instant::now(), Duration::from_secs(15));
        let line = |text: &str| AgentReply::parse(text.as_bytes()).unwrap();
        let asked = AgentState::default().after(&line("75% drain down"), now, 1000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (AdminState::Draining, 1000, true));
        assert_eq!(asked.weight(now, false), AgentWeight::percent(75));
        assert_eq!(
            asked.weight(now, true),
            AgentWeight::percent(75),
            "of the weight that the operator has set"
        );
        let later = now + expires;
        assert_eq!(asked.expires(now), Some(later));
        assert_eq!((asked.weight(later, false), asked.expires(later)), (AgentWeight::ALL, None));
        let asked = asked.after(&line("drain"), later, 2000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (AdminState::Draining, 1000, true));
        let asked = asked.after(&line("ready up weight:30"), later, 3000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (AdminState::Active, 3000, false));
        let thirty = AgentWeight::Absolute(Weight::new(30).unwrap());
        assert_eq!((asked.weight(later, false), asked.weight(later, true)), (thirty, AgentWeight::ALL));
    }
}
