//! What one connection may cost.

use crate::harness::{Connection, Signpost};

fn start(limits: &str) -> Signpost {
    Signpost::with_settings(&format!(
        "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n[server.limits]\n{limits}"
    ))
}

#[test]
fn a_head_that_takes_too_long_ends_its_connection() {
    for defer in ["0s", "1s"] {
        let signpost = start(&format!(
            "header_timeout = '300ms'\nidle_timeout = '1h'\n[server]\ntcp_defer_accept = '{defer}'"
        ));
        let mut silent = signpost.connect();
        let mut partial = signpost.connect();
        partial.send(b"GET / HT");
        let mut second = signpost.connect();
        assert_eq!(second.request("GET", "/", &[]).status, 302);
        second.send(b"GET / HT");
        assert!(silent.closes() && partial.closes() && second.closes());
        signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "header_timeout")], 3.0);
        assert_eq!(signpost.metric("signpost_limit_hits_total", &[("limit", "idle_timeout")]), 0.0);
    }
}

#[test]
fn an_idle_connection_ends() {
    for defer in ["0s", "1s"] {
        let signpost = start(&format!(
            "header_timeout = '1h'\nidle_timeout = '300ms'\n[server]\ntcp_defer_accept = '{defer}'"
        ));
        let mut connection = signpost.connect();
        assert_eq!(connection.request("GET", "/", &[]).status, 302);
        assert!(connection.closes());
        signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "idle_timeout")], 1.0);
        signpost.wait_for_metric("signpost_connections", &[("listener", &signpost.traffic.to_string())], 0.0);
    }
}

#[test]
fn a_connection_ends_after_the_most_requests_in_good_order() {
    let signpost = start("max_requests_per_connection = 3");
    let mut connection = signpost.connect();
    for said in [None, None, Some("close")] {
        let answer = connection.request("GET", "/", &[]);
        assert_eq!((answer.status, answer.header("connection")), (302, said));
    }
    assert!(connection.closes());
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "requests_per_connection")], 1.0);

    // Who has sent more already reads all the answers there are.
    let mut pipelined = signpost.connect();
    pipelined.send(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5000));
    assert_eq!((0..3).filter_map(|_| pipelined.read_answer()).count(), 3);
    assert!(pipelined.closes());
}

#[test]
fn sizes_are_settings() {
    let signpost = start("max_target_bytes = '100B'\nmax_headers = 3\nmax_header_bytes = '32KiB'");
    assert_eq!(signpost.get(&format!("/{}", "a".repeat(99))).status, 302);
    assert_eq!(signpost.get(&format!("/{}", "a".repeat(100))).status, 414);
    assert_eq!(signpost.request("GET", "/", &[("A", "1"), ("B", "2")]).status, 302);
    let four = signpost.raw(b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n");
    assert_eq!(four.unwrap().status, 431);
    assert_eq!(signpost.request("GET", "/", &[("A", &"x".repeat(30_000))]).status, 302);
    let over = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(33_000));
    assert_eq!(signpost.raw(over.as_bytes()).unwrap().status, 431);
}

/// Starts it under a shell's `ulimit`.
fn start_limited(limit: &str) -> Signpost {
    let script = format!(
        "ulimit {limit} && exec {} --backend http://127.0.0.1:9001 --listen 127.0.0.1:0 --admin 127.0.0.1:0",
        env!("CARGO_BIN_EXE_signpost")
    );
    let mut command = std::process::Command::new("sh");
    Signpost::start_command(command.env_clear().args(["-c", &script]))
}

#[test]
fn descriptors_that_run_out_come_back() {
    let signpost = start_limited("-n 48");
    let flood: Vec<_> = (0..100).map(|_| signpost.connect()).collect();
    // Connections that their clients have closed by the time they are accepted need no descriptor for long.
    signpost.wait_for_log("can't accept");
    drop(flood);
    crate::harness::wait_until("it serves again", || signpost.get("/").status == 302);
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "file_descriptors")]) > 0.0);
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let signpost = start_limited("-Sn 100 && ulimit -Hn 500");
    assert_eq!(signpost.metric("process_max_fds", &[]), 500.0);
}

