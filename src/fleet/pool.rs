//! A pool: who is in it, and who of them may be picked.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{
    ActiveStrategy, AdminState, AgentWeight, Backend, BackendStatus, Caching, Cors, ErrorPages, Excluded,
    HashKey, HealthState, PinPolicy, Role, Roles, SlowStart, rate_limit::RateLimiter,
};
use crate::estimate::{Load, LocalTrafficRatio};
use crate::strategy::{
    Explanation, PickContext, RateMeters, Strategy, StrategyConfig, StrategyKind, StrategyState,
    WeightedBackend, Weights,
};
use crate::util::clock::Moment;
use crate::util::enum_all;
use crate::util::gcra::RateLimit;

/// A pool as a request sees it: a roster, which changes with the settings, and who may be picked, which changes
/// with where each backend stands.
#[derive(Debug)]
pub struct Pool {
    /// All backends and what answers are made of.
    pub config: Arc<PoolConfig>,
    /// Where each backend of the roster stands.
    pub statuses: Box<[BackendStatus]>,
    /// What becomes of a pin to each backend of the roster.
    pub keeps: Box<[PinAction]>,
    /// Who of its backends new visitors are sent to.
    pub priority: Priority,
    /// What its strategies do.
    pub roles: Roles,
    /// Its strategies at work, in the order of the roster's.
    pub slots: Box<[ActiveStrategy]>,
    /// Whether some of them only run beside, or something goes by where visitors were sent: limits, loads, bounds.
    pub is_watched: bool,
    /// The share of its visitors that this process sends, where backends report what shows that.
    pub local_traffic_ratio: Arc<LocalTrafficRatio>,
    /// Whether the roster has limits: here, so that a pick without need not look there.
    is_limited: bool,
    /// Who has room for one more.
    room: RateLimiter,
}

/// Everything about a pool that does not depend on who may be picked.
#[derive(Debug)]
pub struct PoolConfig {
    /// The pool's name.
    pub name: Box<str>,
    /// Its strategies; the first is the one that sends visitors unless they take turns.
    pub strategies: Box<[StrategyKind]>,
    /// How long a turn is where the first and the shadows take turns at sending visitors.
    pub rotation_interval: Option<Duration>,
    /// What the settings say of them beyond which they are.
    pub rules: StrategyConfig,
    /// What they know a visitor by, where one of them asks.
    pub key: Option<HashKey>,
    /// Whether one of them depends on the time, or a limit does.
    pub reads_clock: bool,
    /// How many visitors a second each backend may be sent, by its place; empty where all may be sent any number.
    pub limits: Box<[Option<RateLimit>]>,
    /// How long an answer may be kept, and by whom; none: it may not.
    pub caching: Option<Caching>,
    /// All backends, eligible or not.
    pub backends: Box<[Backend]>,
    /// The share of active backends that must be down for it to fail open, 0 to 1; 0: it never does.
    pub panic_threshold: f64,
    /// The status of a redirected GET or HEAD.
    pub status: StatusCode,
    /// The status for every other method.
    pub status_non_get: StatusCode,
    /// The pin policy, where visitors are pinned.
    pub pins: Option<PinPolicy>,
    /// The answer to other origins, where there is one.
    pub cors: Option<Cors>,
    /// The pages of its errors.
    pub error_pages: ErrorPages,
    /// Whether some base URL has a path, so that dot segments could leave it.
    pub has_base_path: bool,
    /// Whether its backends are probed.
    pub is_probed: bool,
    /// How long load reports of its backends hold; `None` where it takes none.
    pub reports_expire: Option<Duration>,
}

enum_all! {
    /// Who of a pool's backends new visitors are sent to.
    pub enum Priority {
        /// Primaries that are up.
        Primaries = "primaries",
        /// Backups that are up, for no primary is.
        Backups = "backups",
        /// Active backends whether they are up or down, because all are down, or as large a share of them as
        /// `panic_threshold`: the health checks may be what is wrong.
        FailOpen = "fail_open",
        /// Nobody.
        None = "none",
    }
}

/// What becomes of a pin to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinAction {
    /// The visitor is sent there, and its pin is renewed in time.
    AndRenews,
    /// The visitor is sent there until its pin runs out.
    UntilItEnds,
    /// The visitor is picked another backend.
    No,
}

