//! What health checks have found of a backend, and the reasons for its state.
//!
//! A finding changes more often than a state does, so it is not part of what a request reads: the controller stores it in
//! place, and no fleet is published for it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{AdminState, BackendStatus, EffectiveState};
use crate::util::enum_all;

enum_all! {
    /// How a health check ended.
    pub enum CheckResult {
        /// It succeeded.
        Ok = "ok",
        /// The name could not be resolved.
        Dns = "dns",
        /// No connection was established.
        Connect = "connect",
        /// The TLS handshake failed, or the certificate is not valid.
        Tls = "tls",
        /// It did not end within `health.timeout`.
        Timeout = "timeout",
        /// The response was malformed, incomplete or too long.
        Protocol = "protocol",
        /// The status is not one of `health.expect`.
        Status = "status",
        /// The body does not match `health.expect_body`.
        Body = "body",
        /// The response redirects to itself, or back to the pool.
        RedirectLoop = "redirect_loop",
    }
}

/// The last health check of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How it ended.
    pub result: CheckResult,
    /// The same in words, such as "connection refused (127.0.0.1:9001)".
    pub detail: Arc<str>,
    /// How far a change of state has come.
    pub progress: CheckProgress,
}

/// How far the last results have come in changing a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckProgress {
    /// The last result agrees with the state.
    Settled,
    /// The backend is up, and the last checks failed.
    Falling {
        /// Failures in a row.
        failures: u16,
        /// How many take it down.
        fall: u16,
    },
    /// The backend is down, and the last checks succeeded.
    Rising {
        /// Successes in a row.
        successes: u16,
        /// How many take it up.
        rise: u16,
    },
    /// The backend is down and answers again, but fell so often lately that more than `rise` successes are required.
    Backoff {
        /// How often it fell.
        falls: u32,
        /// When it is admitted if it goes on succeeding, in seconds since 1970.
        until: u64,
    },
}

/// The place of a backend's last check. Empty until one has ended.
#[derive(Debug, Default)]
pub struct LastCheck(ArcSwapOption<Check>);

impl LastCheck {
    /// The last check; `None` if none has ended.
    pub fn get(&self) -> Option<Arc<Check>> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn set(&self, check: Option<Arc<Check>>) {
        self.0.store(check);
    }
}

/// The place of the description in the last line of a backend's agent that asked for a state. Empty if there is none.
#[derive(Debug, Default)]
pub struct AgentDescription(ArcSwapOption<Box<str>>);

impl AgentDescription {
    /// Returns it.
    pub fn get(&self) -> Option<Arc<Box<str>>> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn set(&self, description: Option<Arc<Box<str>>>) {
        self.0.store(description);
    }
}

enum_all! {
    /// Why a backend is in its state.
    pub enum StateReason {
        /// The last check succeeded.
        Ok = "ok",
        /// The last check failed: the name could not be resolved.
        Dns = "dns",
        /// The last check failed: no connection.
        Connect = "connect",
        /// The last check failed: TLS.
        Tls = "tls",
        /// The last check failed: it took too long.
        Timeout = "timeout",
        /// The last check failed: no valid response.
        Protocol = "protocol",
        /// The last check failed: an unexpected status.
        Status = "status",
        /// The last check failed: an unexpected body.
        Body = "body",
        /// The last check failed: a redirect back to the pool.
        RedirectLoop = "redirect_loop",
        /// Up, but fewer than `fall` checks in a row failed.
        Falling = "falling",
        /// Down, but fewer than `rise` checks in a row succeeded.
        Rising = "rising",
        /// Down and held back by `flap_backoff`, although the checks succeed.
        FlapBackoff = "flap_backoff",
        /// Checked, but no check has ended yet.
        PendingFirstCheck = "pending_first_check",
        /// Not checked: `health.kind` is `none`.
        NotChecked = "not_checked",
        /// The operator has set the state.
        Operator = "operator",
        /// The backend's agent has asked for the state.
        Agent = "agent",
    }
}

