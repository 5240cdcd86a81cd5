//! Health checks: what is asked, how it is judged, and what becomes of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use crate::backend::{Backend, Does};
use crate::harness::{Signpost, wait_until};

fn pool(backends: &[&Backend], health: &str) -> String {
    let backends: Vec<_> = (backends.iter().enumerate())
        .map(|(index, backend)| {
            let id = char::from(b'a' + index as u8);
            format!("{{ id = '{id}', url = 'http://127.0.0.1:9001/{id}', probe_url = '{}' }}", backend.url())
        })
        .collect();
    let timeout = if health.contains("timeout = '1h'") { "" } else { "timeout = '300ms'\n" };
    format!(
        "[pools.p]\nbackends = [{}]\n[pools.p.health]\ninterval = '50ms'\n{timeout}{health}",
        backends.join(",")
    )
}

fn probes(signpost: &Signpost, backend: &str, result: &str) -> f64 {
    signpost.metric("signpost_probes_total", &[("backend", backend), ("result", result)])
}

#[test]
fn a_start_never_sends_anybody_to_a_dead_backend() {
    let well = Backend::start(Does::Answer);
    let dead = Backend::start(Does::Answer);
    let settings = pool(&[&well, &dead], "kind = 'tcp'");
    drop(dead);
    let signpost = Signpost::with_settings(&settings);
    // As soon as it says where it listens: the first round is over by then.
    let locations: BTreeSet<_> = (0..20).map(|_| signpost.get("/").location().to_owned()).collect();
    assert_eq!(locations.into_iter().collect::<Vec<_>>(), ["http://127.0.0.1:9001/a/"]);
    assert_eq!(signpost.admin_get("/readyz").status, 200);
    signpost.wait_for_state("a", "up");
    signpost.wait_for_state("b", "down");
    assert!(probes(&signpost, "b", "connect") >= 1.0 && probes(&signpost, "a", "ok") >= 1.0);
    signpost.wait_for_log("connection refused");
}

#[test]
fn a_start_waits_for_the_first_round_and_no_longer_than_it_is_told() {
    let silent = Backend::start(Does::Hang);
    let settings = pool(&[&silent], "kind = 'http'\nstartup_timeout = '400ms'\ntimeout = '1h'");
    let signpost = Signpost::with_settings(&settings);
    assert_eq!(signpost.get("/").location(), "http://127.0.0.1:9001/a/", "unknown counts as up");
    assert_eq!(signpost.metric("signpost_backend_state", &[("state", "unknown")]), 1.0);
    signpost.wait_for_log("waiting for the first round");
}

#[test]
fn every_way_to_be_unwell_is_a_failed_probe() {
    let backends = [
        Does::Hang,
        Does::Drip,
        Does::DripBody,
        Does::Flood,
        Does::Nonsense,
        Does::Close,
        Does::Status(500),
        Does::Redirect(302, "/health"),
        Does::Redirect(302, "/elsewhere"),
        Does::Answer,
        Does::Interim,
    ]
    .map(Backend::start);
    let all: Vec<_> = backends.iter().collect();
    let signpost = Signpost::with_settings(&pool(&all, "kind = 'http'\npath = '/health'"));
    for (backend, result) in [
        ("a", "timeout"),
        ("b", "timeout"),
        ("c", "timeout"),
        ("d", "protocol"),
        ("e", "protocol"),
        ("f", "protocol"),
        ("g", "status"),
        ("h", "redirect_loop"),
        ("k", "protocol"),
    ] {
        signpost.wait_for_state(backend, "down");
        assert!(probes(&signpost, backend, result) >= 1.0, "{backend} {result}:\n{}", signpost.metrics());
    }
    // 302 is expected unless the settings say otherwise, but not to itself; and none was followed.
    signpost.wait_for_state("i", "up");
    signpost.wait_for_state("j", "up");
    assert!(backends[8].heads().iter().all(|(_, head)| head.starts_with("GET /health HTTP/1.1\r\n")));
}

