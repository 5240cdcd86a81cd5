//! System calls of a server under load, all of them, counted by `strace`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::machine::on_core;
use crate::process::{Process, wait_for};

/// Calls by name.
pub type Calls = BTreeMap<String, u64>;

/// Counts the calls of a server while something is done; none where it cannot be traced.
pub fn count<T>(
    server: &Process,
    core: usize,
    directory: &Path,
    during: impl FnOnce() -> T,
) -> Option<(Calls, T)> {
    let (out, errors) = (directory.join("strace"), directory.join("strace-errors"));
    let mut command = on_core(core, "strace");
    command.args(["-c", "-f", "-o"]).arg(&out);
    for pid in server.tree() {
        command.args(["-p", &pid.to_string()]);
    }
    let said = fs::File::create(&errors).ok()?;
    let mut strace = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said));
    let attached = wait_for(Duration::from_secs(5), || server.traced().then_some(()));
    if attached.is_none() {
        println!("strace could not attach: {}", fs::read_to_string(&errors).unwrap_or_default().trim());
        return None;
    }
    let done = during();
    strace.signal(Signal::INT);
    strace.ended(Duration::from_secs(10));
    Some((parse(&fs::read_to_string(&out).ok()?), done))
}

/// Reads the table of `strace -c`: share, seconds, microseconds per call, calls, errors where there are any, name.
fn parse(table: &str) -> Calls {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let name = *words.last()?;
        let calls = words.get(3)?.parse().ok()?;
        (name != "total" && words.first()?.parse::<f64>().is_ok()).then(|| (name.to_owned(), calls))
    };
    table.lines().filter_map(line).collect()
}