impl PoolConfig {
    /// Whether a backend may be full: by its rate limit, by `hash.balance_factor`, or for `first` by its load reports.
    pub fn may_overflow(&self) -> bool {
        let reports_load = self.reports_expire.is_some();
        let may_be_full = |kind: StrategyKind| {
            kind.is_metered(&self.rules) || (kind == StrategyKind::First && reports_load)
        };
        !self.limits.is_empty() || self.strategies.iter().any(|&kind| may_be_full(kind))
    }
}

impl Pool {
    /// Works out who may be picked and builds the strategies' tables. `statuses` has one for each of the roster's
    /// backends, `memories` one for each of its strategies; `meters` go with its limits, `local_traffic_ratio` with its loads.
    /// `is_first_round`: nothing was known of any backend, and some still wait for their first check.
    pub fn new(
        config: Arc<PoolConfig>,
        statuses: Box<[BackendStatus]>,
        roles: Roles,
        is_first_round: bool,
        memories: &[StrategyState],
        meters: RateMeters,
        local_traffic_ratio: Arc<LocalTrafficRatio>,
    ) -> Self {
        let (priority, eligible) = eligible(&statuses, config.panic_threshold, is_first_round);
        let mut keeps: Box<[PinAction]> = statuses.iter().map(keeps_out_of_tier).collect();
        for &index in &eligible {
            keeps[index as usize] = PinAction::AndRenews;
        }
        let shares = shares(&statuses, &eligible, priority);
        let weights = Weights::new(&shares);
        let active = |(index, (&kind, memory)): (usize, (&StrategyKind, &StrategyState))| ActiveStrategy {
            role: roles.of(index),
            loads: memory.loads().clone(),
            strategy: weights.map(|weights| Strategy::build(kind, &config.rules, weights, memory)),
        };
        let slots: Box<[ActiveStrategy]> =
            config.strategies.iter().zip(memories).enumerate().map(active).collect();
        let is_watched = slots.iter().any(|active| active.role == Role::Shadow || !active.loads.is_empty())
            || config.may_overflow();
        let room = RateLimiter::new(meters, &shares);
        let is_limited = !config.limits.is_empty();
        Self {
            config,
            statuses,
            keeps,
            priority,
            roles,
            slots,
            is_watched,
            local_traffic_ratio,
            is_limited,
            room,
        }
    }

    /// Why a backend of the roster may not be picked; `None` where it may.
    pub fn excluded(&self, index: usize) -> Option<Excluded> {
        (self.keeps[index] != PinAction::AndRenews).then(|| self.statuses[index].excluded())
    }

    /// Returns what is estimated of a backend's load; for a strategy that is a shadow, of the load it would have. `None` before
    /// its first report and once its last one has expired.
    pub fn load(&self, slot: usize, backend: usize, now: Moment) -> Option<Load> {
        self.slots[slot].loads.get(backend)?.load(now)
    }

    /// What the strategies are told of those who may be picked. O(number of backends).
    pub fn shares(&self) -> Vec<WeightedBackend> {
        let places = 0..self.statuses.len() as u32;
        let eligible: Vec<u32> = places.filter(|&place| self.excluded(place as usize).is_none()).collect();
        shares(&self.statuses, &eligible, self.priority)
    }

    /// The strategy that sends visitors, those of a split aside.
    pub fn live(&self) -> StrategyKind {
        self.config.strategies[self.roles.live]
    }

    /// Has one of its strategies pick a backend: an index into the roster, or `None` where nobody is eligible. Who is
    /// over its limit is passed over, but by a shadow, which sends it nobody. [`Self::sent`] is to follow where the pool [is
    /// watched](Self::is_watched).
    #[inline]
    pub fn pick(&self, slot: usize, turn: &mut PickContext<'_>) -> Option<usize> {
        let ActiveStrategy { role, strategy, .. } = &self.slots[slot];
        let strategy = strategy.as_ref()?;
        if !self.is_limited || *role == Role::Shadow {
            return Some(strategy.pick(turn));
        }
        Some(self.room.pick(strategy, &self.config.limits, turn))
    }

