//! The new one's side: receiving the listeners, and saying when it serves.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::mpsc;

use super::channel::Channel;
use super::{
    ListenerKey, Message, PROMPT, PROTOCOL, STILL_STARTING, name, own_user, real_addresses, trusted,
};
use crate::control::Event;
use crate::os::fd_limit;
use crate::overrides::{self, OperatorOverride};
use crate::server::{Inherited, ListenerKind};

/// How many listening sockets are taken, and how many backends of which the operator has set something: far more than
/// there are anywhere.
const MOST: usize = 16_384;

/// The running instance, which serves until it is told that its successor does.
#[derive(Debug)]
pub struct Predecessor {
    /// Its process id, as it sees it.
    pub pid: u32,
    /// How long the service manager lets it be silent.
    pub watchdog: Option<Duration>,
    operated: Vec<OperatorOverride>,
    channel: Channel,
}

/// Why there is nothing to take over.
#[derive(Debug)]
pub enum NoPredecessor {
    /// No instance with this admin address runs here.
    Runs(SocketAddr),
    /// The setting has port 0, by which nobody can be found.
    CanBeFound(SocketAddr),
    /// One does, but it did not hand its listeners over.
    HandsOver(io::Error),
}

impl fmt::Display for NoPredecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(admin) => write!(
                f,
                "there is nobody to take over from: no signpost whose admin listener is {admin} runs here; start \
                 without --takeover, or name the running one's address as admin.listen"
            ),
            Self::CanBeFound(admin) => write!(
                f,
                "--takeover finds the running one by its admin listener, and admin.listen is {admin}; name its port"
            ),
            Self::HandsOver(error) => {
                write!(f, "can't take over: {}; the running one goes on", fd_limit::explained(error))
            }
        }
    }
}

impl Predecessor {
    /// Finds the instance that runs with the admin address of these settings and asks for its listeners. Must be
    /// called inside a runtime.
    ///
    /// # Errors
    /// There is none, or it refuses, or it breaks off, or it is silent for 10 s.
    pub async fn meet(admin: SocketAddr) -> Result<(Self, Inherited), NoPredecessor> {
        if admin.port() == 0 {
            return Err(NoPredecessor::CanBeFound(admin));
        }
        for real in real_addresses(admin) {
            match Channel::connect(&name(real)) {
                Ok(channel) => return Self::ask(channel).await.map_err(NoPredecessor::HandsOver),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(NoPredecessor::HandsOver(error)),
            }
        }
        Err(NoPredecessor::Runs(admin))
    }

    async fn ask(channel: Channel) -> io::Result<(Self, Inherited)> {
        let peer = channel.peer()?;
        if !trusted(peer.uid()) {
            return Err(io::Error::other(format!(
                "the running one is of user {}, this one of {}",
                peer.uid(),
                own_user()
            )));
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        channel
            .send(&Message::Hello { protocol: PROTOCOL, version, pid: std::process::id() }, &[], PROMPT)
            .await?;
        let (mut inherited, mut count) = (Inherited::default(), 0);
        let mut operated = Vec::new();
        loop {
            let (version, pid, keys, watchdog, more, descriptors) = match channel.receive(PROMPT).await? {
                Some((Message::Sockets { version, pid, sockets, watchdog_usec, more }, descriptors)) => {
                    (version, pid, sockets, watchdog_usec, more, descriptors)
                }
                Some((Message::Operated { mut backends }, _)) if operated.len() < MOST => {
                    operated.append(&mut backends);
                    continue;
                }
                other => return Err(unexpected(other.map(|(message, _)| message))),
            };
            count += keys.len();
            if keys.len() != descriptors.len() || count > MOST {
                let text = format!("{} descriptors came for {} listeners", descriptors.len(), keys.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            for (key, descriptor) in keys.into_iter().zip(descriptors) {
                receive(&mut inherited, key, descriptor)?;
            }
            if !more {
                tracing::info!(version, pid, sockets = count, "taking over");
                let watchdog = watchdog.map(Duration::from_micros);
                return Ok((Self { pid, watchdog, operated, channel }, inherited));
            }
        }
    }

    /// Sets what the operator had set of backends there. To be called before this one serves.
    pub async fn restore_overrides(&mut self, events: &mpsc::Sender<Event>) {
        overrides::restore(std::mem::take(&mut self.operated), events).await;
    }

    /// Says now and then that this one is still starting, so that it is not taken for dead. Never ends.
    pub async fn starting(&self) {
        loop {
            tokio::time::sleep(STILL_STARTING).await;
            if self.channel.send(&Message::Starting, &[], PROMPT).await.is_err() {
                // What has become of the old one is found out when this one serves.
                return std::future::pending().await;
            }
        }
    }

    /// Says that these listeners are served here, and waits until the old one accepts no more.
    ///
    /// # Errors
    /// It was told to go away meanwhile: the old one goes on serving, so this one must not.
    pub async fn ready(self, served: impl IntoIterator<Item = (ListenerKind, SocketAddr)>) -> io::Result<()> {
        let sockets = served.into_iter().map(|(kind, address)| ListenerKey::new(kind, address)).collect();
        let sent = self.channel.send(&Message::Ready { sockets }, &[], PROMPT).await;
        match self.channel.receive(PROMPT).await {
            Ok(Some((Message::Left, _))) => tracing::info!(pid = self.pid, "taken over"),
            Ok(Some((Message::Refused { why }, _))) => return Err(io::Error::other(why)),
            // Gone without a word: then this one is all there is, for without a word nobody goes on beside it.
            Ok(_) | Err(_) => {
                let error = sent.err().map(|error| error.to_string());
                tracing::warn!(pid = self.pid, error, "the old one has gone without a word; serving on");
            }
        }
        Ok(())
    }
}

/// Takes one listener. One of a kind that this version does not know is left to the old one, which empties it.
fn receive(inherited: &mut Inherited, key: ListenerKey, descriptor: OwnedFd) -> io::Result<()> {
    match ListenerKind::of_name(&key.kind) {
        Some(kind) => {
            let socket = TcpListener::from(descriptor);
            inherited.add_from_predecessor(kind, key.address, key.setting, socket)
        }
        None => {
            tracing::warn!(kind = key.kind, address = %key.address, "a listener this version does not know");
            Ok(())
        }
    }
}

fn unexpected(message: Option<Message>) -> io::Error {
    match message {
        None => io::Error::new(io::ErrorKind::UnexpectedEof, "the running one broke off; is it leaving?"),
        Some(Message::Refused { why }) => io::Error::other(why),
        Some(message) => io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {message:?}")),
    }
}
