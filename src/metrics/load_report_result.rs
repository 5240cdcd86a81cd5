//! What becomes of load reports, as it is counted.

use crate::estimate::Nonsense;
use crate::util::enum_all;

enum_all! {
    /// What became of a backend's word about its load.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Told {
        /// It was taken.
        Ok,
        /// There was none where it should be.
        Missing,
        /// It is in no form that is known.
        Malformed,
        /// The agent did not answer.
        Unreachable,
        /// [`Nonsense::NotFinite`].
        NotFinite,
        /// [`Nonsense::Negative`].
        Negative,
        /// [`Nonsense::TooLarge`].
        TooLarge,
        /// [`Nonsense::NoCapacity`].
        NoCapacity,
        /// [`Nonsense::Future`].
        Future,
        /// [`Nonsense::TooOld`].
        TooOld,
        /// [`Nonsense::Empty`].
        Empty,
    }
}

impl Told {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unreachable => "unreachable",
            Self::NotFinite => Nonsense::NotFinite.name(),
            Self::Negative => Nonsense::Negative.name(),
            Self::TooLarge => Nonsense::TooLarge.name(),
            Self::NoCapacity => Nonsense::NoCapacity.name(),
            Self::Future => Nonsense::Future.name(),
            Self::TooOld => Nonsense::TooOld.name(),
            Self::Empty => Nonsense::Empty.name(),
        }
    }
}

impl From<Nonsense> for Told {
    fn from(nonsense: Nonsense) -> Self {
        match nonsense {
            Nonsense::NotFinite => Self::NotFinite,
            Nonsense::Negative => Self::Negative,
            Nonsense::TooLarge => Self::TooLarge,
            Nonsense::NoCapacity => Self::NoCapacity,
            Nonsense::Future => Self::Future,
            Nonsense::TooOld => Self::TooOld,
            Nonsense::Empty => Self::Empty,
        }
    }
}
