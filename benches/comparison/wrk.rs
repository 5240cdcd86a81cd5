//! The closed loops over plain HTTP/1.1, by `wrk`: it takes answers in batches and asks again in batches, so the
//! server has several visitors at a time, as it has under load.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::load::Tally;
use crate::machine::on_core;
use crate::process::Process;

/// Sends the bytes that it is given, and has each answer's status looked at. At the end it says what came of it.
const SCRIPT: &str = r#"
local threads = {}
wrong = 0
wrk.format = function() return REQUEST end
function setup(thread) table.insert(threads, thread) end
function response(status) if status ~= 302 then wrong = wrong + 1 end end
function done(summary, latency)
  local function say(name, one, other)
    io.write(string.format("comparison\t%s\t%d\t%d\n", name, one, other))
  end
  say("answers", summary.requests, summary.duration)
  for name, count in pairs(summary.errors) do say("failed", count, 0) end
  for _, thread in ipairs(threads) do say("failed", thread:get("wrong"), 0) end
  for at = 1, #latency do say("latency", latency(at)) end
end
"#;

/// Puts a load on a server for whole seconds, by `wrk` on a core.
pub fn load(
    to: SocketAddr,
    request: &[u8],
    connections: usize,
    time: Duration,
    core: usize,
    directory: &Path,
) -> Tally {
    let (script, said) = (directory.join("wrk.lua"), directory.join("wrk"));
    // Quoted as Rust does, a text in ASCII is one in Lua.
    let request = format!("{:?}", String::from_utf8_lossy(request));
    fs::write(&script, SCRIPT.replace("REQUEST", &request)).unwrap();
    let mut command = on_core(core, "wrk");
    command
        .args(["-t1", &format!("-c{connections}"), &format!("-d{:.0}s", time.as_secs_f64().ceil())])
        .args(["--timeout", "10s", "-s"])
        .arg(&script)
        .arg(format!("http://{to}/"))
        .stdin(Stdio::null())
        .stdout(File::create(&said).unwrap())
        .stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let ended = process.ended(time + Duration::from_secs(20)).is_some_and(|status| status.success());
    let text = fs::read_to_string(&said).unwrap_or_default();
    let mut tally = read(&text);
    if !ended || tally.answers == 0 {
        tally.failed += 1;
        tally.failure = Some(format!("wrk did not come to its end: {}", text.trim()));
    }
    tally
}

/// Reads what the script says.
fn read(text: &str) -> Tally {
    let mut tally = Tally::default();
    let mut failures = String::new();
    for line in text.lines() {
        let mut columns = line.split('\t');
        let (Some("comparison"), Some(name)) = (columns.next(), columns.next()) else { continue };
        let mut number = || columns.next().and_then(|column| column.parse::<u64>().ok()).unwrap_or(0);
        let (one, other) = (number(), number());
        match name {
            "answers" => (tally.answers, tally.took) = (one, Duration::from_micros(other)),
            "latency" => {
                let nanoseconds = u32::try_from(one.saturating_mul(1000)).unwrap_or(u32::MAX);
                tally.latencies.extend(std::iter::repeat_n(nanoseconds, other as usize));
            }
            _ => {
                tally.failed += one;
                let _ = write!(failures, " {one}");
            }
        }
    }
    if tally.failed > 0 {
        tally.failure = Some(format!("errors of wrk, by kind, and answers that are not 302:{failures}"));
    }
    tally.in_time = tally.answers;
    tally
}
