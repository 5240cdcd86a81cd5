//! The operator's API: what it shows, what it changes, and who may change it.

use serde_json::{Value, json};

use crate::harness::{Answer, Connection, Signpost, settings_file};

const TOKEN: &str = "an admin token of thirty-two bytes or so";
const THREE: &str = "[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001/a' }, { id = 'b', url = 'http://127.0.0.1:9001/b' }, { id = 'c', url = 'http://127.0.0.1:9001/c' }]\n[pools.p.pin]\nmax_age = '1h'\nsecrets = ['a pin secret of thirty-two bytes, or more']\n[pools.p.health]\nkind = 'none'\n";

fn send(signpost: &Signpost, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text += &format!("Host: {}\r\n", signpost.admin);
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
        text += "Content-Type: application/json\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut connection = Connection::to(signpost.admin);
    connection.send(format!("{text}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    connection.read_answer().unwrap()
}

fn patch(signpost: &Signpost, backend: &str, change: &Value) -> Answer {
    send(signpost, "PATCH", &format!("/api/v1/pools/p/backends/{backend}"), &[], &change.to_string())
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

/// A backend as `GET /api/v1/pools` shows it.
fn shown(signpost: &Signpost, index: usize) -> Value {
    let answer = send(signpost, "GET", "/api/v1/pools", &[], "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    parsed(&answer)["pools"][0]["backends"][index].clone()
}

fn ids(signpost: &Signpost, count: usize) -> String {
    (0..count).map(|_| signpost.get("/").location().split('/').nth(3).unwrap().to_owned()).collect()
}

#[test]
fn a_draining_backend_keeps_its_visitors_and_gets_no_new_ones() {
    let signpost = Signpost::with_settings(THREE);
    let to_a = signpost.get_to("/a/").cookie().unwrap().to_owned();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let answer = patch(&signpost, "a", &json!({ "admin": "draining" }));
    assert_eq!(answer.status, 200);
    let view = parsed(&answer);
    assert_eq!((&view["state"], &view["set_at_run_time"]), (&json!("draining"), &json!(["admin"])));
    assert_eq!(view, shown(&signpost, 0));
    let four = ids(&signpost, 4);
    assert_eq!((four.matches('b').count(), four.matches('c').count()), (2, 2), "{four}");
    let pinned = signpost.request("GET", "/", &[("Cookie", &to_a)]);
    assert_eq!((pinned.location(), pinned.cookie()), ("http://127.0.0.1:9001/a/", None));

    // Its last pin ends max_age and five minutes after the drain began.
    let drained = signpost.metric("signpost_backend_drained_timestamp_seconds", &[("backend", "a")]);
    assert!((before as f64 + 3900.0..before as f64 + 3960.0).contains(&drained), "{drained} {before}");
    let state = |name| signpost.metric("signpost_backend_state", &[("backend", "a"), ("state", name)]);
    assert_eq!((state("draining"), state("unknown")), (1.0, 0.0));

    // Maintenance: not even those.
    assert_eq!(patch(&signpost, "a", &json!({ "admin": "maintenance" })).status, 200);
    let reassigned = signpost.request("GET", "/", &[("Cookie", &to_a)]);
    assert!(reassigned.cookie().is_some() && !reassigned.location().ends_with("/a/"));
    assert!(shown(&signpost, 0)["drained_at"].is_null());

    // Back to what the settings say.
    assert_eq!(patch(&signpost, "a", &json!({ "admin": null })).status, 200);
    assert_eq!(shown(&signpost, 0)["set_at_run_time"], json!([]));
    assert!(ids(&signpost, 3).contains('a'));
}

#[test]
fn nobody_left_is_503_and_weights_change_while_serving() {
    let signpost = Signpost::with_settings(THREE);
    for id in ["a", "b", "c"] {
        patch(&signpost, id, &json!({ "admin": "maintenance" }));
    }
    let answer = signpost.get("/");
    assert_eq!(answer.status, 503);
    assert!((2..=8).contains(&answer.header("retry-after").unwrap().parse().unwrap()));
    patch(&signpost, "a", &json!({ "admin": "active", "weight": 2 }));
    patch(&signpost, "b", &json!({ "admin": null }));
    let six = ids(&signpost, 6);
    assert_eq!((six.matches('a').count(), six.matches('b').count()), (4, 2), "{six}");
    assert_eq!(signpost.metric("signpost_backend_weight", &[("backend", "a")]), 2.0);
    assert_eq!(shown(&signpost, 0)["set_at_run_time"], json!(["admin", "weight"]));
}

#[test]
fn what_was_set_survives_a_reload_and_ends_with_its_backend() {
    let file = settings_file(THREE);
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    patch(&signpost, "a", &json!({ "admin": "draining", "weight": 7 }));
    std::fs::write(file.path(), THREE.replace("'1h'", "'2h'")).unwrap();
    let answer = send(&signpost, "POST", "/api/v1/reload", &[], "");
    assert_eq!((answer.status, parsed(&answer)), (200, json!({ "reloaded": true })));
    let view = shown(&signpost, 0);
    assert_eq!((&view["admin"], &view["weight"]), (&json!("draining"), &json!(7)));
    assert!(!ids(&signpost, 6).contains('a'));

    std::fs::write(file.path(), THREE.replace("'a'", "'x'")).unwrap();
    assert_eq!(send(&signpost, "POST", "/api/v1/reload", &[], "").status, 200);
    assert_eq!(shown(&signpost, 0)["set_at_run_time"], json!([]));

    std::fs::write(file.path(), THREE.replace("'1h'", "'soon'")).unwrap();
    let answer = send(&signpost, "POST", "/api/v1/reload", &[], "");
    assert_eq!((answer.status, answer.header("content-type")), (422, Some("application/problem+json")));
    let problems = parsed(&answer)["problems"].to_string();
    assert!(problems.contains("pools.p.pin.max_age") && problems.contains("soon"), "{problems}");
}

#[test]
fn a_wrong_change_is_told_what_it_takes() {
    let signpost = Signpost::with_settings(THREE);
    let path = "/api/v1/pools/p/backends/a";
    for (path, body, status, says) in [
        (path, "{", 422, "no JSON"),
        (path, "[]", 422, "an object"),
        (path, "{}", 422, "changes nothing"),
        (path, "{\"admin\":\"down\"}", 422, "maintenance"),
        (path, "{\"weight\":257}", 422, "0 to 256"),
        (path, "{\"weight\":-1}", 422, "0 to 256"),
        (path, "{\"weight\":1.5}", 422, "0 to 256"),
        (path, "{\"url\":\"http://evil\"}", 422, "no such member"),
        ("/api/v1/pools/p/backends/z", "{\"weight\":1}", 404, "no such backend"),
        ("/api/v1/pools/q/backends/a", "{\"weight\":1}", 404, "no such backend"),
    ] {
        let answer = send(&signpost, "PATCH", path, &[], body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(parsed(&answer)["detail"].as_str().unwrap().contains(says), "{body}: {}", answer.text());
    }
    assert_eq!(
        send(&signpost, "PATCH", path, &[], &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000))).status,
        413
    );
    assert!(["abc", "bca", "cab"].contains(&ids(&signpost, 3).as_str()));
}

#[test]
fn a_web_page_can_t_drive_it() {
    let signpost = Signpost::with_settings(THREE);
    let change = "{\"admin\":\"maintenance\"}";
    let (own, own_by_tls) = (format!("http://{}", signpost.admin), format!("https://{}", signpost.admin));
    for (headers, status) in [
        (&[("Sec-Fetch-Site", "cross-site")][..], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", &own_by_tls)], 403),
        (&[("Origin", &own_by_tls), ("Sec-Fetch-Site", "none")], 403),
        (&[("Origin", &own_by_tls), ("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Origin", &format!("ftp://{}", signpost.admin)), ("Sec-Fetch-Site", "same-origin")], 403),
        (&[("Origin", &signpost.admin.to_string())], 403),
        (&[("Origin", &own), ("Origin", &own)], 400),
        (&[("Origin", &own), ("Origin", "https://evil.example")], 400),
        (&[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], 400),
        (&[("Content-Type", "application/json"), ("Content-Type", "text/plain")], 400),
        (&[("Host", "localhost"), ("Host", "localhost")], 400),
        (&[("Authorization", "Bearer a"), ("Authorization", "Bearer a")], 400),
        (&[("Content-Type", "text/plain")], 415),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 415),
        (&[("Host", "evil.example")], 403),
        (&[("Host", "evil.example:9090")], 403),
        (&[("Host", "a b")], 400),
        (&[("Origin", &own)], 200),
        (&[("Origin", &own.to_uppercase())], 200),
        (&[("Origin", &own), ("Sec-Fetch-Site", "same-origin")], 200),
        // By way of a proxy that adds TLS: the browser has compared the schemes.
        (&[("Origin", &own_by_tls), ("Sec-Fetch-Site", "same-origin")], 200),
        (&[("Host", "localhost:1")], 200),
        (&[("Host", "[::1]:1")], 200),
    ] {
        let answer = send(&signpost, "PATCH", "/api/v1/pools/p/backends/a", headers, change);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // Reading, too, with one value of each field that access depends on.
    for name in ["Host", "Origin", "Authorization", "Sec-Fetch-Site"] {
        for path in ["/api/v1/pools", "/api/v1/nothing", "/"] {
            let twice = [(name, "localhost"), (name, "localhost")];
            assert_eq!(send(&signpost, "GET", path, &twice, "").status, 400, "{name} {path}");
        }
        for path in ["/metrics", "/healthz", "/readyz"] {
            let twice = [(name, "prometheus.internal"), (name, "prometheus.internal")];
            assert_eq!(send(&signpost, "GET", path, &twice, "").status, 200, "{name} {path}");
        }
    }
    // By a name that was made to lead here, a page could read what it asks for.
    assert_eq!(send(&signpost, "GET", "/api/v1/pools", &[("Host", "evil.example")], "").status, 403);
    assert_eq!(send(&signpost, "GET", "/metrics", &[("Host", "prometheus.internal")], "").status, 200);
    // A reload has no body and so no content type to ask for.
    assert_eq!(
        send(&signpost, "POST", "/api/v1/reload", &[("Origin", "https://evil.example")], "").status,
        403
    );
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let signpost = Signpost::with_settings(&format!(
        "{THREE}[admin]\ntoken = '{TOKEN}'\nallowed_hosts = ['ops.example']"
    ));
    let path = "/api/v1/pools/p/backends/a";
    let right = format!("Bearer {TOKEN}");
    let lower = format!("bearer {TOKEN}");
    let longer = format!("Bearer {TOKEN}x");
    let with = |headers: &[(&str, &str)]| send(&signpost, "PATCH", path, headers, "{\"weight\":3}");
    for wrong in
        [&[][..], &[("Authorization", "Bearer ")], &[("Authorization", &longer)], &[("Authorization", TOKEN)]]
    {
        let answer = with(wrong);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{wrong:?}");
    }
    assert_eq!(with(&[("Authorization", &right)]).status, 200);
    assert_eq!(with(&[("Authorization", &lower), ("Host", "ops.example")]).status, 200);
    assert_eq!(with(&[("Authorization", &right), ("Origin", "https://evil.example")]).status, 403);
    for twice in [[&*right, &*right], [&right, "Bearer x"], ["Bearer x", &right]] {
        let twice = twice.map(|value| ("Authorization", value));
        assert_eq!(with(&twice).status, 400, "{twice:?}");
    }
    assert_eq!(send(&signpost, "GET", "/api/v1/pools", &[], "").status, 200, "reading needs none");
    assert!(!signpost.log().contains(TOKEN));
}

#[test]
fn off_loopback_nothing_changes_without_a_token() {
    let mut command =
        crate::harness::command(["--backend", "http://127.0.0.1:9001", "--listen", "127.0.0.1:0"]);
    let signpost = Signpost::start_command(command.args(["--admin", "0.0.0.0:0"]));
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], signpost.admin.port()));
    let mut connection = Connection::to(admin);
    let answer = connection.request("POST", "/api/v1/reload", &[("Host", "127.0.0.1")]);
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("admin.token"), "{}", answer.text());
}
