//! Shares that strategies give, counted through the front door.

use std::collections::BTreeMap;

use crate::harness::{Answer, Connection, Signpost};

fn picked(signpost: &Signpost, backend: &str) -> f64 {
    signpost.metric("signpost_redirects_total", &[("backend", backend), ("decision", "picked")])
}

/// `each` requests over each of `connections`, all at the same time, pipelined ten by ten.
fn flood(signpost: &Signpost, connections: usize, each: usize) {
    let address = signpost.traffic;
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(move || {
                let mut connection = Connection::to(address);
                for _ in 0..each / 10 {
                    connection.send(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10));
                    for _ in 0..10 {
                        assert_eq!(connection.read_answer().unwrap().status, 302);
                    }
                }
            });
        }
    });
}

#[test]
fn round_robin_is_exact_over_64_connections() {
    let signpost = Signpost::start(&[
        "--backend",
        "http://127.0.0.1:9001",
        "--backend",
        "http://127.0.0.1:9002",
        "--backend",
        "http://127.0.0.1:9003",
    ]);
    flood(&signpost, 64, 1570);
    let counts = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"].map(|id| picked(&signpost, id));
    assert_eq!(counts.iter().sum::<f64>(), 100_480.0);
    assert!(counts.iter().all(|count| (count - counts[0]).abs() <= 1.0), "{counts:?}");
}

#[test]
fn round_robin_keeps_weights_in_every_cycle() {
    let signpost = Signpost::with_backends(&["3*http://127.0.0.1:9001", "http://127.0.0.1:9002"]);
    let mut connection = signpost.connect();
    let sent: Vec<_> =
        (0..400).map(|_| connection.request("GET", "/", &[]).location().contains(":9001")).collect();
    for cycle in sent.chunks(4) {
        assert_eq!(cycle.iter().filter(|&&first| first).count(), 3);
    }
    assert!(!sent.windows(4).any(|window| window.iter().all(|&first| first)), "four in a row");
}

#[test]
fn random_passes_a_chi_square_test() {
    let weights = [("9001", 5.0), ("9002", 3.0), ("9003", 1.0), ("9004", 1.0)];
    let backends: Vec<_> =
        weights.iter().map(|(port, weight)| format!("{weight}*http://127.0.0.1:{port}")).collect();
    let args: Vec<&str> = backends.iter().flat_map(|backend| ["--backend", backend]).collect();
    let signpost = Signpost::start(&[&args[..], &["--strategy", "random"]].concat());
    flood(&signpost, 16, 1250);
    let counts: BTreeMap<_, _> =
        weights.iter().map(|(port, _)| (port, picked(&signpost, &format!("127.0.0.1:{port}")))).collect();
    let total: f64 = counts.values().sum();
    assert_eq!(total, 20_000.0);
    let chi_square: f64 = weights
        .iter()
        .map(|(port, weight)| {
            let expected = total * weight / 10.0;
            (counts[port] - expected).powi(2) / expected
        })
        .sum();
    // Three degrees of freedom; over 30.66 by chance once in a million runs.
    assert!(chi_square < 30.66, "{chi_square} {counts:?}");
    let strategy = [("strategy", "random")];
    let timed = signpost.metric("signpost_pick_duration_seconds_count", &strategy);
    assert!((200.0..=400.0).contains(&timed), "one pick in 61 is timed: {timed}");
}

/// Replicas that start together send their first clients to different backends, and each one's cycles stay exact.
#[test]
fn round_robin_begins_at_a_random_turn() {
    let backends: Vec<_> = (0..60).map(|n| format!("'http://127.0.0.1:{}'", 9001 + n)).collect();
    let backends = backends.join(",");
    let settings = format!("[pools.p]\nbackends = [{backends}]\n[pools.p.health]\nkind = 'none'");
    let first_cycle = || {
        let signpost = Signpost::with_settings(&settings);
        let port = |answer: Answer| -> usize {
            answer.location().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap()
        };
        (0..60).map(|_| port(signpost.get("/")) - 9001).collect::<Vec<_>>()
    };
    let cycles: Vec<_> = (0..6).map(|_| first_cycle()).collect();
    for cycle in &cycles {
        let in_order: Vec<_> = (cycle[0]..60).chain(0..cycle[0]).collect();
        assert_eq!(*cycle, in_order);
    }
    // By chance all six begin with the same one once in 60^5 runs.
    assert!(cycles.iter().any(|cycle| cycle[0] != cycles[0][0]), "all begin with {}", cycles[0][0]);
}
