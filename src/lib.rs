//! Signpost, an HTTP redirect dispatcher: it picks a backend for each request and answers `302` with a `Location`.
//!
//! Most users run the `signpost` binary; this crate is it, and puts the same dispatch into other programs:
//!
//! - [`settings::Settings`] describes pools and their strategies, in TOML.
//! - [`Engine`] builds the pools, checks the health of backends and counts.
//! - [`Dispatcher`] is the [`tower::Service`] that redirects. It mounts in any axum `Router`.
//! - [`ClientInfo`] tells it who sent a request, if the router does not.
//!
//! `examples/embed.rs` is an axum application with a page of its own and Signpost behind it.
//!
//! Everything else is public for this repository's own tests, benches and fuzz targets, is not documented here, and
//! changes without notice.
//!
//! # The path of a request
//! `server` accepts a connection and reads a head → `dispatch` checks the `request`, looks up the route in the `fleet`,
//! reads the pin cookie, and else lets the pool's `strategy` pick → the outcome is rendered as a response, counted by
//! `metrics` and written to the access log.
//!
//! # What always holds
//! - A request loads the fleet once, takes no lock, awaits nothing and allocates nothing.
//! - Only the controller builds and publishes fleets; requests read them.
//! - `fleet` and `strategy` do no I/O, have no clock, and import nothing of sockets, logs and settings.
//! - No metric label takes its value from a request.
//! - Imports point one way; `tests/it/architecture.rs` checks that.

mod control_plane;
mod embed;
pub mod settings;

pub use embed::{Dispatcher, Engine};
pub use request::ClientInfo;

// A request, read downwards.
#[doc(hidden)]
pub mod server;

#[doc(hidden)]
pub mod dispatch;
#[doc(hidden)]
pub mod request;

// The pure core.
#[doc(hidden)]
pub mod fleet;
#[doc(hidden)]
pub mod strategy;
#[doc(hidden)]
pub mod estimate;

// Keeping fleet and certificates true.
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod health;
#[doc(hidden)]
pub mod load;
#[doc(hidden)]
pub mod certificates;

// The operator's side.
#[doc(hidden)]
pub mod admin;
#[doc(hidden)]
pub mod readiness;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod compare;
#[doc(hidden)]
pub mod telemetry;
#[doc(hidden)]
pub mod output;

// One process after the other.
#[doc(hidden)]
pub mod takeover;
#[doc(hidden)]
pub mod overrides;

#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod simulate;
#[doc(hidden)]
pub mod run;

// Below everything.
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
pub mod util;
