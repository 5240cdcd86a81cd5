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

const FRAMES: usize = 40_000;
/// How many requests are sent in one go, and what floods send.
const AT_ONCE: usize = 50;
/// So few that what is still to be worked off stays below what h2 takes for a flood.
const PACED: usize = 10;

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

/// A flood: how many frames are sent in one go, what is sent at first, and its frame number `n`.
type Flood = (&'static str, usize, fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 6] = [
    ("rapid resets", AT_ONCE, Vec::new, reset),
    ("paced resets", PACED, Vec::new, reset),
    (
        "CONTINUATION",
        AT_ONCE,
        || frame(HEADERS, END_STREAM, 1, &fields(GET)),
        |_| frame(CONTINUATION, 0, 1, b""),
    ),
    ("empty DATA", AT_ONCE, || frame(HEADERS, END_HEADERS, 1, &fields(POST)), |_| frame(DATA, 0, 1, b"")),
    ("PING", AT_ONCE, Vec::new, |number| frame(PING, 0, 0, &u64::from(number).to_be_bytes())),
    ("SETTINGS", AT_ONCE, Vec::new, |_| frame(SETTINGS, 0, 0, b"")),
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
    let of_request = requests(&signpost, address, &h2).expect("requests by HTTP/2");
    report.note("processor time of a request", &format!("{:.1} µs", of_request * 1e6));
    let other = config(&[&pair], &["http/1.1"]);
    for (name, at_once, first, each) in &FLOODS {
        let (done, latencies) = beside(address, &other, || {
            flood(&signpost, address, &h2, *at_once, &first(), *each).expect("a connection to flood")
        });
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
    closed: bool,
}

impl Connection {
    fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = connect(client(2), address, config)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&frame(SETTINGS, 0, 0, b""))?;
        stream.sock.set_read_timeout(Some(Duration::from_millis(1)))?;
        stream.sock.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut connection = Self { stream, read: Vec::new(), answers: 0, closed: false };
        // The peer's settings must be there before they are acknowledged.
        let give_up = Instant::now() + Duration::from_secs(10);
        while !connection.look()? && !connection.closed && Instant::now() < give_up {}
        connection.send(&frame(SETTINGS, ACK, 0, b""));
        Ok(connection)
    }

    /// Sends; where that fails, the peer has closed.
    fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_err() {
            self.closed = true;
        }
    }

    /// Reads what is there; whether there was anything.
    fn look(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let mut any = false;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(count) => {
                    any = true;
                    self.read.extend_from_slice(&buffer[..count]);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        while let [a, b, c, kind, ..] = self.read[..] {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.read.len() < 9 + length {
                break;
            }
            self.answers += usize::from(kind == HEADERS);
            self.closed |= kind == GOAWAY;
            self.read.drain(..9 + length);
        }
        Ok(any)
    }
}

/// The processor time of one request, in seconds: of as many as a flood has frames, in batches on one
/// connection.
fn requests(signpost: &Signpost, address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<f64> {
    let mut connection = Connection::open(address, config)?;
    let before = signpost.process.processor_time();
    for batch in 0..(FRAMES / AT_ONCE) as u32 {
        let mut bytes = Vec::new();
        for number in 0..AT_ONCE as u32 {
            let stream = 2 * (batch * AT_ONCE as u32 + number) + 1;
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(GET)));
        }
        connection.send(&bytes);
        let due = (batch as usize + 1) * AT_ONCE;
        let give_up = Instant::now() + Duration::from_secs(10);
        while connection.answers < due {
            connection.look()?;
            if connection.closed || Instant::now() > give_up {
                return Err(io::Error::other(format!("{} answers of {due}", connection.answers)));
            }
        }
    }
    let used = signpost.process.processor_time() - before;
    Ok(used.as_secs_f64() / FRAMES as f64)
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
    at_once: usize,
    first: &[u8],
    each: fn(u32) -> Vec<u8>,
) -> io::Result<Flooded> {
    let mut connection = Connection::open(address, config)?;
    let before = signpost.process.processor_time();
    connection.send(first);
    let mut frames = 0;
    while frames < FRAMES && !connection.closed {
        let bytes: Vec<u8> = (frames..frames + at_once).flat_map(|number| each(number as u32)).collect();
        connection.send(&bytes);
        frames += at_once;
        connection.look()?;
    }
    // What was sent last is worked off too.
    let settled = Instant::now() + Duration::from_millis(300);
    while Instant::now() < settled && !connection.closed {
        connection.look()?;
    }
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
