//! What strangers say of themselves, and web pages that reach for the operator's API.

use crate::Scenario;
use crate::http::{self, client, request};
use crate::process::{POOL, Signpost, Start, wait_until};
use crate::report::Report;
use std::time::{Duration, Instant};

/// `X-Forwarded-For` and `-Proto` from a peer that is not trusted change neither the client in the access log
/// nor whether the pin is `Secure`; from one that is, they do. So it is with a header of the PROXY protocol,
/// and with a limit by client, which a stranger would escape by another name. A page on another origin can't
/// use the admin API, by any of the ways a browser leaves open: each case is what a browser sends. None may
/// have an effect, so all bounds are exact.
pub const SCENARIO: Scenario = Scenario {
    name: "spoofing",
    shows: "forwarded fields of strangers, and web pages that call the admin API",
    seconds: 60,
    run,
};

/// The trusted proxy's last number; every other address is a stranger.
const PROXY: u8 = 3;
const STRANGER: u8 = 2;

fn run(report: &mut Report) {
    let signpost = Start::with(&format!(
        "[server]\nlisten = ['127.0.0.1:0', {{ address = '127.0.0.1:0', proxy_protocol = true }}]\n\
             trusted_proxies = ['127.0.0.3/32']\n{POOL}[pools.p.pin]\n"
    ))
    .listens()
    .go();
    forwarded(report, &signpost);
    proxy_protocol(report, &signpost);
    per_client(report);
    pages(report, &signpost);
}

fn forwarded(report: &mut Report, signpost: &Signpost) {
    let spoofs: [&[(&str, &str)]; 5] = [
        &[("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https")],
        // Through the trusted proxy's address, as if it had written the list.
        &[("X-Forwarded-For", "203.0.113.7, 127.0.0.3"), ("X-Forwarded-Proto", "https")],
        &[("Forwarded", "for=203.0.113.7;proto=https"), ("X-Forwarded-Ssl", "on")],
        &[("X-Real-IP", "203.0.113.7"), ("X-Client-IP", "203.0.113.7"), ("Front-End-Https", "on")],
        &[("X-Forwarded-For", "garbage, ,"), ("X-Forwarded-Proto", "https, https"), ("Via", "1.1 127.0.0.3")],
    ];
    let mut believed = 0;
    for (number, fields) in spoofs.iter().enumerate() {
        let seen = visit(signpost, STRANGER, &format!("/stranger/{number}"), fields);
        believed += u32::from(seen != (format!("127.0.0.{STRANGER}"), false));
    }
    report.exactly(&format!("strangers believed of {}", spoofs.len()), believed, 0);
    let seen = visit(signpost, PROXY, "/proxy", spoofs[0]);
    report.holds("the trusted proxy is believed", seen == ("203.0.113.7".to_owned(), true));
    // What a stranger wrote stands left of what the proxy added, and is not read.
    let behind = [("X-Forwarded-For", "203.0.113.7, 198.51.100.9"), ("X-Forwarded-Proto", "http")];
    let seen = visit(signpost, PROXY, "/proxied-stranger", &behind);
    report.exactly("a stranger behind the proxy is", seen.0, "198.51.100.9".to_owned());
}

/// Visits; the client as the access log has it, and whether the pin is `Secure`.
fn visit(signpost: &Signpost, from: u8, path: &str, fields: &[(&str, &str)]) -> (String, bool) {
    let answer = http::once(client(from), signpost.traffic, &request("GET", path, fields, "")).unwrap();
    let cookie = answer.header("set-cookie").expect("a pin").to_owned();
    let words = format!("\"{path}\"");
    let line = || signpost.access.all().into_iter().find(|line| line.contains(&words));
    wait_until(Duration::from_secs(5), || line().is_some());
    let line: serde_json::Value = serde_json::from_str(&line().expect("an access line")).unwrap();
    (line["client"].as_str().unwrap().to_owned(), cookie.contains("; Secure"))
}

fn proxy_protocol(report: &mut Report, signpost: &Signpost) {
    let plain = signpost.plain();
    let [ordinary, behind_proxy] = plain[..] else { panic!("two listeners: {plain:?}") };
    let send = |from: u8, to, path: &str| {
        let mut bytes = b"PROXY TCP4 203.0.113.8 127.0.0.1 4711 80\r\n".to_vec();
        bytes.extend(request("GET", path, &[], ""));
        http::once(client(from), to, &bytes).map_or(0, |answer| answer.status)
    };
    let strangers = [
        send(STRANGER, ordinary, "/p/1"),
        send(STRANGER, behind_proxy, "/p/2"),
        send(PROXY, ordinary, "/p/3"),
    ];
    let redirected = strangers.iter().filter(|status| **status == 302).count();
    report.exactly(
        "PROXY headers of strangers, or where none is due, that led to a redirect, of 3",
        redirected,
        0,
    );
    report.exactly("one of the trusted proxy", send(PROXY, behind_proxy, "/p/4"), 302);
    let line = |path: &str| signpost.access.all().into_iter().find(|line| line.contains(path));
    wait_until(Duration::from_secs(5), || line("\"/p/4\"").is_some());
    let known = line("\"/p/4\"").is_some_and(|line| line.contains("\"client\":\"203.0.113.8\""));
    report.holds("its visitor is the client", known);
    let all = signpost.access.all();
    let spoofed = all.iter().filter(|line| line.contains("203.0.113.8")).count();
    report.exactly("access lines that name that client", spoofed, 1);
}

