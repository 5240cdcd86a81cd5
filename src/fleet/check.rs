//! What health checks have found of a backend, and the reasons for its state.
//!
//! A finding changes more often than a state does, so it is not part of what a request reads: the controller stores it in
//! place, and no fleet is published for it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{Admin, Standing, State};
use crate::util::enum_all;

enum_all! {
    /// How a health check ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum CheckResult {
        /// It succeeded.
        Ok,
        /// The name could not be resolved.
        Dns,
        /// No connection was established.
        Connect,
        /// The TLS handshake failed, or the certificate is not valid.
        Tls,
        /// It did not end within `health.timeout`.
        Timeout,
        /// The response was malformed, incomplete or too long.
        Protocol,
        /// The status is not one of `health.expect`.
        Status,
        /// The body does not match `health.expect_body`.
        Body,
        /// The response redirects to itself, or back to the pool.
        RedirectLoop,
    }
}

impl CheckResult {
    /// Its name in metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Body => "body",
            Self::RedirectLoop => "redirect_loop",
        }
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
    pub progress: Progress,
}

/// How far the last results have come in changing a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
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
    #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Reason {
        /// The last check succeeded.
        Ok,
        /// The last check failed: the name could not be resolved.
        Dns,
        /// The last check failed: no connection.
        Connect,
        /// The last check failed: TLS.
        Tls,
        /// The last check failed: it took too long.
        Timeout,
        /// The last check failed: no valid response.
        Protocol,
        /// The last check failed: an unexpected status.
        Status,
        /// The last check failed: an unexpected body.
        Body,
        /// The last check failed: a redirect back to the pool.
        RedirectLoop,
        /// Up, but fewer than `fall` checks in a row failed.
        Falling,
        /// Down, but fewer than `rise` checks in a row succeeded.
        Rising,
        /// Down and held back by `flap_backoff`, although the checks succeed.
        FlapBackoff,
        /// Checked, but no check has ended yet.
        FirstCheckPending,
        /// Not checked: `health.kind` is `none`.
        NotChecked,
        /// The operator has set the state.
        Operator,
        /// The backend's agent has asked for the state.
        Agent,
    }
}

impl Reason {
    /// Its name in metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Body => "body",
            Self::RedirectLoop => "redirect_loop",
            Self::Falling => "falling",
            Self::Rising => "rising",
            Self::FlapBackoff => "flap_backoff",
            Self::FirstCheckPending => "first_check_pending",
            Self::NotChecked => "not_checked",
            Self::Operator => "operator",
            Self::Agent => "agent",
        }
    }

    /// Why a backend is in its state: the operator's or agent's word if that decides it, else the last check.
    pub fn of(standing: &Standing, is_checked: bool, check: Option<&Check>) -> Self {
        let failed = check.filter(|check| check.result != CheckResult::Ok);
        match standing.state() {
            State::Draining | State::Maintenance => Self::by_whom(standing),
            State::Down if standing.agent_is_down && failed.is_none() => Self::Agent,
            _ => match check {
                Some(check) => Self::of_check(check),
                None if is_checked => Self::FirstCheckPending,
                None => Self::NotChecked,
            },
        }
    }

    fn by_whom(standing: &Standing) -> Self {
        debug_assert!(standing.admin != Admin::Active);
        if standing.admin_is_set { Self::Operator } else { Self::Agent }
    }

    fn of_check(check: &Check) -> Self {
        match (check.progress, check.result) {
            (Progress::Falling { .. }, _) => Self::Falling,
            (Progress::Rising { .. }, _) => Self::Rising,
            (Progress::Backoff { .. }, _) => Self::FlapBackoff,
            (Progress::Settled, CheckResult::Ok) => Self::Ok,
            (Progress::Settled, CheckResult::Dns) => Self::Dns,
            (Progress::Settled, CheckResult::Connect) => Self::Connect,
            (Progress::Settled, CheckResult::Tls) => Self::Tls,
            (Progress::Settled, CheckResult::Timeout) => Self::Timeout,
            (Progress::Settled, CheckResult::Protocol) => Self::Protocol,
            (Progress::Settled, CheckResult::Status) => Self::Status,
            (Progress::Settled, CheckResult::Body) => Self::Body,
            (Progress::Settled, CheckResult::RedirectLoop) => Self::RedirectLoop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Health, Weight};

    fn check(result: CheckResult, progress: Progress) -> Check {
        Check { result, detail: "".into(), progress }
    }

    #[test]
    fn reason_is_what_decides_the_state() {
        let up = Standing { health: Health::Up, ..Standing::of_settings(Weight::ONE) };
        let down = Standing { health: Health::Down, ..up };
        let (ok, refused) =
            (check(CheckResult::Ok, Progress::Settled), check(CheckResult::Connect, Progress::Settled));
        let of = |standing, check| Reason::of(&standing, true, check);
        assert_eq!(of(up, Some(&ok)), Reason::Ok);
        assert_eq!(of(down, Some(&refused)), Reason::Connect);
        assert_eq!(of(Standing::of_settings(Weight::ONE), None), Reason::FirstCheckPending);
        assert_eq!(Reason::of(&Standing::of_settings(Weight::ONE), false, None), Reason::NotChecked);
        let agent = Standing { agent_is_down: true, ..down };
        assert_eq!(of(agent, Some(&ok)), Reason::Agent);
        assert_eq!(of(agent, None), Reason::Agent);
        assert_eq!(of(agent, Some(&refused)), Reason::Connect, "both: the check has the better text");
        let drained = Standing { admin: Admin::Draining, ..up };
        assert_eq!(of(drained, Some(&ok)), Reason::Agent);
        assert_eq!(of(Standing { admin_is_set: true, ..drained }, Some(&ok)), Reason::Operator);
        assert_eq!(of(Standing { admin: Admin::Draining, ..down }, Some(&refused)), Reason::Connect);
        let falling = check(CheckResult::Timeout, Progress::Falling { failures: 1, fall: 3 });
        assert_eq!(of(up, Some(&falling)), Reason::Falling);
        let held = check(CheckResult::Ok, Progress::Backoff { falls: 3, until: 0 });
        assert_eq!(of(down, Some(&held)), Reason::FlapBackoff);
    }

    #[test]
    fn each_check_result_has_the_reason_of_its_name() {
        for result in CheckResult::ALL {
            assert_eq!(Reason::of_check(&check(result, Progress::Settled)).name(), result.name());
        }
    }
}
