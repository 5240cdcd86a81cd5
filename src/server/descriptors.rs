//! How many descriptors the process may have: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Shells and init systems hand down a soft limit of 1024 for the sake of
/// programs that use `select`, which this one does not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => {
            tracing::debug!(from = limit.current, to = limit.maximum, "raised the limit of descriptors")
        }
        Err(error) => {
            tracing::warn!(%error, limit = limit.current, "the limit of descriptors could not be raised")
        }
    }
}
