//! Floods of HTTP/2 frames, written by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::Scenario;
use crate::http::{client, exchange, request};
use crate::process::{POOL, Signpost, Start};
use crate::report::{Report, quantile};
use crate::tls::{Files, NAME, Pair, Tls, config, connect};

/// Rapid resets (CVE-2023-44487), CONTINUATION without end (CVE-2024-27316), DATA that holds nothing
/// (CVE-2019-9518), PINGs (CVE-2019-9512) and SETTINGS (CVE-2019-9515), on one connection each to one worker.
/// An attacker who can't have more of the processor by a frame than by a plain request gains nothing by the
/// flood, so that is the bound; or the connection is closed on it. Another visitor of the same worker is
/// answered all the while.
pub const SCENARIO: Scenario = Scenario {
    name: "h2-floods",
    shows: "floods of HTTP/2 frames beside another visitor of the same worker",
    seconds: 120,
    run,
};

const FRAMES: usize = 200_000;
/// How many frames are sent in one go.
const AT_ONCE: usize = 50;
/// So few that what is still to be worked off stays below what h2 takes for a flood.
const PACED: usize = 20;
/// A connection that is closed within so many frames is no flood; one that is closed later must have been cheap
/// too.
const AT_FIRST: usize = 1000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request's fields: the static table's entries for method, https and /, and the authority as a literal.
fn fields(method: u8) -> Vec<u8> {
    let mut block = vec![method, 0x87, 0x84, 0x01, NAME.len() as u8];
    block.extend(NAME.as_bytes());
    block
}
const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// A stream that is opened and reset at once.
fn reset(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(GET));
    both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    both
}

/// A flood.
struct Flood {
    name: &'static str,
    /// How many frames are sent in one go.
    at_once: usize,
    /// What is sent at first.
    first: fn() -> Vec<u8>,
    /// One step of it, by its number, of so many frames.
    each: fn(u32) -> Vec<u8>,
    frames_each: usize,
    /// Whether a PING may follow each go: its answer says that all of it was worked off.
    pings: bool,
}

const FLOODS: [Flood; 6] = [
    Flood {
        name: "rapid resets",
        at_once: AT_ONCE,
        first: Vec::new,
        each: reset,
        frames_each: 2,
        pings: true,
    },
    Flood { name: "paced resets", at_once: PACED, first: Vec::new, each: reset, frames_each: 2, pings: true },
    Flood {
        name: "CONTINUATION",
        at_once: AT_ONCE,
        first: || frame(HEADERS, END_STREAM, 1, &fields(GET)),
        each: |_| frame(CONTINUATION, 0, 1, b""),
        frames_each: 1,
        pings: false,
    },
    Flood {
        name: "empty DATA",
        at_once: AT_ONCE,
        first: || frame(HEADERS, END_HEADERS, 1, &fields(POST)),
        each: |_| frame(DATA, 0, 1, b""),
        frames_each: 1,
        pings: true,
    },
    Flood {
        name: "PING",
        at_once: AT_ONCE,
        first: Vec::new,
        each: |number| frame(PING, 0, 0, &u64::from(number).to_be_bytes()),
        frames_each: 1,
        pings: true,
    },
    Flood {
        name: "SETTINGS",
        at_once: AT_ONCE,
        first: Vec::new,
        each: |_| frame(SETTINGS, 0, 0, b""),
        frames_each: 1,
        pings: true,
    },
];

fn run(report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let pair = Pair::new();
    files.write(&pair);
    let signpost = Start::with(&format!(
        "[log]\naccess = false\n[server]\nworkers = 1\n[server.limits]\nmax_requests_per_connection = 0\n{}{POOL}",
        files.settings()
    ))
    .go();
    let address = signpost.tls.expect("a TLS listener");
    let h2 = config(&[&pair], &["h2"]);
    let of_request = |at_once| requests(&signpost, address, &h2, at_once).expect("requests by HTTP/2");
    let costs = [AT_ONCE, PACED].map(|at_once| (at_once, of_request(at_once)));
    for (at_once, cost) in costs {
        report.note(
            &format!("processor time of a request, {at_once} at once"),
            &format!("{:.1} µs", cost * 1e6),
        );
    }
    let other = config(&[&pair], &["http/1.1"]);
    for one in &FLOODS {
        let name = one.name;
        let (done, latencies) =
            beside(address, &other, || flood(&signpost, address, &h2, one).expect("a connection to flood"));
        match done {
            Flooded { frames, closed: true, .. } if frames < AT_FIRST => {
                report.holds(&format!("{name}: it closes the connection, after {frames} frames"), true);
            }
            Flooded { frames, seconds, closed } => {
                if closed {
                    report.note(
                        &format!("{name}: it closes the connection"),
                        &format!("after {frames} frames"),
                    );
                }
                let of_request = costs.iter().find(|cost| cost.0 == one.at_once).map_or(0.0, |cost| cost.1);
                let share = 100.0 * seconds / frames as f64 / of_request;
                report.at_most(
                    &format!("{name}: processor time of a frame, of a request's"),
                    share,
                    100.0,
                    "%",
                );
            }
        }
        let mut latencies = match latencies {
            Ok(latencies) => latencies,
            Err(error) => {
                report.exactly(
                    &format!("{name}: another visitor's failures"),
                    error.to_string(),
                    String::new(),
                );
                continue;
            }
        };
        report.at_least(
            &format!("{name}: answers to another visitor meanwhile"),
            latencies.len() as f64,
            5.0,
            "",
        );
        report.at_most(&format!("{name}: its slowest answer"), quantile(&mut latencies, 1.0), 1000.0, "ms");
    }
}

