//! Where a backend stands: what the operator says of it, what probes say, and its weight in effect.

use super::Weight;
use crate::util::enum_all;

enum_all! {
    /// What the operator says of a backend.
    #[derive(Default, serde::Deserialize)]
    pub enum AdminState {
        /// Visitors are sent there.
        #[default]
        Active = "active",
        /// Only those who are pinned to it, until their pins run out.
        Draining = "draining",
        /// Nobody.
        Maintenance = "maintenance",
    }
}

enum_all! {
    /// What probes say of a backend.
    #[derive(Default)]
    pub enum HealthState {
        /// Not probed, or not yet. Counts as up.
        #[default]
        Unknown = "unknown",
        /// Its probes succeed.
        Up = "up",
        /// They fail.
        Down = "down",
    }
}

/// How far a backend has come in its slow start: so many tenths of its weight, 1 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlowStart(u8);

impl SlowStart {
    /// How many steps there are.
    pub const STEPS: u8 = 10;
    /// All of its weight.
    pub const FULL: Self = Self(Self::STEPS);

    /// The step that holds after `passed` steps are over; none is above [`Self::FULL`].
    pub fn after(passed: u8) -> Self {
        Self(passed.saturating_add(1).min(Self::STEPS))
    }

    /// Tenths of the weight, 1 to 10.
    pub fn tenths(self) -> u16 {
        self.0.into()
    }
}

/// The weight that a backend's agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWeight {
    /// Hundredths of the weight that the backend has otherwise, at most `Self::MOST`.
    Percent(u16),
    /// This weight instead.
    Absolute(Weight),
}

impl AgentWeight {
    /// The weight as it is.
    pub const ALL: Self = Self::Percent(100);
    /// The most percent, and the most hundredths of a weight: of 1 as much as the largest weight.
    const MOST: u16 = Weight::MAX * 100;

    /// So many percent of the weight; HAProxy, too, lowers more to the largest weight.
    pub fn percent(percent: u32) -> Self {
        Self::Percent(u16::try_from(percent).map_or(Self::MOST, |percent| percent.min(Self::MOST)))
    }

    /// Returns the weight in effect in hundredths. A weight of 0 stays 0: an operator has set it.
    pub fn hundredths_of(self, weight: Weight) -> u32 {
        let hundredths = match self {
            _ if weight.is_zero() => 0,
            Self::Percent(percent) => u32::from(weight.get()) * u32::from(percent),
            Self::Absolute(weight) => u32::from(weight.get()) * 100,
        };
        hundredths.min(Self::MOST.into())
    }

    fn is_zero(self) -> bool {
        match self {
            Self::Percent(percent) => percent == 0,
            Self::Absolute(weight) => weight.is_zero(),
        }
    }
}

/// Where one backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendStatus {
    /// What the operator says.
    pub admin: AdminState,
    /// Its share of new visitors.
    pub weight: Weight,
    /// What probes say.
    pub health: HealthState,
    /// Used only while no primary is eligible.
    pub backup: bool,
    /// How far its slow start has come.
    pub ramp: SlowStart,
    /// The weight that its agent asks for.
    pub agent_weight: AgentWeight,
    /// Added at run time and waiting for its first probe: picked only where nobody else is up.
    pub waits: bool,
    /// Down, but not for so long that those who are pinned to it are sent elsewhere.
    pub in_grace_period: bool,
    /// While in slow start: when it has its full weight, in seconds since 1970.
    pub full_weight_at: Option<u64>,
    /// Whether its agent reports it as down.
    pub agent_is_down: bool,
    /// Since when it is in its [state](Self::state), in seconds since 1970.
    pub since: u64,
    /// Whether `admin` was set at run time.
    pub admin_is_set: bool,
    /// Whether `weight` was set at run time, and so is not the settings'.
    pub weight_is_set: bool,
    /// While draining: the second since 1970 from which on no pin to it can be valid any more.
    pub drained_at: Option<u64>,
}

