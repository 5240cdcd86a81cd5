//! A socket that the reactor hears of only once somebody has to wait for it.
//!
//! Most visitors bring their request along, take an answer that fits into the send buffer and leave. tokio's own
//! stream makes epoll known to each of them and unknown again: two system calls that nobody needed. This one reads
//! and writes first, and is registered when that would block.
//!
//! It can be told that its next words are the last. Then the kernel keeps them until the FIN that follows at once, and
//! both are one segment: one less to be made, sent, acknowledged and heard of, a quarter of what a visitor costs.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{self, Shutdown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// An accepted socket.
///
/// Reading and writing are those of [`TcpStream`], and as safe to cancel: what was not returned was not taken.
#[derive(Debug)]
pub struct Socket {
    state: SocketState,
    /// Whether a read is tried before readiness is waited for. The reactor tells of a socket's readiness only after it
    /// has been polled, so that a socket that was made known to it a moment ago seems to be ready for nothing.
    reads_first: bool,
    /// Whether what is sent waits for the FIN.
    is_corked: bool,
    /// Whether the last read took as much as it could, so that the kernel may have more.
    may_have_more: bool,
}

#[derive(Debug)]
enum SocketState {
    /// The reactor does not know it.
    Unwatched(net::TcpStream),
    /// It was waited for, and the reactor knows it until it is closed.
    Watched(TcpStream),
    /// The reactor could not take it, which closed it.
    Lost,
}

/// The most that one read takes before the socket is watched: as much as hyper asks for.
const CHUNK: usize = 8 << 10;

