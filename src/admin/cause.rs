//! Why a backend is in its state, for programs and for people.

use serde::Serialize;

use super::figures::rfc3339;
use crate::fleet::{Backend, BackendStatus, Check, CheckProgress, CheckResult, EffectiveState, StateReason};

/// Why a backend is in its state.
pub(super) struct Cause {
    pub(super) reason: StateReason,
    /// The same in words.
    pub(super) detail: String,
    pub(super) last_check: Option<LastCheckView>,
    pub(super) flap_backoff: Option<BackoffView>,
}

/// The last health check of a backend.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LastCheckView {
    pub(super) result: CheckResult,
    pub(super) detail: String,
}

/// A backend that answers again, but is held back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BackoffView {
    /// How often it fell lately.
    pub(super) falls: u32,
    /// When it is admitted if it goes on answering, RFC 3339.
    pub(super) until: String,
    /// The same, in seconds since 1970.
    #[serde(skip)]
    pub(super) until_unix: u64,
}

impl Cause {
    pub(super) fn of(backend: &Backend, status: &BackendStatus, is_checked: bool) -> Self {
        let check = backend.check.get();
        let check = check.as_deref();
        let reason = StateReason::of(status, is_checked, check);
        Self {
            reason,
            detail: match (reason, backend.agent_description.get()) {
                (StateReason::Agent, Some(description)) => {
                    format!("{}: {description}", detail(reason, status, check))
                }
                _ => detail(reason, status, check),
            },
            last_check: check.map(|check| LastCheckView {
                result: check.result,
                detail: check.detail.as_ref().to_owned(),
            }),
            flap_backoff: check.and_then(|check| match check.progress {
                CheckProgress::Backoff { falls, until } => {
                    Some(BackoffView { falls, until: rfc3339(until), until_unix: until })
                }
                _ => None,
            }),
        }
    }
}

fn detail(reason: StateReason, status: &BackendStatus, check: Option<&Check>) -> String {
    let of_check = check.map_or("", |check| &check.detail);
    match (reason, check.map(|check| check.progress)) {
        (StateReason::Operator, _) => "set by the operator".to_owned(),
        (StateReason::Agent, _) if status.state() == EffectiveState::Down => {
            "its agent reports it as down".to_owned()
        }
        (StateReason::Agent, _) => "requested by its agent".to_owned(),
        (StateReason::NotChecked, _) => "not checked: health.kind is \"none\"".to_owned(),
        (StateReason::PendingFirstCheck, _) => "no health check has ended yet".to_owned(),
        (_, Some(CheckProgress::Falling { failures, fall })) => {
            format!("{failures} of {fall} failed checks: {of_check}")
        }
        (_, Some(CheckProgress::Rising { successes, rise })) => {
            format!("answers again; {successes} of {rise} successful checks")
        }
        (_, Some(CheckProgress::Backoff { falls, until })) => {
            format!("answers again; admitted at {}, because it fell {falls} times", rfc3339(until))
        }
        _ => of_check.to_owned(),
    }
}
