//! The PROXY protocol: its header as bytes, and how it is taken off a connection.

mod accept;
mod parser;

pub(super) use accept::read_header;
pub use parser::*;
