//! What becomes of load reports, as it is counted.

use crate::estimate::InvalidReport;
use crate::util::enum_all;

enum_all! {
    /// What became of a backend's word about its load.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportResult {
        /// It was taken.
        Ok,
        /// There was none where it should be.
        Missing,
        /// It is in no form that is known.
        Malformed,
        /// The agent did not answer.
        Unreachable,
        /// [`InvalidReport::NotFinite`].
        NotFinite,
        /// [`InvalidReport::Negative`].
        Negative,
        /// [`InvalidReport::TooLarge`].
        TooLarge,
        /// [`InvalidReport::CapacityTooSmall`].
        CapacityTooSmall,
        /// [`InvalidReport::Future`].
        Future,
        /// [`InvalidReport::TooOld`].
        TooOld,
        /// [`InvalidReport::Empty`].
        Empty,
    }
}

impl ReportResult {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unreachable => "unreachable",
            Self::NotFinite => InvalidReport::NotFinite.name(),
            Self::Negative => InvalidReport::Negative.name(),
            Self::TooLarge => InvalidReport::TooLarge.name(),
            Self::CapacityTooSmall => InvalidReport::CapacityTooSmall.name(),
            Self::Future => InvalidReport::Future.name(),
            Self::TooOld => InvalidReport::TooOld.name(),
            Self::Empty => InvalidReport::Empty.name(),
        }
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
