//! The old one's side: offering its listeners for as long as it runs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::channel::{BATCH, Channel, MeetingPoint};
use super::{ListenerKey, Message, PROMPT, PROTOCOL, UNTIL_READY, name, trusted};
use crate::metrics::CountedFleet;
use crate::overrides;
use crate::server::BoundListener;

/// How long to wait before trying again what went wrong: to take the name, to hear a successor.
const AGAIN: Duration = Duration::from_secs(1);

/// The least time from one vain conversation to the next.
const BREATH: Duration = Duration::from_millis(20);
/// How long a successor may take to say who it is: others wait meanwhile.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A successor that serves.
#[derive(Debug)]
pub struct ReadySuccessor {
    /// Its version.
    pub version: String,
    /// Its process id, as it sees it.
    pub pid: u32,
    channel: Channel,
}

impl ReadySuccessor {
    /// Tells it that nothing is accepted here any more.
    pub async fn left(self) {
        // It has what it needs, whether it hears this or not.
        let _ = self.channel.send(&Message::Left, &[], PROMPT).await;
    }
}

/// The listeners, offered to whoever comes for them. Dropped, it closes its descriptors and can't be found any more.
#[derive(Debug)]
pub struct TakeoverServer {
    name: String,
    place: io::Result<MeetingPoint>,
    held: Vec<BoundListener>,
    fleet: Arc<ArcSwap<CountedFleet>>,
    busy: Arc<AtomicBool>,
    watchdog: Option<Duration>,
}

impl TakeoverServer {
    /// Takes the place where a successor looks; it can come from now on. `admin` is the admin listener's real address,
    /// `fleet` knows what the operator has set. Must be called inside a runtime.
    /// `busy` says from now on whether a successor is being spoken with; `watchdog` is how long the service manager
    /// lets this process be silent, which holds for a successor too.
    pub fn new(
        admin: SocketAddr,
        held: Vec<BoundListener>,
        fleet: Arc<ArcSwap<CountedFleet>>,
        busy: Arc<AtomicBool>,
        watchdog: Option<Duration>,
    ) -> Self {
        let name = name(admin);
        Self { place: MeetingPoint::take(&name), name, held, fleet, busy, watchdog }
    }

    /// Hears successors until one of them serves. What it serves is then marked as passed.
    pub async fn taken(self) -> ReadySuccessor {
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
            // From here on what it was told must stay true.
            self.busy.store(true, Ordering::Relaxed);
            match hand_over(&channel, &self.held, &self.fleet, self.watchdog).await {
                Ok((version, pid)) => return ReadySuccessor { version, pid, channel },
                Err(error) => {
                    // Everybody on the machine can come and be refused: that must not fill the log.
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        tracing::debug!(%error, "a stranger was refused");
                    } else {
                        tracing::warn!(%error, "nothing came of a takeover; serving goes on");
                    }
                    // Whatever it was: a successor that hears nothing takes this one for dead, and serves beside it.
                    refuse(&channel, error.to_string()).await;
                }
            }
            self.busy.store(false, Ordering::Relaxed);
            sleep(BREATH).await;
        }
    }
}

async fn take_place(name: &str) -> MeetingPoint {
    loop {
        sleep(AGAIN).await;
        if let Ok(place) = MeetingPoint::take(name) {
            return place;
        }
    }
}

/// One conversation. With an error nothing has happened.
async fn hand_over(
    channel: &Channel,
    held: &[BoundListener],
    fleet: &ArcSwap<CountedFleet>,
    watchdog: Option<Duration>,
) -> io::Result<(String, u32)> {
    let peer = channel.peer()?;
    if !trusted(peer.uid()) {
        let why = format!("user {} may not take over from this one", peer.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let (version, pid) = match channel.receive(FIRST_WORD).await? {
        Some((Message::Hello { protocol: PROTOCOL, version, pid }, _)) => (version, pid),
        Some((Message::Hello { protocol, version, .. }, _)) => {
            let why = format!("version {version} speaks protocol {protocol}, this one {PROTOCOL}");
            return Err(io::Error::other(why));
        }
        other => return Err(unexpected(other.map(|(message, _)| message))),
    };
    tracing::info!(version, pid, "a successor asks for the listeners");
    for backends in overrides::of(fleet).chunks(BATCH) {
        channel.send(&Message::Operated { backends: backends.to_vec() }, &[], PROMPT).await?;
    }
    send_all(channel, held, watchdog).await?;
    let served = loop {
        match channel.receive(UNTIL_READY).await {
            Ok(Some((Message::Starting, _))) => {}
            Ok(Some((Message::Ready { sockets }, _))) => break sockets,
            Ok(other) => return Err(unexpected(other.map(|(message, _)| message))),
            Err(error) => return Err(error),
        }
    };
    for held in held {
        if served.iter().any(|key| key.is(held.kind, held.address)) {
            held.passed.set();
        }
    }
    Ok((version, pid))
}

async fn send_all(channel: &Channel, held: &[BoundListener], watchdog: Option<Duration>) -> io::Result<()> {
    let keyed = held.iter().flat_map(|held| {
        let key = ListenerKey { setting: Some(held.setting), ..ListenerKey::new(held.kind, held.address) };
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
            watchdog_usec: watchdog.map(|time| time.as_micros() as u64),
            more: batches.peek().is_some(),
        };
        channel.send(&message, &descriptors, PROMPT).await?;
    }
    Ok(())
}

/// Tells the successor why not.
async fn refuse(channel: &Channel, why: String) {
    // It may have gone, which is as good.
    let _ = channel.send(&Message::Refused { why }, &[], PROMPT).await;
}

fn unexpected(message: Option<Message>) -> io::Error {
    match message {
        None => io::Error::new(io::ErrorKind::UnexpectedEof, "the successor has gone before it served"),
        Some(Message::Refused { why }) => io::Error::other(why),
        Some(message) => io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {message:?}")),
    }
}
