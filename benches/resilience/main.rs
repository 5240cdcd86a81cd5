//! What Signpost survives: the real binary, real sockets on loopback, real floods, and a bound for each figure.
//!
//! ```text
//! cargo bench --bench resilience                      # everything, some minutes
//! cargo bench --bench resilience -- reload leave      # these alone
//! cargo bench --bench resilience -- --list
//! ```
//!
//! Each figure is a line with its bound and `ok` or `MISSED`; the exit code is 1 where one was missed. A
//! scenario is a file or a part of one, and its doc comment says what it shows and why the bound is what it is.
//! Each is bounded in time and ends what it started.

#![expect(unreachable_pub, reason = "parts are public to their siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a scenario fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

// What scenarios are made of.
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

// The scenarios.
mod all_down;
mod bad_backends;
mod certificates;
mod file_descriptors;
mod h2_floods;
mod idle;
mod kill_backend;
mod leave;
mod leave_idle;
mod long_post;
mod pushes;
mod readable;
mod reload;
mod slow_clients;
mod spoofing;
mod takeover;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use support::report::Report;
use support::{backend, http, load, process, report, tls};

/// Something that may happen, and what must hold meanwhile.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// After how many seconds it is given up and counts as missed.
    pub seconds: u64,
    /// Runs it. A panic counts as missed.
    pub run: fn(&mut Report),
}

const SCENARIOS: [Scenario; 16] = [
    kill_backend::SCENARIO,
    all_down::SCENARIO,
    bad_backends::SCENARIO,
    reload::SCENARIO,
    leave::SCENARIO,
    leave_idle::SCENARIO,
    takeover::SCENARIO,
    long_post::SCENARIO,
    slow_clients::SCENARIO,
    idle::SCENARIO,
    file_descriptors::SCENARIO,
    certificates::SCENARIO,
    h2_floods::SCENARIO,
    spoofing::SCENARIO,
    pushes::SCENARIO,
    readable::SCENARIO,
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [first, address] = &args[..]
        && first == backend::AS_BACKEND
    {
        return backend::be_one(address);
    }
    // cargo bench adds `--bench`; `cargo test --all-targets` does not, and is no place for minutes of load.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is done but by: cargo bench --bench resilience -- [NAME]...");
        return ExitCode::SUCCESS;
    }
    let args: Vec<_> = args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect();
    if args.contains(&"--list") {
        for Scenario { name, shows, .. } in &SCENARIOS {
            println!("{name:14} {shows}");
        }
        return ExitCode::SUCCESS;
    }
    let unknown: Vec<_> =
        args.iter().filter(|name| SCENARIOS.iter().all(|known| known.name != **name)).collect();
    if !unknown.is_empty() {
        let known: Vec<_> = SCENARIOS.iter().map(|known| known.name).collect();
        eprintln!("no such scenario: {unknown:?}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    process::raise_limit();
    process::go_first();
    let chosen = SCENARIOS.iter().filter(|known| args.is_empty() || args.contains(&known.name));
    let outcomes: Vec<_> = chosen.map(play).collect();
    let (ok, missed, skipped) =
        outcomes.iter().fold((0, 0, 0), |(ok, missed, skipped), outcome| match outcome {
            Outcome::Ok => (ok + 1, missed, skipped),
            Outcome::Missed => (ok, missed + 1, skipped),
            Outcome::Skipped => (ok, missed, skipped + 1),
        });
    println!("\nscenarios: {ok} ok, {missed} MISSED, {skipped} SKIPPED");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Outcome {
    Ok,
    Missed,
    Skipped,
}

/// Runs one scenario on a thread of its own, so that one that hangs can be given up.
fn play(scenario: &'static Scenario) -> Outcome {
    println!("\n{}: {}", scenario.name, scenario.shows);
    let started = Instant::now();
    let (tell, told) = channel();
    let given_up = Arc::<AtomicBool>::default();
    let known = Arc::clone(&given_up);
    let thread = std::thread::spawn(move || {
        let mut report = Report::new(scenario.name, known);
        (scenario.run)(&mut report);
        let _ = tell.send(report);
    });
    let outcome = match told.recv_timeout(Duration::from_secs(scenario.seconds)) {
        Ok(report) if report.missed > 0 => Outcome::Missed,
        Ok(report) if report.skipped => Outcome::Skipped,
        Ok(_) => Outcome::Ok,
        Err(RecvTimeoutError::Disconnected) => {
            // Its panic was printed already.
            println!("{:8}{} did not come to its end", "MISSED", scenario.name);
            Outcome::Missed
        }
        Err(RecvTimeoutError::Timeout) => {
            given_up.store(true, Ordering::Relaxed);
            println!("{:8}{} took over {} s and was given up", "MISSED", scenario.name, scenario.seconds);
            Outcome::Missed
        }
    };
    let logs = process::logs();
    if matches!(outcome, Outcome::Missed) {
        for log in logs {
            let lines = log.all();
            println!("        the last lines of a dispatcher's log:");
            lines.iter().skip(lines.len().saturating_sub(12)).for_each(|line| println!("          {line}"));
        }
    }
    // Its processes end with what holds them; those of a scenario that hangs are ended here.
    process::end_all();
    if thread.is_finished() {
        let _ = thread.join();
    }
    println!("        ({} took {:.0} s)", scenario.name, started.elapsed().as_secs_f64());
    outcome
}
