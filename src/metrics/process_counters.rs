//! The counters that every process has, and those of its listeners.

use http::StatusCode;

use super::labels::{Handshake, Limit};
use super::thread_counters::{CounterAllocator, CounterArray, CounterBlock, CounterId, Cursor, PerVariant};
use crate::request::outcome::Rejection;

/// The statuses of `signpost_responses_total`.
pub(super) const STATUSES: [StatusCode; 16] = [
    StatusCode::OK,
    StatusCode::NO_CONTENT,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::URI_TOO_LONG,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
];

/// What is counted whatever the settings are.
#[derive(Debug)]
pub(super) struct ProcessCounters {
    /// In the order of [`STATUSES`].
    pub(super) responses: CounterArray<{ STATUSES.len() }>,
    pub(super) aborted: CounterId,
    pub(super) rejections: PerVariant<Rejection>,
    pub(super) limits: PerVariant<Limit>,
    pub(super) panics: CounterId,
    pub(super) handshakes: PerVariant<Handshake>,
}

const ALL: (ProcessCounters, Cursor) = {
    let mut cursor = Cursor::new();
    let counters = ProcessCounters {
        responses: cursor.array(),
        aborted: cursor.counter(),
        rejections: cursor.per_variant(),
        limits: cursor.per_variant(),
        panics: cursor.counter(),
        handshakes: cursor.per_variant(),
    };
    (counters, cursor)
};

/// The first counters of all: known when the program is compiled, so that counting looks nothing up.
pub(super) const PROCESS: ProcessCounters = ALL.0;

impl CounterAllocator {
    /// For a controller, at program start.
    pub fn new() -> Self {
        Self::after(ALL.1)
    }

    /// The counters of a listener.
    pub fn listener(&self, address: &str) -> ListenerCounters {
        self.block(format!("listener/{address}"))
    }
}

impl Default for CounterAllocator {
    fn default() -> Self {
        Self::new()
    }
}

/// What is counted of a listener: connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenerCounters {
    pub(super) opened: CounterId,
    pub(super) closed: CounterId,
}

impl CounterBlock for ListenerCounters {
    fn take(cursor: &mut Cursor) -> Self {
        Self { opened: cursor.counter(), closed: cursor.counter() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_every_rejection_is_counted() {
        for rejection in Rejection::ALL {
            assert!(STATUSES.contains(&rejection.status()), "{rejection:?}");
        }
    }
}
