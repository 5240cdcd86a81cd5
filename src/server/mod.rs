//! The traffic listeners: sockets bound, workers that serve them, connections from accept to close.

mod connection;
mod crowd;
mod descriptors;
mod http2;
mod listener;
mod proxied;
pub mod proxy_protocol;
mod stream;
mod tls;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use connection::{End, Rules, Served, serve};
pub use crowd::{Places, Seat};
pub use descriptors::{max_connections, raise_limit};
pub use listener::{Bound, bind};
pub use stream::Transport;
pub use tls::Tls;
pub use worker::{Listener, Speaks};

use worker::Manners;

use crate::dispatch::Worker;
use crate::settings::{Server, Settings};

/// Every socket of the process, bound before anything else is started.
#[derive(Debug)]
pub struct Listeners {
    /// The traffic listeners.
    pub traffic: Vec<Traffic>,
    /// The admin listener.
    pub admin: Bound,
}

/// A traffic listener.
#[derive(Debug)]
pub struct Traffic {
    /// Its address, with a socket per worker.
    pub bound: Bound,
    /// What is spoken there.
    pub speaks: Speaks,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct Taken {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub error: io::Error,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "can't listen on {}: {}", self.address, self.error)
    }
}

impl Listeners {
    /// Binds every address the settings name.
    ///
    /// # Errors
    /// Every address that could not be had.
    pub fn open(settings: &Settings) -> Result<Self, Vec<Taken>> {
        let mut taken = Vec::new();
        let mut open = |address, count| match bind(address, count) {
            Ok(bound) => Some(bound),
            Err(error) => {
                taken.push(Taken { address, error });
                None
            }
        };
        let workers = worker_count(settings);
        let server = &settings.server;
        let plain = server.listen.iter().map(|listener| (Speaks::Http, listener));
        let tls = server.tls.listen.iter().map(|listener| (Speaks::Tls, listener));
        let upgrade = server.tls.upgrade_listen.iter().map(|listener| (Speaks::Upgrade, listener));
        let traffic: Vec<_> = plain
            .chain(tls)
            .chain(upgrade)
            .filter_map(|(speaks, listener)| {
                let bound = open(listener.address.0, workers)?;
                Some(Traffic { bound, speaks, proxy_protocol: listener.proxy_protocol })
            })
            .collect();
        match open(settings.admin.listen.0, 1) {
            Some(admin) if taken.is_empty() => Ok(Self { traffic, admin }),
            _ => Err(taken),
        }
    }
}

/// How many workers the settings ask for, at least 1.
pub fn worker_count(settings: &Settings) -> usize {
    match settings.server.workers.0 {
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count.into(),
    }
}

/// Workers at work.
#[derive(Debug)]
pub struct Crew {
    stop: CancellationToken,
    ends: mpsc::UnboundedReceiver<()>,
    last_word: mpsc::UnboundedSender<()>,
    working: usize,
    manners: Manners,
    places: Arc<Places>,
}

impl Crew {
    /// Nobody yet. Without `tls` no listener may speak it; `places` is how many connections there may be.
    pub fn new(settings: &Server, tls: Option<Tls>, places: usize) -> Self {
        let limits = &settings.limits;
        let (last_word, ends) = mpsc::unbounded_channel();
        let rules = Rules {
            header_timeout: limits.header_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            max_header_bytes: limits.max_header_bytes.0,
            max_headers: limits.max_headers.0.into(),
            max_requests: match limits.max_requests_per_connection {
                0 => u32::MAX,
                max => max,
            },
        };
        let manners = Manners { rules, tls, upgrade_port: settings.tls.upgrade_port };
        Self {
            stop: CancellationToken::new(),
            ends,
            last_word,
            working: 0,
            manners,
            places: Places::new(places),
        }
    }

    /// Starts workers, each on a thread of its own and with its own listeners.
    ///
    /// # Errors
    /// A thread or a runtime could not be had.
    pub fn start(&mut self, workers: Vec<(Worker, Vec<Listener>)>) -> io::Result<()> {
        let runtimes: Vec<_> = workers.iter().map(|_| worker::runtime()).collect::<io::Result<_>>()?;
        for ((worker, listeners), runtime) in workers.into_iter().zip(runtimes) {
            let (manners, stop) = (self.manners.clone(), self.stop.clone());
            let (places, last_word) = (Arc::clone(&self.places), LastWord(self.last_word.clone()));
            thread::Builder::new().name(format!("worker-{}", self.working)).spawn(move || {
                worker::run(&runtime, worker, listeners, manners, places, stop);
                drop(last_word);
            })?;
            self.working += 1;
        }
        Ok(())
    }

    /// Tells all to accept no more and to finish what is under way.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until one has ended.
    pub async fn one_ended(&mut self) {
        // `self` holds a sender, so the channel never closes.
        let _ = self.ends.recv().await;
        self.working = self.working.saturating_sub(1);
    }

    /// Waits until all have ended.
    pub async fn all_ended(&mut self) {
        while self.working > 0 {
            self.one_ended().await;
        }
    }
}

/// Says that a worker has ended, however it did: it is dropped by a panic too.
struct LastWord(mpsc::UnboundedSender<()>);

impl Drop for LastWord {
    fn drop(&mut self) {
        // Nobody listens any more when the process is ending anyway.
        let _ = self.0.send(());
    }
}
