//! System calls, by strace.

use std::collections::BTreeMap;

use crate::clients::{Clients, Manner};
use crate::http::PATIENCE;
use crate::process::wait_until;

/// System calls of one request, on average, by name; those that fail are named with their error.
pub type Calls = BTreeMap<String, f64>;

/// Requests that are counted together. Where timers are set, as in a handshake, one in twenty has the runtime wake
/// itself by a `write`: bounds leave room for that.
const REQUESTS: u32 = 64;

/// Counts what a request calls the kernel for, on all threads.
pub fn count(manner: Manner) -> Calls {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    // -D: the dispatcher is our own child, and can be stopped.
    let words = ["strace", "-D", "-f", "-o", file.to_str().unwrap()];
    let mut visitors = Clients::start(manner, &words);
    let process = visitors.process();
    let rounds = (REQUESTS / manner.at_once) as usize;
    let nobody = visitors.stops();
    (0..=rounds).for_each(|_| visitors.nobody());
    visitors.arrive();
    let somebody = visitors.stops();
    (0..rounds).for_each(|_| visitors.come());
    visitors.nobody();
    visitors.leave();

    let read = || std::fs::read_to_string(&file).unwrap();
    // The process ends after its threads, and strace writes its number as wide as others may be.
    let end = format!("{process} +++ exited with 0 +++");
    let is_end = |line: &str| line.split_whitespace().eq(end.split(' '));
    let ended = || read().lines().last().is_some_and(is_end);
    assert!(wait_until(PATIENCE, ended).is_some(), "strace does not end");
    let trace = read();
    let mut calls = between(&trace, somebody, rounds);
    for (call, count) in between(&trace, nobody, rounds) {
        *calls.entry(call).or_default() -= count;
    }
    calls.values_mut().for_each(|count| *count /= f64::from(REQUESTS));
    calls.retain(|_, count| count.abs() > 0.004);
    calls
}

/// The calls between the stop of that number and the one so many rounds later.
fn between(trace: &str, stop: usize, rounds: usize) -> Calls {
    let mut stops = 0;
    let mut calls = Calls::new();
    for line in trace.lines() {
        stops += usize::from(line.contains(" --- SIGSTOP {"));
        if stops <= stop || stops > stop + rounds {
            continue;
        }
        let Some((name, error, resumed)) = call(line) else { continue };
        let named = error.map_or(name.to_owned(), |error| format!("{name} ({error})"));
        if resumed {
            // It was counted when it began.
            *calls.entry(name.to_owned()).or_default() -= 1.0;
        }
        *calls.entry(named).or_default() += 1.0;
    }
    calls
}

/// The call in a line, its error, and whether it began in a line before:
/// `PID name(arguments) = result`, `PID <... name resumed>arguments) = result`.
fn call(line: &str) -> Option<(&str, Option<&str>, bool)> {
    let (_, line) = line.split_once(' ')?;
    let line = line.trim_start();
    let resumed = line.strip_prefix("<... ");
    let (name, rest) = match resumed {
        Some(line) => line.split_once(" resumed>")?,
        None => line.split_once('(')?,
    };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let error = rest.rsplit_once(" = -1 ").and_then(|(_, error)| error.split(' ').next());
    // A wait that ends by being stopped is a wait.
    is_name.then_some((name, error.filter(|error| *error != "EINTR"), resumed.is_some()))
}