#[test]
fn a_probe_asks_what_the_settings_say() {
    let backend = Backend::start(Does::Status(204));
    let health =
        "kind = 'http'\nmethod = 'HEAD'\npath = '/health?deep=1'\nhost = 'www.example.com'\nexpect = '204'";
    let signpost = Signpost::with_settings(&pool(&[&backend], health));
    signpost.wait_for_state("a", "up");
    let (_, head) = backend.heads().into_iter().next().unwrap();
    assert!(head.starts_with("HEAD /health?deep=1 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("host: www.example.com\r\n") && head.contains("connection: close\r\n"), "{head}");
    assert!(head.contains("user-agent: signpost/"), "{head}");
    backend.now_does(Does::Answer);
    signpost.wait_for_state("a", "down");
    assert!(probes(&signpost, "a", "status") >= 3.0, "fall is 3");
}

#[test]
fn probe_sends_the_headers_of_the_settings() {
    let backend = Backend::start(Does::Answer);
    let settings = pool(
        &[&backend],
        "kind = 'http'\nheaders = { Host = 'vhost.test', X-Api-Key = 'k 1', user-agent = 'check/1', X-Number = 7 }",
    );
    let signpost = Signpost::with_settings(&settings);
    signpost.wait_for_state("a", "up");
    let (_, head) = backend.heads().into_iter().next().unwrap();
    let fields = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    for (name, values) in [
        ("host", ["vhost.test"]),
        ("x-api-key", ["k 1"]),
        ("user-agent", ["check/1"]),
        ("x-number", ["7"]),
        ("connection", ["close"]),
    ] {
        assert_eq!(fields(name), values, "{name} in {head}");
    }
}

#[test]
fn body_must_be_as_expected() {
    let json = "Content-Type: application/json\r\n";
    let backends = [
        Does::Report("", "all ok\n"),
        Does::Report("", "degraded\n"),
        Does::Report(json, "{\"status\": \"UP\", \"load\": 0.25}"),
        Does::Report(json, "{\"status\": \"DOWN\", \"load\": 0.25}"),
        Does::Answer,
        Does::Status(503),
    ]
    .map(Backend::start);
    let pools: String = [
        ("a", "expect_body = 'ok'"),
        ("b", "expect_body = 'ok'"),
        ("c", "expect_body = '/\"status\":\\s*\"(UP|green)\"/'"),
        ("d", "expect_body = '/\"status\":\\s*\"(UP|green)\"/'"),
        ("e", "expect_body = '/^ok\\s$/'\nmethod = 'OPTIONS'"),
        ("f", "expect_body = 'ok'"),
    ]
    .iter()
    .zip(&backends)
    .map(|((id, health), backend)| {
        format!(
            "[pools.{id}]\nhosts = ['{id}.test']\nbackends = [{{ id = '{id}', url = '{}' }}]\n\
             load = {{ source = 'probe_json', max_age = '1h' }}\n\
             [pools.{id}.health]\nkind = 'http'\ninterval = '50ms'\n{health}\n",
            backend.url()
        )
    })
    .collect();
    let signpost = Signpost::with_settings(&pools);
    for (backend, state) in
        [("a", "up"), ("b", "down"), ("c", "up"), ("d", "down"), ("e", "up"), ("f", "down")]
    {
        signpost.wait_for_state(backend, state);
    }
    // Of two complaints the status is the first.
    assert!(probes(&signpost, "b", "body") >= 1.0 && probes(&signpost, "f", "status") >= 1.0);
    signpost.wait_for_log("the body does not contain \\\"ok\\\"");
    signpost.wait_for_log("the body does not match /");
    // The load is read from the same body, but only if it is as expected.
    let load_reports = |backend: &str| {
        signpost.metric("signpost_load_reports_total", &[("backend", backend), ("result", "ok")])
    };
    assert!(load_reports("c") >= 1.0);
    wait_until("the other one was checked again", || probes(&signpost, "d", "body") >= 3.0);
    assert_eq!(load_reports("d"), 0.0);
}

#[test]
fn rise_and_fall_are_counted_in_a_row() {
    let backend = Backend::start(Does::Answer);
    let other = Backend::start(Does::Answer);
    let signpost = Signpost::with_settings(&pool(&[&backend, &other], "kind = 'http'\nrise = 3\nfall = 2"));
    signpost.wait_for_state("a", "up");
    backend.now_does(Does::Status(503));
    signpost.wait_for_state("a", "down");
    let failures = probes(&signpost, "a", "status");
    assert!(failures >= 2.0);
    backend.now_does(Does::Answer);
    let before = probes(&signpost, "a", "ok");
    signpost.wait_for_state("a", "up");
    assert!(probes(&signpost, "a", "ok") >= before + 2.0);
    signpost.wait_for_log("answered 503, expected 200-399");
    signpost.wait_for_log("backend is up");
}

#[test]
fn a_name_is_resolved_by_the_hosts_file() {
    let backend = Backend::start(Does::Answer);
    let port = backend.address.port();
    let signpost = Signpost::with_settings(&format!(
        "[pools.p]\nbackends = [{{ id = 'a', url = 'http://127.0.0.1:9001', probe_url = 'http://localhost:{port}' }}]\n\
         [pools.p.health]\nkind = 'http'\ninterval = '50ms'"
    ));
    signpost.wait_for_state("a", "up");
    let (_, head) = backend.heads().into_iter().next().unwrap();
    assert!(head.to_ascii_lowercase().contains(&format!("host: localhost:{port}\r\n")), "{head}");
}

#[test]
fn a_probe_url_with_a_path_says_what_is_asked() {
    let backend = Backend::start(Does::Answer);
    let signpost = Signpost::with_settings(&format!(
        "[pools.p]\nbackends = [{{ id = 'a', url = 'http://127.0.0.1:9001', probe_url = '{}/own/check' }}]\n\
         [pools.p.health]\nkind = 'http'\npath = '/of-the-pool'",
        backend.url()
    ));
    signpost.wait_for_state("a", "up");
    assert!(backend.heads()[0].1.starts_with("GET /own/check HTTP/1.1"));
}

/// A TLS server of `names` that answers every request; its certificate in PEM.
fn tls_backend(names: &[&str]) -> (u16, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut tls =
                rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(&config)).unwrap(), socket);
            let mut head = [0; 4096];
            if tls.read(&mut head).is_ok_and(|count| count > 0) {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    (port, made.cert.pem())
}

#[test]
fn an_https_backend_is_probed_over_tls_and_its_certificate_is_judged() {
    let (port, pem) = tls_backend(&["backend.test"]);
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(pem.as_bytes()).unwrap();
    let ca = ca.path().display();
    let health = |kind: &str, more: &str| format!("kind = '{kind}'\ninterval = '50ms'\n{more}");
    let pools: String = [
        ("by-name", health("http", &format!("host = 'backend.test'\nca_file = '{ca}'"))),
        ("other-name", health("http", &format!("ca_file = '{ca}'"))),
        ("unknown-ca", health("http", "host = 'backend.test'")),
        ("unverified", health("http", "verify = false")),
        ("tcp", health("tcp", &format!("host = 'backend.test'\nca_file = '{ca}'"))),
        ("tcp-unknown-ca", health("tcp", "")),
    ]
    .into_iter()
    .map(|(name, health)| {
        format!(
            "[pools.{name}]\nhosts = ['{name}.test']\nbackends = [{{ id = '{name}', url = 'https://127.0.0.1:{port}' }}]\n\
             [pools.{name}.health]\n{health}\n"
        )
    })
    .collect();
    let signpost = Signpost::with_settings(&pools);
    for (backend, state) in [
        ("by-name", "up"),
        ("other-name", "down"),
        ("unknown-ca", "down"),
        ("unverified", "up"),
        ("tcp", "up"),
        ("tcp-unknown-ca", "down"),
    ] {
        signpost.wait_for_state(backend, state);
        if state == "down" {
            assert!(probes(&signpost, backend, "tls") >= 1.0, "{backend}");
        }
    }
}

#[test]
fn a_slow_backend_makes_no_other_s_probes_late() {
    let silent: Vec<_> = (0..8).map(|_| Backend::start(Does::Hang)).collect();
    let well = Backend::start(Does::Answer);
    let all: Vec<_> = silent.iter().chain([&well]).collect();
    let signpost = Signpost::with_settings(&pool(&all, "kind = 'http'"));
    let before = probes(&signpost, "a", "timeout");
    wait_until("the silent one was probed twice more", || probes(&signpost, "a", "timeout") >= before + 2.0);
    // 600 ms of timeouts are twelve intervals of 50 ms.
    assert!(probes(&signpost, "i", "ok") >= 5.0, "{}", probes(&signpost, "i", "ok"));
}

#[test]
fn how_many_probes_run_at_once_is_bounded() {
    let silent = Backend::start(Does::Hang);
    let url = silent.url();
    let backends: Vec<_> = (0..20)
        .map(|index| format!("{{ id = '{index}', url = 'http://127.0.0.1:9001', probe_url = '{url}' }}"))
        .collect();
    let signpost = Signpost::with_settings(&format!(
        "[server.limits]\nmax_probes = 3\n[pools.p]\nbackends = [{}]\n\
         [pools.p.health]\nkind = 'http'\ninterval = '20ms'\ntimeout = '30ms'\nstartup_timeout = '10ms'",
        backends.join(",")
    ));
    let mut most = 0;
    wait_until("all were probed", || {
        most = most.max(silent.open.load(std::sync::atomic::Ordering::SeqCst));
        (0..20).all(|index| {
            signpost
                .metric("signpost_probes_total", &[("backend", &index.to_string()), ("result", "timeout")])
                >= 1.0
        })
    });
    // The backend notices a little later than the prober that a probe is over.
    assert!((1..=6).contains(&most), "{most} at once");
}
