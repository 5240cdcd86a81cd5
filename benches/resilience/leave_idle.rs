//! Leaving with nothing to do, or with connections that have no complete request.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Scenario;
use crate::http::{client, connect_from, read_answer, request};
use crate::process::{POOL, Process, Signpost, Start, wait_until};
use crate::report::Report;

/// Without clients a process ends within 0.2 s of SIGINT and SIGTERM, so that Ctrl-C and restarts feel immediate: what
/// takes most of it is reading the kernel's table of connections, some 20 ms. With 200 connections that the kernel
/// defers (`tcp_defer_accept`) when SIGTERM comes, each request that is sent while they come in is answered, and those
/// that send none get FIN, not a reset. The kernel sends its SYN-ACK again a second after the first, so that this may
/// take 1.25 s, and 0.25 s more to close them. SIGINT waits 0.25 s for the rest of incomplete requests.
pub const SCENARIO: Scenario = Scenario {
    name: "leave-idle",
    shows: "SIGINT and SIGTERM without clients, with 200 deferred connections, and with incomplete requests",
    seconds: 90,
    run,
};

const TIMES: usize = 10;
const DEFERRED: usize = 200;
/// How long after the signal the requests of deferred connections are sent.
const LATER: [u64; 3] = [0, 50, 600];
const PATIENCE: Duration = Duration::from_secs(20);

fn run(report: &mut Report) {
    for signal in [Signal::INT, Signal::TERM] {
        let serve = (0..TIMES).map(|_| leaves(&mut start().process, signal));
        at_most(report, &format!("serve without clients, {}", name(signal)), serve.collect(), 0.2);
        let demo = (0..TIMES).map(|_| leaves(&mut demo(), signal));
        at_most(report, &format!("demo without clients, {}", name(signal)), demo.collect(), 0.2);
    }
    for millis in LATER {
        asking(report, Duration::from_millis(millis));
    }
    silent(report);
    let halves = (0..TIMES).map(|_| {
        let mut signpost = start();
        let half = connections(&signpost, 20).into_iter().map(|mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
            stream
        });
        let _half: Vec<_> = half.collect();
        // These have come for certain once later ones are answered.
        for _ in 0..20 {
            signpost.get(2).unwrap();
        }
        leaves(&mut signpost.process, Signal::INT)
    });
    at_most(report, "20 requests of which half was sent, SIGINT", halves.collect(), 0.5);
}

fn name(signal: Signal) -> &'static str {
    if signal == Signal::INT { "SIGINT" } else { "SIGTERM" }
}

fn start() -> Signpost {
    Start::with(&format!("[log]\naccess = false\n{POOL}")).go()
}

/// Starts `signpost demo` and waits until it serves.
fn demo() -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signpost"));
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    let lines = BufReader::new(process.child().stderr.take().unwrap()).lines();
    let serves = lines.map_while(Result::ok).any(|line| line.contains("Ctrl-C"));
    assert!(serves, "the demo did not start");
    process
}

/// How many seconds a process takes to end in good order after a signal.
fn leaves(process: &mut Process, signal: Signal) -> f64 {
    let sent = Instant::now();
    process.signal(signal);
    let ended = process.ended(PATIENCE);
    let took = sent.elapsed().as_secs_f64();
    if ended.is_some_and(|status| status.success()) { took } else { f64::INFINITY }
}

fn at_most(report: &mut Report, what: &str, mut took: Vec<f64>, bound: f64) {
    took.sort_by(f64::total_cmp);
    report.note(&format!("{what}, median of {}", took.len()), &format!("{:.3} s", took[took.len() / 2]));
    report.at_most(&format!("{what}, longest"), took.pop().unwrap_or(f64::INFINITY), bound, "s");
}

fn connections(signpost: &Signpost, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|number| connect_from(client(20 + (number % 8) as u8), signpost.traffic).unwrap())
        .collect()
}

/// Deferred connections whose requests come after SIGTERM.
fn asking(report: &mut Report, later: Duration) {
    let mut signpost = start();
    let streams = connections(&signpost, DEFERRED);
    signpost.process.signal(Signal::TERM);
    std::thread::sleep(later);
    let whole = request("GET", "/", &[], "");
    let lost = streams.into_iter().filter_map(|mut stream| {
        let answer = stream.write_all(&whole).and_then(|()| read_answer(&mut stream));
        answer.map_or(true, |answer| answer.status != 302).then_some(())
    });
    let lost = lost.count();
    report.exactly(&format!("lost of {DEFERRED} deferred, requests {later:?} after SIGTERM"), lost, 0);
    report.holds(
        "exits in good order",
        signpost.process.ended(PATIENCE).is_some_and(|status| status.success()),
    );
}

/// Deferred connections that send nothing.
fn silent(report: &mut Report) {
    let mut signpost = start();
    let mut streams = connections(&signpost, DEFERRED);
    let took = leaves(&mut signpost.process, Signal::TERM);
    report.at_most(&format!("{DEFERRED} deferred connections that send nothing, SIGTERM"), took, 1.75, "s");
    let closed = wait_until(PATIENCE, || TcpStream::connect(signpost.traffic).is_err());
    report.holds("it accepts no more", closed.is_some());
    let is_reset = |stream: &mut TcpStream| !matches!(std::io::Read::read(stream, &mut [0]), Ok(0));
    report.exactly(
        "of these reset",
        streams.iter_mut().filter_map(|stream| is_reset(stream).then_some(())).count(),
        0,
    );
}
