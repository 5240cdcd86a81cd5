//! More connections than descriptors.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Scenario;
use crate::http::{self, client, connect_from, exchange, request};
use crate::process::{POOL, Signpost, Start, wait_until};
use crate::report::Report;

/// `ulimit -n 256` and 2000 connections. When they send half a head and stay, whoever finds no descriptor waits
/// in the kernel's queue or is refused; the process goes on, costs next to nothing, and its admin listener,
/// which has descriptors of its own, answers. Within a second of the flood's end visitors are served: it is as
/// long as one notices, and 2000 dead connections are taken from the queue in much less. When each had an
/// answer and waits, the longest idle are closed for who comes, and everybody is served at once.
pub const SCENARIO: Scenario =
    Scenario { name: "descriptors", shows: "256 descriptors, 2000 connections", seconds: 60, run };

const FLOOD: usize = 2000;

fn run(report: &mut Report) {
    let mut signpost =
        Start::with(&format!("[log]\naccess = false\n[server.limits]\nheader_timeout = '1h'\n{POOL}"))
            .limit(256)
            .go();
    idle_flood(report, &signpost);
    report.exactly("served before the flood", signpost.get(2).unwrap().status, 302);
    let flood: Vec<_> =
        (0..FLOOD).filter_map(|number| hold(40 + (number % 20) as u8, signpost.traffic)).collect();
    report.note("connections of the flood that the kernel or Signpost holds", &flood.len().to_string());
    std::thread::sleep(Duration::from_secs(2));
    report.holds("it runs on", signpost.process.ended(Duration::ZERO).is_none());
    let cpu = signpost.process.processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let busy = (signpost.process.processor_time() - cpu).as_secs_f64() * 100.0;
    report.at_most("processor while it can't accept", busy, 10.0, "%");

    let bytes = request("GET", "/metrics", &[("Host", "127.0.0.1"), ("Connection", "close")], "");
    let admin = http::once(client(1), signpost.admin, &bytes);
    report.holds("the admin listener answers", admin.is_ok_and(|answer| answer.status == 200));

    let ended = Instant::now();
    drop(flood);
    // Twenty in a row, so that both workers are asked.
    let back = wait_until(Duration::from_secs(20), || {
        (0..20).all(|_| signpost.get(2).is_ok_and(|answer| answer.status == 302))
    });
    report.holds("it serves again", back.is_some());
    report.at_most("after", ended.elapsed().as_secs_f64(), 1.0, "s");
    let limited = ["file_descriptors", "connections"]
        .map(|limit| signpost.metric("signpost_limit_hits_total", &[("limit", limit)]))
        .into_iter()
        .sum();
    report.at_least("signpost_limit_hits_total of it", limited, 1.0, "");
    report.exactly("exit code", signpost.leave(Duration::from_secs(40)).unwrap_or(-1), 0);
}

/// Connections that got an answer and wait, more than there are descriptors.
fn idle_flood(report: &mut Report, signpost: &Signpost) {
    let bytes = request("GET", "/", &[], "");
    let started = Instant::now();
    let answered: Vec<_> = (0..FLOOD)
        .filter_map(|number| {
            let mut stream = connect_from(client(40 + (number % 20) as u8), signpost.traffic).ok()?;
            exchange(&mut stream, &bytes).ok().map(|_| stream)
        })
        .collect();
    report.exactly(&format!("answered of {FLOOD} that stay idle"), answered.len(), FLOOD);
    report.at_most("in", started.elapsed().as_secs_f64(), 10.0, "s");
    report.exactly("another visitor beside them", signpost.get(2).map_or(0, |answer| answer.status), 302);
}

/// A connection that sends half a head and stays. It is not waited for: most will stand in a queue.
fn hold(from: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::new(client(from), 0).into()).ok()?;
    socket.connect_timeout(&to.into(), Duration::from_millis(100)).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: site").ok()?;
    Some(stream)
}
