//! Where a backend stands: what the operator says of it, and its weight in effect.

use std::num::NonZeroU16;

use super::Weight;

/// What the operator says of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Visitors are sent there.
    #[default]
    Active,
    /// Only those who are pinned to it, until their pins run out.
    Draining,
    /// Nobody.
    Maintenance,
}

/// Where one backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the operator says.
    pub admin: Admin,
    /// Its share of new visitors.
    pub weight: Weight,
    /// Whether `admin` was set at run time.
    pub admin_is_set: bool,
    /// Whether `weight` was set at run time, and so is not the settings'.
    pub weight_is_set: bool,
    /// While draining: the second since 1970 from which on no pin to it can be valid any more.
    pub drained_at: Option<u64>,
}

impl Standing {
    /// As the settings have it.
    pub fn of_settings(weight: Weight) -> Self {
        Self { admin: Admin::Active, weight, admin_is_set: false, weight_is_set: false, drained_at: None }
    }

    /// Its weight, where new visitors may be sent there.
    pub fn takes_new(self) -> Option<NonZeroU16> {
        NonZeroU16::new(self.weight.get()).filter(|_| self.admin == Admin::Active)
    }

    /// Whether those who are pinned to it are still sent there.
    pub fn honours_pins(self) -> bool {
        self.admin != Admin::Maintenance
    }

    /// Whether their pins are renewed.
    pub fn renews_pins(self) -> bool {
        self.takes_new().is_some()
    }

    /// Its state in metrics and API. Nothing probes it yet, so nothing says `up` or `down`.
    pub fn state(self) -> State {
        match self.admin {
            Admin::Maintenance => State::Maintenance,
            Admin::Draining => State::Draining,
            Admin::Active => State::Unknown,
        }
    }
}

/// The state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not probed; counts as up.
    Unknown,
    /// Gets only those who are pinned to it.
    Draining,
    /// Gets nobody.
    Maintenance,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Draining, Self::Maintenance];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}
