//! The fleet: all routes and pools as one immutable value that a request reads.
//!
//! This is the pure core. It knows nothing of sockets, runtimes, logs or settings; the controller builds it, and
//! whatever can be worked out before a request comes (header values, tables, orders) is worked out there.

mod strategy_slot;
mod backend;
mod check;
mod cors;
mod error_pages;
mod host;
mod hash_key;
mod pin_policy;
mod pool;
mod rate_limit;
mod routes;
mod backend_status;

use std::sync::Arc;

pub use backend::{Backend, DotSegment, Weight, dot_segment, escapes_base_path};
pub use backend_status::{
    AdminState, AgentWeight, BackendStatus, EffectiveState, Excluded, HealthState, SlowStart,
};
pub use check::{AgentDescription, Check, CheckProgress, CheckResult, LastCheck, StateReason};
pub use cors::{AllowedOrigin, Cors};
pub use error_pages::ErrorPages;
pub use hash_key::{Caching, HashKey};
pub use host::Host;
pub use pin_policy::{CLOCK_SKEW, Cookie, MAC_BYTES, PinPolicy, Tag};
pub use pool::{PinAction, Pool, PoolConfig, Priority};
pub use routes::{HostMatch, NoRoute, Route, Routes};
pub use strategy_slot::{ActiveStrategy, Role, Roles, SplitRange};

/// The immutable snapshot of all routes and pools.
#[derive(Debug)]
pub struct Fleet {
    /// Which pool serves which hosts and paths.
    pub routes: Arc<Routes>,
    /// Every pool, in order of their names; routes point into it.
    pub pools: Box<[Arc<Pool>]>,
    /// The pages of errors, where a pool has none of its own.
    pub error_pages: Arc<ErrorPages>,
}

impl Fleet {
    /// The pool that serves a host and path.
    ///
    /// `host` is lower-cased, without port and trailing dot; `None` where HTTP/1.0 sent none.
    ///
    /// # Errors
    /// Whether it was the host or the path that nobody serves.
    pub fn route(&self, host: Option<&[u8]>, path: &str) -> Result<&Pool, NoRoute> {
        self.routes.find(host, path).map(|index| &*self.pools[index])
    }
}
