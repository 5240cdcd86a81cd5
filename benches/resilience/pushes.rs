//! A flood of load reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Scenario;
use crate::backend::Backend;
use crate::http;
use crate::kill_backend::{GONE, last_after, start, state};
use crate::load::{Load, other_than};
use crate::process::Signpost;
use crate::report::{Report, quantile};

/// Sixteen clients push reports as fast as they are taken, half of them nonsense, while 500 visitors a second come and a
/// backend is killed.
///
/// Reports and probes come to the controller by the same way, so that the dead backend is noticed as soon as ever, in 500 ms
/// (see `kill-backend`), shows that they hold nobody up. Nothing that is refused changes what is taken, each is counted,
/// and memory stays as it was but for some buffers.
pub const SCENARIO: Scenario = Scenario {
    name: "pushes",
    shows: "load reports pushed as fast as they are taken, and a backend that dies meanwhile",
    seconds: 60,
    run,
};

const CLIENTS: usize = 16;
const KILOBYTES: f64 = 8192.0;

fn run(report: &mut Report) {
    let mut backends = Backend::several(3);
    let signpost = start(&backends, "slow_start = '0s'\nload = { source = 'push' }");
    let load = Load::on(signpost.traffic).rate(500.0).start();
    std::thread::sleep(Duration::from_millis(500));
    let before = signpost.process.resident();
    let stop = Arc::<AtomicBool>::default();
    let [taken, refused, other] = [(); 3].map(|()| Arc::<AtomicUsize>::default());
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (stop, counts) = (Arc::clone(&stop), [&taken, &refused, &other].map(Arc::clone));
            let admin = signpost.admin;
            std::thread::spawn(move || flood(number, admin, &stop, &counts))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let killed = backends[0].kill();
    let seen_down = state(&signpost, 0, "down", Duration::from_secs(5));
    std::thread::sleep(Duration::from_secs(3));
    let grown = signpost.process.resident() - before;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    let shots = load.stop();
    let [taken, refused, other] = [taken, refused, other].map(|count| count.load(Ordering::SeqCst));
    report.note("reports a second", &format!("{:.0}", (taken + refused) as f64 / took));
    report.holds("the dead backend was seen", seen_down);
    let port = backends[0].port();
    let dead = || shots.iter().filter(|shot| shot.port() == Some(port) && shot.begun >= killed);
    let last = last_after(dead(), killed);
    let late = dead().filter(|shot| shot.begun >= killed + GONE).count();
    report.exactly(&format!("visitors sent there over 500 ms later (the last after {last:.0} ms)"), late, 0);
    let (failed, words) = other_than(&shots, 302);
    report.exactly(&format!("requests that got no redirect{words}"), failed, 0);
    let mut waits: Vec<_> = shots.iter().map(super::load::Shot::milliseconds).collect();
    report.note("99 % of visitors are answered within", &format!("{:.1} ms", quantile(&mut waits, 0.99)));
    report.exactly("pushes that were answered neither 204 nor 422", other, 0);
    report.exactly("reports counted as taken", counted(&signpost, "ok"), taken as f64);
    report.exactly("reports counted as nonsense", counted(&signpost, "negative"), refused as f64);
    report.at_most("memory that came with it", grown, KILOBYTES, "KB");
}

fn counted(signpost: &Signpost, result: &str) -> f64 {
    let of = |backend: &str| {
        let labels = [("backend", backend), ("result", result)];
        signpost.metric("signpost_load_reports_total", &labels)
    };
    ["b0", "b1", "b2"].map(of).iter().sum()
}

/// Pushes one report after the other, each over a connection of its own; every other client's make no sense.
fn flood(number: usize, admin: std::net::SocketAddr, stop: &AtomicBool, counts: &[Arc<AtomicUsize>; 3]) {
    let sessions = if number.is_multiple_of(2) { "12" } else { "-12" };
    let body = format!("{{\"sessions\":{sessions},\"capacity\":40}}");
    let path = format!("/api/v1/pools/p/backends/b{}/load", number % 3);
    let headers = [("Host", "127.0.0.1"), ("Content-Type", "application/json")];
    let bytes = http::request("PUT", &path, &headers, &body);
    while !stop.load(Ordering::SeqCst) {
        let status = http::once(http::client(1), admin, &bytes).map_or(0, |answer| answer.status);
        let at = match status {
            204 => 0,
            422 => 1,
            _ => 2,
        };
        counts[at].fetch_add(1, Ordering::SeqCst);
    }
}
