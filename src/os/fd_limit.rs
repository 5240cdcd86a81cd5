//! How many descriptors the process may have: each connection takes one.

use std::fs::File;
use std::io;

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

/// How many descriptors are left to everything but visitors and probes: admin, logs, listeners.
const RESERVED: usize = 256;
/// How many of these there are at the least, where there are few descriptors: what the process itself has open, and
/// some connections of the admin listener.
const LEAST_RESERVED: usize = 64;
/// The most connections where the settings name no number: some 600 MB of them.
const MOST: usize = 50_000;

/// How many connections of visitors there may be beside `probes` health checks; 0 asks for as many as descriptors
/// allow. Where there are few, no more than a quarter is kept from visitors, or half where there are fewer than 128.
///
/// # Errors
/// What to change, where more are asked for than that.
pub fn max_connections(asked: u32, probes: u16) -> Result<usize, String> {
    let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    let least = LEAST_RESERVED.min(limit / 2);
    let allowed = limit - (limit / 4).min(RESERVED + usize::from(probes)).max(least);
    match asked as usize {
        0 => Ok(allowed.min(MOST)),
        asked if asked <= allowed => Ok(asked),
        asked => Err(format!(
            "server.limits.max_connections is {asked}, but {limit} descriptors allow {allowed}; raise the hard limit \
             (ulimit -n, LimitNOFILE=) or set a lower number"
        )),
    }
}

/// Returns how many connections the admin listener may have, of the `most` that it is made for: an eighth of the
/// descriptors, so that clients cannot keep it from having any.
pub fn max_admin_connections(most: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    most.min(limit / 8).max(1)
}

/// How many descriptors must be free when a process begins to serve: for some connections, a probe and a file.
const SPARE: usize = 8;

/// Checks that descriptors are left for connections. Without any a process accepts nothing, so it must not start, and
/// must not take over from one that does.
///
/// # Errors
/// What to change.
pub fn check_spare() -> io::Result<()> {
    let opened: io::Result<Vec<_>> = (0..SPARE).map(|_| File::open("/")).collect();
    opened.map(drop).map_err(|error| {
        io::Error::other(format!("too few file descriptors are left to serve with: {}", explained(&error)))
    })
}

/// Returns an error with what to raise, if the process or the system was out of descriptors.
pub fn explained(error: &io::Error) -> String {
    match error.raw_os_error() {
        // EMFILE, ENFILE.
        Some(24) => format!("{error} (raise the hard limit: ulimit -n, LimitNOFILE=)"),
        Some(23) => format!("{error} (raise the system's limit: fs.file-max)"),
        _ => error.to_string(),
    }
}

/// Whether a call failed because the process, or the system, had no descriptor or no memory for one: ENFILE, EMFILE,
/// ENOMEM, ENOBUFS. That is our own lack, it passes, and it says nothing of whom the call was about.
pub fn are_out(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105))
}
