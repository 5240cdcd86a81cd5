//! Packets with descriptors between two processes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg,
    sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::Message;

/// The longest packet, in bytes.
const MAX_PACKET: usize = 64 << 10;
/// The most descriptors in a packet; the kernel takes 253 (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;
/// How many listeners go into a packet: their list stays far below the longest packet.
pub(super) const BATCH: usize = 200;
/// How many successors may wait to be heard.
const WAITING: i32 = 4;

/// Packets keep their borders (`SOCK_SEQPACKET`): a packet is a message, and its descriptors belong to it. Below, tokio's
/// types are for their readiness and their `accept` only, in which this kind of socket is like a stream.
fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The place where an instance is met. It is free again once this is dropped.
#[derive(Debug)]
pub(super) struct MeetingPoint(UnixListener);

impl MeetingPoint {
    /// Takes an abstract name; must be called inside a runtime.
    pub(super) fn take(name: &str) -> io::Result<Self> {
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        listen(&socket, WAITING)?;
        Ok(Self(UnixListener::from_std(unix::UnixListener::from(socket))?))
    }

    pub(super) async fn accept(&self) -> io::Result<Channel> {
        Ok(Channel(self.0.accept().await?.0))
    }
}

/// A conversation with another process.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Connects to an abstract name; must be called inside a runtime.
    pub(super) fn connect(name: &str) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Self(UnixStream::from_std(unix::UnixStream::from(socket))?))
    }

    /// Who the other side was when it connected or listened, as the kernel says.
    pub(super) fn peer(&self) -> io::Result<UCred> {
        self.0.peer_cred()
    }

    /// Sends a message with descriptors, at most 253.
    pub(super) async fn send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > MAX_PACKET || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
        }
        let send = || {
            let mut space = [const { MaybeUninit::uninit() }; cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            // Without NOSIGNAL a peer that has gone would end the process.
            Ok(sendmsg(&self.0, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?)
        };
        let sent = timeout(limit, self.0.async_io(Interest::WRITABLE, send)).await;
        sent.map_err(|_| late(limit))?.map(drop)
    }

    /// Receives a message and its descriptors; `None` where the other side has closed.
    pub(super) async fn receive(&self, limit: Duration) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        match self.receive_one(limit).await {
            // A peer that closed without hearing all is reported first, and what it said before afterwards.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.receive_one(limit).await,
            received => received,
        }
    }

    async fn receive_one(&self, limit: Duration) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut packet = vec![0; MAX_PACKET];
        let mut descriptors = Vec::new();
        let receive = || {
            let mut space = [const { MaybeUninit::uninit() }; cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut to = [IoSliceMut::new(&mut packet)];
            let received = recvmsg(self.0.as_fd(), &mut to, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::TRUNC) {
                return Err(invalid("a message was cut off: it is too long"));
            }
            // The kernel leaves out those for which this process has no room.
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(Errno::MFILE.into());
            }
            Ok(received.bytes)
        };
        let received = timeout(limit, self.0.async_io(Interest::READABLE, receive)).await;
        match received.map_err(|_| late(limit))?? {
            0 => Ok(None),
            length => {
                let message = serde_json::from_slice(&packet[..length]).map_err(|error| {
                    invalid(&format!("a message that this version does not understand: {error}"))
                })?;
                Ok(Some((message, descriptors)))
            }
        }
    }
}

fn late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the other side was silent for {limit:?}"))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
