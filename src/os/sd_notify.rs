//! What a service manager is told: the `sd_notify` protocol, where `NOTIFY_SOCKET` is set. Elsewhere nothing happens.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

/// The way to the service manager, where there is one. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    manager: Option<Arc<Manager>>,
    listeners: String,
}

#[derive(Debug)]
struct Manager {
    /// For news: it waits for a manager that is busy.
    socket: UnixDatagram,
    /// For signs of life: one that finds no room is as good as those that fill it.
    pulse: UnixDatagram,
    address: UnixAddress,
    /// How long this process may be silent.
    watchdog: Option<Duration>,
    /// Whether it was told that we serve.
    ready: AtomicBool,
}

/// How long news may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Notifier {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` names no socket that could be.
    pub fn from_env() -> io::Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(place) = variable("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let address = match place.strip_prefix('@') {
            Some(name) => UnixAddress::from_abstract_name(name),
            None if place.starts_with('/') => UnixAddress::from_pathname(&place),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "it takes a path or @ and a name")),
        };
        let for_us = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| for_us).and_then(|time| time.parse().ok());
        let watchdog = watchdog.filter(|time| *time > 0).map(Duration::from_micros);
        let open = |address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            let pulse = UnixDatagram::unbound()?;
            pulse.set_nonblocking(true)?;
            Ok(Manager { socket, pulse, address, watchdog, ready: AtomicBool::new(false) })
        };
        let manager = address.and_then(open).map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("NOTIFY_SOCKET is {place:?}: {error}"))
        })?;
        Ok(Self { manager: Some(Arc::new(manager)), listeners: String::new() })
    }

    /// How long the manager lets this process be silent.
    pub fn watchdog(&self) -> Option<Duration> {
        self.manager.as_ref().and_then(|manager| manager.watchdog)
    }

    /// The same for a process that takes over from one that may be silent for `watchdog`: the manager watches the
    /// service, and this process was not told of it.
    pub fn watched(mut self, watchdog: Option<Duration>) -> Self {
        if let Some(manager) = self.manager.as_mut().and_then(Arc::get_mut) {
            manager.watchdog = manager.watchdog.or(watchdog.filter(|time| !time.is_zero()));
        }
        self
    }

    /// The same, knowing what `STATUS` is to say of the listeners.
    pub fn listening_on(self, traffic: impl Iterator<Item = SocketAddr>, admin: SocketAddr) -> Self {
        let addresses: Vec<_> = traffic.map(|address| address.to_string()).collect();
        Self { listeners: format!("{}; admin on {admin}", addresses.join(", ")), ..self }
    }

    /// Visitors are served from `pools` pools.
    pub fn ready(&self, pools: usize) {
        if let Some(manager) = &self.manager {
            manager.ready.store(true, Ordering::Relaxed);
            manager.tell(&format!("READY=1\nSTATUS={}", self.status(pools)));
        }
    }

    /// This process is the service's main one.
    pub fn main_process(&self, pid: u32) {
        self.tell(|| format!("MAINPID={pid}"));
    }

    /// The settings are read again. Ends with [`Self::reloaded`].
    pub fn reloading(&self) {
        self.tell_if_ready(|| {
            let now = clock_gettime(ClockId::Monotonic);
            format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
        });
    }

    /// They were read; `pools` are in effect.
    pub fn reloaded(&self, pools: usize, worked: bool) {
        let failed = if worked { "" } else { "; the last reload failed, see the log" };
        self.tell_if_ready(|| format!("READY=1\nSTATUS={}{failed}", self.status(pools)));
    }

    /// The process leaves.
    pub fn stopping(&self) {
        self.tell(|| "STOPPING=1\nSTATUS=leaving: finishing what is under way".to_owned());
    }

    /// Says now and then that this runtime is alive, where the manager wants to hear it. Never ends.
    pub async fn keep_alive(self) {
        let manager = self.manager.as_deref();
        let Some((manager, watchdog)) = manager.and_then(|manager| Some((manager, manager.watchdog?))) else {
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval((watchdog / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let _ = manager.pulse.send_to_addr(b"WATCHDOG=1", &manager.address);
        }
    }

    fn status(&self, pools: usize) -> String {
        let noun = if pools == 1 { "pool" } else { "pools" };
        format!("serving {pools} {noun} on {}", self.listeners)
    }

    fn tell(&self, message: impl FnOnce() -> String) {
        if let Some(manager) = &self.manager {
            manager.tell(&message());
        }
    }

    /// A reload that comes before the start is over is part of the start.
    fn tell_if_ready(&self, message: impl FnOnce() -> String) {
        if self.manager.as_ref().is_some_and(|manager| manager.ready.load(Ordering::Relaxed)) {
            self.tell(message);
        }
    }
}

impl Manager {
    fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            tracing::warn!(%error, message, "the service manager could not be told");
        }
    }
}
