//! Load reports: where they are read, what is refused and why, and who may push them.

use serde_json::json;

use crate::backend::{Backend, Does};
use crate::harness::{Answer, Connection, Signpost, wait_until};

const TOKEN: &str = "an admin token of thirty-two bytes or so";
const LOAD_TOKEN: &str = "a load token of thirty-two bytes or more";

/// A pool whose backends are called `a`, `b` and so on, and probed where these are.
fn pool(backends: &[Backend], health: &str, load: &str) -> String {
    let backends: Vec<_> = (backends.iter().enumerate())
        .map(|(index, backend)| {
            let id = char::from(b'a' + index as u8);
            format!("{{ id = '{id}', url = 'http://127.0.0.1:9001/{id}', probe_url = '{}' }}", backend.url())
        })
        .collect();
    format!(
        "[pools.p]\nslow_start = '0s'\nbackends = [{}]\n[pools.p.health]\ninterval = '50ms'\n{health}\n\
         [pools.p.load]\n{load}\n",
        backends.join(",")
    )
}

fn told(signpost: &Signpost, backend: &str, result: &str) -> f64 {
    signpost.metric("signpost_load_reports_total", &[("backend", backend), ("result", result)])
}

/// Waits until each backend's report has come to this, and to nothing else.
fn wait_for_results(signpost: &Signpost, results: &[&str]) {
    for (index, result) in results.iter().enumerate() {
        let id = char::from(b'a' + index as u8).to_string();
        wait_until(&format!("{id} is {result}"), || told(signpost, &id, result) >= 2.0);
        let text = signpost.metrics();
        let of = format!("backend=\"{id}\"");
        let others = text.lines().filter(|line| {
            line.starts_with("signpost_load_reports_total")
                && line.contains(&of)
                && !line.contains(&format!("result=\"{result}\""))
                && !line.ends_with(" 0")
        });
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new(), "{id} {result}");
    }
}

#[test]
fn a_header_of_the_answer_tells_the_load() {
    let cases = [
        ("endpoint-load-metrics: TEXT cpu_utilization=0.3, named_metrics.sessions=12\r\n", "ok"),
        ("Endpoint-Load-Metrics: JSON {\"application_utilization\": 0.5}\r\n", "ok"),
        ("endpoint-load-metrics: 0.75\r\n", "ok"),
        ("", "missing"),
        ("endpoint-load-metrics: TEXT cpu_utilization=high\r\n", "malformed"),
        ("endpoint-load-metrics: BIN AAAA\r\n", "malformed"),
        ("endpoint-load-metrics: TEXT cpu_utilization=nan\r\n", "not_finite"),
        ("endpoint-load-metrics: JSON {\"cpu_utilization\": \"Infinity\"}\r\n", "not_finite"),
        ("endpoint-load-metrics: TEXT cpu_utilization=-0.1\r\n", "negative"),
        ("endpoint-load-metrics: TEXT cpu_utilization=75\r\n", "ok"),
        ("endpoint-load-metrics: TEXT cpu_utilization=7500\r\n", "too_large"),
        (
            "endpoint-load-metrics: TEXT cpu_utilization=0.1,named_metrics.capacity=0\r\n",
            "capacity_too_small",
        ),
        ("endpoint-load-metrics: TEXT mem_utilization=0.5\r\n", "empty"),
    ];
    let backends = cases.map(|(head, _)| Backend::start(Does::Report(head, "ok\n")));
    let signpost = Signpost::with_settings(&pool(&backends, "kind = 'http'", "source = 'probe_header'"));
    wait_for_results(&signpost, &cases.map(|(_, result)| result));
    // No word, or a wrong one, about its load is no word about its health.
    for index in 0..cases.len() as u8 {
        signpost.wait_for_state(&char::from(b'a' + index).to_string(), "up");
    }
    signpost.wait_for_log("no load report was taken");
    let asked = backends[0].heads()[0].1.to_ascii_lowercase();
    assert!(asked.contains("endpoint-load-metrics-format: text\r\n"), "{asked}");
    backends[3].now_does(Does::Report(cases[0].0, ""));
    signpost.wait_for_log("load reports are taken again");
}

