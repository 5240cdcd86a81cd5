//! What becomes of load reports, as it is counted.

use crate::estimate::InvalidReport;
use crate::util::enum_all;

enum_all! {
    /// What became of a backend's word about its load.
    pub enum ReportResult {
        /// It was taken.
        Ok = "ok",
        /// There was none where it should be.
        Missing = "missing",
        /// It is in no form that is known.
        Malformed = "malformed",
        /// The agent did not answer.
        Unreachable = "unreachable",
        /// [`InvalidReport::NotFinite`].
        NotFinite = "not_finite",
        /// [`InvalidReport::Negative`].
        Negative = "negative",
        /// [`InvalidReport::TooLarge`].
        TooLarge = "too_large",
        /// [`InvalidReport::CapacityTooSmall`].
        CapacityTooSmall = "capacity_too_small",
        /// [`InvalidReport::Future`].
        Future = "future",
        /// [`InvalidReport::TooOld`].
        TooOld = "too_old",
        /// [`InvalidReport::Empty`].
        Empty = "empty",
    }
}

impl From<InvalidReport> for ReportResult {
    fn from(nonsense: InvalidReport) -> Self {
        match nonsense {
            InvalidReport::NotFinite => Self::NotFinite,
            InvalidReport::Negative => Self::Negative,
            InvalidReport::TooLarge => Self::TooLarge,
            InvalidReport::CapacityTooSmall => Self::CapacityTooSmall,
            InvalidReport::Future => Self::Future,
            InvalidReport::TooOld => Self::TooOld,
            InvalidReport::Empty => Self::Empty,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_invalid_report_is_counted_under_its_own_name() {
        for invalid in InvalidReport::ALL {
            assert_eq!(ReportResult::from(invalid).name(), invalid.name());
        }
    }
}
