//! Connections whose FIN is sent, and whose client's FIN is looked for a moment later: most clients close at once.
//!
//! To look costs less than to have the reactor watch each socket, and one timer serves all of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::lingering::Finished;
use super::tcp_stream::Socket;

/// How long after our FIN the client's is looked for.
const MOMENT: Duration = Duration::from_millis(10);
/// How often that is done if no other connection leads to it.
const INTERVAL: Duration = Duration::from_millis(50);

/// Connections of one worker in the order of their FINs, each with what belongs to it.
#[derive(Debug)]
pub(super) struct ClosingQueue<C> {
    connections: RefCell<VecDeque<Closing<C>>>,
    /// Notified when there is one.
    filled: Notify,
}

#[derive(Debug)]
struct Closing<C> {
    finished: Finished<Socket>,
    since: Instant,
    context: C,
}

impl<C> ClosingQueue<C> {
    pub(super) fn new() -> Self {
        Self { connections: RefCell::default(), filled: Notify::new() }
    }

    /// Takes a connection whose FIN was just sent, and looks for the FINs that are due. Calls `linger` with connections
    /// that their clients have not closed.
    pub(super) fn push(
        &self,
        finished: Finished<Socket>,
        context: C,
        linger: impl FnMut(Finished<Socket>, C),
    ) {
        let since = Instant::now();
        let mut connections = self.connections.borrow_mut();
        if connections.is_empty() {
            self.filled.notify_one();
        }
        connections.push_back(Closing { finished, since, context });
        drop(connections);
        self.close_due(since, linger);
    }

    fn close_due(&self, now: Instant, mut linger: impl FnMut(Finished<Socket>, C)) {
        let is_due = |closing: &Closing<C>| now.saturating_duration_since(closing.since) >= MOMENT;
        let next = || {
            let mut connections = self.connections.borrow_mut();
            if connections.front().is_some_and(is_due) { connections.pop_front() } else { None }
        };
        while let Some(Closing { mut finished, context, .. }) = next() {
            if !finished.peer_has_closed() {
                linger(finished, context);
            }
        }
    }

    /// Closes connections that their clients have closed, however short a time ago, for others.
    pub(super) fn make_room(&self) {
        self.connections.borrow_mut().retain_mut(|closing| !closing.finished.peer_has_closed());
    }

    /// Looks for FINs for as long as it is polled.
    pub(super) async fn run(&self, mut linger: impl FnMut(Finished<Socket>, C)) {
        loop {
            self.filled.notified().await;
            while !self.connections.borrow().is_empty() {
                sleep(INTERVAL).await;
                self.close_due(Instant::now(), &mut linger);
            }
        }
    }
}