#[test]
fn a_header_and_its_unit_may_be_named() {
    let cases = [("X-Sessions: 17\r\n", "ok"), ("endpoint-load-metrics: 1\r\n", "missing")];
    let backends = cases.map(|(head, _)| Backend::start(Does::Report(head, "")));
    let load = "source = 'probe_header'\nheader = 'X-Sessions'\nunit = 'sessions'";
    let signpost = Signpost::with_settings(&pool(&backends, "kind = 'http'\nmethod = 'HEAD'", load));
    wait_for_results(&signpost, &cases.map(|(_, result)| result));
}

#[test]
fn a_field_of_the_body_tells_the_load() {
    let cases = [
        ("{\"status\": {\"load\": 17}}", "ok"),
        ("{\"status\": {\"load\": {\"sessions\": 3, \"capacity\": 9, \"version\": \"1.2\"}}}", "ok"),
        ("{\"status\": {}}", "missing"),
        ("ok\n", "malformed"),
        ("{\"status\": {\"load\": \"low\"}}", "malformed"),
        ("{\"status\": {\"load\": {\"sessions\": 1, \"age\": 16}}}", "too_old"),
        ("{\"status\": {\"load\": {\"sessions\": 1, \"at\": \"2020-01-01T00:00:00Z\"}}}", "too_old"),
        ("{\"status\": {\"load\": {\"sessions\": 1, \"at\": 99999999999}}}", "future"),
        ("{\"status\": {\"load\": {\"version\": 1}}}", "empty"),
    ];
    let backends = cases.map(|(body, _)| Backend::start(Does::Report("", body)));
    let load = "source = 'probe_json'\njson_pointer = '/status/load'\nunit = 'sessions'";
    let signpost = Signpost::with_settings(&pool(&backends, "kind = 'http'", load));
    wait_for_results(&signpost, &cases.map(|(_, result)| result));
}

#[test]
fn an_answer_that_is_not_expected_tells_nothing() {
    let backends = [Backend::start(Does::Report("endpoint-load-metrics: 0.5\r\n", ""))];
    let signpost =
        Signpost::with_settings(&pool(&backends, "kind = 'http'\nexpect = '204'", "source = 'probe_header'"));
    signpost.wait_for_state("a", "down");
    let line = |line: &&str| line.starts_with("signpost_load_reports_total{") && !line.ends_with(" 0");
    assert_eq!(signpost.metrics().lines().filter(line).count(), 0);
}

/// A pool of two whose agents say these; probed by TCP where visitors are sent.
fn with_agents(agents: [&Backend; 2], more: &str) -> String {
    // Every agent of a pool has the same port, so the hosts differ.
    let port = agents[0].address.port();
    let hosts = agents.map(|agent| agent.address.ip());
    format!(
        "[pools.p]\nslow_start = '0s'\nbackends = [{{ id = 'a', url = 'http://{}:9001/a' }}, {{ id = 'b', url = 'http://{}:9001/b' }}]\n\
         pin = {{}}\nhealth = {{ kind = 'none', interval = '50ms' }}\n\
         load = {{ source = 'agent', agent_port = {port}, {more} }}",
        hosts[0], hosts[1]
    )
}

/// Agents at two addresses of loopback, on one port.
fn agents(first: Does, second: Does) -> [Backend; 2] {
    loop {
        let one = Backend::start(first);
        let address = (std::net::Ipv4Addr::new(127, 0, 0, 2), one.address.port()).into();
        // Somebody else may have that port there.
        if std::net::TcpListener::bind(address).is_ok() {
            return [one, Backend::start_on(address, second)];
        }
    }
}

