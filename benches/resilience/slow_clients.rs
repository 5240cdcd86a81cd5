//! Clients that hold connections by being slow.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Scenario;
use crate::http::{client, connect_from};
use crate::load::{Load, Running, Shot, other_than};
use crate::process::{POOL, Process, Signpost, Start};
use crate::report::{Report, quantile};

/// slowhttptest with 1000 connections in each mode (a head that drips, a body that drips, an answer that is
/// hardly read), and 1000 of our own that drip a body and ignore that they were answered, which slowhttptest
/// does not.
///
/// Each is closed at its timeout, give or take a second: that is the promise of the setting, with room for how
/// long 1000 connections take to come and be closed. A visitor from another address must not feel them: the
/// median of its p99 in windows of a second is at most twice what it is without. "Without" is another
/// dispatcher, whom the same visitor asks in the same seconds and nobody holds: on a machine of few cores a
/// visitor feels the processor that slowhttptest and everybody else take, and that is not the figure.
pub const SCENARIO: Scenario = Scenario {
    name: "slow-clients",
    shows: "slowhttptest in each mode with 1000 connections, beside an ordinary visitor",
    seconds: 400,
    run,
};

const SLOW: usize = 1000;
/// `header_timeout` and `idle_timeout`.
const TIMEOUT: Duration = Duration::from_secs(8);
/// How long a client that goes on sending a body is listened to after its answer.
const LINGER: Duration = Duration::from_secs(30);
/// Windows of noise are outvoted by more windows: so often a mode is played before its p99 counts as missed.
const TURNS: usize = 3;

/// A way of being slow.
struct Mode {
    name: &'static str,
    /// slowhttptest's arguments; none: our own clients that drip a body.
    args: &'static [&'static str],
    /// How many requests each connection makes; the time of one that makes some begins when they are answered.
    requests: usize,
    /// When its connections are closed; none where its clients end by themselves, once they are answered.
    closed_after: Option<Duration>,
}

const MODES: [Mode; 4] = [
    Mode { name: "dripping heads", args: &["-H", "-x", "10"], requests: 0, closed_after: Some(TIMEOUT) },
    Mode {
        name: "hardly reading",
        args: &["-X", "-k", "10", "-w", "1", "-y", "10", "-n", "1", "-z", "5"],
        requests: 10,
        closed_after: Some(TIMEOUT),
    },
    Mode { name: "dripping bodies", args: &["-B", "-x", "10"], requests: 0, closed_after: None },
    Mode {
        name: "dripping bodies and ignoring the answer",
        args: &[],
        requests: 0,
        closed_after: Some(LINGER),
    },
];

fn run(report: &mut Report) {
    if Command::new("slowhttptest").arg("-h").stdout(Stdio::null()).status().is_err() {
        report.skip("slowhttptest is missing (Debian: apt-get install slowhttptest)");
        return;
    }
    let start = || {
        Start::with(&format!(
            "[log]\naccess = false\n[server.limits]\nheader_timeout = '{0}s'\nidle_timeout = '{0}s'\n{POOL}",
            TIMEOUT.as_secs()
        ))
        .go()
    };
    let (signpost, other) = (start(), start());
    let (_, alone, _) = beside(&signpost, &other, |_| std::thread::sleep(Duration::from_secs(6)));
    report.note("p99 of a visitor while nobody is slow", &format!("{:.2} ms", median(&windows(&alone))));
    for mode in &MODES {
        play(report, mode, &signpost, &other);
    }
}

fn play(report: &mut Report, mode: &Mode, signpost: &Signpost, other: &Signpost) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (held, shots, control) = beside(signpost, other, |visitor| hold(signpost, mode, visitor));
        with.extend(windows(&shots));
        without.extend(windows(&control));
        if turn == 0 {
            let (failed, words) = other_than(&shots, 302);
            report.exactly(&format!("{}: a visitor's requests that failed{words}", mode.name), failed, 0);
        }
        if let Some(timeout) = mode.closed_after.filter(|_| turn == 0) {
            let timeout = timeout.as_secs_f64();
            report.at_least(
                &format!("{}: the first is closed after", mode.name),
                held.first,
                timeout - 1.0,
                "s",
            );
            report.at_most(
                &format!("{}: the last is closed after", mode.name),
                held.last,
                timeout + 1.0,
                "s",
            );
        }
        if median(&with) <= 2.0 * median(&without) {
            break;
        }
    }
    let bound = 2.0 * median(&without);
    report.at_most(&format!("{}: p99 of a visitor", mode.name), median(&with), bound, "ms");
}

