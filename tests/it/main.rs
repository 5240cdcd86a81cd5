//! End-to-end tests: the real binary, real sockets, loopback only. One topic per file.

#![expect(unreachable_pub, reason = "the harness is public to its siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;
#[allow(dead_code, clippy::print_stdout, reason = "the benches use the rest")]
#[path = "../support/mod.rs"]
mod support;
mod haproxy;
mod health;
mod names;
mod health_reasons;
mod certificates;
mod protocols;
mod browser;
mod name_server;

// What a visitor sees.
mod redirect;
mod delivery;
mod closing;
mod routes;
mod cors;
mod error_pages;
mod pins;
mod backend;
mod bad_input;
mod limits;
mod sockets;
mod client_address;
mod proxy_protocol;
mod tls;
mod http2;
mod location;
mod eligibility;
mod fuzz_seeds;

// What the operator sees.
mod balance;
mod consistent_hash;
mod comparing;
mod load;
mod least_load;
mod metrics;
mod prometheus;
mod access_log;
mod agent;
mod api;
mod admin_port;
mod openapi;
mod page;
mod explain;
mod simulate;
mod settings;
mod paths;
mod messages;
mod forms;
mod shutdown;
mod output;
mod signals;
mod health_path;
mod reload;
mod listener_reload;
mod takeover;
mod state_file;
mod systemd;
mod demo;

// What a developer relies on.
mod embed;
mod architecture;