#[test]
fn a_client_has_its_rate_and_no_other_pays_for_it() {
    let signpost = start("requests_per_second_per_client = 5");
    let statuses: Vec<_> = (0..20).map(|_| signpost.get("/").status).collect();
    assert_eq!(statuses[..5], [302; 5]);
    assert!(statuses.contains(&429));
    let mut refused = None;
    crate::harness::wait_until("one too many came", || {
        refused = Some(signpost.get("/")).filter(|answer| answer.status == 429);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(
        (refused.header("retry-after"), refused.header("cache-control")),
        (Some("1"), Some("no-store"))
    );
    assert!(signpost.metric("signpost_rejected_requests_total", &[("reason", "rate_limited")]) >= 1.0);
    let mut other = Connection::from_to("127.0.0.2".parse().unwrap(), signpost.traffic);
    assert_eq!(other.request("GET", "/", &[]).status, 302);
    // Who waits as long as the answer says is served.
    crate::harness::wait_until("it may ask again", || signpost.get("/").status == 302);
}

#[test]
fn a_client_has_so_many_connections_and_no_more() {
    let signpost = start("max_connections_per_client = 2");
    let mut held: Vec<_> = (0..2).map(|_| signpost.connect()).collect();
    for connection in &mut held {
        assert_eq!(connection.request("GET", "/", &[]).status, 302);
    }
    assert!(signpost.connect().closes(), "in good order, without an answer");
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "connections_per_client")], 1.0);
    assert_eq!(
        Connection::from_to("127.0.0.2".parse().unwrap(), signpost.traffic).request("GET", "/", &[]).status,
        302
    );
    drop(held.pop());
    crate::harness::wait_until("there is a place again", || {
        let mut again = signpost.connect();
        again.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        again.read_answer().is_some()
    });
}

#[test]
fn connections_that_a_client_leaves_open_after_its_last_response_are_limited() {
    let signpost = start("max_connections_per_client = 2");
    let mut left_open = Vec::new();
    crate::harness::wait_until("one too many is left open", || {
        let mut connection = signpost.connect();
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(connection.read_answer().unwrap().status, 302);
        left_open.push(connection);
        // One that sends nothing more is closed after a while.
        left_open.iter_mut().for_each(|connection| connection.send(b"x"));
        signpost.metric("signpost_limit_hits_total", &[("limit", "connections_per_client")]) > 0.0
    });
    // They stand in the way of none that closes.
    for _ in 0..50 {
        assert_eq!(signpost.request("GET", "/", &[("Connection", "close")]).status, 302);
    }
}

#[test]
fn a_proxy_that_is_trusted_has_all_the_connections_it_needs() {
    let signpost = Signpost::with_settings(
        "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.limits]\nmax_connections_per_client = 1\n\
         requests_per_second_per_client = 1\n[pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    let mut held: Vec<_> = (0..5).map(|_| signpost.connect()).collect();
    let for_each = held.iter_mut().zip(1..);
    let statuses = for_each.map(|(connection, visitor)| {
        connection.request("GET", "/", &[("X-Forwarded-For", &format!("192.0.2.{visitor}"))]).status
    });
    assert_eq!(statuses.collect::<Vec<_>>(), [302; 5], "each visitor has its own rate");
    assert_eq!(signpost.request("GET", "/", &[("X-Forwarded-For", "192.0.2.1")]).status, 429);
}

#[test]
fn more_connections_than_descriptors_allow_are_no_setting() {
    let script = format!(
        "ulimit -n 200 && SIGNPOST__SERVER__LIMITS__MAX_CONNECTIONS=1000 {} --backend http://127.0.0.1:9001 \
         --listen 127.0.0.1:0 --admin 127.0.0.1:0",
        env!("CARGO_BIN_EXE_signpost")
    );
    let output = std::process::Command::new("sh").env_clear().args(["-c", &script]).output().unwrap();
    let said = crate::harness::stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("server.limits.max_connections is 1000, but 200 descriptors allow 136"), "{said}");
}

#[test]
fn at_the_cap_the_idle_make_room() {
    let signpost = start("max_connections = 10\nidle_timeout = '1h'\n[server]\ntcp_defer_accept = '0s'");
    let mut idle: Vec<_> = (0..7).map(|_| signpost.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.request("GET", "/", &[]).header("connection"), None);
    }
    // From four fifths on, an answer is the last of its connection.
    let mut eighth = signpost.connect();
    assert_eq!(eighth.request("GET", "/", &[]).header("connection"), Some("close"));
    assert!(eighth.closes());
    // Silent ones fill it up; who comes then is served in the place of who was idle.
    let _silent: Vec<_> = (0..10).map(|_| signpost.connect()).collect();
    for _ in 0..3 {
        assert_eq!(signpost.get("/").status, 302);
    }
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "connections")]) >= 1.0);
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "evicted")]) >= 1.0);
    let open = signpost.metric("signpost_connections", &[("listener", &signpost.traffic.to_string())]);
    // Each accept loop may be one over.
    assert!(open <= 10.0 + std::thread::available_parallelism().unwrap().get() as f64, "{open}");
    assert_eq!(signpost.admin_get("/healthz").status, 200, "the operator has places of their own");
}

#[test]
fn who_lingers_or_says_nothing_makes_room_too() {
    let signpost = start("max_connections = 10\nidle_timeout = '1h'\nheader_timeout = '1h'");
    // Ten that have their answer, and go on with a body that never ends.
    let mut lingering: Vec<_> = (0..10).map(|_| signpost.connect()).collect();
    for connection in &mut lingering {
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
        assert_eq!(connection.read_answer().unwrap().status, 307);
    }
    assert_eq!(signpost.get("/").status, 302);
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "connections")]) >= 1.0);
}
