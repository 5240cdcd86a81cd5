//! What a redirect costs, counted and not timed: the same on a busy machine and on an idle one.
//!
//! ```text
//! cargo bench --bench cost                       # every row, each figure beside its bound
//! cargo bench --bench cost -- pinned one-shot    # these alone
//! cargo bench --bench cost -- --where            # the functions a redirect goes through, in Markdown;
//!                                                  # a row's name says which redirect
//! cargo bench --bench cost -- --table            # figures and bounds for table.rs, as they are now
//! cargo bench --bench cost -- --train FOLDER     # serves these requests uncounted: see deploy/build-release
//! ```
//!
//! The real binary with one worker, on loopback, without probes and, but for two rows, without access log. Instructions and allocations are
//! counted by valgrind's callgrind, which does not see the kernel; system calls by strace. The exit code is 1 where
//! a bound was missed. Two runs differ by 0.1 %, more or less, whatever else the machine does. Valgrind's processor has
//! no SHA instructions and no AVX-512, so that a pin and TLS cost more instructions here than where they are used;
//! what grows is seen all the same.

#![expect(unreachable_pub, reason = "parts are public to their siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a count fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

mod callgrind;
mod listing;
mod profile;
mod strace;
mod table;
mod train;
mod clients;

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use support::report::Report;
use support::{http, process, tls};
use table::{Bound, ROWS, Row, TAKEN_WITH};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    // cargo bench adds `--bench`; `cargo test --all-targets` does not, and counts another binary.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is done but by: cargo bench --bench cost -- [NAME]...");
        return ExitCode::SUCCESS;
    }
    if let [.., train, profiles] =
        args.iter().filter(|arg| *arg != "--bench").map(String::as_str).collect::<Vec<_>>()[..]
        && train == "--train"
    {
        train::run(Path::new(profiles));
        return ExitCode::SUCCESS;
    }
    let (flags, names): (Vec<_>, Vec<_>) =
        args.iter().map(String::as_str).filter(|arg| *arg != "--bench").partition(|arg| arg.starts_with('-'));
    let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
    if names.iter().any(|name| !known.contains(name))
        || flags.iter().any(|flag| !["--where", "--table"].contains(flag))
    {
        eprintln!("usage: [--where | --table] [NAME]...; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let tools = Tools::look();
    let chosen = ROWS.iter().filter(|row| names.is_empty() || names.contains(&row.name));
    if flags.contains(&"--where") {
        if !tools.valgrind {
            return ExitCode::FAILURE;
        }
        let row = chosen.into_iter().next().unwrap_or(&ROWS[0]);
        println!(
            "{}",
            listing::markdown(
                row.name,
                &callgrind::count(row.manner, row.instructions.at_most),
                &tools.versions()
            )
        );
        return ExitCode::SUCCESS;
    }
    println!("counted with {}", tools.versions());
    if tools.rustc != TAKEN_WITH {
        println!("the figures and bounds were taken with {TAKEN_WITH}; they hold all the same");
    }
    let outcomes: Vec<_> = chosen.map(|row| check(row, &tools)).collect();
    if flags.contains(&"--table") {
        println!("\nfor benches/cost/table.rs:");
        outcomes.iter().for_each(|outcome| println!("    {}", outcome.figures));
    }
    let missed: u32 = outcomes.iter().map(|outcome| outcome.missed).sum();
    println!("\ncost: {missed} MISSED, {} SKIPPED", 2 - u32::from(tools.valgrind) - u32::from(tools.strace));
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Outcome {
    missed: u32,
    /// The row's figures and fitting bounds, as `table.rs` has them.
    figures: String,
}

/// Counts one row and holds it against its bounds.
fn check(row: &Row, tools: &Tools) -> Outcome {
    let mut report = Report::new(row.name, Arc::default());
    let mut now = [row.instructions.seen, row.calls.seen, row.allocations.seen];
    if tools.valgrind {
        let count = callgrind::count(row.manner, row.instructions.at_most);
        // Those of timers are spread over hundreds of requests: they are no part of one.
        now[0] = count.profile.instructions().round();
        now[2] = hundredths(count.profile.allocated());
        let is_blind = now[2] == 0.0 && row.allocations.seen > 1.0;
        assert!(!is_blind, "no allocation was seen: is the allocator named in profile.rs?");
        let times = format!("instructions (at other times up to {:.0})", count.dearest);
        if !hold(&mut report, &times, now[0], row.instructions) {
            show(listing::functions(&count.profile));
        }
        hold(&mut report, "allocations", now[2], row.allocations);
        show(listing::allocations(&count.profile));
    }
    if tools.strace {
        let calls = strace::count(row.manner);
        now[1] = hundredths(calls.values().sum());
        hold(&mut report, "system calls", now[1], row.calls);
        show(listing::calls(&calls));
    }
    Outcome { missed: report.missed, figures: row.with(now) }
}

/// Holds a figure against its bound; where it is missed, says what grew and by how much.
fn hold(report: &mut Report, what: &str, figure: f64, bound: Bound) -> bool {
    let held = report.at_most(what, figure, bound.at_most, "");
    if !held {
        let more = hundredths(figure - bound.seen);
        let share = more / bound.seen * 100.0;
        println!(
            "        grown by {more} ({share:.1} %), from {} to {figure}; figure and bound are in \
             benches/cost/table.rs; made of:",
            bound.seen
        );
    } else if figure < bound.seen * 0.98 {
        println!(
            "        less than the {} that benches/cost/table.rs knows: the bound can come down",
            bound.seen
        );
    }
    held
}

fn show(lines: Vec<String>) {
    listing::cut(lines).iter().for_each(|line| println!("          {line}"));
}

fn hundredths(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// What counts, and what made the binary.
struct Tools {
    valgrind: bool,
    strace: bool,
    rustc: String,
}

impl Tools {
    /// Looks for them; who is missing is named.
    fn look() -> Self {
        let has = |program: &str, package: &str| {
            let there = version(program).is_some();
            if !there {
                Report::new("cost", Arc::default())
                    .skip(&format!("{program} is missing (Debian: apt-get install {package})"));
            }
            there
        };
        let valgrind = has("valgrind", "valgrind") & has("vgdb", "valgrind");
        let strace = has("strace", "strace");
        Self {
            valgrind,
            strace,
            rustc: version("rustc").unwrap_or("a compiler that is not found".to_owned()),
        }
    }

    fn versions(&self) -> String {
        let versions = [Some(self.rustc.clone()), version("valgrind"), version("strace")];
        versions.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The first line that a program says of its version; `None` where there is no such program.
fn version(program: &str) -> Option<String> {
    let said = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or(program).to_owned())
}
