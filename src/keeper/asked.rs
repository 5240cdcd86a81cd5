//! What a backend's own agent asks for, by the words it said last.

use std::time::{Duration, Instant};

use crate::fleet::{Admin, Percent};
use crate::load::agent::Line;

/// All that an agent has said so far. What it never spoke of is as if there were no agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    admin: Admin,
    /// Since when, in seconds since 1970.
    since: u64,
    is_down: bool,
    /// How much of its weight, and until when that holds.
    percent: Option<(Percent, Instant)>,
}

impl Asked {
    /// With one more line, that was said now; its percentage holds for as long as reports do.
    pub(super) fn after(self, line: Line, now: Instant, unix_now: u64, expires: Duration) -> Self {
        let admin = line.admin.unwrap_or(self.admin);
        Self {
            admin,
            since: if admin == self.admin { self.since } else { unix_now },
            is_down: line.is_down.unwrap_or(self.is_down),
            percent: line.percent.map(|percent| (percent, now + expires)).or(self.percent),
        }
    }

    /// Whether it wants visitors.
    pub(super) fn admin(&self) -> Admin {
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

    /// How much of its weight it wants.
    pub(super) fn percent(&self, now: Instant) -> Percent {
        self.percent.filter(|(_, until)| now < *until).map_or(Percent::ALL, |(percent, _)| percent)
    }

    /// When its percentage is over.
    pub(super) fn expires(&self, now: Instant) -> Option<Instant> {
        self.percent.map(|(_, until)| until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_until_others_are_said_and_a_percentage_until_it_expires() {
        let (now, expires) = (Instant::now(), Duration::from_secs(15));
        let line = |text: &str| Line::parse(text.as_bytes()).unwrap();
        let asked = Asked::default().after(line("75% drain down"), now, 1000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (Admin::Draining, 1000, true));
        assert_eq!(asked.percent(now).get(), 75);
        let later = now + expires;
        assert_eq!(asked.expires(now), Some(later));
        assert_eq!((asked.percent(later), asked.expires(later)), (Percent::ALL, None));
        let asked = asked.after(line("drain"), later, 2000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (Admin::Draining, 1000, true));
        let asked = asked.after(line("ready up"), later, 3000, expires);
        assert_eq!((asked.admin(), asked.since(), asked.is_down()), (Admin::Active, 3000, false));
    }
}
