//! How a connection ends that was served: the peer is told, and what it still sends is read until it has read its
//! response.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::coop::consume_budget;

use super::connection_tracker::ConnectionHandle;
use super::http1::connection::ConnectionEnd;
use super::http1::connection_state::{ConnectionState, LAST_WAIT, Transport, prompt_patience_ends};
use crate::metrics::Limit;

/// A connection that was served.
#[derive(Debug)]
#[must_use = "its end is to be counted, and then it is to be lingered for"]
pub struct Finished<T> {
    /// How it ended.
    pub end: ConnectionEnd,
    /// What it was served over, if something is left to do with it.
    pub(super) rest: Option<T>,
    /// What the peer may still be sending.
    pub(super) expected: Option<ExpectedBytes>,
}

/// What may come from a peer after its last response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedBytes {
    /// A body, or the rest of what is no request.
    Body,
    /// Bytes that it sends until it has read our FIN, which it should not.
    Stray,
}

impl ExpectedBytes {
    /// How long the peer may be silent.
    const fn silence(self) -> Duration {
        match self {
            Self::Body => Duration::from_secs(5),
            Self::Stray => LAST_WAIT,
        }
    }
}

/// How long it may take to send the end to a peer that reads nothing.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the end may take in all, the end of TLS included.
const LINGER: Duration = Duration::from_secs(30);
/// The same if the peer announced nothing more.
const BRIEF_LINGER: Duration = Duration::from_secs(2);
/// How long after our FIN the peer's is looked for.
const MOMENT: Duration = Duration::from_millis(10);
/// How many bytes are discarded.
const DISCARD: u64 = 64 << 20;

impl<T: Transport> Finished<T> {
    /// One that was ended.
    pub(super) fn cut(io: T, end: ConnectionEnd) -> Self {
        Self { end, rest: T::SAYS_GOODBYE.then_some(io), expected: None }
    }

    /// One whose last answer says that what came last was no request.
    pub(super) fn rejected(io: T) -> Self {
        Self { end: ConnectionEnd::Closed, rest: Some(io), expected: Some(ExpectedBytes::Body) }
    }

    /// One whose last answer is out; `unread` was sent after its request.
    pub(super) fn over(mut io: T, unread: &[u8], watch: &ConnectionState<'_>) -> Self {
        let (end, expected) = if watch.is_spent() {
            (ConnectionEnd::Limited(Limit::Requests), Some(ExpectedBytes::Body))
        } else if watch.body_announced() {
            (ConnectionEnd::Closed, Some(ExpectedBytes::Body))
        } else {
            // A client may send more before it has read that its last response is the last, and even if it said so
            // itself. What has come already would be answered with a reset.
            let more_came = !unread.is_empty() || io.socket().may_have_more();
            (ConnectionEnd::Closed, (watch.ends() || more_came).then_some(ExpectedBytes::Stray))
        };
        Self { end, rest: (expected.is_some() || T::SAYS_GOODBYE).then_some(io), expected }
    }

    /// Whether nothing is left to be sent or read.
    pub fn is_over(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether the peer may be sending a body.
    pub fn expects_body(&self) -> bool {
        self.expected == Some(ExpectedBytes::Body)
    }

    /// Sends FIN if the peer announced nothing more, and looks a moment later whether its own has come: most clients
    /// close at once. To look costs less than to have the reactor watch the socket.
    pub(super) async fn close_soon(mut self) -> Self {
        if let Some(io) = self.rest.as_mut()
            && self.expected == Some(ExpectedBytes::Stray)
            && !T::SAYS_GOODBYE
            && io.socket().is_unwatched()
        {
            let is_open = io.socket().shutdown().await.is_ok();
            tokio::time::sleep(MOMENT).await;
            if !is_open || matches!(io.socket().discard(), Some(Ok(0) | Err(_))) {
                self.rest = None;
            }
        }
        self
    }

    /// Sends the end, then discards what the peer still sends, if it may be sending.
    ///
    /// A socket that is closed with unread bytes answers them with a reset, and a reset makes the peer's kernel
    /// discard a response that was not read yet. Browsers send the whole body before they read.
    ///
    /// It ends at once if `handle` is to make room.
    pub async fn linger(self, handle: &ConnectionHandle) {
        let Some(rest) = self.rest else { return };
        handle.idle(Some(Instant::now()));
        let most = if self.expected == Some(ExpectedBytes::Stray) { BRIEF_LINGER } else { LINGER };
        tokio::select! {
            _ = tokio::time::timeout(most, finish(rest, self.expected, handle)) => {}
            () = handle.evicted() => {}
        }
    }
}

/// The last write and the last read.
async fn finish<T: Transport>(mut io: T, expected: Option<ExpectedBytes>, handle: &ConnectionHandle) {
    let sent = tokio::time::timeout(GOODBYE, io.shutdown()).await;
    let (Some(expected), Ok(Ok(()))) = (expected, sent) else { return };
    // From the socket itself: what TLS carries needs no deciphering to be thrown away.
    let socket = io.socket();
    let mut buffer = vec![0; 16 << 10];
    let mut left = DISCARD;
    while left > 0 {
        let read = tokio::select! {
            read = tokio::time::timeout(expected.silence(), socket.read(&mut buffer)) => read,
            () = prompt_patience_ends(handle) => break,
        };
        match read {
            Ok(Ok(count)) if count > 0 => left = left.saturating_sub(count as u64),
            _ => break,
        }
        // A peer that sends without end must not keep the others waiting here either.
        consume_budget().await;
    }
}
