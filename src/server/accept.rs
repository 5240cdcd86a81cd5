//! The queue of a listener: connections that the kernel has made and nobody has accepted yet.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::sockopt;
use super::tcp_stream::Socket;
use crate::os::fd_limit;

/// How long a queue is tried to be emptied while no descriptor is left for who is in it.
const EMPTYING: Duration = Duration::from_secs(1);

/// The queue of one listener.
#[derive(Debug)]
pub(crate) struct AcceptQueue {
    listener: AsyncFd<TcpListener>,
    /// How many connections were accepted since the reactor reported the last.
    accepted: Cell<u32>,
    /// Whether that was more than one the time before.
    expects_more: Cell<bool>,
}

impl AcceptQueue {
    /// Has the reactor report connections. The listener must not block.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        let listener = sockopt::watch(listener)?;
        Ok(Self { listener, accepted: Cell::new(0), expects_more: Cell::new(true) })
    }

    /// Accepts a connection, or waits for one. Whoever waits for the next again and again accepts all that have come
    /// before the reactor is polled again, or a hundred and some, whichever is less.
    pub(crate) async fn next(&self) -> io::Result<(Socket, SocketAddr)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, SocketAddr)>> {
        loop {
            // Takes from the task's budget, which `readable` does not: a queue that fills as fast would let no other
            // task run.
            let mut ready = ready!(self.listener.poll_read_ready(cx))?;
            let listener = self.listener.get_ref();
            // To accept from an empty queue costs the kernel a socket and a file that it makes first; to look does not.
            let is_empty = self.accepted.get() == 1 && !self.expects_more.get() && !has_connection(listener);
            let accepted = if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { accept(listener) };
            match accepted {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    self.expects_more.set(self.accepted.replace(0) > 1);
                }
                accepted => {
                    self.accepted.set(self.accepted.get().saturating_add(1));
                    return Poll::Ready(accepted);
                }
            }
        }
    }

    /// Takes out who is in the queue of a listener that is about to be closed: closing resets them.
    ///
    /// # Errors
    /// What keeps the listener from being used.
    pub(crate) async fn empty(self, mut spawn: impl FnMut(Socket, SocketAddr)) -> io::Result<()> {
        let give_up = Instant::now() + EMPTYING;
        let listener = self.listener.into_inner();
        loop {
            match accept(&listener) {
                Ok((socket, peer)) => spawn(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if fd_limit::are_out(&error) => {
                    if Instant::now() > give_up {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // About one connection that is already gone.
                Err(_) => {}
            }
        }
    }
}

/// Whether a connection waits to be accepted. If that can't be determined, accepting tells.
fn has_connection(listener: &TcpListener) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)) != Ok(0)
}

/// One system call: what else a socket is to be, the listener's sockets are already.
fn accept(listener: &TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| peer.try_into().ok()).ok_or(io::ErrorKind::NotConnected)?;
    Ok((Socket::new(socket), peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn connections_that_come_one_by_one_and_together_are_accepted() {
        let listener =
            crate::server::bind(crate::server::ListenerKind::Http, ([127, 0, 0, 1], 0).into(), 1).unwrap();
        let address = listener.address;
        let queue = AcceptQueue::new(listener.sockets.into_iter().next().unwrap()).unwrap();
        for together in [1, 1, 1, 3, 1, 2, 1, 1] {
            let clients: Vec<_> =
                (0..together).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for client in clients {
                let (_, peer) = queue.next().await.unwrap();
                assert_eq!(peer, client.local_addr().unwrap());
            }
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            assert!(queue.poll_next(cx).is_pending());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_queue_lets_others_run() {
        const WAITING: usize = 300;
        let listener =
            crate::server::bind(crate::server::ListenerKind::Http, ([127, 0, 0, 1], 0).into(), 1).unwrap();
        let waiting: Vec<_> =
            (0..WAITING).map(|_| std::net::TcpStream::connect(listener.address).unwrap()).collect();
        let queue = AcceptQueue::new(listener.sockets.into_iter().next().unwrap()).unwrap();
        let (accepted, seen) = (Cell::new(0), Cell::new(None));
        let accepting = async {
            while accepted.get() < waiting.len() {
                queue.next().await.unwrap();
                accepted.set(accepted.get() + 1);
            }
        };
        let other = async {
            while accepted.get() == 0 {
                tokio::task::yield_now().await;
            }
            seen.set(Some(accepted.get()));
        };
        tokio::join!(biased; accepting, other);
        assert!(seen.get().is_some_and(|seen| seen < WAITING), "{seen:?}");
    }
}
