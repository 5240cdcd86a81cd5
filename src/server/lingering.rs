//! How a connection is closed that was served: the peer is told, and what it still sends is read until it has read its
//! response.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::coop::consume_budget;

use super::connection_state::{ConnectionEnd, ConnectionState};
use super::connection_tracker::{ConnectionHandle, DRAIN_WAIT};
use super::tcp_stream::Socket;
use super::transport::Transport;
use crate::metrics::Limit;

/// A connection that was served.
#[derive(Debug)]
#[must_use = "its end is to be counted, and then it is to be closed"]
pub struct Finished<T> {
    /// How it ended.
    pub end: ConnectionEnd,
    /// What it was served over, if something is left to do with it.
    pub(super) io: Option<T>,
    /// What the peer may still be sending.
    pub(super) expected: Option<ExpectedBytes>,
    pub(super) handle: ConnectionHandle,
}

/// What a peer may send after its last response.
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
            Self::Stray => DRAIN_WAIT,
        }
    }
}

/// How long it may take to send the end to a peer that reads nothing.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long lingering may take in all, the end of TLS included.
const LINGER: Duration = Duration::from_secs(30);
/// The same if the peer announced nothing more.
const BRIEF_LINGER: Duration = Duration::from_secs(2);
/// How many bytes are discarded.
const DISCARD: u64 = 64 << 20;

impl<T: Transport> Finished<T> {
    /// A connection that is not waited for any more.
    pub(super) fn aborted<R>(io: T, end: ConnectionEnd, state: ConnectionState<R>) -> Self {
        let io = T::HAS_CLOSE_NOTIFY.then_some(io);
        Self { end, io, expected: None, handle: state.into_handle() }
    }

    /// A connection whose last response is written; `has_unread` if more was received after its request.
    pub(super) fn completed<R>(mut io: T, has_unread: bool, state: ConnectionState<R>) -> Self {
        let (end, expected) = if state.limit_reached() {
            (ConnectionEnd::Limited(Limit::Requests), Some(ExpectedBytes::Body))
        } else if state.more_announced() {
            (ConnectionEnd::Closed, Some(ExpectedBytes::Body))
        } else {
            // A client may send more before it has read that its last response is the last, and even if it said so
            // itself. Closing would answer with a reset what has come already.
            let more_came = has_unread || io.socket().may_have_more();
            (ConnectionEnd::Closed, (state.closes() || more_came).then_some(ExpectedBytes::Stray))
        };
        let io = (expected.is_some() || T::HAS_CLOSE_NOTIFY).then_some(io);
        Self { end, io, expected, handle: state.into_handle() }
    }

    /// Whether nothing is left to be sent or read.
    pub fn is_closed(&self) -> bool {
        self.io.is_none()
    }

    /// Whether the peer may be sending a body.
    pub fn expects_body(&self) -> bool {
        self.expected == Some(ExpectedBytes::Body)
    }

    /// Sends the end, then discards what the peer still sends, if it may be sending.
    ///
    /// A socket that is closed with unread bytes answers them with a reset, and a reset makes the peer's kernel
    /// discard a response that was not read yet. Browsers send the whole body before they read.
    ///
    /// Ends at once if the connection is evicted.
    pub async fn lingering_close(self) {
        let Self { io: Some(io), expected, handle, .. } = self else { return };
        handle.idle(Some(Instant::now()));
        let most = if expected == Some(ExpectedBytes::Stray) { BRIEF_LINGER } else { LINGER };
        tokio::select! {
            _ = tokio::time::timeout(most, finish(io, expected, &handle)) => {}
            () = handle.evicted() => {}
        }
    }
}

impl Finished<Socket> {
    /// Sends FIN if the peer announced nothing more and the reactor does not watch the socket. Returns whether that was
    /// done; the peer's FIN is to be looked for then.
    pub(super) fn half_close(&mut self) -> bool {
        if self.expected != Some(ExpectedBytes::Stray) {
            return false;
        }
        match self.io.as_mut().filter(|socket| socket.is_unwatched()).map(Socket::shutdown_write) {
            None => false,
            Some(Ok(())) => true,
            Some(Err(_)) => {
                // The peer has reset it.
                self.io = None;
                false
            }
        }
    }

    /// Whether the peer has closed the connection too. Discards what it has sent.
    pub(super) fn peer_has_closed(&mut self) -> bool {
        self.io.as_mut().is_none_or(|socket| matches!(socket.discard(), Some(Ok(0) | Err(_))))
    }
}

/// The last write and the last read.
async fn finish<T: Transport>(mut io: T, expected: Option<ExpectedBytes>, handle: &ConnectionHandle) {
    let sent = tokio::time::timeout(SHUTDOWN_TIMEOUT, io.shutdown()).await;
    let (Some(expected), Ok(Ok(()))) = (expected, sent) else { return };
    // From the socket itself: what TLS carries need not be deciphered to be discarded.
    let socket = io.socket();
    let mut buffer = vec![0; 16 << 10];
    let mut left = DISCARD;
    while left > 0 {
        let read = tokio::select! {
            read = tokio::time::timeout(expected.silence(), socket.read(&mut buffer)) => read,
            () = handle.prompt_drain_wait() => break,
        };
        match read {
            Ok(Ok(count)) if count > 0 => left = left.saturating_sub(count as u64),
            _ => break,
        }
        // A peer that sends without end must not keep the others waiting here either.
        consume_budget().await;
    }
}