impl StateReason {
    /// Why a backend is in its state: the operator's or agent's word if that decides it, else the last check.
    pub fn of(status: &BackendStatus, is_checked: bool, check: Option<&Check>) -> Self {
        let failed = check.filter(|check| check.result != CheckResult::Ok);
        match status.state() {
            EffectiveState::Draining | EffectiveState::Maintenance => Self::by_whom(status),
            EffectiveState::Down if status.agent_is_down && failed.is_none() => Self::Agent,
            _ => match check {
                Some(check) => Self::of_check(check),
                None if is_checked => Self::PendingFirstCheck,
                None => Self::NotChecked,
            },
        }
    }

    fn by_whom(status: &BackendStatus) -> Self {
        debug_assert!(status.admin != AdminState::Active);
        if status.admin_is_set { Self::Operator } else { Self::Agent }
    }

    fn of_check(check: &Check) -> Self {
        match (check.progress, check.result) {
            (CheckProgress::Falling { .. }, _) => Self::Falling,
            (CheckProgress::Rising { .. }, _) => Self::Rising,
            (CheckProgress::Backoff { .. }, _) => Self::FlapBackoff,
            (CheckProgress::Settled, CheckResult::Ok) => Self::Ok,
            (CheckProgress::Settled, CheckResult::Dns) => Self::Dns,
            (CheckProgress::Settled, CheckResult::Connect) => Self::Connect,
            (CheckProgress::Settled, CheckResult::Tls) => Self::Tls,
            (CheckProgress::Settled, CheckResult::Timeout) => Self::Timeout,
            (CheckProgress::Settled, CheckResult::Protocol) => Self::Protocol,
            (CheckProgress::Settled, CheckResult::Status) => Self::Status,
            (CheckProgress::Settled, CheckResult::Body) => Self::Body,
            (CheckProgress::Settled, CheckResult::RedirectLoop) => Self::RedirectLoop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{HealthState, Weight};

    fn check(result: CheckResult, progress: CheckProgress) -> Check {
        Check { result, detail: "".into(), progress }
    }

    #[test]
    fn reason_is_what_decides_the_state() {
        let up = BackendStatus { health: HealthState::Up, ..BackendStatus::of_settings(Weight::ONE) };
        let down = BackendStatus { health: HealthState::Down, ..up };
        let (ok, refused) = (
            check(CheckResult::Ok, CheckProgress::Settled),
            check(CheckResult::Connect, CheckProgress::Settled),
        );
        let of = |status, check| StateReason::of(&status, true, check);
        assert_eq!(of(up, Some(&ok)), StateReason::Ok);
        assert_eq!(of(down, Some(&refused)), StateReason::Connect);
        assert_eq!(of(BackendStatus::of_settings(Weight::ONE), None), StateReason::PendingFirstCheck);
        assert_eq!(
            StateReason::of(&BackendStatus::of_settings(Weight::ONE), false, None),
            StateReason::NotChecked
        );
        let agent = BackendStatus { agent_is_down: true, ..down };
        assert_eq!(of(agent, Some(&ok)), StateReason::Agent);
        assert_eq!(of(agent, None), StateReason::Agent);
        assert_eq!(of(agent, Some(&refused)), StateReason::Connect, "both: the check has the better text");
        let drained = BackendStatus { admin: AdminState::Draining, ..up };
        assert_eq!(of(drained, Some(&ok)), StateReason::Agent);
        assert_eq!(of(BackendStatus { admin_is_set: true, ..drained }, Some(&ok)), StateReason::Operator);
        assert_eq!(
            of(BackendStatus { admin: AdminState::Draining, ..down }, Some(&refused)),
            StateReason::Connect
        );
        let falling = check(CheckResult::Timeout, CheckProgress::Falling { failures: 1, fall: 3 });
        assert_eq!(of(up, Some(&falling)), StateReason::Falling);
        let held = check(CheckResult::Ok, CheckProgress::Backoff { falls: 3, until: 0 });
        assert_eq!(of(down, Some(&held)), StateReason::FlapBackoff);
    }

    #[test]
    fn each_check_result_has_the_reason_of_its_name() {
        for result in CheckResult::ALL {
            assert_eq!(StateReason::of_check(&check(result, CheckProgress::Settled)).name(), result.name());
        }
    }
}