/// An ordinary visitor's load on both while something is done: 500 requests a second each from 127.0.0.2.
fn beside<T>(
    signpost: &Signpost,
    other: &Signpost,
    done: impl FnOnce(&Running) -> T,
) -> (T, Vec<Shot>, Vec<Shot>) {
    let load = |on: &Signpost| {
        let load = Load { from: vec![client(2)], per_connection: 1_000_000, ..Load::on(on.traffic) };
        load.rate(500.0).clients(20).start()
    };
    let (with, without) = (load(signpost), load(other));
    let result = done(&with);
    (result, with.stop(), without.stop())
}

/// The p99 of each whole second, in milliseconds.
fn windows(shots: &[Shot]) -> Vec<f64> {
    let Some(first) = shots.first() else { return Vec::new() };
    let mut seconds: Vec<Vec<f64>> = Vec::new();
    for shot in shots {
        let second = (shot.begun - first.begun).as_secs() as usize;
        seconds.resize(seconds.len().max(second + 1), Vec::new());
        seconds[second].push(shot.milliseconds());
    }
    // The last one is a part of a second.
    seconds.pop();
    seconds.iter_mut().map(|second| quantile(second, 0.99)).collect()
}

fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}

/// How long slow connections lasted, in seconds, each from when it came: those closed first and last.
struct Held {
    first: f64,
    last: f64,
}

/// Holds a dispatcher by 1000 slow connections until it has closed them all.
fn hold(signpost: &Signpost, mode: &Mode, visitor: &Running) -> Held {
    let listener = signpost.traffic.to_string();
    let before = signpost.metric("signpost_connections", &[("listener", &listener)]);
    // Answers that were not the visitor's.
    let answers = || {
        (signpost.metric("signpost_responses_total", &[("code", "302")]) as usize)
            .saturating_sub(visitor.sent())
    };
    let answers_before = answers();
    let started = Instant::now();
    // When each of them came, and was seen to be gone. They are closed in the order in which they came.
    let (mut came, mut gone) = (Vec::new(), Vec::new());
    let slow = match mode.args {
        [] => Slow::Own(connections(signpost, |at| came.push((at - started).as_secs_f64()))),
        args => Slow::Tool(slowhttptest(signpost, args)),
    };
    let mut drip = Instant::now();
    let patience = mode.closed_after.unwrap_or(Duration::from_secs(4)) + Duration::from_secs(6);
    while gone.len() < SLOW - SLOW / 50 && started.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(50));
        let open = signpost.metric("signpost_connections", &[("listener", &listener)]) - before;
        let now = started.elapsed().as_secs_f64();
        // slowhttptest has a connection of its own now and then, by which it looks how the server is.
        let open = (open.max(0.0) as usize).min(SLOW);
        let arrived = match mode.requests {
            0 => open,
            requests => answers().saturating_sub(answers_before) / requests,
        };
        if came.len() < SLOW - SLOW / 50 || arrived > came.len() {
            came.resize(came.len().max(arrived.min(SLOW)), now);
        } else {
            gone.resize(gone.len().max(came.len().saturating_sub(open)), now);
        }
        if let Slow::Own(streams) = &slow
            && drip.elapsed() > Duration::from_secs(1)
        {
            drip = Instant::now();
            for mut stream in streams {
                let _ = stream.write_all(b"x");
            }
        }
    }
    drop(slow);
    let lasted: Vec<f64> = came.iter().zip(&gone).map(|(came, gone)| gone - came).collect();
    let all_gone = gone.len() >= SLOW - SLOW / 50;
    let first = lasted.iter().copied().fold(f64::INFINITY, f64::min);
    let last = if all_gone { lasted.iter().copied().fold(0.0, f64::max) } else { f64::INFINITY };
    Held { first, last }
}

/// Those that are slow. They end when this is dropped.
enum Slow {
    Tool(#[expect(dead_code, reason = "kept until it is dropped")] Process),
    Own(Vec<TcpStream>),
}

fn slowhttptest(signpost: &Signpost, mode: &[&str]) -> Process {
    let url = format!("http://{}/", signpost.traffic);
    let mut command = Command::new("slowhttptest");
    command.args(["-c", "1000", "-r", "1000", "-i", "1", "-l", "60", "-p", "5", "-u", &url]).args(mode);
    Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Connections that announce a body and never look at the answer; `came` is told when each was there.
fn connections(signpost: &Signpost, mut came: impl FnMut(Instant)) -> Vec<TcpStream> {
    let slow = (0..SLOW).map(|number| {
        let mut stream = connect_from(client(50 + (number % 20) as u8), signpost.traffic).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        came(Instant::now());
        stream
    });
    slow.collect()
}
