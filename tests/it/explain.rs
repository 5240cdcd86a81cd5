//! `GET /api/v1/pools/{pool}/explain`: what it says is what then happens, and asking changes nothing.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::harness::{Answer, Connection, Signpost, series};

fn ask(signpost: &Signpost, path: &str) -> Answer {
    let host = signpost.admin.to_string();
    Connection::to(signpost.admin).request("GET", path, &[("Host", &host)])
}

/// What the strategies of pool `p` would do with a visitor of this key.
fn explain(signpost: &Signpost, key: &str) -> Vec<Value> {
    let answer = ask(signpost, &format!("/api/v1/pools/p/explain?key={key}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    document["strategies"].as_array().unwrap().clone()
}

/// A pool of backends that are known by the last digit of their port, and what else is set of it.
fn start(rest: &str) -> Signpost {
    let backends =
        [1, 2, 3].map(|n| format!("{{ id = 'b{n}', url = 'http://127.0.0.1:900{n}', weight = {n} }}"));
    let pool = format!(
        "[server]\nwatch_interval = '0s'\n[pools.p]\nhealth = {{ kind = 'none' }}\nbackends = [{}]",
        backends.join(", ")
    );
    Signpost::with_settings(&format!("{pool}\n{rest}"))
}

fn sent_to(answer: &Answer) -> String {
    format!("b{}", answer.location().split('/').nth(2).unwrap().chars().last().unwrap())
}

fn why(strategy: &Value, backend: &str) -> String {
    let candidates = strategy["candidates"].as_array().unwrap();
    let of = candidates.iter().find(|candidate| candidate["backend"] == backend).unwrap();
    of["why"].as_str().unwrap().to_owned()
}

#[test]
fn the_turn_that_is_said_to_be_next_is() {
    let signpost = start("shadow = ['random']");
    for _ in 0..12 {
        let strategies = explain(&signpost, "");
        let [live, shadow] = &strategies[..] else { panic!("{strategies:?}") };
        assert_eq!((&live["name"], &live["role"]), (&json!("round_robin"), &json!("live")));
        let next = live["picked"].as_str().unwrap();
        assert_eq!(live["candidates"][0]["backend"], next);
        assert_eq!(
            (&live["candidates"][0]["score"], &live["candidates"][0]["picked"]),
            (&json!(0.0), &json!(true))
        );
        assert!(why(live, next).starts_with("its turn is next"));
        assert!(why(live, "b3").ends_with("50.0 % of turns are its own") || next != "b3");
        // Chance decides, and its odds are known.
        assert_eq!((&shadow["role"], &shadow["picked"]), (&json!("shadow"), &Value::Null));
        let odds: Vec<_> =
            shadow["candidates"].as_array().unwrap().iter().map(|of| of["score"].as_f64().unwrap()).collect();
        assert_eq!(odds, [1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]);
        assert_eq!(sent_to(&signpost.get("/")), next);
    }
}

#[test]
fn asking_changes_nothing() {
    let signpost = start("shadow = ['random', 'consistent_hash', 'first']\nmax_requests_per_second = 1000");
    signpost.get("/");
    // What the process itself uses changes by the asking, and so does what counts connections.
    let figures = || {
        let text = signpost.metrics();
        let ours = |line: &&str| line.starts_with("signpost_") && !line.contains("connections");
        text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, first) = (figures(), explain(&signpost, "192.0.2.1"));
    for _ in 0..50 {
        let again = explain(&signpost, "192.0.2.1");
        assert_eq!(again[0], first[0]);
    }
    let changed: Vec<_> = figures().into_iter().filter(|line| !before.contains(line)).collect();
    // The counts of the last minute fade by themselves.
    let changed: Vec<_> = changed.iter().filter(|line| !line.contains("imbalance")).collect();
    assert!(changed.is_empty(), "{changed:?}");
    let picked = series(
        &signpost.metrics(),
        "signpost_strategy_picks_total",
        &[("strategy", "first"), ("backend", "b1")],
    );
    assert_eq!(picked, Some(1.0));
}

#[test]
fn a_visitor_s_address_and_a_header_say_where_it_goes() {
    let signpost = start("strategy = 'consistent_hash'");
    for n in 2..40 {
        let address = format!("127.0.0.{n}");
        let [strategy] = &explain(&signpost, &address)[..] else { panic!() };
        let source: IpAddr = address.parse().unwrap();
        let sent = Connection::from_to(source, signpost.traffic).request("GET", "/", &[]);
        assert_eq!(strategy["picked"], sent_to(&sent), "{address}");
        assert!(why(strategy, &sent_to(&sent)).starts_with("number 1 in this visitor's order"));
        let order: Vec<_> =
            strategy["candidates"].as_array().unwrap().iter().map(|of| of["score"].as_f64()).collect();
        assert_eq!(order, [Some(1.0), Some(2.0), Some(3.0)]);
    }
    let signpost = start("strategy = 'consistent_hash'\nhash = { key = 'header:x-user' }");
    for name in ["Ann", "Bo%20B%C3%A9", "a+b"] {
        let [strategy] = &explain(&signpost, name)[..] else { panic!() };
        let value = name.replace("%20", " ").replace("%C3%A9", "é").replace('+', " ");
        assert_eq!(
            strategy["picked"],
            sent_to(&signpost.request("GET", "/", &[("X-User", &value)])),
            "{name}"
        );
    }
}

#[test]
fn who_is_full_or_left_out_is_told_so() {
    let signpost = start("strategy = 'first'\nmax_requests_per_second = 0.001");
    let picked = |expected: Value| {
        let [strategy] = &explain(&signpost, "")[..] else { panic!() };
        assert_eq!(strategy["picked"], expected, "{strategy}");
        strategy.clone()
    };
    let strategy = picked(json!("b1"));
    assert_eq!(why(&strategy, "b2"), "number 2 in order; one before it is picked");
    assert_eq!(sent_to(&signpost.get("/")), "b1");
    let strategy = picked(json!("b2"));
    assert_eq!(why(&strategy, "b1"), "number 1 in order; over its max_requests_per_second");
    assert_eq!([sent_to(&signpost.get("/")), sent_to(&signpost.get("/"))], ["b2", "b3"]);
    picked(Value::Null);

    let signpost = start("");
    let change = |id: &str, body: &str| {
        let mut connection = Connection::to(signpost.admin);
        let head = format!(
            "PATCH /api/v1/pools/p/backends/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        );
        connection.send(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        assert_eq!(connection.read_answer().unwrap().status, 200);
    };
    change("b1", "{\"admin\":\"draining\"}");
    change("b2", "{\"weight\":0}");
    let [strategy] = &explain(&signpost, "")[..] else { panic!() };
    assert_eq!(strategy["picked"], "b3");
    assert_eq!(why(strategy, "b1"), "only those who are pinned to it");
    assert_eq!(why(strategy, "b2"), "weight 0: only those who are pinned to it");
    change("b3", "{\"admin\":\"maintenance\"}");
    let [strategy] = &explain(&signpost, "")[..] else { panic!() };
    assert_eq!((&strategy["picked"], &strategy["score"]), (&Value::Null, &Value::Null));
    assert_eq!(why(strategy, "b3"), "nobody is sent there");
    assert_eq!(signpost.get("/").status, 503);
}

#[test]
fn what_can_t_be_a_key_is_refused() {
    let signpost = start("strategy = 'consistent_hash'");
    for (path, status, says) in [
        ("/api/v1/pools/p/explain", 422, "takes an address"),
        ("/api/v1/pools/p/explain?key=me", 422, "takes an address"),
        ("/api/v1/pools/p/explain?other=::1", 422, "takes an address"),
        ("/api/v1/pools/q/explain?key=::1", 404, "no pool"),
    ] {
        let answer = ask(&signpost, path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(says), "{path}: {}", answer.text());
    }
}