impl BackendStatus {
    /// Active, not probed, with all of its weight.
    pub fn of_settings(weight: Weight) -> Self {
        Self {
            admin: AdminState::Active,
            weight,
            health: HealthState::Unknown,
            backup: false,
            ramp: SlowStart::FULL,
            agent_weight: AgentWeight::ALL,
            waits: false,
            in_grace_period: false,
            full_weight_at: None,
            agent_is_down: false,
            since: 0,
            admin_is_set: false,
            weight_is_set: false,
            drained_at: None,
        }
    }

    /// Whether it is meant to get new visitors, up or not.
    pub fn is_active(&self) -> bool {
        self.admin == AdminState::Active && !self.weight.is_zero() && !self.agent_weight.is_zero()
    }

    /// Whether it would answer them.
    pub fn is_up(&self) -> bool {
        self.health != HealthState::Down && !self.waits
    }

    /// Returns the weight that it or its agent asks for times the tenths of its slow start, which may be no whole number.
    pub fn weight_in_effect(&self) -> f64 {
        let asked = f64::from(self.agent_weight.hundredths_of(self.weight)) / 100.0;
        asked * f64::from(self.ramp.tenths()) / f64::from(SlowStart::STEPS)
    }

    /// Why it may not be picked, given that it may not: the operator's reasons first, then what probes say.
    pub fn excluded(&self) -> Excluded {
        match (self.admin, self.health) {
            (AdminState::Maintenance, _) => Excluded::Maintenance,
            (AdminState::Draining, _) => Excluded::Draining,
            _ if self.weight.is_zero() => Excluded::ZeroWeight,
            _ if self.agent_weight.is_zero() => Excluded::Agent,
            (_, HealthState::Down) => Excluded::Down,
            _ if self.waits => Excluded::PendingFirstCheck,
            // All that would be picked but for who else there is.
            _ => Excluded::Backup,
        }
    }

    /// Its state in metrics and API.
    pub fn state(&self) -> EffectiveState {
        match (self.admin, self.health) {
            (AdminState::Maintenance, _) => EffectiveState::Maintenance,
            (_, HealthState::Down) => EffectiveState::Down,
            (AdminState::Draining, _) => EffectiveState::Draining,
            (AdminState::Active, HealthState::Up) => EffectiveState::Up,
            (AdminState::Active, HealthState::Unknown) => EffectiveState::Unknown,
        }
    }
}

enum_all! {
    /// Why a backend is not among those who may be picked.
    pub enum Excluded {
        /// The operator keeps everybody away.
        Maintenance = "maintenance",
        /// The operator keeps new visitors away.
        Draining = "draining",
        /// Its weight is 0.
        ZeroWeight = "zero_weight",
        /// Its agent asks for no visitors.
        Agent = "agent",
        /// Its health checks fail, or its agent reports it as down.
        Down = "down",
        /// It was added at run time, and its first probe is not over.
        PendingFirstCheck = "pending_first_check",
        /// It is a backup, and there is a primary to pick.
        Backup = "backup",
    }
}

impl Excluded {
    /// The same for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Maintenance => "nobody is sent there",
            Self::Draining => "only those who are pinned to it",
            Self::ZeroWeight => "weight 0: only those who are pinned to it",
            Self::Agent => "its agent asks for nobody new",
            Self::Down => "it is down",
            Self::PendingFirstCheck => "its first probe is waited for",
            Self::Backup => "a backup, while there is a primary",
        }
    }
}

enum_all! {
    /// The state of a backend.
    pub enum EffectiveState {
        /// Not probed; counts as up.
        Unknown = "unknown",
        /// Its probes succeed.
        Up = "up",
        /// Its health checks fail, or its agent reports it as down.
        Down = "down",
        /// Gets only those who are pinned to it.
        Draining = "draining",
        /// Gets nobody.
        Maintenance = "maintenance",
    }
}
