//! HTTP/1.1: a connection, its state, and the commonest requests without hyper.

pub(super) mod connection;
pub(super) mod connection_state;
mod fast_path;
