//! Signpost beside what one would use instead: nginx, HAProxy, and a bare epoll loop that only the kernel slows.
//!
//! ```text
//! cargo bench --bench comparison                       # everything, some ten minutes
//! cargo bench --bench comparison -- --install          # the same, with what is missing installed by apt-get
//! cargo bench --bench comparison -- --row one-shot --row keep-alive --rounds 3
//! cargo bench --bench comparison -- --list
//! ```
//!
//! It prints Markdown tables, and each bound with its figure and `ok` or `MISSED`; the exit code is 1 where one was
//! missed. BENCHMARKS.md says what is measured, how, and what is unfair about it.

#![expect(unreachable_pub, reason = "parts are public to their siblings")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

// What is measured.
mod bare;
mod servers;
mod settings;

// By what.
mod response;
mod h2;
mod load;
mod tls;
mod client;
mod wrk;

// How.
mod calls;
mod machine;
mod memory;
mod rows;
mod run;
mod smoke;

// What is said of it.
mod bounds;
mod chart;
mod page;
mod report;
mod results;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use machine::Facts;
use rows::ROWS;
use run::Run;
use support::process;

#[derive(Parser)]
#[command(name = "comparison", about = "Signpost beside nginx, HAProxy and a bare epoll loop")]
struct Args {
    /// Install what is missing by apt-get
    #[arg(long)]
    install: bool,
    /// Rounds of which the medians are taken
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement, at least 0.1; wrk takes whole ones
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Only this row, or `memory`; may be repeated
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Write comparison.md and comparison.svg there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Put the tables into BENCHMARKS.md, and the chart beside this bench
    #[arg(long)]
    write: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("takes 0.1 to 3600".to_owned())
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == bare::AS_BARE
    {
        return bare::be_one(rest);
    }
    // cargo bench adds `--bench`; `cargo test --all-targets` does not, and is no place for minutes of load.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is done but by: cargo bench --bench comparison -- [OPTIONS]");
        return ExitCode::SUCCESS;
    }
    let own: Vec<_> = args.into_iter().filter(|arg| arg != "--bench").collect();
    let args = Args::parse_from(std::iter::once("comparison").chain(own.iter().map(String::as_str)));
    let names: Vec<_> = ROWS.iter().map(|row| row.name).chain(["memory"]).collect();
    if args.list {
        ROWS.iter().for_each(|row| println!("{:18} {}", row.name, row.what));
        println!("{:16} what a waiting connection costs", "memory");
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.rows.iter().find(|row| !names.contains(&row.as_str())) {
        eprintln!("no such row: {unknown}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    if args.install {
        machine::install();
    }
    let Some(cores) = machine::cores() else {
        eprintln!("it takes two cores: one for the servers, one for the load");
        return ExitCode::from(2);
    };
    process::raise_limit();
    process::go_first();
    let arguments = if own.is_empty() { String::new() } else { format!(" -- {}", own.join(" ")) };
    let directory = tempfile::Builder::new().prefix("signpost-comparison-").tempdir().unwrap();
    end_when_interrupted(directory.path().to_owned());
    let mut facts = Facts::gather(cores, &arguments);
    let results = Run::new(&args, cores, directory.path()).run(&mut facts);
    let text = report::markdown(&facts, &results);
    println!("\n{text}");
    write(&args, &text, &chart::svg(&results));
    let bounds = bounds::of(&results);
    let count = |verdict| bounds.iter().filter(|bound| bound.verdict() == verdict).count();
    println!("bounds: {} ok, {} MISSED, {} SKIPPED", count("ok"), count("MISSED"), count("SKIPPED"));
    if count("MISSED") == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends what runs when this is to end, which leaves no time for destructors.
fn end_when_interrupted(directory: PathBuf) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut ended = signal(SignalKind::terminate()).unwrap();
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = ended.recv() => {}
            }
        });
        process::end_all();
        let _ = fs::remove_dir_all(directory);
        std::process::exit(130);
    });
}

/// The chart that BENCHMARKS.md shows.
const CHART: &str = "benches/comparison/comparison.svg";

fn write(args: &Args, text: &str, chart: &str) {
    if let Some(directory) = &args.out {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("comparison.md"), text).unwrap();
        fs::write(directory.join("comparison.svg"), chart).unwrap();
    }
    if args.write {
        let image = format!("![Processor time of a request, by row and server]({CHART})");
        page::write("comparison", &format!("{image}\n\n{text}"));
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(CHART), chart).unwrap();
    }
}
