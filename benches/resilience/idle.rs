//! Connections that do nothing.

use std::net::TcpStream;
use std::time::Duration;

use crate::Scenario;
use crate::http::{client, connect_from, exchange, request};
use crate::load::{Load, other_than};
use crate::process::{POOL, Start, descriptors};
use crate::report::Report;

/// 10000 connections that got one answer each and then wait, as browsers' do. The others must be served as
/// ever. Nothing of HTTP's is kept of them, which takes 4 KiB to be seen: one buffer kept by mistake is 8.
pub const SCENARIO: Scenario =
    Scenario { name: "idle", shows: "10000 connections that wait after one answer", seconds: 120, run };

const IDLE: usize = 10_000;
const KILOBYTES_EACH: f64 = 4.0;

fn run(report: &mut Report) {
    if descriptors() < IDLE as u64 + 500 {
        report.skip(&format!(
            "needs a limit of {} descriptors (ulimit -Hn), here are {}",
            IDLE + 500,
            descriptors()
        ));
        return;
    }
    let signpost =
        Start::with(&format!("[log]\naccess = false\n[server.limits]\nidle_timeout = '10m'\n{POOL}")).go();
    let whole =
        request("GET", "/some/path", &[("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)")], "");
    // What the first connections of all cost is not theirs alone.
    for _ in 0..100 {
        signpost.get(2).unwrap();
    }
    let before = signpost.process.resident();
    let mut open: Vec<TcpStream> = Vec::with_capacity(IDLE);
    let mut answered = 0;
    for number in 0..IDLE {
        let mut stream = connect_from(client(30 + (number % 50) as u8), signpost.traffic).unwrap();
        answered += usize::from(exchange(&mut stream, &whole).is_ok_and(|answer| answer.status == 302));
        open.push(stream);
    }
    let after = signpost.process.resident();
    report.exactly("connections answered", answered, IDLE);
    let counted: f64 =
        signpost.metric("signpost_connections", &[("listener", &signpost.traffic.to_string())]);
    report.at_least("connections that stay open", counted, IDLE as f64, "");
    report.at_most("memory of each", (after - before) / IDLE as f64, KILOBYTES_EACH, "KiB");
    let shots = Load::on(signpost.traffic).rate(500.0).run(Duration::from_secs(3));
    let (failed, words) = other_than(&shots, 302);
    report.exactly(
        &format!("requests of others that failed meanwhile, of {}{words}", shots.len()),
        failed,
        0,
    );
    // The same connections still serve.
    let again = open.iter_mut().step_by(10).filter_map(|stream| exchange(stream, &whole).ok());
    report.exactly("second requests on every tenth that were answered", again.count(), IDLE / 10);
    drop(open);
    let ended = signpost.leave(Duration::from_secs(30));
    report.exactly("exit code", ended.unwrap_or(-1), 0);
}