impl Socket {
    /// Takes a socket over. It must not block.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            state: SocketState::Unwatched(socket.into()),
            reads_first: true,
            is_corked: false,
            may_have_more: false,
        }
    }

    /// Says that what is written from now on is the last, and that the socket will be shut down or closed as soon as
    /// it is written. Where it is not, the peer gets it up to 200 ms late (`MSG_MORE` in send(2), `TCP_CORK` in tcp(7)).
    pub fn cork_until_close(&mut self) {
        self.is_corked = true;
    }

    /// Whether bytes of the peer's may be left that nobody has read. To close would answer them with a reset.
    pub fn may_have_more(&self) -> bool {
        self.may_have_more
    }

    /// Whether the reactor does not know it yet.
    pub fn is_unwatched(&self) -> bool {
        matches!(self.state, SocketState::Unwatched(_))
    }

    /// Takes and discards what is there; `None` if that is nothing, and 0 is the end. Never waits.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn discard(&mut self) -> Option<io::Result<usize>> {
        let Some(socket) = self.descriptor() else { return Some(Err(io::ErrorKind::NotConnected.into())) };
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK];
        let taken = recv(socket, &mut chunk, RecvFlags::empty());
        unless_blocked(taken.map(|((bytes, _), _)| bytes.len()).map_err(io::Error::from))
    }

    /// Sends FIN if the reactor does not know the socket.
    ///
    /// # Errors
    /// The connection is broken, or the reactor knows it.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match &self.state {
            SocketState::Unwatched(socket) => socket.shutdown(Shutdown::Write),
            SocketState::Watched(_) | SocketState::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            SocketState::Unwatched(socket) => Some(socket.as_fd()),
            SocketState::Watched(socket) => Some(socket.as_fd()),
            SocketState::Lost => None,
        }
    }

    /// Reads without taking; 0 is the end. Returns once there is something.
    ///
    /// # Errors
    /// The connection is broken, or the reactor can't take the socket.
    pub async fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let SocketState::Unwatched(socket) = &self.state
            && let Some(count) = unless_blocked(socket.peek(buffer))
        {
            return count;
        }
        self.watched()?.peek(buffer).await
    }

    /// The socket as the reactor knows it.
    fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if let SocketState::Unwatched(_) = self.state
            && let SocketState::Unwatched(socket) = mem::replace(&mut self.state, SocketState::Lost)
        {
            // epoll reports what has come in the meantime: it looks when it is told of a socket.
            self.state = SocketState::Watched(TcpStream::from_std(socket)?);
        }
        match &mut self.state {
            SocketState::Watched(socket) => Ok(socket),
            SocketState::Unwatched(_) | SocketState::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What a call returned, but `None` where it would have blocked.
fn unless_blocked<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

/// Reads what is there. By way of the stack: a `ReadBuf` lends what it has not yet initialized to unsafe code only,
/// and to copy a request is cheaper than to write zeros first where 8 KiB could go.
/// Returns whether there may be more.
fn receive(socket: impl AsFd, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
    let mut chunk = [const { MaybeUninit::uninit() }; CHUNK];
    let room = buf.remaining().min(CHUNK);
    let ((bytes, _), _) = recv(socket, &mut chunk[..room], RecvFlags::empty())?;
    buf.put_slice(bytes);
    Ok(bytes.len() == room)
}

/// Writes what there is room for.
fn transmit(socket: impl AsFd, bufs: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    Ok(match bufs {
        [buf] => send(socket, buf, flags)?,
        bufs => sendmsg(socket, bufs, &mut SendAncillaryBuffer::default(), flags)?,
    })
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reads_first
            && let Some(socket) = self.descriptor()
        {
            if let Some(read) = unless_blocked(receive(socket, buf)) {
                return Poll::Ready(read.map(|may_have_more| self.may_have_more = may_have_more));
            }
            self.reads_first = false;
        }
        let read = Pin::new(self.watched()?).poll_read(cx, buf);
        self.may_have_more = buf.remaining() == 0;
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more = if self.is_corked { SendFlags::MORE } else { SendFlags::empty() };
        let flags = SendFlags::NOSIGNAL | more;
        // Tried before readiness is waited for, always: hyper may drop what could not be written when it was asked to.
        if let Some(socket) = self.descriptor()
            && let Some(written) = unless_blocked(transmit(socket, bufs, flags))
        {
            return Poll::Ready(written);
        }
        let socket = self.watched()?;
        loop {
            ready!(socket.poll_write_ready(cx))?;
            let written = socket.try_io(Interest::WRITABLE, || transmit(&*socket, bufs, flags));
            if let Some(written) = unless_blocked(written) {
                return Poll::Ready(written);
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            SocketState::Unwatched(socket) => Poll::Ready(socket.shutdown(Shutdown::Write)),
            SocketState::Watched(socket) => Pin::new(socket).poll_shutdown(cx),
            SocketState::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    /// Both ends of a connection, ours first.
    fn pair() -> (Socket, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Socket::new(ours.into()), theirs)
    }

    fn is_watched(socket: &Socket) -> bool {
        matches!(socket.state, SocketState::Watched(_))
    }

    #[tokio::test]
    async fn who_need_not_wait_is_never_watched() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(b"question").unwrap();
        let mut read = [0; 64];
        assert_eq!(ours.peek(&mut read).await.unwrap(), 8);
        assert_eq!(ours.read(&mut read).await.unwrap(), 8);
        ours.write_all(b"answer").await.unwrap();
        theirs.read_exact(&mut read[..6]).unwrap();
        // FIN after its last byte is half an end: it is still answered.
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ours.read(&mut read).await.unwrap(), 0);
        ours.write_all(b"and more").await.unwrap();
        assert!(!is_watched(&ours));
        ours.shutdown().await.unwrap();
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"and more");
    }

    #[tokio::test]
    async fn reads_and_writes_are_tried_at_once_after_it_was_registered() {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let (mut ours, mut theirs) = pair();
        assert!(Pin::new(&mut ours).poll_read(cx, &mut ReadBuf::new(&mut [0; 8])).is_pending());
        assert!(is_watched(&ours));
        assert!(matches!(Pin::new(&mut ours).poll_write(cx, b"answer"), Poll::Ready(Ok(6))));
        theirs.read_exact(&mut [0; 6]).unwrap();

        let (mut ours, mut theirs) = pair();
        theirs.write_all(b"question").unwrap();
        while Pin::new(&mut ours).poll_write(cx, &[0; 4096]).is_ready() {}
        assert!(is_watched(&ours));
        let mut space = [0; 8];
        let mut read = ReadBuf::new(&mut space);
        assert!(Pin::new(&mut ours).poll_read(cx, &mut read).is_ready() && read.filled() == b"question");
    }

    #[tokio::test]
    async fn what_comes_later_is_waited_for_and_nothing_is_lost_when_nobody_waits_any_more() {
        let (mut ours, mut theirs) = pair();
        let mut read = [0; 5];
        for waits in 0..3 {
            let waited = timeout(Duration::from_millis(20), ours.read_exact(&mut read)).await;
            assert!(waited.is_err() && is_watched(&ours), "{waits}");
        }
        theirs.write_all(b"first").unwrap();
        ours.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"first");
        theirs.write_all(b"later").unwrap();
        assert_eq!(ours.peek(&mut [0; 64]).await.unwrap(), 5);
        ours.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"later");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_waited_for() {
        let (mut ours, mut theirs) = pair();
        let sent: Vec<u8> = (0..32 << 20).map(|index| (index % 251) as u8).collect();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).unwrap();
            read
        });
        let half = sent.len() / 2;
        ours.write_all(&sent[..half]).await.unwrap();
        assert!(is_watched(&ours), "no kernel keeps 16 MB of it");
        let mut at = half;
        while at < sent.len() {
            let (one, two) = sent[at..].split_at((sent.len() - at) / 2);
            at += ours.write_vectored(&[IoSlice::new(one), IoSlice::new(two)]).await.unwrap();
        }
        ours.shutdown().await.unwrap();
        assert!(reading.join().unwrap() == sent, "every byte, in order");
    }

    #[tokio::test]
    async fn a_peer_that_resets_is_an_error_once_and_for_all() {
        let (mut ours, theirs) = pair();
        ours.write_all(b"unread").await.unwrap();
        let written = timeout(Duration::from_millis(20), ours.read(&mut [0])).await;
        assert!(written.is_err());
        // Closing with unread bytes is a reset.
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
