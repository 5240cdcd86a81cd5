//! Visitors sent by the load that backends report, and what is shown of it.

use crate::harness::{Connection, Signpost, series, wait_until};

/// Backends a, b and c that push their load.
fn pool(rest: &str, load: &str) -> Signpost {
    Signpost::with_settings(&format!(
        "[pools.p]
        strategy = 'least_load'
        health.kind = 'none'
        backends = [
            {{ id = 'a', url = 'http://127.0.0.1:9001' }},
            {{ id = 'b', url = 'http://127.0.0.1:9002' }},
            {{ id = 'c', url = 'http://127.0.0.1:9003' }},
        ]
        {rest}
        [pools.p.load]
        source = 'push'
        {load}"
    ))
}

fn send_push(signpost: &Signpost, backend: &str, sessions: u32, capacity: u32) {
    let body = format!("{{\"sessions\": {sessions}, \"capacity\": {capacity}}}");
    let mut connection = Connection::to(signpost.admin);
    let head = format!("PUT /api/v1/pools/p/backends/{backend}/load HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    connection.send(format!("{head}{fields}\r\n{body}").as_bytes());
    let answer = connection.read_answer().unwrap();
    assert_eq!(answer.status, 204);
}

fn push(signpost: &Signpost, backend: &str, sessions: u32, capacity: u32) {
    send_push(signpost, backend, sessions, capacity);
    // The controller reads it within moments.
    let loaded = f64::from(sessions) / f64::from(capacity);
    wait_until("the report is read", || {
        let load = series(&signpost.metrics(), "signpost_backend_load", &[("backend", backend)]);
        load.is_some_and(|load| (load - loaded).abs() < 0.01)
    });
}

/// Where so many visitors are sent, by backend.
fn visitors(signpost: &Signpost, count: usize) -> [usize; 3] {
    let mut connection = signpost.connect();
    let mut sent = [0; 3];
    for _ in 0..count {
        let answer = connection.request("GET", "/", &[]);
        let location = answer.location();
        sent[usize::from(location.as_bytes()["http://127.0.0.1:900".len()] - b'1')] += 1;
    }
    sent
}

#[test]
fn visitors_go_where_there_is_room() {
    let signpost = pool("", "max_age = '1h'");
    for (backend, sessions, capacity) in [("a", 60, 100), ("b", 20, 100), ("c", 60, 200)] {
        push(&signpost, backend, sessions, capacity);
    }
    // 140 sessions and 140 more are 70 of each hundred.
    let sent = visitors(&signpost, 140);
    for (sent, expected) in sent.iter().zip([10, 50, 80]) {
        assert!(sent.abs_diff(expected) <= 8, "{sent:?}, expected some {expected}");
    }
    for backend in ["a", "b", "c"] {
        let load = signpost.metric("signpost_backend_load", &[("backend", backend)]);
        assert!((load - 0.7).abs() < 0.08, "{backend} {load}");
        assert_eq!(signpost.metric("signpost_backend_load_stale", &[("backend", backend)]), 0.0);
    }
}

#[test]
fn a_report_holds_until_it_expires_though_most_redirects_are_not_followed() {
    let signpost = pool("", "max_age = '1h'");
    let mut connection = signpost.connect();
    for _ in 0..20 {
        for backend in ["a", "b", "c"] {
            send_push(&signpost, backend, 2, 10);
        }
        for _ in 0..100 {
            assert_eq!(connection.request("HEAD", "/", &[]).status, 302);
        }
    }
    let labels = |backend| [("backend", backend)];
    for _ in 0..50 {
        let text = signpost.metrics();
        for backend in ["a", "b", "c"] {
            assert_eq!(series(&text, "signpost_backend_load_stale", &labels(backend)), Some(0.0));
            let load = series(&text, "signpost_backend_load", &labels(backend));
            assert!(load.is_some_and(|load| load < 0.5), "{backend} {load:?}: 2 sessions of 10, and bots");
        }
    }
    let pools: serde_json::Value = {
        let headers = [("Host", "127.0.0.1")];
        let answer = Connection::to(signpost.admin).request("GET", "/api/v1/pools", &headers);
        serde_json::from_slice(&answer.body).unwrap()
    };
    for backend in pools["pools"][0]["backends"].as_array().unwrap() {
        assert!(backend["load"]["level"].is_number(), "{backend}");
    }
}

#[test]
fn who_no_longer_reports_has_its_turns() {
    let signpost = pool("", "max_age = '2s'");
    let stale = |backend| signpost.metric("signpost_backend_load_stale", &[("backend", backend)]);
    assert_eq!(["a", "b", "c"].map(stale), [1.0; 3], "not a word yet");
    assert_eq!(visitors(&signpost, 30), [10; 3]);
    push(&signpost, "a", 1, 100);
    assert_eq!(stale("a"), 0.0);
    wait_until("it is too old", || stale("a") == 1.0);
    assert_eq!(series(&signpost.metrics(), "signpost_backend_load", &[("backend", "a")]), None);
    assert_eq!(visitors(&signpost, 30), [10; 3]);
}

#[test]
fn what_a_shadow_would_load_is_modelled_and_said_so() {
    let signpost = pool("shadow = ['round_robin']", "max_age = '1h'");
    for (backend, sessions) in [("a", 80), ("b", 20), ("c", 20)] {
        push(&signpost, backend, sessions, 100);
    }
    let sent = visitors(&signpost, 120);
    assert!(sent.iter().zip([0, 60, 60]).all(|(sent, even)| sent.abs_diff(even) <= 8), "{sent:?}");
    let imbalance = |strategy, source| {
        let labels = [("strategy", strategy), ("source", source), ("measure", "highest_over_mean")];
        series(&signpost.metrics(), "signpost_load_imbalance", &labels)
    };
    // Eighty in each by one; 120, 60, 60 by the other.
    wait_until("the reported load is even", || {
        imbalance("least_load", "reported").is_some_and(|found| found < 1.12)
    });
    wait_until("the modeled one is not", || {
        imbalance("round_robin", "modeled").is_some_and(|found| (found - 1.5).abs() < 0.02)
    });
    assert_eq!(imbalance("round_robin", "reported"), None, "that is not its doing");
    let observed = |strategy, source| {
        let labels = [("strategy", strategy), ("source", source)];
        signpost.metric("signpost_load_imbalance_observed_seconds_total", &labels)
    };
    wait_until("it is summed up", || observed("least_load", "reported") > 0.5);
    assert!(observed("round_robin", "modeled") > 0.0);
}

#[test]
fn a_reload_keeps_what_is_known_of_the_load() {
    let backends = |list: &str| {
        format!(
            "[pools.p]\nstrategy = 'least_load'\nhealth.kind = 'none'\nload = {{ source = 'push', max_age = '1h' }}\n\
             backends = [{list}]"
        )
    };
    let [a, b, c] = ["a", "b", "c"].map(|id| {
        let port = 9001 + u16::from(id.as_bytes()[0] - b'a');
        format!("{{ id = '{id}', url = 'http://127.0.0.1:{port}' }}")
    });
    let file = crate::harness::settings_file(&format!(
        "[server]\nwatch_interval = '0s'\n{}",
        backends(&format!("{a},{b}"))
    ));
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    push(&signpost, "b", 30, 100);
    let reordered = format!("[server]\nwatch_interval = '0s'\n{}", backends(&format!("{c},{b}")));
    std::fs::write(file.path(), reordered).unwrap();
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    assert!((signpost.metric("signpost_backend_load", &[("backend", "b")]) - 0.3).abs() < 0.01);
    assert_eq!(signpost.metric("signpost_backend_load_stale", &[("backend", "c")]), 1.0);
}