    /// What one of its strategies would do with a visitor of this key who came now, and why; `None` where nobody is
    /// eligible. Changes nothing. O(number of backends), for the operator.
    pub fn explain(&self, slot: usize, key: u64, now: Moment) -> Option<Explanation> {
        let ActiveStrategy { role, strategy, .. } = &self.slots[slot];
        let shares = self.shares();
        // As in a pick, limits are nothing to a shadow.
        let has_room =
            |backend| *role == Role::Shadow || self.room.has_room(&self.config.limits, backend, now);
        Some(strategy.as_ref()?.explain(Weights::new(&shares)?, key, now, &has_room))
    }

    /// Notes whom a strategy sent a visitor to, or would have. `was_picked`: by [`Self::pick`] and not by a pin.
    pub fn sent(&self, slot: usize, backend: usize, was_picked: bool, now: Moment) {
        let ActiveStrategy { strategy, loads, .. } = &self.slots[slot];
        if let Some(strategy) = strategy {
            strategy.sent(backend, now);
        }
        if let Some(estimate) = loads.get(backend) {
            estimate.dispatched(now);
        }
        if !was_picked && self.is_limited {
            self.room.acquire_forced(&self.config.limits, backend, now);
        }
    }
}

/// Who may be picked, and as what. `threshold` is about the share of all active backends that is down, backups too.
fn eligible(statuses: &[BackendStatus], threshold: f64, is_first_round: bool) -> (Priority, Vec<u32>) {
    let those = |wanted: &dyn Fn(&BackendStatus) -> bool| -> Vec<u32> {
        let active = statuses.iter().enumerate().filter(|(_, status)| status.is_active());
        active.filter(|(_, status)| wanted(status)).map(|(index, _)| index as u32).collect()
    };
    let up = those(&|status| !status.backup && status.is_up());
    let up_backups = those(&|status| status.backup && status.is_up());
    let primaries = those(&|status| !status.backup);
    let is_up = !up.is_empty() || !up_backups.is_empty();
    let (down, all) = (those(&|status| status.health == HealthState::Down).len(), those(&|_| true).len());
    // Backends that wait for their first probe are no reason to give up on those that clients were sent to until now, nor
    // do they get all clients of those. In a pool's first round there are no such backends.
    let none_is_left = !is_up && !is_first_round;
    let panics = down > 0 && threshold > 0.0 && (none_is_left || down as f64 / all as f64 >= threshold);
    if up.is_empty() && !up_backups.is_empty() {
        return (Priority::Backups, up_backups);
    }
    if panics {
        // Backups stand in for primaries; where nobody can be believed to be up, they are no better.
        let all = if primaries.is_empty() { those(&|_| true) } else { primaries };
        return (Priority::FailOpen, all);
    }
    if !up.is_empty() {
        return (Priority::Primaries, up);
    }
    // Nobody is known to be up. Who has not been probed yet is a better guess than who is down.
    let waiting = those(&|status| !status.backup && status.waits);
    let waiting_backups = those(&|status| status.backup && status.waits);
    match (waiting.is_empty(), waiting_backups.is_empty()) {
        (false, _) => (Priority::Primaries, waiting),
        (true, false) => (Priority::Backups, waiting_backups),
        (true, true) => (Priority::None, waiting),
    }
}

/// Returns the weights of the eligible backends: in tenths while one of them is in slow start, and in hundredths while an
/// agent asks for another weight than its backend has.
fn shares(statuses: &[BackendStatus], eligible: &[u32], priority: Priority) -> Vec<WeightedBackend> {
    let of = |&index: &u32| &statuses[index as usize];
    let some = |is: fn(&BackendStatus) -> bool| {
        priority != Priority::FailOpen && eligible.iter().any(|index| is(of(index)))
    };
    let (ramping, asked) = (
        some(|status| status.ramp < SlowStart::FULL),
        some(|status| status.agent_weight != AgentWeight::ALL),
    );
    let share = |index: &u32| {
        let BackendStatus { weight, ramp, agent_weight, .. } = of(index);
        let (whole, tenths) = (u32::from(weight.get()), u32::from(ramp.tenths()));
        let weight = match (ramping, asked) {
            (false, false) => whole,
            (true, false) => whole * tenths,
            (_, true) => (agent_weight.hundredths_of(*weight) * tenths).div_ceil(SlowStart::STEPS.into()),
        };
        let weight = NonZeroU16::new(u16::try_from(weight).ok()?)?;
        // The settings take no more backends than have a place.
        Some(WeightedBackend { backend: u16::try_from(*index).ok()?, weight })
    };
    eligible.iter().filter_map(share).collect()
}

