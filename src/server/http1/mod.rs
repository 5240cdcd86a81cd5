//! HTTP/1.1: common requests are answered at once, and all others by hyper.

pub(super) mod connection;
mod fast_path;
mod hyper_connection;
