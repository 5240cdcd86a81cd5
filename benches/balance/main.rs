//! How even real load is behind a redirect: dispatchers as processes, each before ten backends that hold real sessions,
//! side by side with the same visits.
//!
//! ```text
//! cargo bench --bench balance                      # every row, some ten minutes
//! cargo bench --bench balance -- --write           # the same, into BENCHMARKS.md
//! cargo bench --bench balance -- --row round_robin --row least_load --seconds 60
//! cargo bench --bench balance -- --list
//! ```
//!
//! It prints a Markdown table, and each bound with its figure and `ok` or `MISSED`; the exit code is 1 where one was
//! missed. BENCHMARKS.md says what is measured.

#![expect(unreachable_pub, reason = "parts are public to their siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

mod fleet;
mod results;
mod round;
mod rows;
mod shadow;
mod clients;

// What other benches are made of.
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../../tests/support/mod.rs"]
mod support;
#[expect(dead_code, reason = "some of it is for the other bench alone")]
#[path = "../comparison/machine.rs"]
mod machine;
#[path = "../comparison/page.rs"]
mod page;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;

use results::Results;
use rows::{ROWS, Row};
use support::{backend, http, load, process, report};

#[derive(Parser)]
#[command(name = "balance", about = "Real load behind a redirect, by strategy and beside HAProxy")]
struct Args {
    /// Rounds, each with other visits
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that a round is measured, behind its warm-up
    #[arg(long, default_value = "120", value_parser = seconds)]
    seconds: Duration,
    /// By which factor all times are shorter and visitors come more often: a round then has more to measure
    #[arg(long, default_value_t = 2.0)]
    speed: f64,
    /// Only this row; may be repeated
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Put the table into BENCHMARKS.md
    #[arg(long)]
    write: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == fleet::AS_FLEET) {
        return fleet::be_one();
    }
    // cargo bench adds `--bench`; `cargo test --all-targets` does not, and is no place for minutes of load.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is done but by: cargo bench --bench balance -- [OPTIONS]");
        return ExitCode::SUCCESS;
    }
    let own: Vec<_> = args.into_iter().filter(|arg| arg != "--bench").collect();
    let args = Args::parse_from(std::iter::once("balance").chain(own.iter().map(String::as_str)));
    if args.list {
        ROWS.iter().for_each(|row| println!("{:20} {}", row.name, row.what));
        println!("{SHADOW:20} what it costs to have three strategies run beside the live one");
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) =
        args.rows.iter().find(|name| ROWS.iter().all(|row| row.name != **name) && *name != SHADOW)
    {
        eprintln!("no such row: {unknown}; --list names them");
        return ExitCode::from(2);
    }
    let asked_for = |name: &str| args.rows.is_empty() || args.rows.iter().any(|row| row == name);
    let mut rows: Vec<_> = ROWS.iter().filter(|row| asked_for(row.name)).collect();
    if !machine::has("haproxy") {
        println!(
            "SKIPPED: haproxy is not installed (Debian: apt-get install haproxy): its rows are left out"
        );
        rows.retain(|row| !row.is_haproxy());
    }
    process::raise_limit();
    process::go_first();
    let needed = rows.len() as u64 * clients::descriptors();
    if process::descriptors() < needed {
        eprintln!("it takes {needed} descriptors (ulimit -n); fewer rows take less");
        return ExitCode::from(2);
    }
    let mut text = facts(&own);
    let mut missed = 0;
    if !rows.is_empty() {
        let results = results(&rows, &args);
        text += &results.markdown(&args);
        missed += results.check();
    }
    if asked_for(SHADOW) {
        let (table, more) = shadow::play();
        text += &table;
        missed += more;
    }
    println!("\n{text}");
    if args.write {
        page::write("balance", &text);
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The name of what is no row: what shadows cost.
const SHADOW: &str = "shadow";

fn results<'a>(rows: &[&'a Row], args: &Args) -> Results<'a> {
    let mut results = Results::new(rows);
    for round in 0..args.rounds {
        let samples = round::play(rows, u64::from(round), args);
        for (row, sample) in rows.iter().zip(&samples) {
            println!("round {}/{} {:20} {sample:.3?}", round + 1, args.rounds, row.name);
        }
        results.add(samples);
    }
    results
}

/// What stands above the tables.
fn facts(own: &[String]) -> String {
    let versions =
        [Some(format!("Signpost {}", env!("CARGO_PKG_VERSION"))), machine::version("haproxy", "-v")];
    let lines = [
        ("date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        ("command", [&["cargo bench --bench balance --".to_owned()], own].concat().join(" ")),
        ("machine", machine::model()),
        ("versions", versions.into_iter().flatten().collect::<Vec<_>>().join("; ")),
        ("load average at the start", machine::load_average()),
    ];
    lines.map(|(name, what)| format!("- {name}: {what}\n")).concat()
}
