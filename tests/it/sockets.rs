//! Sockets and connections below HTTP: who is parked, what the kernel is asked for, who runs where.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Connection, Signpost, wait_until};

const POOL: &str = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";

/// Longer than an idle connection keeps what it is served with.
const PARKED: Duration = Duration::from_millis(1500);

#[test]
fn a_parked_connection_is_served_on() {
    let signpost = Signpost::with_settings(POOL);
    let mut connection = signpost.connect();
    for path in ["/a", "/b", "/c"] {
        assert_eq!(connection.request("GET", path, &[]).location(), format!("http://127.0.0.1:9001{path}"));
        std::thread::sleep(PARKED);
    }
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(connection.read_answer().unwrap().status, 307);
    assert!(connection.closes());
}

#[test]
fn half_a_request_behind_an_answer_is_kept_and_has_its_own_timeout() {
    let signpost = Signpost::with_settings(&format!("{POOL}[server.limits]\nheader_timeout = '3s'"));
    let two = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHo";
    let (mut goes_on, mut stops) = (signpost.connect(), signpost.connect());
    for connection in [&mut goes_on, &mut stops] {
        connection.send(two);
        assert_eq!(connection.read_answer().unwrap().location(), "http://127.0.0.1:9001/a");
    }
    std::thread::sleep(PARKED);
    goes_on.send(b"st: a\r\n\r\n");
    assert_eq!(goes_on.read_answer().unwrap().location(), "http://127.0.0.1:9001/b");
    assert!(stops.closes());
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "header_timeout")], 1.0);
    assert_eq!(signpost.metric("signpost_limit_hits_total", &[("limit", "idle_timeout")]), 0.0);
}

#[test]
fn a_parked_connection_is_told_when_it_is_over() {
    let mut signpost = Signpost::with_settings(POOL);
    let mut parked = signpost.connect();
    assert_eq!(parked.request("GET", "/", &[]).status, 302);
    std::thread::sleep(PARKED);
    signpost.signal("TERM");
    assert!(parked.closes(), "with FIN");
    assert!(signpost.wait().success());

    let signpost = Signpost::with_settings(&format!("{POOL}[server.limits]\nidle_timeout = '2s'"));
    let mut parked = signpost.connect();
    assert_eq!(parked.request("GET", "/", &[]).status, 302);
    assert!(parked.closes());
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "idle_timeout")], 1.0);
}

#[test]
fn a_parked_connection_makes_room() {
    // A worker that has room for its own closes no connections of another one.
    let limits = "[server]\nworkers = 1\n[server.limits]\nmax_connections = 10";
    let signpost = Signpost::with_settings(&format!("{POOL}{limits}"));
    let mut parked: Vec<_> = (0..7).map(|_| signpost.connect()).collect();
    for connection in &mut parked {
        assert_eq!(connection.request("GET", "/", &[]).status, 302);
    }
    std::thread::sleep(PARKED);
    let more = std::iter::repeat_with(|| {
        let mut connection = signpost.connect();
        assert_eq!(connection.request("GET", "/", &[]).status, 302);
        connection
    });
    let _more: Vec<_> = more.take(10).collect();
    assert!(parked.iter_mut().all(Connection::closes));
}

#[test]
fn from_half_of_the_cap_on_the_idle_go_sooner() {
    let limits = "[server.limits]\nmax_connections = 20\nidle_timeout = '1h'\nheader_timeout = '1h'\n[server]\ntcp_defer_accept = '0s'";
    let signpost = Signpost::with_settings(&format!("{POOL}{limits}"));
    let open = [("listener", &*signpost.traffic.to_string())];
    // Fewer than half stay. 15 of 20 may be idle for half an hour.
    let _few: Vec<_> = (0..9).map(|_| signpost.connect()).collect();
    signpost.wait_for_metric("signpost_connections", &open, 9.0);
    let _more: Vec<_> = (0..6).map(|_| signpost.connect()).collect();
    signpost.wait_for_metric("signpost_connections", &open, 15.0);
    std::thread::sleep(PARKED);
    assert_eq!(signpost.metric("signpost_connections", &open), 15.0);
    // At the cap it is a second, though nobody else has come.
    let _all: Vec<_> = (0..5).map(|_| signpost.connect()).collect();
    wait_until("some have gone", || {
        signpost.metric("signpost_limit_hits_total", &[("limit", "evicted")]) > 0.0
    });
}

#[test]
fn every_answer_is_out_before_the_end_though_the_client_reads_late() {
    let signpost = Signpost::with_settings(POOL);
    let mut connection = signpost.connect();
    let count = 3000;
    let (request, last) =
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
    connection.send((request.repeat(count) + last).as_bytes());
    // By now both sockets' buffers are full of answers.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        (0..count).filter_map(|_| connection.read_answer()).filter(|answer| answer.status == 302).count(),
        count
    );
    assert_eq!(connection.read_answer().expect("the last one too").status, 307);
}

#[test]
fn a_deferred_connection_is_served_and_drained() {
    let mut signpost = Signpost::with_settings(&format!("[server]\ntcp_defer_accept = '1s'\n{POOL}"));
    assert_eq!(signpost.get("/").status, 302);
    // Silent, it is the kernel's for a second or so, and ours from then on.
    let open = [("listener", &*signpost.traffic.to_string())];
    let mut silent = signpost.connect();
    signpost.wait_for_metric("signpost_connections", &open, 1.0);
    silent.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(silent.read_answer().unwrap().status, 302);
    // Whose request comes just after the signal is answered still.
    let mut late = signpost.connect();
    signpost.signal("TERM");
    late.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(late.read_answer().unwrap().status, 302);
    assert!(silent.closes() && late.closes());
    assert!(signpost.wait().success());
}

#[test]
fn fast_open_is_served_and_says_so_where_the_kernel_does_not_allow_it() {
    let signpost = Signpost::with_settings(&format!("[server]\ntcp_fast_open = 16\n{POOL}"));
    assert_eq!(signpost.get("/").status, 302);
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap();
    if allowed.trim().parse::<u32>().unwrap() & 2 == 0 {
        signpost.wait_for_log("net.ipv4.tcp_fastopen");
    } else {
        assert!(!signpost.log().contains("net.ipv4.tcp_fastopen"));
    }
}

#[test]
fn each_worker_keeps_to_its_core_where_asked() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let workers = cores + 1;
    let settings = |affinity| format!("[server]\nworkers = {workers}\nworker_affinity = {affinity}\n{POOL}");
    for affinity in [false, true] {
        let signpost = Signpost::with_settings(&settings(affinity));
        assert_eq!(signpost.get("/").status, 302);
        let mut of_workers = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", signpost.pid())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
            };
            if field("Name:").starts_with("worker-") {
                of_workers.push(field("Cpus_allowed_list:"));
            }
        }
        assert_eq!(of_workers.len(), workers);
        let used: BTreeSet<_> = of_workers.iter().collect();
        if affinity {
            assert!(of_workers.iter().all(|list| list.parse::<usize>().is_ok()), "{of_workers:?}");
            assert_eq!(used.len(), cores);
        } else {
            assert_eq!(used.len(), 1);
        }
    }
}
