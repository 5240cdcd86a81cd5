//! Backends that take a probe and do the worst with it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Scenario;
use crate::backend::{Local, listed, read_head};
use crate::kill_backend::state;
use crate::load::{Load, other_than};
use crate::process::Start;
use crate::report::Report;

/// One backend takes no connection, one answers after 30 seconds, one drips its answer, one sends a gigabyte,
/// one redirects to itself; a sixth is good. Each of the five must be a failed probe and be down, and cost
/// nothing else: the good one's probes come on time, as its own log has them (`interval` × 1.1, the jitter, and
/// 150 ms for a busy machine's scheduler), visitors are sent there alone, and memory grows by no more than what
/// five answers of 64 KiB, the bound of a probe's answer, and their buffers can take, with room: 8 MiB.
pub const SCENARIO: Scenario = Scenario {
    name: "bad-backends",
    shows: "probes of backends that hang, drip, flood and redirect to themselves",
    seconds: 60,
    run,
};

const INTERVAL: Duration = Duration::from_millis(200);
const TIME: Duration = Duration::from_secs(12);
const NAMES: [&str; 6] =
    ["good", "black hole", "answers after 30 s", "drips", "a gigabyte", "redirects to itself"];

fn run(report: &mut Report) {
    let good = Local::good();
    let (hole, _inside) = black_hole();
    let late = Local::start(|mut stream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_secs(30));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let drips = Local::start(|mut stream| {
        read_head(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".iter().chain(&[b'x'; 1000]) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let most = Arc::<AtomicU64>::default();
    let told = Arc::clone(&most);
    let gigabyte = Local::start(move |stream| {
        told.fetch_max(send_gigabyte(stream), Ordering::Relaxed);
    });
    let circle = Local::start(|mut stream| {
        read_head(&mut stream);
        let own = stream.local_addr().unwrap();
        let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: http://{own}/\r\nContent-Length: 0\r\n\r\n");
    });
    let addresses = [good.address, hole, late.address, drips.address, gigabyte.address, circle.address];
    let signpost = Start::with(&format!(
        "[log]\naccess = false\n[pools.p]\nbackends = [{}]\n\
         [pools.p.health]\nkind = 'http'\nexpect = '200'\ninterval = '{}ms'\ntimeout = '1s'\nrise = 2\nfall = 2\n",
        listed(addresses),
        INTERVAL.as_millis()
    ))
    .go();
    let before = signpost.process.resident();
    for (number, name) in NAMES.iter().enumerate() {
        let state_due = if number == 0 { "up" } else { "down" };
        let so = state(&signpost, number, state_due, Duration::from_secs(8));
        report.holds(&format!("{name} is {state_due}"), so);
    }

    let from = Instant::now();
    let load = Load::on(signpost.traffic).rate(500.0).start();
    let mut memory: f64 = 0.0;
    while from.elapsed() < TIME {
        memory = memory.max(signpost.process.resident());
        std::thread::sleep(Duration::from_millis(20));
    }
    let shots = load.stop();
    let until = Instant::now();
    let (failed, words) = other_than(&shots, 302);
    report.exactly(&format!("requests that got no redirect{words}"), failed, 0);
    let astray = shots.iter().filter(|shot| shot.port() != Some(good.address.port())).count();
    report.exactly(&format!("of {} requests sent elsewhere than to the good one", shots.len()), astray, 0);

    for (number, name) in NAMES.iter().enumerate().skip(1) {
        let backend = format!("b{number}");
        let counted = |result| {
            let labels = [("pool", "p"), ("backend", backend.as_str()), ("result", result)];
            signpost.metric("signpost_probes_total", &labels)
        };
        report.exactly(&format!("{name}: probes counted as ok"), counted("ok"), 0.0);
    }
    let probes: Vec<_> =
        good.came.lock().unwrap().iter().copied().filter(|at| *at > from && *at < until).collect();
    let gaps = probes.windows(2).map(|two| (two[1] - two[0]).as_secs_f64() * 1000.0);
    let bound = INTERVAL.as_secs_f64() * 1100.0 + 150.0;
    report.at_most("longest time between two probes of the good one", gaps.fold(0.0, f64::max), bound, "ms");
    let due = (until - from).as_secs_f64() / (INTERVAL.as_secs_f64() * 1.1) * 0.95;
    report.at_least("probes of the good one", probes.len() as f64, due.floor(), "");
    // Followed, each probe would be twenty connections.
    let labels = [("pool", "p"), ("backend", "b5")];
    let of_circle = probes_total(&signpost.metrics(), &labels);
    let came = circle.came.lock().unwrap().len() as f64;
    report.at_most(
        "connections for each probe of the one that redirects to itself",
        came / of_circle,
        1.1,
        "",
    );
    report.at_most("memory more than at the start", (memory - before) / 1024.0, 8.0, "MiB");
    report.note("memory in all", &format!("{:.1} MiB", memory / 1024.0));
    let most = most.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
    report.note("most that was taken of a gigabyte, with the kernel's buffers", &format!("{most:.1} MiB"));
}

/// The sum of all results of a backend's probes.
fn probes_total(text: &str, labels: &[(&str, &str)]) -> f64 {
    let of_it = text.lines().filter(|line| {
        line.starts_with("signpost_probes_total{")
            && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
    });
    of_it.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// A listener whose queue is full and stays so: whoever connects is not answered at all, as behind a firewall
/// that drops. It lasts as long as what is returned beside its address.
fn black_hole() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut inside = vec![listener];
    for _ in 0..8 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        inside.push(socket);
    }
    (address, inside)
}

/// Sends until the peer has enough; how much went.
fn send_gigabyte(mut stream: TcpStream) -> u64 {
    read_head(&mut stream);
    let chunk = vec![b'x'; 64 << 10];
    let mut sent = 0;
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    while sent < 1 << 30 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len() as u64;
    }
    sent
}
