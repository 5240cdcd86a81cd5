//! What `/metrics` shows, and whether Prometheus likes it.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::Signpost;

const TWO_POOLS: &str = r#"
    [pools.pinned]
    hosts = ["pinned.test"]
    backends = [{ id = "a", url = "http://127.0.0.1:9001", weight = 3 }, { id = "b", url = "http://127.0.0.1:9002" }]
    pin = {}
    load = {}
    [pools.plain]
    strategy = "random"
    path_prefix = "/plain"
    max_requests_per_second = 1000
    backends = [{ id = "plain-a", url = "http://127.0.0.1:9003" }]
"#;

/// Every name that DESIGN gives and there is something to count for yet.
const NAMES: [&str; 28] = [
    "signpost_redirects_total",
    "signpost_responses_total",
    "signpost_responses_aborted_total",
    "signpost_rejected_requests_total",
    "signpost_pick_duration_seconds_bucket",
    "signpost_strategy_live",
    "signpost_strategy_picks_total",
    "signpost_overflow_total",
    "signpost_pins_rejected_total",
    "signpost_backend_weight",
    "signpost_backend_state",
    "signpost_backend_eligible",
    "signpost_backend_state_since_timestamp_seconds",
    "signpost_backend_state_reason",
    "signpost_pool_fail_open",
    "signpost_probes_total",
    "signpost_probe_duration_seconds_bucket",
    "signpost_load_reports_total",
    "signpost_panics_total",
    "signpost_connections",
    "signpost_connections_total",
    "signpost_limit_hits_total",
    "signpost_tls_handshakes_total",
    "signpost_log_lines_dropped_total",
    "signpost_config_reloads_total",
    "signpost_config_last_reload_successful",
    "signpost_build_info",
    "process_open_fds",
];

#[test]
fn every_series_is_there_from_the_start() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let metrics = signpost.metrics();
    for name in NAMES {
        let of_name =
            |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
        assert!(metrics.lines().any(|line| of_name(&line)), "{name}");
    }
    let redirects = metrics.lines().filter(|line| line.starts_with("signpost_redirects_total{")).count();
    assert_eq!(redirects, 3 * 3, "three backends, three decisions each");
    let labels = [("pool", "pinned"), ("backend", "a")];
    assert_eq!(signpost.metric("signpost_backend_weight", &labels), 3.0);
}

#[test]
fn no_label_takes_its_value_from_a_request() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let before = signpost.metrics().lines().count();
    for n in 0..50 {
        let host = format!("host-{n}.test");
        let cookie = format!("signpost_pinned=value-{n}");
        signpost.request(
            "GET",
            &format!("/path-{n}"),
            &[("Host", &host), ("Cookie", &cookie), ("User-Agent", &host)],
        );
        signpost.request(&format!("METHOD{n}"), "/plain", &[]);
    }
    assert_eq!(signpost.metrics().lines().count(), before);
    assert_eq!(signpost.metric("signpost_rejected_requests_total", &[("reason", "unknown_path")]), 50.0);
    assert_eq!(
        signpost.metric("signpost_redirects_total", &[("pool", "plain"), ("decision", "picked")]),
        50.0
    );
}

#[test]
fn promtool_finds_nothing_to_say() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    signpost.request("GET", "/", &[("Host", "pinned.test")]);
    signpost.get("/plain");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        crate::harness::skipped("promtool is missing; `apt-get install prometheus` has it");
        return;
    };
    promtool.stdin.take().unwrap().write_all(signpost.metrics().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn health_and_what_is_not_there() {
    let signpost = Signpost::with_backends(&["http://127.0.0.1:9001"]);
    for (path, status, text) in [("/healthz", 200, "alive\n"), ("/readyz", 200, "ready\n")] {
        let answer = signpost.admin_get(path);
        assert_eq!((answer.status, answer.text()), (status, text.to_owned()));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(signpost.admin_get("/other").status, 404);
    // Nothing of the admin listener is on the traffic listener, where every path is the site's.
    assert_eq!(signpost.get("/metrics").location(), "http://127.0.0.1:9001/metrics");
}