/// A limit by client is by the address that is believed.
fn per_client(report: &mut Report) {
    const RATE: u32 = 5;
    const ASKED: u32 = 60;
    let signpost = Start::with(&format!(
        "[log]\naccess = false\n[server]\ntrusted_proxies = ['127.0.0.3/32']\n\
         [server.limits]\nrequests_per_second_per_client = {RATE}\n{POOL}"
    ))
    .go();
    let redirects = |from: u8| {
        let statuses = (0..ASKED).map(|number| {
            let named = format!("203.0.113.{number}");
            let bytes = request("GET", "/", &[("X-Forwarded-For", &named)], "");
            http::once(client(from), signpost.traffic, &bytes).map_or(0, |answer| answer.status)
        });
        statuses.filter(|status| *status == 302).count()
    };
    let started = Instant::now();
    let stranger = redirects(STRANGER);
    let allowed = f64::from(RATE) * (1.0 + started.elapsed().as_secs_f64()) + 1.0;
    let what = format!("redirects for {ASKED} requests of a stranger who names {ASKED} clients");
    report.at_most(&what, stranger as f64, allowed.floor(), "");
    report.exactly("for as many of the trusted proxy", redirects(PROXY), ASKED as usize);
    let limited = signpost.metric("signpost_rejected_requests_total", &[("reason", "rate_limited")]);
    report.exactly("signpost_rejected_requests_total of it", limited, f64::from(ASKED) - stranger as f64);
}

fn pages(report: &mut Report, signpost: &Signpost) {
    let own = signpost.admin.to_string();
    let json = ("Content-Type", "application/json");
    let host = ("Host", own.as_str());
    let drain = r#"{"admin":"draining"}"#;
    const BACKEND: &str = "/api/v1/pools/p/backends/a";
    const RELOAD: &str = "/api/v1/reload";
    // What is sent, and the status that must come back.
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str, u16);
    let cases: Vec<Case<'_>> = vec![
        // fetch() from another origin, with a body and without.
        ("PATCH", BACKEND, vec![host, json, ("Origin", "https://evil.example")], drain, 403),
        ("POST", RELOAD, vec![host, ("Origin", "https://evil.example")], "", 403),
        ("POST", RELOAD, vec![host, ("Origin", "null")], "", 403),
        // Another port of the same machine is another origin.
        ("POST", RELOAD, vec![host, ("Origin", "http://127.0.0.1:1")], "", 403),
        // A form: Origin, or only what newer browsers add.
        (
            "POST",
            RELOAD,
            vec![host, ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")],
            "",
            403,
        ),
        ("POST", RELOAD, vec![host, ("Sec-Fetch-Site", "same-site")], "", 403),
        ("PATCH", BACKEND, vec![host, ("Content-Type", "text/plain")], drain, 415),
        ("PATCH", BACKEND, vec![host, ("Content-Type", "application/x-www-form-urlencoded")], drain, 415),
        // A name that resolves to loopback (DNS rebinding): reading and changing.
        ("GET", "/api/v1/pools", vec![("Host", "evil.example")], "", 403),
        (
            "PATCH",
            BACKEND,
            vec![("Host", "evil.example:9090"), json, ("Origin", "http://evil.example:9090")],
            drain,
            403,
        ),
        ("POST", RELOAD, vec![("Host", "localhost.evil.example")], "", 403),
    ];
    let count = cases.len();
    let mut let_through = 0;
    for (method, path, headers, body, status) in cases {
        let answer = signpost.ask(method, path, &headers, body);
        let opened = answer.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
        if answer.status != status || opened {
            let_through += 1;
            println!("{:8}{method} {path} {headers:?}: {} instead of {status}", "", answer.status);
        }
    }
    report.exactly(&format!("requests of foreign pages let through of {count}"), let_through, 0);
    // A preflight is answered with nothing that would let the request follow.
    let preflight = signpost.ask(
        "OPTIONS",
        BACKEND,
        &[host, ("Origin", "https://evil.example"), ("Access-Control-Request-Method", "PATCH")],
        "",
    );
    let allows = preflight.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
    report.holds("a preflight allows nothing", !allows);
    let draining = [("pool", "p"), ("backend", "a"), ("state", "draining")];
    report.exactly("draining after all that", signpost.metric("signpost_backend_state", &draining), 0.0);
    let reloads = signpost.metric("signpost_config_reloads_total", &[]);
    report.exactly("reloads after all that", reloads, 0.0);
    // The operator, by a program or by a page of the listener's own.
    let same = format!("http://{own}");
    let answer = signpost.ask("PATCH", BACKEND, &[host, json, ("Origin", &same)], drain);
    report.exactly("the operator's own request", answer.status, 200);
    report.exactly("draining then", signpost.metric("signpost_backend_state", &draining), 1.0);
    report.holds("the log says so", signpost.log.has(&["changed by the operator", "draining"]));
}
