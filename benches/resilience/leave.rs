//! Leaving by SIGTERM with everything under way that can be.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::Scenario;
use crate::http::{client, connect_from, exchange, read_answer, request};
use crate::process::{POOL, Start, wait_until};
use crate::report::Report;
use crate::tls::{self, Files, Pair, config};

/// SIGTERM with 1000 keep-alive connections, of which 100 have a request on the wire, as have 100 over TLS, 50 connections with half
/// a head sent, and 200 connections with their request in the kernel's accept queues. The process is stopped
/// (SIGSTOP) while these arrive, so that they are there for certain when it reads the signal. Whoever sent a
/// request before the listener closed gets an answer, whoever sent none gets FIN and no reset: the kernel would
/// hold each of these for us, so there is no reason to lose one. The exit code is 0.
pub const SCENARIO: Scenario = Scenario {
    name: "leave",
    shows: "SIGTERM with 1000 idle connections, 250 requests in flight, 200 in the accept queues",
    seconds: 90,
    run,
};

const IDLE: usize = 900;
const ASKING: usize = 100;
const HALF: usize = 50;
const QUEUED: usize = 200;

fn run(report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let pair = Pair::new();
    files.write(&pair);
    let mut signpost = Start::with(&format!("[log]\naccess = false\n{}{POOL}", files.settings())).go();
    let whole = request("GET", "/", &[], "");
    let (half, rest) = whole.split_at(whole.len() - 2);
    let connect = |number: usize| connect_from(client(20 + (number % 8) as u8), signpost.traffic).unwrap();

    let mut kept: Vec<_> = (0..IDLE + ASKING).map(connect).collect();
    for stream in &mut kept {
        assert_eq!(exchange(stream, &whole).unwrap().status, 302);
    }
    let mut asking = kept.split_off(IDLE);
    let (address, config) = (signpost.tls.expect("a TLS listener"), config(&[&pair], &["http/1.1"]));
    let over_tls = (0..ASKING).map(|_| tls::connect(client(29), address, &config).unwrap());
    let mut over_tls: Vec<_> = over_tls.collect();
    for stream in &mut over_tls {
        assert_eq!(exchange(stream, &whole).unwrap().status, 302);
    }
    let mut halves: Vec<_> = (0..HALF).map(connect).collect();
    for stream in &mut halves {
        stream.write_all(half).unwrap();
    }
    // On loopback a byte is in the peer's buffer when `write` returns; these requests come behind them.
    for _ in 0..50 {
        signpost.get(2).unwrap();
    }

    signpost.process.signal(Signal::STOP);
    for stream in &mut asking {
        stream.write_all(&whole).unwrap();
    }
    for stream in &mut over_tls {
        stream.write_all(&whole).unwrap();
    }
    let mut queued: Vec<_> = (0..QUEUED).map(connect).collect();
    for stream in &mut queued {
        stream.write_all(&whole).unwrap();
    }
    signpost.process.signal(Signal::TERM);
    signpost.process.signal(Signal::CONT);
    // The halves are finished once it has begun to leave: nobody can connect any more.
    let closed = wait_until(Duration::from_secs(10), || TcpStream::connect(signpost.traffic).is_err());
    report.holds("it accepts nobody new", closed.is_some());
    for stream in &mut halves {
        let _ = stream.write_all(rest);
    }

    lost(report, "requests on kept connections", asking);
    lost(report, "requests on kept connections over TLS", over_tls);
    lost(report, "requests of which half was sent", halves);
    lost(report, "requests in the accept queues", queued);
    let resets = kept.into_iter().filter_map(|stream| closes_in_order(stream).err()).count();
    report.exactly(&format!("idle connections reset of {IDLE}"), resets, 0);
    let code = signpost.process.ended(Duration::from_secs(40)).and_then(|status| status.code());
    report.exactly("exit code", code.map_or("none".to_owned(), |code| code.to_string()), "0".to_owned());
    report.holds("the log says that it leaves", signpost.log.has(&["leaving", "SIGTERM"]));
}

/// Reads each one's last answer.
fn lost(report: &mut Report, what: &str, streams: Vec<impl Read>) {
    let count = streams.len();
    let outcomes: Vec<_> = streams.into_iter().map(last_answer).collect();
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let words = failed.first().map_or(String::new(), |error| format!(" ({error})"));
    report.exactly(&format!("{what} lost of {count}{words}"), failed.len(), 0);
}

/// Reads a redirect that says it is the last, and the end in good order.
fn last_answer(mut stream: impl Read) -> io::Result<()> {
    let answer = read_answer(&mut stream)?;
    if answer.status != 302 {
        return Err(io::Error::other(format!("status {}", answer.status)));
    }
    closes_in_order(stream)
}

fn closes_in_order(mut stream: impl Read) -> io::Result<()> {
    match stream.read(&mut [0; 64])? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes where the end should be")),
    }
}
