//! What a backend's load is, from what it reported and what was sent there since. Pure: no clock, no I/O.

mod report;

pub use report::{Claim, Nonsense, Report};
