//! Signpost, an HTTP redirect dispatcher: it picks a backend for each visitor, answers `302` with a `Location`,
//! and is out of the way.
//!
//! # A request's path
//! [`server`] accepts a connection and reads a head → [`dispatch`] checks the [`request`], looks up the route in the
//! [`fleet`], reads the pin cookie, and else lets the pool's [`strategy`] pick → the [outcome](request::outcome) is rendered as
//! a [response](dispatch::response), counted by [`metrics`] and noted in the [access log](dispatch::access_log).
//!
//! # What always holds
//! - A request loads the fleet once, takes no lock, and allocates nothing.
//! - Only the [controller](control) builds and publishes fleets; requests read them.
//! - [`fleet`] and [`strategy`] do no I/O, have no clock, and know nothing of sockets, logs and settings.
//! - No metric label takes its value from a request.
//! - Imports point one way; `tests/it/architecture.rs` holds that.

// A request, read downwards.
pub mod server;

pub mod dispatch;
pub mod request;

// The pure core.
pub mod fleet;
pub mod strategy;
pub mod estimate;

// Keeping fleet and certificates true.
pub mod control;
pub mod health;
pub mod load;
pub mod certificates;
pub mod settings;

// The operator's side.
pub mod admin;
pub mod readiness;
pub mod metrics;
pub mod compare;
pub mod telemetry;
pub mod output;

// One process after the other.
pub mod takeover;
pub mod overrides;

pub mod cli;
pub mod simulate;
pub mod run;

// Below everything.
pub mod os;
pub mod util;
