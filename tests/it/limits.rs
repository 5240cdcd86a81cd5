//! What one connection may cost.

use crate::harness::Signpost;

fn start(limits: &str) -> Signpost {
    Signpost::with_settings(&format!(
        "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n[server.limits]\n{limits}"
    ))
}

#[test]
fn a_head_that_takes_too_long_ends_its_connection() {
    let signpost = start("header_timeout = '300ms'\nidle_timeout = '1h'");
    let mut silent = signpost.connect();
    let mut partial = signpost.connect();
    partial.send(b"GET / HT");
    let mut second = signpost.connect();
    assert_eq!(second.request("GET", "/", &[]).status, 302);
    second.send(b"GET / HT");
    assert!(silent.closes() && partial.closes() && second.closes());
    signpost.wait_for_metric("signpost_limited_total", &[("limit", "header_timeout")], 3.0);
    assert_eq!(signpost.metric("signpost_limited_total", &[("limit", "idle_timeout")]), 0.0);
}

#[test]
fn an_idle_connection_ends() {
    let signpost = start("header_timeout = '1h'\nidle_timeout = '300ms'");
    let mut connection = signpost.connect();
    assert_eq!(connection.request("GET", "/", &[]).status, 302);
    assert!(connection.closes());
    signpost.wait_for_metric("signpost_limited_total", &[("limit", "idle_timeout")], 1.0);
    signpost.wait_for_metric("signpost_connections", &[("listener", &signpost.traffic.to_string())], 0.0);
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
    drop(flood);
    crate::harness::wait_until("it serves again", || signpost.get("/").status == 302);
    assert!(signpost.metric("signpost_limited_total", &[("limit", "descriptors")]) > 0.0);
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let signpost = start_limited("-Sn 100 && ulimit -Hn 500");
    assert_eq!(signpost.metric("process_max_fds", &[]), 500.0);
}