fn picks(signpost: &Signpost, count: usize) -> [usize; 2] {
    let ids: Vec<_> =
        (0..count).map(|_| signpost.get("/").location().split('/').nth(3).unwrap().to_owned()).collect();
    ["a", "b"].map(|id| ids.iter().filter(|found| *found == id).count())
}

fn weight(signpost: &Signpost, backend: &str) -> f64 {
    signpost.metric("signpost_backend_weight", &[("backend", backend)])
}

#[test]
fn an_agent_gets_the_share_of_its_weight_that_it_asks_for() {
    let [a, b] = agents(Does::Say("50% up\n"), Does::Say("100%\n"));
    let signpost = Signpost::with_settings(&with_agents([&a, &b], "max_age = '3s'"));
    wait_until("a is heard", || weight(&signpost, "a") == 0.5);
    wait_for_results(&signpost, &["ok", "ok"]);
    assert_eq!(picks(&signpost, 30), [10, 20]);
    a.now_does(Does::Say("25%\n"));
    wait_until("a asks for less", || weight(&signpost, "a") == 0.25);
    a.now_does(Does::Say("0%\n"));
    wait_until("a asks for nobody", || weight(&signpost, "a") == 0.0);
    assert_eq!(picks(&signpost, 6), [0, 6]);
    // What it asked for ends with the report; that nobody answers says nothing else of it.
    a.kill();
    wait_until("its agent is gone", || told(&signpost, "a", "unreachable") >= 1.0);
    wait_until("its word has expired", || weight(&signpost, "a") == 1.0);
    assert_eq!(picks(&signpost, 6), [3, 3]);
}

#[test]
fn an_agent_drains_and_takes_down_its_backend() {
    let [a, b] = agents(Does::Say("ready up\n"), Does::Say("up\n"));
    let signpost = Signpost::with_settings(&with_agents([&a, &b], "max_age = '1m'"));
    wait_for_results(&signpost, &["ok", "ok"]);
    let first = signpost.get("/");
    let to_a = if first.location().ends_with("/a/") { first } else { signpost.get("/") };
    let pinned = || signpost.request("GET", "/", &[("Cookie", to_a.cookie().unwrap())]).location().to_owned();
    for (line, state, stays) in [
        ("drain # backup runs\r\n", "draining", true),
        ("ready\n", "unknown", true),
        ("MAINT\n", "maintenance", false),
        ("ready down\n", "down", false),
        // What is not spoken of stays as it was.
        ("75%\n", "down", false),
        ("up,75%,maxconn:30\n", "unknown", true),
    ] {
        a.now_does(Does::Say(line));
        signpost.wait_for_state("a", state);
        assert_eq!(pinned().ends_with("/a/"), stays, "{line}");
        assert_eq!(picks(&signpost, 8)[0] > 0, state == "unknown", "{line}");
    }
    for (line, result) in [("", "malformed"), ("busy\n", "malformed"), ("7.5%\n", "malformed")] {
        let before = told(&signpost, "a", result);
        a.now_does(Does::Say(line));
        wait_until(&format!("{line:?} is {result}"), || told(&signpost, "a", result) >= before + 2.0);
    }
    signpost.wait_for_state("a", "unknown");
}

#[test]
fn what_an_agent_asked_for_ends_when_it_is_asked_no_more() {
    let [a, b] = agents(Does::Say("maint\n"), Does::Say("up\n"));
    let asked = with_agents([&a, &b], "max_age = '1m'");
    let file = crate::harness::settings_file(&asked);
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    signpost.wait_for_state("a", "maintenance");
    std::fs::write(file.path(), asked.replace("source = 'agent'", "source = 'push'")).unwrap();
    signpost.signal("HUP");
    signpost.wait_for_state("a", "unknown");
    assert_eq!(picks(&signpost, 4), [2, 2]);
}

