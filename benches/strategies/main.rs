//! What a pick costs, what building the tables for it costs, how many keys of a hash move where a backend goes, and whether
//! publishing disturbs requests.
//!
//! ```text
//! cargo bench --bench strategies                 # everything, two minutes
//! cargo bench --bench strategies -- pick build   # these alone
//! ```
//!
//! Each figure is the median of rounds in which all that is compared takes turns, with the lowest and highest beside it,
//! and a bound where there is one; the exit code is 1 where one was missed. Costs are processor time of the thread, so
//! that other work of the machine disturbs them little; those of `threads` and `publish` want two cores for themselves.

#![expect(unreachable_pub, reason = "parts are public to their siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

// What the parts are made of.
mod pools;
mod table;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

// The parts.
mod build;
mod moves;
mod pick;
mod publish;
mod threads;

use std::process::ExitCode;

use support::{http, load, process};
use table::Table;

/// A part: its name, and what measures it.
type Part = (&'static str, fn(&mut Table));

const PARTS: [Part; 5] = [
    ("pick", pick::run),
    ("build", build::run),
    ("moves", moves::run),
    ("threads", threads::run),
    ("publish", publish::run),
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == threads::AS_PICKER) {
        return threads::be_picker();
    }
    // cargo bench adds `--bench`; `cargo test --all-targets` does not.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is done but by: cargo bench --bench strategies -- [NAME]...");
        return ExitCode::SUCCESS;
    }
    let args: Vec<_> = args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect();
    if let Some(unknown) = args.iter().find(|name| PARTS.iter().all(|(known, _)| known != *name)) {
        eprintln!("no such part: {unknown}; there are {}", PARTS.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    }
    process::go_first();
    let mut table = Table::begin();
    for (name, run) in PARTS {
        if args.is_empty() || args.contains(&name) {
            table.part(name);
            run(&mut table);
        }
    }
    if table.missed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
