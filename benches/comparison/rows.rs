//! The rows: what visitors do, and one measurement of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::h2;
use crate::load::{self, Pace, Tally, Target};
use crate::response::request;
use crate::servers::Server;
use crate::settings::Settings;
use crate::{machine, tls, wrk};

/// Connections of the closed loops.
const CONNECTIONS: usize = 64;

/// One kind of visit.
pub struct Row {
    /// What it is called on the command line and in tables.
    pub name: &'static str,
    /// What visitors do.
    pub what: &'static str,
    pub settings: Settings,
    pub visit: Visit,
}

/// How visitors come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// A connection each, in a closed loop.
    Once(Tls),
    /// The same, from a generator that takes longer than the server: visitors come one by one.
    Single,
    /// A connection for all requests, in a closed loop.
    Kept(Tls),
    /// The same, with the pin of an earlier visit.
    Pinned,
    /// HTTP/2 over TLS, a connection for all requests, by `h2load`.
    Http2,
    /// A connection each, at times fixed beforehand.
    Open,
}

/// Whether visitors speak TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    No,
    /// Each handshake is a whole one: clients have no ticket to offer.
    Full,
    /// Each takes up the session of the one before.
    Resumed,
}

/// In the order of the tables. The open loop needs more rounds than the others, so it is the last.
pub const ROWS: [Row; 12] = [
    row("one-shot", "new connection, one request", Settings::Plain, Visit::Once(Tls::No)),
    row(
        "one-shot-single",
        "the same, each request on its own: most wake the server",
        Settings::Plain,
        Visit::Single,
    ),
    row(
        "one-shot-deferred",
        "as one-shot, all defer accept until the request is there",
        Settings::Deferred,
        Visit::Once(Tls::No),
    ),
    row("keep-alive", "requests on 64 kept connections", Settings::Plain, Visit::Kept(Tls::No)),
    row("pin", "pin on, kept connections, a valid pin in each request", Settings::Pin, Visit::Pinned),
    row("pin-first", "pin on, kept connections, no pin yet", Settings::Pin, Visit::Kept(Tls::No)),
    row("tls-one-shot", "TLS 1.3, full handshake, one request", Settings::Plain, Visit::Once(Tls::Full)),
    row("tls-resumed", "TLS 1.3, resumed, one request", Settings::Plain, Visit::Once(Tls::Resumed)),
    row("tls-keep-alive", "TLS 1.3, kept connections", Settings::Plain, Visit::Kept(Tls::Full)),
    row("http2", "HTTP/2 over TLS 1.3, 16 connections of 4 streams", Settings::Plain, Visit::Http2),
    row(
        "access-log",
        "kept connections, a line of each request in a file",
        Settings::Log,
        Visit::Kept(Tls::No),
    ),
    row("open-loop", "new connection, one request, at half of saturation", Settings::Plain, Visit::Open),
];

const fn row(name: &'static str, what: &'static str, settings: Settings, visit: Visit) -> Row {
    Row { name, what, settings, visit }
}

/// What a measurement needs besides a row and a server.
pub struct With<'a> {
    pub time: Duration,
    /// The core of the generator.
    pub core: usize,
    pub directory: &'a Path,
    /// The cookie of an earlier visit to this server.
    pub pin: Option<&'a str>,
    /// Visitors a second in the open loop.
    pub rate: f64,
    /// What chance the open loop's visitors come by; the same for all servers of a round.
    pub seed: u64,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Answers a second.
    pub per_second: f64,
    /// Microseconds of the server's processor time for each.
    pub processor: f64,
    /// Microseconds from when a request was due to its answer, which this share of the answers do not exceed.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// The generator's own lateness at p99, in the open loop.
    pub late: Option<f64>,
    /// All answers, those before and after the measured time included.
    pub answers: u64,
    pub failed: u64,
    pub failure: Option<String>,
    /// The share of handshakes that took up a session.
    pub resumed: f64,
}

impl Row {
    /// Whether visitors speak TLS.
    pub fn is_tls(&self) -> bool {
        match self.visit {
            Visit::Once(over) | Visit::Kept(over) => over != Tls::No,
            Visit::Http2 => true,
            Visit::Single | Visit::Pinned | Visit::Open => false,
        }
    }

    /// Puts its load on a server for a time.
    pub fn measure(&self, server: &Server, with: &With<'_>) -> Sample {
        let mut before = server.process.processor_time();
        let mut tally = match self.visit {
            Visit::Http2 => h2::load(server.tls, with.time, with.core, with.directory),
            Visit::Once(Tls::No) | Visit::Kept(Tls::No) | Visit::Pinned if machine::has("wrk") => {
                let request = self.request(with);
                wrk::load(server.plain, &request, CONNECTIONS, with.time, with.core, with.directory)
            }
            _ => self.http1(server, with, &mut || before = server.process.processor_time()),
        };
        // What is still being finished is this row's.
        std::thread::sleep(Duration::from_millis(20));
        let used = server.process.processor_time().saturating_sub(before);
        let [p50, p99, p999] = quantiles(&mut tally.latencies, [0.5, 0.99, 0.999]);
        let [late] = quantiles(&mut tally.lateness, [0.99]);
        Sample {
            per_second: tally.in_time as f64 / tally.took.max(Duration::from_millis(1)).as_secs_f64(),
            processor: used.as_secs_f64() * 1e6 / tally.answers.max(1) as f64,
            p50,
            p99,
            p999,
            late: (self.visit == Visit::Open).then_some(late),
            answers: tally.answers + tally.before,
            failed: tally.failed,
            failure: tally.failure,
            resumed: tally.resumed as f64 / tally.answers.max(1) as f64,
        }
    }

    /// What each visitor sends.
    fn request(&self, with: &With<'_>) -> Vec<u8> {
        match (self.visit, with.pin) {
            (Visit::Once(_) | Visit::Single | Visit::Open, _) => request(&[("Connection", "close")]),
            (Visit::Pinned, Some(pin)) => request(&[("Cookie", pin)]),
            _ => request(&[]),
        }
    }

    fn http1(&self, server: &Server, with: &With<'_>, started: &mut dyn FnMut()) -> Tally {
        let (once, over) = match self.visit {
            Visit::Once(over) => (true, over),
            Visit::Kept(over) => (false, over),
            Visit::Single | Visit::Open => (true, Tls::No),
            Visit::Pinned | Visit::Http2 => (false, Tls::No),
        };
        let config = |resumes| tls::hurried(&["http/1.1"], resumes);
        let configs: Vec<Arc<ClientConfig>> = match over {
            Tls::No => Vec::new(),
            Tls::Full => vec![config(false)],
            Tls::Resumed => (0..CONNECTIONS).map(|_| config(true)).collect(),
        };
        let target = Target {
            to: if over == Tls::No { server.plain } else { server.tls },
            request: &self.request(with),
            once,
            tls: &configs,
        };
        let pace = match self.visit {
            Visit::Open => Pace::Open { rate: with.rate, seed: with.seed },
            _ => Pace::Closed(CONNECTIONS),
        };
        load::run(&target, pace, with.time, started).expect("an epoll of our own")
    }
}

/// The values that these shares do not exceed, exactly, in microseconds. Sorts them.
fn quantiles<const N: usize>(nanoseconds: &mut [u32], shares: [f64; N]) -> [f64; N] {
    nanoseconds.sort_unstable();
    shares.map(|share| {
        let at = (nanoseconds.len() as f64 * share).ceil() as usize;
        nanoseconds.get(at.saturating_sub(1)).map_or(0.0, |value| f64::from(*value) / 1000.0)
    })
}
