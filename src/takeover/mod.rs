//! Replacing a running instance without losing a visitor: the new one receives every listening socket from the old one.
//!
//! | step | who | what |
//! | --- | --- | --- |
//! | 1 | successor | connects, says version and pid |
//! | 2 | old | says what the operator has set, sends the list of listeners with their descriptors |
//! | 3 | successor | builds everything, binds what was not on the list, serves |
//! | 4 | successor | `ready`, with the list of what it serves |
//! | 5 | old | stops accepting, says so, finishes what is under way, ends |
//!
//! A passed descriptor is the same socket with the same queue, so from 3 to 5 both accept, and at no time nobody does.
//! What the successor did not name in 4 is the old one's to empty before it is closed. Until 4 nothing has happened:
//! a successor that dies, or is silent for half a minute, is forgotten.
//!
//! # Trust
//! They meet at an abstract Unix socket named after the admin listener's real address. Such a name has no file and no
//! permissions: everybody in the network namespace may connect to it, or take it first. So each side asks the kernel
//! who the other is, and speaks with its own user and with root only. What is received is bounded in size and time,
//! and each descriptor is looked at before it is used.

mod channel;
mod predecessor;
mod successor;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use predecessor::{ReadySuccessor, TakeoverServer};
pub use successor::{NoPredecessor, Predecessor};

use crate::overrides::OperatorOverride;
use crate::server::ListenerKind;

/// The version of this conversation. One more when an older instance would misunderstand it.
const PROTOCOL: u32 = 1;
/// How long the other side may take for a step that needs no work.
const PROMPT: Duration = Duration::from_secs(10);
/// How long a successor may be silent before it is ready.
const UNTIL_READY: Duration = Duration::from_secs(30);
/// How often it says that it is still starting.
const STILL_STARTING: Duration = Duration::from_secs(5);

/// What is said: one of these is one packet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Message {
    /// The successor's first word.
    Hello { protocol: u32, version: String, pid: u32 },
    /// What the operator has set at run time; comes before the listeners, in as many packets as it takes.
    Operated { backends: Vec<OperatorOverride> },
    /// Some listeners; the packet carries a descriptor for each, in this order. The last one says `more: false`.
    Sockets {
        version: String,
        pid: u32,
        sockets: Vec<ListenerKey>,
        /// How long the service manager lets its process be silent, in microseconds.
        #[serde(default)]
        watchdog_usec: Option<u64>,
        more: bool,
    },
    /// The successor is not dead: it waits for its first round of probes.
    Starting,
    /// The successor serves, and these are its listeners.
    Ready { sockets: Vec<ListenerKey> },
    /// The old one accepts no more.
    Left,
    /// Why nothing comes of it.
    Refused { why: String },
}

/// Which listener is meant. `kind` is text: another version may know other kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ListenerKey {
    kind: String,
    address: SocketAddr,
    /// The address of the setting that led to it, where that is known: systemd may have given it another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    setting: Option<SocketAddr>,
}

impl ListenerKey {
    fn new(kind: ListenerKind, address: SocketAddr) -> Self {
        Self { kind: kind.name().to_owned(), address, setting: None }
    }

    fn is(&self, kind: ListenerKind, address: SocketAddr) -> bool {
        self.kind == kind.name() && self.address == address
    }
}

/// The abstract name at which the instance with this admin address is met.
fn name(admin: SocketAddr) -> String {
    format!("signpost/{admin}")
}

/// Under which addresses an instance may run whose settings say `admin`: without IPv6, `0.0.0.0` stands in for `[::]`.
fn real_addresses(admin: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let stand_in = (admin.ip().is_unspecified() && admin.is_ipv6())
        .then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), admin.port()));
    [admin].into_iter().chain(stand_in)
}

/// Our own user.
fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether to speak with a process of this user.
fn trusted(user: u32) -> bool {
    user == 0 || user == own_user()
}