/// An HTTP/2 connection after its preface, on which reads don't wait.
struct Connection {
    stream: Tls,
    read: Vec<u8>,
    /// Answers, by their HEADERS.
    answers: usize,
    /// Answers to PINGs.
    pongs: usize,
    closed: bool,
}

impl Connection {
    fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = connect(client(2), address, config)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&frame(SETTINGS, 0, 0, b""))?;
        stream.sock.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut connection = Self { stream, read: Vec::new(), answers: 0, pongs: 0, closed: false };
        // The peer's settings must be there before they are acknowledged.
        connection.stream.sock.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.look();
        connection.stream.sock.set_read_timeout(Some(Duration::from_millis(1)))?;
        connection.send(&frame(SETTINGS, ACK, 0, b""));
        Ok(connection)
    }

    /// Sends; where that fails, the peer has closed.
    fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_err() {
            self.closed = true;
        }
    }

    /// Waits for something to come; whether it did.
    fn look(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let any = match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.closed |= count == 0;
                self.read.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) => {
                self.closed |= !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                false
            }
        };
        while let [a, b, c, kind, flags, ..] = self.read[..] {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.read.len() < 9 + length {
                break;
            }
            self.answers += usize::from(kind == HEADERS);
            self.pongs += usize::from(kind == PING && flags == ACK);
            self.closed |= kind == GOAWAY;
            self.read.drain(..9 + length);
        }
        any
    }

    /// Waits until something has come; whether it did before the peer closed.
    fn wait(&mut self, so: impl Fn(&Self) -> bool) -> bool {
        let give_up = Instant::now() + Duration::from_secs(10);
        while !so(self) && !self.closed && Instant::now() < give_up {
            self.look();
        }
        so(self)
    }
}

/// The processor time of one request, in seconds: of as many as a flood has frames, so many at once on one
/// connection.
fn requests(
    signpost: &Signpost,
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    at_once: usize,
) -> io::Result<f64> {
    let mut connection = Connection::open(address, config)?;
    let before = signpost.process.processor_time();
    for first in (0..FRAMES).step_by(at_once) {
        let get = |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &fields(GET));
        let bytes: Vec<u8> = (first..first + at_once).flat_map(|number| get(number as u32)).collect();
        connection.send(&bytes);
        if !connection.wait(|connection| connection.answers >= first + at_once) {
            return Err(io::Error::other(format!("{} answers of {}", connection.answers, first + at_once)));
        }
    }
    let used = signpost.process.processor_time() - before;
    Ok(used.as_secs_f64() / connection.answers as f64)
}

/// What a flood came to.
struct Flooded {
    frames: usize,
    /// Processor time that it took of the dispatcher.
    seconds: f64,
    closed: bool,
}

fn flood(
    signpost: &Signpost,
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    flood: &Flood,
) -> io::Result<Flooded> {
    let mut connection = Connection::open(address, config)?;
    let before = signpost.process.processor_time();
    connection.send(&(flood.first)());
    let steps = flood.at_once / flood.frames_each;
    let (mut frames, mut number) = (0, 0);
    while frames < FRAMES && !connection.closed {
        let mut bytes: Vec<u8> =
            (number..number + steps).flat_map(|number| (flood.each)(number as u32)).collect();
        number += steps;
        frames += steps * flood.frames_each;
        let pongs = connection.pongs;
        if flood.pings {
            bytes.extend(frame(PING, 0, 0, &[0; 8]));
            frames += 1;
        }
        connection.send(&bytes);
        if flood.pings {
            connection.wait(|connection| connection.pongs > pongs);
        } else {
            connection.look();
        }
    }
    // What was sent last is worked off too.
    let settled = Instant::now() + Duration::from_millis(100);
    connection.wait(|_| Instant::now() > settled);
    let seconds = (signpost.process.processor_time() - before).as_secs_f64();
    Ok(Flooded { frames, seconds, closed: connection.closed })
}

/// What another visitor's requests took meanwhile, one every 20 ms on a connection of its own, in milliseconds.
fn beside<T>(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    done: impl FnOnce() -> T,
) -> (T, io::Result<Vec<f64>>) {
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let visiting = scope.spawn(|| -> io::Result<Vec<f64>> {
            let mut stream = connect(client(4), address, config)?;
            let mut latencies = Vec::new();
            while !stop.load(Ordering::Relaxed) || latencies.len() < 5 {
                let begun = Instant::now();
                let status = exchange(&mut stream, &request("GET", "/", &[], ""))?.status;
                if status != 302 {
                    return Err(io::Error::other(format!("status {status}")));
                }
                latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
                answered.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(latencies)
        });
        // Its first answer is there before the flood begins.
        let give_up = Instant::now() + Duration::from_secs(5);
        while answered.load(Ordering::Relaxed) == 0 && !visiting.is_finished() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(2));
        }
        let done = done();
        stop.store(true, Ordering::Relaxed);
        (done, visiting.join().unwrap())
    })
}
