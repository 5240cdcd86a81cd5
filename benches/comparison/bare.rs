//! The least that a server of redirects can do: one thread, one epoll, one canned answer.
//!
//! It reads just enough of a request to know where it ends and whether the connection is to end with it. So its
//! figure is what the kernel takes, and what a server adds is the server's own.
//!
//! It is this program again, started with [`AS_BARE`], so that its processor time and its memory are its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv, send,
    socket_with,
};

/// The argument that makes this program the bare loop. An address and two files follow: the answer that keeps a
/// connection, and the one that ends it.
pub const AS_BARE: &str = "--as-bare-loop";

/// The listener's name among the events; connections have their place in `open`.
const LISTENER: u64 = u64::MAX;

/// Runs until it is ended.
pub fn be_one(args: &[String]) -> ExitCode {
    let [address, keep, close] = args else { return ExitCode::from(2) };
    let served = (|| {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let (keep, close) = (std::fs::read(keep)?, std::fs::read(close)?);
        Loop::on(address, keep, close)?.serve()
    })();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare loop: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Loop {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// Connections that wait for a request, by their place.
    open: Vec<Option<Connection>>,
    /// Places that are free.
    free: Vec<usize>,
    keep: Vec<u8>,
    close: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// The part of a request that has come so far; nothing, but for one that comes in pieces.
    part: Vec<u8>,
}

/// What became of a connection that was read once.
enum Then {
    Wait(Connection),
    End,
}

impl Loop {
    fn on(address: SocketAddr, keep: Vec<u8>, close: Vec<u8>) -> io::Result<Self> {
        let listener = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        set_socket_reuseaddr(&listener, true)?;
        // Accepted sockets inherit it.
        set_tcp_nodelay(&listener, true)?;
        bind(&listener, &address)?;
        listen(&listener, 4096)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self { epoll, listener, open: Vec::new(), free: Vec::new(), keep, close })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut buffer = Vec::with_capacity(16 << 10);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let name = event.data.u64();
                if name == LISTENER {
                    self.accept(&mut buffer)?;
                } else {
                    self.read(name as usize, &mut buffer);
                }
            }
        }
    }

    /// Takes all who wait. A request that has come with its connection is answered without epoll.
    fn accept(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Then::Wait(connection) = self.answer(Connection { socket, part: Vec::new() }, buffer) else {
                continue;
            };
            let place = self.free.pop().unwrap_or(self.open.len());
            epoll::add(&self.epoll, &connection.socket, EventData::new_u64(place as u64), EventFlags::IN)?;
            if place == self.open.len() {
                self.open.push(Some(connection));
            } else {
                self.open[place] = Some(connection);
            }
        }
    }

    fn read(&mut self, place: usize, buffer: &mut Vec<u8>) {
        let Some(connection) = self.open[place].take() else { return };
        match self.answer(connection, buffer) {
            Then::Wait(connection) => self.open[place] = Some(connection),
            // Closed by now, and with that gone from epoll.
            Then::End => self.free.push(place),
        }
    }

    /// Reads once, and answers each request that is whole.
    fn answer(&self, mut connection: Connection, buffer: &mut Vec<u8>) -> Then {
        buffer.clear();
        match recv(&connection.socket, spare_capacity(buffer), RecvFlags::empty()) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Then::Wait(connection),
            Err(_) => return Then::End,
        }
        if buffer.is_empty() {
            return Then::End;
        }
        let whole = if connection.part.is_empty() {
            &buffer[..]
        } else {
            connection.part.extend_from_slice(buffer);
            &connection.part[..]
        };
        let mut rest = whole;
        while let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let (head, after) = rest.split_at(at + 4);
            let ends = asks_to_close(head);
            let answer = if ends { &self.close } else { &self.keep };
            // What closes follows at once, so the answer waits for it and both go out in one segment.
            let flags = if ends { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
            // An answer is short and the buffer of the socket is not: a part of it goes out to nobody.
            if send(&connection.socket, answer, flags) != Ok(answer.len()) || ends {
                return Then::End;
            }
            rest = after;
        }
        connection.part = rest.to_vec();
        Then::Wait(connection)
    }
}

/// Whether a request has `Connection: close`.
fn asks_to_close(head: &[u8]) -> bool {
    let line = b"\r\nconnection: close\r\n";
    head.windows(line.len()).any(|window| window[2] | 0x20 == b'c' && window.eq_ignore_ascii_case(line))
}
