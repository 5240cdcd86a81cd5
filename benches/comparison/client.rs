//! One visitor's connection, plain or TLS: it asks, reads the answer, and sees the server close.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::response::Answer;
use crate::tls;

/// A connection that never blocks.
pub struct Visitor {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What of the answer has come.
    part: Vec<u8>,
    /// Whether all that there is to send is on its way.
    pub sent: bool,
    /// Whether the server's TLS has said that nothing follows.
    bye: bool,
}

/// What reading once led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Not all yet.
    Part,
    /// The answer; whether it is the right one, and whether the server says that it closes.
    Answer { right: bool, closes: bool },
    /// The server has closed, with nothing half said.
    End,
}

impl Visitor {
    /// Begins to connect; on loopback that is mostly done when this returns.
    pub fn connect(to: SocketAddr, config: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = config.map(|config| Box::new(tls::connection(config)));
        Ok(Self { socket: TcpStream::from(socket), tls, part: Vec::new(), sent: false, bye: false })
    }

    /// Asks. `sent` stays unset where the connection is not there yet: then `push` is next.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.sent = false;
        if let Some(tls) = &mut self.tls {
            // Kept by rustls until the handshake is done.
            tls.writer().write_all(request)?;
        }
        self.push(request)
    }

    /// Sends what was not sent yet.
    pub fn push(&mut self, request: &[u8]) -> io::Result<()> {
        self.sent = match &mut self.tls {
            None => match self.socket.write(request) {
                Ok(count) if count == request.len() => true,
                Ok(_) => return Err(io::Error::other("a request did not fit in the socket's buffer")),
                Err(error) if is_early(&error) => false,
                Err(error) => return Err(error),
            },
            Some(tls) => loop {
                if !tls.wants_write() {
                    break true;
                }
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if is_early(&error) => break false,
                    Err(error) => return Err(error),
                }
            },
        };
        Ok(())
    }

    /// Reads once.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        let count = match &mut self.tls {
            Some(tls) if !self.bye => {
                match tls.read_tls(&mut self.socket) {
                    Ok(0) => return self.end(),
                    Ok(_) => {}
                    Err(error) if is_early(&error) => return Ok(Got::Part),
                    Err(error) => return Err(error),
                }
                tls.process_new_packets().map_err(io::Error::other)?;
                let count = match tls.reader().read(buffer) {
                    Ok(0) => {
                        self.bye = true;
                        0
                    }
                    Ok(count) => count,
                    Err(error) if is_early(&error) => 0,
                    Err(error) => return Err(error),
                };
                if tls.wants_write() {
                    self.push(&[])?;
                }
                if count == 0 {
                    return Ok(Got::Part);
                }
                count
            }
            _ => match self.socket.read(buffer) {
                Ok(0) => return self.end(),
                Ok(count) => count,
                Err(error) if is_early(&error) => return Ok(Got::Part),
                Err(error) => return Err(error),
            },
        };
        let whole = if self.part.is_empty() {
            &buffer[..count]
        } else {
            self.part.extend_from_slice(&buffer[..count]);
            &self.part[..]
        };
        match Answer::parse(whole) {
            Some(answer) if answer.length == whole.len() => {
                let got = Got::Answer { right: answer.is_right(), closes: answer.closes };
                self.part.clear();
                Ok(got)
            }
            Some(answer) if answer.length < whole.len() => Err(io::Error::other("more than an answer came")),
            _ => {
                if self.part.is_empty() {
                    self.part.extend_from_slice(&buffer[..count]);
                }
                Ok(Got::Part)
            }
        }
    }

    fn end(&self) -> io::Result<Got> {
        if self.part.is_empty() {
            return Ok(Got::End);
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before the answer was whole"))
    }

    /// Whether the session of an earlier connection was taken up.
    pub fn resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}
