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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::connection_limit::ConnectionLimit;
    use crate::server::connection_state::ConnectionEnd;
    use crate::server::connection_tracker::ConnectionTracker;
    use crate::server::lingering::ExpectedBytes;

    #[tokio::test]
    async fn connections_end_with_their_clients_and_the_others_linger() {
        let limit = ConnectionLimit::new(10);
        let tracker = ConnectionTracker::new(limit.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, _) = listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            let (end, expected) = (ConnectionEnd::Closed, Some(ExpectedBytes::Stray));
            let io = Some(Socket::new(ours.into()));
            (theirs, Finished { end, io, expected, handle: tracker.enter() })
        };
        let queue = ClosingQueue::new();
        let lingering = RefCell::new(Vec::new());
        let linger = |_, name| lingering.borrow_mut().push(name);
        let push = |name| {
            let (mut theirs, mut finished) = pair();
            assert!(finished.half_close());
            queue.push(finished, name, linger);
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "FIN is sent at once");
            theirs
        };
        let (closed, mut open) = (push("closed"), push("open"));
        open.write_all(b"stray").unwrap();
        drop(closed);
        assert_eq!(limit.open(), 2);
        queue.make_room();
        assert_eq!((limit.open(), lingering.borrow().len()), (1, 0), "it may still close by itself");
        drop(push("late"));
        tokio::select! {
            () = queue.run(linger) => {}
            () = async { while !queue.connections.borrow().is_empty() { tokio::task::yield_now().await } } => {}
        }
        assert_eq!((limit.open(), &**lingering.borrow()), (0, &["open"][..]));
    }
}