/// Longer than a line may be, without an end.
const LONG: &str = match std::str::from_utf8(&[b'1'; 20_000]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

#[test]
fn an_agent_that_never_ends_its_line_is_bounded() {
    let [a, b] = agents(Does::Say(LONG), Does::Hang);
    let settings = with_agents([&a, &b], "max_age = '1m'").replace("'50ms'", "'50ms', timeout = '100ms'");
    let signpost = Signpost::with_settings(&settings);
    wait_for_results(&signpost, &["malformed", "unreachable"]);
}

fn push(signpost: &Signpost, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send(signpost, "PUT", path, headers, body)
}

fn send(signpost: &Signpost, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut text = format!("{method} /api/v1/pools/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Type") {
        text += "Content-Type: application/json\r\n";
    }
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], signpost.admin.port()));
    let mut connection = Connection::to(admin);
    connection.send(format!("{text}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    connection.read_answer().unwrap()
}

const PUSHED: &str = "[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }, { id = 'b/c', url = 'http://127.0.0.1:9002' }]\nhealth = { kind = 'none' }\nload = { source = 'push' }\n[pools.q]\npath_prefix = '/q'\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9003' }]\nhealth = { kind = 'none' }\n";

#[test]
fn a_push_is_taken_or_told_what_is_wrong() {
    let signpost = Signpost::with_settings(PUSHED);
    let path = "p/backends/a/load";
    for (path, body, status, result, says) in [
        (path, json!({ "sessions": 3, "capacity": 10 }), 204, "ok", ""),
        (path, json!({ "utilization": 1.5, "age": 2 }), 204, "ok", ""),
        ("p/backends/b%2Fc/load", json!({ "requests_per_second": 10.5 }), 204, "", ""),
        (
            path,
            json!({ "sessions": -1, "capacity": 9 }),
            422,
            "negative",
            "got sessions -1, capacity 9: a number is below 0",
        ),
        (path, json!({ "sessions": 1e12 }), 422, "too_large", "beyond all measure"),
        (
            path,
            json!({ "sessions": 1, "capacity": 0 }),
            422,
            "capacity_too_small",
            "capacity is next to nothing",
        ),
        (path, json!({ "sessions": 1, "age": 60 }), 422, "too_old", "load.max_age"),
        (path, json!({ "sessions": 1, "age": -60 }), 422, "future", "from the future"),
        (path, json!({ "capacity": 4 }), 422, "empty", "sessions, utilization or"),
        (path, json!({}), 422, "empty", "sessions, utilization or"),
        (path, json!({ "sessions": "3" }), 422, "malformed", "sessions: got \"3\", takes a number"),
        (path, json!({ "sesions": 3 }), 422, "malformed", "sesions: no such member"),
        (path, json!([3]), 422, "malformed", "an object"),
        ("p/backends/z/load", json!({ "sessions": 3 }), 404, "", "no such backend"),
        ("z/backends/a/load", json!({ "sessions": 3 }), 404, "", "no such backend"),
        ("q/backends/a/load", json!({ "sessions": 3 }), 409, "", "[pools.q.load]"),
    ] {
        let before = if result.is_empty() { 0.0 } else { told(&signpost, "a", result) };
        let answer = push(&signpost, path, &[], &body.to_string());
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        if status == 204 {
            assert_eq!(answer.body, b"");
        } else {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert!(answer.text().replace("\\\"", "\"").contains(says), "{body}: {}", answer.text());
        }
        if !result.is_empty() {
            assert_eq!(told(&signpost, "a", result), before + 1.0, "{body}");
        }
    }
    assert_eq!(push(&signpost, path, &[], "{\"sessions\": NaN}").status, 422);
    assert_eq!(told(&signpost, "b/c", "ok"), 1.0);
    assert_eq!(send(&signpost, "GET", path, &[], "").status, 405);
}

#[test]
fn a_push_needs_the_load_token_and_that_opens_nothing_else() {
    let admin = format!("[admin]\ntoken = '{TOKEN}'\nload_token = '{LOAD_TOKEN}'\n");
    let signpost = Signpost::with_settings(&format!("{PUSHED}{admin}"));
    let bearer = |token: &str| format!("Bearer {token}");
    let (admin, load) = (bearer(TOKEN), bearer(LOAD_TOKEN));
    let path = "p/backends/a/load";
    let pushed = |headers: &[(&str, &str)]| push(&signpost, path, headers, "{\"sessions\":1}");
    for wrong in [&[][..], &[("Authorization", admin.as_str())], &[("Authorization", LOAD_TOKEN)]] {
        let answer = pushed(wrong);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{wrong:?}");
    }
    assert_eq!(pushed(&[("Authorization", &load)]).status, 204);
    let own = ("Authorization", load.as_str());
    for (more, status) in [
        (("Origin", "https://evil.example"), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
        (("Content-Type", "text/plain"), 415),
    ] {
        assert_eq!(pushed(&[own, more]).status, status, "{more:?}");
    }
    let change = |token: &str| {
        send(&signpost, "PATCH", "p/backends/a", &[("Authorization", token)], "{\"weight\":2}").status
    };
    assert_eq!((change(&load), change(&admin)), (401, 200));
    assert_eq!(told(&signpost, "a", "ok"), 1.0, "who is turned away is not listened to");
    assert!(!signpost.log().contains(LOAD_TOKEN));
}

#[test]
fn one_token_does_not_stand_in_for_the_other() {
    let path = "p/backends/a/load";
    let with = |admin: &str| Signpost::with_settings(&format!("{PUSHED}[admin]\n{admin}"));
    // On loopback, what has no token needs none.
    let signpost = with(&format!("token = '{TOKEN}'"));
    assert_eq!(push(&signpost, path, &[], "{\"sessions\":1}").status, 204);
    assert_eq!(send(&signpost, "PATCH", "p/backends/a", &[], "{\"weight\":2}").status, 401);
    let signpost = with(&format!("load_token = '{LOAD_TOKEN}'"));
    assert_eq!(push(&signpost, path, &[], "{\"sessions\":1}").status, 401);
    assert_eq!(send(&signpost, "PATCH", "p/backends/a", &[], "{\"weight\":2}").status, 200);
}

#[test]
fn off_loopback_nothing_is_pushed_without_a_load_token() {
    let start = |admin: &str| {
        let file = crate::harness::settings_file(&format!("{PUSHED}[admin]\n{admin}"));
        let mut command = crate::harness::command(["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"]);
        let signpost = Signpost::start_command(command.arg("--settings").arg(file.path()));
        (signpost, file)
    };
    let path = "p/backends/a/load";
    let (signpost, _file) = start(&format!("token = '{TOKEN}'"));
    let answer = push(&signpost, path, &[("Authorization", &format!("Bearer {TOKEN}"))], "{\"sessions\":1}");
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("admin.load_token"), "{}", answer.text());
    let (signpost, _file) = start(&format!("load_token = '{LOAD_TOKEN}'"));
    let load = format!("Bearer {LOAD_TOKEN}");
    assert_eq!(push(&signpost, path, &[("Authorization", &load)], "{\"sessions\":1}").status, 204);
}

#[test]
fn a_backend_that_is_probed_may_push_in_between() {
    let backends = [Backend::start(Does::Report("endpoint-load-metrics: 0.5\r\n", ""))];
    let signpost = Signpost::with_settings(
        &pool(&backends, "kind = 'http'\ninterval = '1h'", "source = 'probe_header'\nmax_age = '2h'")
            .replace("interval = '50ms'\n", ""),
    );
    wait_until("the probe told", || told(&signpost, "a", "ok") >= 1.0);
    assert_eq!(push(&signpost, "p/backends/a/load", &[], "{\"sessions\":1}").status, 204);
    assert_eq!(told(&signpost, "a", "ok"), 2.0);
}