/// What becomes of pins to a backend that new visitors are not sent to.
fn keeps_out_of_tier(status: &BackendStatus) -> PinAction {
    match (status.admin, status.health) {
        (AdminState::Maintenance, _) => PinAction::No,
        (_, HealthState::Down) if !status.in_grace_period => PinAction::No,
        _ => PinAction::UntilItEnds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Weight;

    fn status(text: &str) -> BackendStatus {
        let mut status = BackendStatus::of_settings(Weight::ONE);
        for word in text.split(' ') {
            match word {
                "up" => status.health = HealthState::Up,
                "down" => status.health = HealthState::Down,
                "unknown" => {}
                "waits" => status.waits = true,
                "held" => status.in_grace_period = true,
                "backup" => status.backup = true,
                "draining" => status.admin = AdminState::Draining,
                "maintenance" => status.admin = AdminState::Maintenance,
                "weightless" => status.weight = Weight::new(0).unwrap(),
                "unasked" => status.agent_weight = AgentWeight::percent(0),
                other => panic!("{other}"),
            }
        }
        status
    }

    fn priority(threshold: f64, statuses: &[&str]) -> (Priority, Vec<u32>) {
        let statuses: Vec<_> = statuses.iter().map(|text| status(text)).collect();
        eligible(&statuses, threshold, false)
    }

    #[test]
    fn primaries_come_before_backups_before_fail_open() {
        assert_eq!(priority(1.0, &["up", "down", "up backup"]), (Priority::Primaries, vec![0]));
        assert_eq!(priority(1.0, &["down", "down", "up backup"]), (Priority::Backups, vec![2]));
        assert_eq!(priority(1.0, &["down", "down", "down backup"]), (Priority::FailOpen, vec![0, 1]));
        assert_eq!(priority(0.0, &["down", "down", "down backup"]), (Priority::None, vec![]));
        assert_eq!(priority(1.0, &["draining", "maintenance", "down backup"]), (Priority::FailOpen, vec![2]));
        assert_eq!(
            priority(1.0, &["draining", "weightless", "unknown backup"]),
            (Priority::Backups, vec![2])
        );
        assert_eq!(priority(1.0, &["draining", "maintenance", "weightless"]), (Priority::None, vec![]));
    }

    #[test]
    fn a_share_of_the_active_that_is_down_opens_too() {
        assert_eq!(priority(0.5, &["down", "up", "up"]), (Priority::Primaries, vec![1, 2]));
        assert_eq!(priority(0.5, &["down", "down", "up", "up"]), (Priority::FailOpen, vec![0, 1, 2, 3]));
        assert_eq!(
            priority(0.5, &["down", "up", "up backup"]),
            (Priority::Primaries, vec![1]),
            "one of three"
        );
        assert_eq!(priority(0.5, &["down", "down", "up backup"]), (Priority::Backups, vec![2]));
        // Who is not active is not counted.
        assert_eq!(
            priority(0.5, &["down", "down maintenance", "up", "up"]),
            (Priority::Primaries, vec![2, 3])
        );
        assert_eq!(priority(0.5, &["down", "up draining", "up"]), (Priority::FailOpen, vec![0, 2]));
        let mut eleven_of_twenty = ["down"; 20];
        eleven_of_twenty[11..].fill("up");
        assert_eq!(priority(0.55, &eleven_of_twenty).0, Priority::FailOpen);
        assert_eq!(priority(0.01, &["up", "up"]), (Priority::Primaries, vec![0, 1]), "nobody is down");
    }

    #[test]
    fn who_waits_for_its_first_probe_comes_after_all_that_are_up() {
        assert_eq!(priority(1.0, &["up", "waits"]), (Priority::Primaries, vec![0]));
        assert_eq!(priority(1.0, &["down", "waits"]), (Priority::FailOpen, vec![0, 1]));
        assert_eq!(priority(0.0, &["down", "waits"]), (Priority::Primaries, vec![1]));
        assert_eq!(priority(0.0, &["down", "waits backup"]), (Priority::Backups, vec![1]));
        assert_eq!(priority(1.0, &["waits", "waits"]), (Priority::Primaries, vec![0, 1]));
        assert_eq!(priority(1.0, &["waits", "waits backup"]), (Priority::Primaries, vec![0]));
    }

    #[test]
    fn one_that_is_down_does_not_speak_for_the_others_in_the_first_round() {
        let priority = |threshold: f64, statuses: &[&str]| {
            let statuses: Vec<_> = statuses.iter().map(|text| status(text)).collect();
            eligible(&statuses, threshold, true)
        };
        assert_eq!(priority(1.0, &["down", "waits"]), (Priority::Primaries, vec![1]));
        assert_eq!(priority(1.0, &["down", "waits backup"]), (Priority::Backups, vec![1]));
        assert_eq!(priority(1.0, &["down", "waits draining"]), (Priority::FailOpen, vec![0]));
        assert_eq!(
            priority(0.5, &["down", "waits"]),
            (Priority::FailOpen, vec![0, 1]),
            "as many as that are down"
        );
    }

    #[test]
    fn who_is_left_out_is_told_why() {
        let excluded = |statuses: &[&str]| -> Vec<Option<Excluded>> {
            let statuses: Vec<_> = statuses.iter().map(|text| status(text)).collect();
            let (_, eligible) = eligible(&statuses, 1.0, false);
            let of = |(index, status): (usize, &BackendStatus)| {
                (!eligible.contains(&(index as u32))).then(|| status.excluded())
            };
            statuses.iter().enumerate().map(of).collect()
        };
        let all =
            ["up", "maintenance", "down draining", "weightless", "unasked", "down", "waits", "up backup"];
        let why = [
            None,
            Some(Excluded::Maintenance),
            Some(Excluded::Draining),
            Some(Excluded::ZeroWeight),
            Some(Excluded::Agent),
            Some(Excluded::Down),
            Some(Excluded::PendingFirstCheck),
            Some(Excluded::Backup),
        ];
        assert_eq!(excluded(&all), why);
        assert_eq!(excluded(&["down", "up backup"]), [Some(Excluded::Down), None]);
        assert_eq!(excluded(&["down", "down backup"]), [None, Some(Excluded::Down)]);
    }

    #[test]
    fn pins_outlive_eligibility_but_not_the_backend() {
        for (text, keeps) in [
            ("up draining", PinAction::UntilItEnds),
            ("up weightless", PinAction::UntilItEnds),
            ("up backup", PinAction::UntilItEnds),
            ("down", PinAction::No),
            ("down held", PinAction::UntilItEnds),
            ("down draining", PinAction::No),
            ("up maintenance", PinAction::No),
        ] {
            assert_eq!(keeps_out_of_tier(&status(text)), keeps, "{text}");
        }
    }

    #[test]
    fn a_ramp_counts_in_tenths_of_each_weight() {
        let mut statuses = [status("up"), status("up")];
        statuses[0].weight = Weight::new(3).unwrap();
        let of = |statuses: &[BackendStatus], priority| {
            shares(statuses, &[0, 1], priority).iter().map(|share| share.weight.get()).collect::<Vec<_>>()
        };
        assert_eq!(of(&statuses, Priority::Primaries), [3, 1]);
        statuses[1].ramp = SlowStart::after(1);
        assert_eq!(of(&statuses, Priority::Primaries), [30, 2]);
        assert_eq!(of(&statuses, Priority::FailOpen), [3, 1]);
        statuses[0].agent_weight = AgentWeight::percent(50);
        assert_eq!(of(&statuses, Priority::Primaries), [150, 20], "hundredths where an agent asks");
        statuses[1].ramp = SlowStart::FULL;
        assert_eq!(of(&statuses, Priority::Primaries), [150, 100]);
        statuses[0].agent_weight = AgentWeight::percent(25_600);
        assert_eq!(of(&statuses, Priority::Primaries), [25_600, 100], "no more than the largest weight");
        statuses[0].agent_weight = AgentWeight::Absolute(Weight::new(7).unwrap());
        statuses[1].weight = Weight::new(0).unwrap();
        statuses[1].agent_weight = AgentWeight::Absolute(Weight::new(7).unwrap());
        assert_eq!(of(&statuses, Priority::Primaries), [700], "an operator's 0 stays 0");
        statuses[0].agent_weight = AgentWeight::percent(0);
        assert!(!statuses[0].is_active());
        assert_eq!(
            [SlowStart::after(0).tenths(), SlowStart::after(9).tenths(), SlowStart::after(200).tenths()],
            [1, 10, 10]
        );
    }
}
