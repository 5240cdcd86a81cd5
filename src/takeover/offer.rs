//! The old one's side: offering its listeners for as long as it runs.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::channel::{BATCH, Channel, Place};
use super::{Key, Message, PROMPT, PROTOCOL, UNTIL_READY, name, operated, trusted};
use crate::fleet::Fleet;
use crate::server::Held;

/// How long to wait before trying again what went wrong: to take the name, to hear a successor.
const AGAIN: Duration = Duration::from_secs(1);

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

/// The listeners, offered to whoever comes for them. Dropped, it closes its descriptors and can't be found any more.
#[derive(Debug)]
pub struct Offer {
    name: String,
    place: io::Result<Place>,
    held: Vec<Held>,
    fleet: Arc<ArcSwap<Fleet>>,
    busy: Busy,
}

/// Whether a successor is being spoken with: until that is over, the listeners must stay what it was told. Cheap to
/// clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Busy(Rc<Cell<bool>>);

impl Busy {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.0.get()
    }
}

impl Offer {
    /// Takes the place where a successor looks; it can come from now on. `admin` is the admin listener's real address,
    /// `fleet` knows what the operator has set. Must be called inside a runtime.
    /// `busy` says from now on whether a successor is being spoken with.
    pub fn new(admin: SocketAddr, held: Vec<Held>, fleet: Arc<ArcSwap<Fleet>>, busy: Busy) -> Self {
        let name = name(admin);
        Self { place: Place::take(&name), name, held, fleet, busy }
    }

    /// Hears successors until one of them serves. What it serves is then marked as passed.
    pub async fn taken(self) -> TakenOver {
        let place = match self.place {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(%error, self.name, "can't be taken over: somebody has its name; trying on");
                take_place(&self.name).await
            }
        };
        loop {
            let channel = match place.accept().await {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!(%error, "a successor could not be heard");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            self.busy.0.set(true);
            match hand_over(channel, &self.held, &self.fleet).await {
                Ok(taken_over) => return taken_over,
                Err(error) => tracing::warn!(%error, "nothing came of a takeover; serving goes on"),
            }
            self.busy.0.set(false);
        }
    }
}

async fn take_place(name: &str) -> Place {
    loop {
        sleep(AGAIN).await;
        if let Ok(place) = Place::take(name) {
            return place;
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
