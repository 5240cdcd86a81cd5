//! What several modules share and no domain of this program is.

pub mod clock;
mod enum_all;
pub mod fairness;
pub mod gcra;

pub use enum_all::Enumerated;
pub(crate) use enum_all::enum_all;
