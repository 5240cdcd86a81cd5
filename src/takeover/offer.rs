//! The old one's side: offering its listeners for as long as it runs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::channel::{BATCH, Channel, Place};
use super::{Key, Message, PROMPT, PROTOCOL, UNTIL_READY, name, operated, trusted};
use crate::fleet::Fleet;
use crate::server::Held;

/// How long to wait for the name, which a predecessor gives up a moment before it ends.
const NAME_TAKEN: Duration = Duration::from_millis(50);
/// How often to try that before somebody is told.
const TRIES: u32 = 100;
/// How long to wait for it after that.
const NAME_STILL_TAKEN: Duration = Duration::from_secs(10);

/// A successor that serves.
#[derive(Debug)]
pub struct TakenOver {
    /// Its version.
    pub version: String,
    /// Its process id, as it sees it.
    pub pid: u32,
    channel: Channel,
}

impl TakenOver {
    /// Tells it that nothing is accepted here any more.
    pub async fn left(self) {
        // It has what it needs, whether it hears this or not.
        let _ = self.channel.send(&Message::Left, &[], PROMPT).await;
    }
}

/// Offers listeners to successors until one of them serves. What it serves is then marked as passed.
///
/// `admin` is the admin listener's real address; `fleet` knows what the operator has set. Dropping the future ends the offer and closes its descriptors.
pub async fn offer(admin: SocketAddr, held: Vec<Held>, fleet: Arc<ArcSwap<Fleet>>) -> TakenOver {
    let name = name(admin);
    let place = take_place(&name).await;
    tracing::debug!(name, "can be taken over");
    loop {
        let channel = match place.accept().await {
            Ok(channel) => channel,
            Err(error) => {
                tracing::warn!(%error, "a successor could not be heard");
                sleep(NAME_TAKEN).await;
                continue;
            }
        };
        match hand_over(channel, &held, &fleet).await {
            Ok(taken_over) => return taken_over,
            Err(error) => tracing::warn!(%error, "nothing came of a takeover; serving goes on"),
        }
    }
}

async fn take_place(name: &str) -> Place {
    let mut tries = 0;
    loop {
        match Place::take(name) {
            Ok(place) => return place,
            Err(_) if tries < TRIES => {
                tries += 1;
                sleep(NAME_TAKEN).await;
            }
            Err(error) => {
                if tries == TRIES {
                    tries += 1;
                    tracing::warn!(%error, name, "can't be taken over: its name is not to be had; trying on");
                }
                sleep(NAME_STILL_TAKEN).await;
            }
        }
    }
}

/// One conversation. With an error nothing has happened.
async fn hand_over(channel: Channel, held: &[Held], fleet: &ArcSwap<Fleet>) -> io::Result<TakenOver> {
    let peer = channel.peer()?;
    if !trusted(peer.uid()) {
        let why = format!("user {} may not take over from this one", peer.uid());
        return Err(refuse(&channel, why).await);
    }
    let (version, pid) = match channel.receive(PROMPT).await? {
        Some((Message::Hello { protocol: PROTOCOL, version, pid }, _)) => (version, pid),
        Some((Message::Hello { protocol, version, .. }, _)) => {
            let why = format!("version {version} speaks protocol {protocol}, this one {PROTOCOL}");
            return Err(refuse(&channel, why).await);
        }
        other => return Err(unexpected(other.map(|(message, _)| message))),
    };
    tracing::info!(version, pid, "a successor asks for the listeners");
    for backends in operated::of(fleet).chunks(BATCH) {
        channel.send(&Message::Operated { backends: backends.to_vec() }, &[], PROMPT).await?;
    }
    send_all(&channel, held).await?;
    let served = loop {
        match channel.receive(UNTIL_READY).await {
            Ok(Some((Message::Starting, _))) => {}
            Ok(Some((Message::Ready { sockets }, _))) => break sockets,
            Ok(other) => return Err(unexpected(other.map(|(message, _)| message))),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // Should it be ready later all the same, then it must not serve beside this one.
                refuse(&channel, format!("nothing was heard for {UNTIL_READY:?}")).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    };
    for held in held {
        if served.contains(&Key::new(held.kind, held.address)) {
            held.passed.set();
        }
    }
    Ok(TakenOver { version, pid, channel })
}

async fn send_all(channel: &Channel, held: &[Held]) -> io::Result<()> {
    let keyed = held.iter().flat_map(|held| {
        let key = Key::new(held.kind, held.address);
        held.sockets.iter().map(move |socket| (key.clone(), socket.as_fd()))
    });
    let keyed: Vec<_> = keyed.collect();
    let mut batches = keyed.chunks(BATCH).peekable();
    while let Some(batch) = batches.next() {
        let (sockets, descriptors): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
        let message = Message::Sockets {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sockets,
            more: batches.peek().is_some(),
        };
        channel.send(&message, &descriptors, PROMPT).await?;
    }
    Ok(())
}

/// Tells the successor why not; returns the same as an error.
async fn refuse(channel: &Channel, why: String) -> io::Error {
    let _ = channel.send(&Message::Refused { why: why.clone() }, &[], PROMPT).await;
    io::Error::other(why)
}

fn unexpected(message: Option<Message>) -> io::Error {
    match message {
        None => io::Error::new(io::ErrorKind::UnexpectedEof, "the successor has gone before it served"),
        Some(Message::Refused { why }) => io::Error::other(why),
        Some(message) => io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {message:?}")),
    }
}
