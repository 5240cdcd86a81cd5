//! What an operator who only has /metrics and the log can know.

use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;

use crate::Scenario;
use crate::backend::{Backend, listed};
use crate::http::{client, connect_from, series};
use crate::process::{Signpost, Start, replace, wait_until};
use crate::report::Report;
use crate::tls::{Files, Pair};

/// Every change of state that the other scenarios bring about, one after the other on one dispatcher: a backend
/// dies, all do, they return, one is drained, settings are reloaded, right and wrong ones, a certificate
/// breaks, a deadline passes, the process leaves. Each must be read from a series of /metrics and from a line
/// of the log that names what changed (what strangers do is counted, and not logged: they would write the log).
/// An alert or a person woken at night has nothing else.
pub const SCENARIO: Scenario = Scenario {
    name: "readable",
    shows: "every change of state in /metrics and in the log",
    seconds: 90,
    run,
};

const SOON: Duration = Duration::from_secs(5);

fn run(report: &mut Report) {
    let mut backends = Backend::several(2);
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let pair = Pair::new();
    files.write(&pair);
    let settings = |strategy: &str| {
        format!(
            "[log]\naccess = false\n[server]\nwatch_interval = '100ms'\nshutdown_delay = '2s'\n\
             [server.limits]\nheader_timeout = '1s'\n{}\
             [pools.p]\nstrategy = '{strategy}'\nbackends = [{}]\n\
             [pools.p.health]\ninterval = '200ms'\nrise = 2\nfall = 2\n",
            files.settings(),
            listed(backends.iter().map(|backend| backend.address))
        )
    };
    let (right, other, wrong) = (settings("round_robin"), settings("random"), settings("no_such_strategy"));
    let mut signpost = Start::with(&right).go();
    let state =
        |backend, state, value| ("signpost_backend_state", [("backend", backend), ("state", state)], value);

    let mut seen = |what: &str, metric: (&str, [(&str, &str); 2], f64), words: &[&str]| {
        let (name, labels, value) = metric;
        let labels: Vec<_> = labels.into_iter().filter(|(key, _)| !key.is_empty()).collect();
        let counted = signpost.metric_becomes(name, &labels, value, SOON).is_some();
        let logged = words.is_empty() || signpost.log.has(words);
        report.holds(
            &format!("{what}: {name}{}", if words.is_empty() { "" } else { " and a line" }),
            counted && logged,
        );
    };
    const NO: (&str, &str) = ("", "");
    let fail_open = |value| ("signpost_pool_fail_open", [("pool", "p"), NO], value);
    let reloads = |result| ("signpost_config_reloads_total", [("result", result), NO], 1.0);

    seen("a backend is up", state("b0", "up", 1.0), &["b0", "up"]);
    backends[0].kill();
    seen("a backend is down", state("b0", "down", 1.0), &["b0", "down"]);
    backends[1].kill();
    seen("all are down", state("b1", "down", 1.0), &["b1", "down"]);
    seen("fail open", fail_open(1.0), &["ERROR", "failing open"]);
    backends.iter_mut().for_each(|backend| _ = backend.back());
    seen("they are back", state("b1", "up", 1.0), &["b1", "up"]);
    seen("fail open is over", fail_open(0.0), &["uses its primaries again"]);
    signpost.ask("PATCH", "/api/v1/pools/p/backends/b1", &[], r#"{"admin":"draining"}"#);
    seen("a backend is drained", state("b1", "draining", 1.0), &["b1", "draining"]);
    let drained =
        series(&signpost.metrics(), "signpost_backend_drained_timestamp_seconds", &[("backend", "b1")]);
    signpost.ask("PATCH", "/api/v1/pools/p/backends/b1", &[], r#"{"admin":null}"#);
    seen("it is used again", state("b1", "up", 1.0), &["b1", "null"]);
    signpost.write_settings(&other);
    seen("settings are reloaded", reloads("success"), &["settings reloaded"]);
    signpost.write_settings(&wrong);
    seen("wrong settings", reloads("error"), &["ERROR", "no_such_strategy"]);
    seen("they stay wrong", ("signpost_config_last_reload_successful", [NO, NO], 0.0), &[]);
    replace(&files.cert, "no certificate");
    let name = files.cert.display().to_string();
    let certificate =
        |value| ("signpost_certificate_last_reload_successful", [("name", name.as_str()), NO], value);
    seen("a broken certificate", certificate(0.0), &["ERROR", "site.crt"]);
    files.write(&pair);
    seen("it is repaired", certificate(1.0), &["certificate reloaded", "site.crt"]);
    let mut slow = connect_from(client(2), signpost.traffic).unwrap();
    slow.write_all(b"GET / HT").unwrap();
    seen("a deadline passes", ("signpost_limit_hits_total", [("limit", "header_timeout"), NO], 1.0), &[]);
    report.holds("when a drained backend may be switched off", drained.is_some());

    signpost.process.signal(Signal::TERM);
    let ready = |signpost: &Signpost| signpost.ask("GET", "/readyz", &[], "").status == 200;
    report.holds("leaving: /readyz", wait_until(SOON, || !ready(&signpost)).is_some());
    report.holds("leaving: a line", signpost.log.has(&["leaving", "SIGTERM"]));
    let code = signpost.process.ended(Duration::from_secs(40)).and_then(|status| status.code());
    report.exactly("exit code", code.unwrap_or(-1), 0);
    let lines = signpost.log.all();
    let records = lines.iter().filter(|line| line.starts_with('{'));
    let parsed =
        records.clone().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
    report.exactly("lines of the log that are no JSON", records.count() - parsed, 0);
}
