//! TLS on the traffic side: what is shown to whom, and what a visitor gets over it.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::HandshakeKind;

use crate::certificates::{Site, client, client_with, connect, shown, start};
use crate::harness::{Connection, Signpost, run, settings_file, stderr, wait_until};
use crate::support::tls::Pair;

const POOL: &str = "[pools.p]\nhosts = ['site.test', '*.wild.test']\nbackends = ['http://127.0.0.1:9001']\n";

/// A directory with one pair, and a dispatcher that speaks TLS with it alone.
fn one_site(more: &str) -> (tempfile::TempDir, Site, Signpost) {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = serving(&[&site], more);
    (dir, site, signpost)
}

fn serving(sites: &[&Site], more: &str) -> Signpost {
    let certificates: Vec<_> = sites.iter().map(|site| site.toml()).collect();
    let settings = format!(
        "{POOL}[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n{more}",
        certificates.join(", ")
    );
    Signpost::with_settings(&settings)
}

fn handshakes(signpost: &Signpost, result: &str) -> f64 {
    signpost.metric("signpost_tls_handshakes_total", &[("result", result)])
}

#[test]
fn a_visitor_is_redirected_over_tls() {
    let (_dir, site, signpost) = one_site("[pools.p.pin]");
    let address = signpost.tls.unwrap();
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let mut connection = connect(address, "site.test", &config).unwrap();
    assert_eq!(connection.stream().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    for path in ["/a?b=c", "/second"] {
        let answer = connection.request("GET", path, &[("Host", "site.test")]);
        assert_eq!((answer.status, answer.location()), (302, &*format!("http://127.0.0.1:9001{path}")));
        assert!(answer.header("set-cookie").unwrap().ends_with("; Secure"));
        assert_eq!(answer.header("strict-transport-security"), None, "hsts is 0s");
    }
    // The same pool without TLS.
    let plain = signpost.request("GET", "/", &[("Host", "site.test")]);
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"));
    assert_eq!(handshakes(&signpost, "ok"), 1.0);
    let listener = [("listener", &*address.to_string())];
    assert_eq!(signpost.metric("signpost_connections_total", &listener), 1.0);
    assert_eq!(signpost.metric("signpost_connections", &listener), 1.0);
    drop(connection);
    signpost.wait_for_metric("signpost_connections", &listener, 0.0);
}

#[test]
fn a_parked_connection_is_served_on_over_tls() {
    let (_dir, site, signpost) = one_site("");
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let mut connection = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
    for path in ["/a", "/b", "/c"] {
        let answer = connection.request("GET", path, &[("Host", "site.test")]);
        assert_eq!(answer.location(), format!("http://127.0.0.1:9001{path}"));
        std::thread::sleep(std::time::Duration::from_millis(1300));
    }
    assert_eq!(handshakes(&signpost, "ok"), 1.0);
}

#[test]
fn a_proxy_may_say_who_is_there_before_tls_begins() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = Signpost::with_settings(&format!(
        "{POOL}pin = {{}}\n[server]\ntrusted_proxies = ['127.0.0.1']\n[server.tls]\n\
         listen = [{{ address = '127.0.0.1:0', proxy_protocol = true }}]\ncertificates = [{}]",
        site.toml()
    ));
    let mut stream = start(signpost.tls.unwrap(), "site.test", &Arc::new(client(&[&site], &[])));
    stream.sock.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n").unwrap();
    let mut connection = Connection::over(stream);
    let answer = connection.request("GET", "/", &[("Host", "site.test")]);
    assert_eq!(answer.status, 302);
    // Version 1 doesn't say that the visitor came by TLS, but it did.
    assert!(answer.header("set-cookie").unwrap().ends_with("; Secure"));
    let line = signpost.next_line();
    assert!(line.contains(r#""client":"192.0.2.1""#), "{line}");
}

#[test]
fn tls_alone_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let settings = settings_file(&format!(
        "{POOL}[server]\nlisten = []\n[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]",
        site.toml()
    ));
    let mut command = crate::harness::command(["--settings", settings.path().to_str().unwrap()]);
    let signpost = Signpost::start_command(command.args(["--admin", "127.0.0.1:0"]));
    assert_eq!(Some(signpost.traffic), signpost.tls);
    let config = Arc::new(client(&[&site], &[]));
    let mut connection = connect(signpost.traffic, "site.test", &config).unwrap();
    assert_eq!(connection.request("GET", "/", &[("Host", "site.test")]).status, 302);
}

#[test]
fn older_clients_and_returning_ones_are_served() {
    let (_dir, site, signpost) = one_site("");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(client_with(&[&site], &[], &[version]));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut connection = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
            assert_eq!(connection.request("GET", "/", &[("Host", "site.test")]).status, 302);
            kinds.push(connection.stream().conn.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
    }
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = Site::write(dir.path(), "first", &["first.test"]);
    let wild = Site::write(dir.path(), "wild", &["*.wild.test", "wild.test"]);
    let exact = Site::write(dir.path(), "exact", &["A.wild.test"]);
    let signpost = serving(&[&first, &wild, &exact], "");
    for (name, site) in [
        ("first.test", &first),
        ("wild.test", &wild),
        ("x.wild.test", &wild),
        ("X.Wild.Test", &wild),
        ("a.wild.test", &exact),
        // A wildcard stands for one label.
        ("x.y.wild.test", &first),
        ("unknown.test", &first),
        // No name is sent for an address.
        ("127.0.0.1", &first),
    ] {
        assert!(*site == shown(signpost.tls.unwrap(), name), "{name}");
    }
}

#[test]
fn new_certificates_are_served_and_wrong_ones_are_not() {
    let (_dir, old, signpost) = one_site("[server]\nwatch_interval = '100ms'");
    let address = signpost.tls.unwrap();
    let name = old.cert.to_str().unwrap();
    let right = "signpost_certificate_last_reload_successful";
    let ends = "signpost_certificate_expiry_timestamp_seconds";
    let reloaded = |value| signpost.wait_for_metric(right, &[("name", name)], value);
    let expiry = || signpost.metric(ends, &[("name", name)]);
    assert!(old == shown(address, "site.test"));
    assert_eq!((signpost.metric(right, &[("name", name)]), expiry()), (1.0, 32_472_144_000.0));

    let config = Arc::new(client(&[&old], &[]));
    let mut before = connect(address, "site.test", &config).unwrap();

    // A key that is not the certificate's, then none, then a certificate that is none.
    let new = Pair::of(&["site.test"], 2998);
    for wrong in ["key", "nothing", "cert"] {
        match wrong {
            "key" => std::fs::write(&old.key, &new.key).unwrap(),
            "nothing" => std::fs::remove_file(&old.key).unwrap(),
            _ => {
                std::fs::write(&old.key, &new.key).unwrap();
                std::fs::write(&old.cert, "nonsense").unwrap();
            }
        }
        reloaded(0.0);
        assert!(old == shown(address, "site.test"), "{wrong}");
    }
    wait_until("the log says so", || signpost.log().contains(name));

    std::fs::write(&old.cert, &new.cert).unwrap();
    reloaded(1.0);
    assert_eq!(shown(address, "site.test"), new.der);
    assert_eq!(expiry(), 32_440_608_000.0);
    // Who was connected stays so.
    assert_eq!(before.request("GET", "/", &[("Host", "site.test")]).status, 302);
}

#[test]
fn a_hangup_reads_certificates_at_once() {
    let (_dir, site, signpost) = one_site("[server]\nwatch_interval = '0s'");
    let new = Pair::of(&["site.test"], 2999);
    std::fs::write(&site.cert, &new.cert).unwrap();
    std::fs::write(&site.key, &new.key).unwrap();
    signpost.signal("HUP");
    wait_until("the new one is shown", || shown(signpost.tls.unwrap(), "site.test") == new.der);
}

#[test]
fn a_handshake_has_a_deadline() {
    let (_dir, site, signpost) = one_site("handshake_timeout = '300ms'");
    let address = signpost.tls.unwrap();
    let mut silent = Connection::to(address);
    let mut partial = Connection::to(address);
    partial.send(&[22, 3, 1]);
    // A whole first message, and then nothing.
    let mut stalled = start(address, "site.test", &Arc::new(client(&[&site], &[])));
    stalled.conn.write_tls(&mut stalled.sock).unwrap();
    assert!(silent.closes() && partial.closes());
    let _ = stalled.sock.read_to_end(&mut Vec::new());
    signpost.wait_for_metric("signpost_tls_handshakes_total", &[("result", "timeout")], 3.0);
    assert_eq!(handshakes(&signpost, "ok"), 0.0);
}

#[test]
fn what_is_no_tls_is_turned_down_and_counted() {
    let (_dir, _site, signpost) = one_site("");
    let mut other = Connection::to(signpost.tls.unwrap());
    other.send(b"\x00\x0b neither TLS nor HTTP\r\n\r\n");
    assert!(other.read_answer().is_none());
    signpost.wait_for_metric("signpost_tls_handshakes_total", &[("result", "failed")], 1.0);
    // Who looks whether the port is open has failed at nothing.
    drop(Connection::to(signpost.tls.unwrap()));
    let listener = signpost.tls.unwrap().to_string();
    signpost.wait_for_metric("signpost_connections_total", &[("listener", &listener)], 2.0);
    signpost.wait_for_metric("signpost_connections", &[("listener", &listener)], 0.0);
    assert_eq!(handshakes(&signpost, "failed"), 1.0);
}

#[test]
fn handshakes_beyond_the_most_wait_their_turn() {
    let (_dir, site, signpost) = one_site("max_handshakes = 1\nhandshake_timeout = '20s'");
    let config = Arc::new(client(&[&site], &[]));
    let address = signpost.tls.unwrap();
    let visits: Vec<_> = (0..20)
        .map(|_| {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut connection = connect(address, "site.test", &config).unwrap();
                connection.request("GET", "/", &[("Host", "site.test")]).status
            })
        })
        .collect();
    assert!(visits.into_iter().all(|visit| visit.join().unwrap() == 302));
    assert_eq!(handshakes(&signpost, "ok"), 20.0);
}

#[test]
fn a_handshake_that_stalls_keeps_nobody_from_another() {
    let (_dir, site, signpost) = one_site("max_handshakes = 1\nhandshake_timeout = '1h'");
    let (address, config) = (signpost.tls.unwrap(), Arc::new(client(&[&site], &[])));
    let mut stalled = start(address, "site.test", &config);
    stalled.conn.write_tls(&mut stalled.sock).unwrap();
    // It has a place once the server has answered, the only one, but not for as long as it likes.
    stalled.sock.read_exact(&mut [0]).unwrap();
    assert!(connect(address, "site.test", &config).is_ok());
}

#[test]
fn a_client_that_sends_its_whole_body_first_reads_its_answer() {
    let (_dir, site, signpost) = one_site("");
    let config = Arc::new(client(&[&site], &[]));
    let body = vec![b'x'; 20_000_000];
    for _ in 0..3 {
        let mut connection = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
        let head = format!("POST /up HTTP/1.1\r\nHost: site.test\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.send(head.as_bytes());
        connection.try_send(&body).expect("a peer that reads on");
        assert_eq!(connection.read_answer().expect("an answer, not a reset").status, 307);
        assert!(connection.closes(), "with close_notify");
    }
}

#[test]
fn deadlines_hold_over_tls_and_the_end_is_said() {
    let (_dir, site, signpost) =
        one_site("[server.limits]\nheader_timeout = '400ms'\nidle_timeout = '300ms'");
    let config = Arc::new(client(&[&site], &[]));
    let connect = || connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
    let (mut idle, mut partial, mut silent) = (connect(), connect(), connect());
    partial.send(b"GET / HT");
    assert_eq!(idle.request("GET", "/", &[("Host", "site.test")]).status, 302);
    // `closes` fails where FIN comes without close_notify.
    assert!(idle.closes() && partial.closes() && silent.closes());
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "idle_timeout")], 1.0);
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "header_timeout")], 2.0);
}

#[test]
fn leaving_is_said_and_waits_for_nobody_who_says_nothing() {
    let (_dir, site, mut signpost) = one_site("handshake_timeout = '1h'");
    let config = Arc::new(client(&[&site], &[]));
    let mut idle = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
    assert_eq!(idle.request("GET", "/", &[("Host", "site.test")]).status, 302);
    let mut silent = Connection::to(signpost.tls.unwrap());
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    assert!(idle.closes() && silent.closes());
}

#[test]
fn strict_transport_security_is_said_over_tls_alone() {
    let (_dir, site, signpost) = one_site("hsts = '365d'");
    let config = Arc::new(client(&[&site], &[]));
    let hsts = "strict-transport-security";
    for (method, host, status) in [
        ("GET", "site.test", 302),
        ("POST", "site.test", 307),
        ("OPTIONS", "site.test", 204),
        ("GET", "other.test", 421),
        ("GET", "a b", 400),
    ] {
        let headers = [("Host", host)];
        let mut connection = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
        let answer = connection.request(method, "/", &headers);
        assert_eq!((answer.status, answer.header(hsts)), (status, Some("max-age=31536000")));
        assert_eq!(signpost.request(method, "/", &headers).header(hsts), None);
    }
}

#[test]
fn plain_visitors_are_sent_to_tls_on_the_same_host() {
    let settings = |port: &str| format!("{POOL}[server.tls]\nredirect_listen = ['127.0.0.1:0']\n{port}");
    let signpost = Signpost::with_settings(&settings(""));
    let ask = |method: &str, target: &str, host: &str| {
        Connection::to(signpost.upgrade.unwrap()).request(method, target, &[("Host", host)])
    };
    for (method, target, host, location) in [
        ("GET", "/", "site.test", "https://site.test/"),
        ("POST", "/a//b?c=%20&d=//e", "Site.Test.:8080", "https://site.test/a//b?c=%20&d=//e"),
        ("GET", "//evil.example", "x.wild.test", "https://x.wild.test//evil.example"),
        ("GET", "http://site.test:81?x=1", "ignored.test", "https://site.test/?x=1"),
    ] {
        let answer = ask(method, target, host);
        assert_eq!((answer.status, answer.location()), (308, location));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("set-cookie"), None);
    }
    for (method, target, host, status) in [
        ("GET", "/", "evil.example", 421),
        ("GET", "/", "site.test@evil.example", 400),
        ("GET", "/", "", 400),
        ("OPTIONS", "*", "site.test", 400),
        ("TRACE", "/", "site.test", 405),
    ] {
        let answer = ask(method, target, host);
        assert_eq!((answer.status, answer.header("location")), (status, None), "{target} {host}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    // Without a host there is nowhere to send anybody.
    let mut old = Connection::to(signpost.upgrade.unwrap());
    old.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.read_answer().unwrap().status, 400);
    assert_eq!(signpost.metric("signpost_responses_total", &[("code", "308")]), 4.0);

    let signpost = Signpost::with_settings(&settings("redirect_port = 8443"));
    let answer = Connection::to(signpost.upgrade.unwrap()).request("GET", "/x", &[("Host", "site.test:80")]);
    assert_eq!(answer.location(), "https://site.test:8443/x");
}

#[test]
fn check_warns_of_a_certificate_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let old = Site::write(dir.path(), "old", &["site.test"]);
    let pem = Pair::of(&["site.test"], 2001);
    std::fs::write(&old.cert, &pem.cert).unwrap();
    std::fs::write(&old.key, &pem.key).unwrap();
    let file = settings_file(&format!(
        "{POOL}[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]",
        old.toml()
    ));
    let output = run(["check", "--settings", file.path().to_str().unwrap()]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.contains(old.cert.to_str().unwrap()) && said.contains("2001-01-01"), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("[[server.tls.certificates]]"), "{printed}");
}

#[test]
fn wrong_certificates_are_wrong_settings() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|stem| Site::write(dir.path(), stem, &["site.test"]));
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let pair = |cert: &std::path::Path, key: &std::path::Path| {
        format!("{{ cert = '{}', key = '{}' }}", cert.display(), key.display())
    };
    for (certificates, key, what, file) in [
        (String::new(), "", "there is none", ""),
        (pair(&a.cert, &b.key), "[0].key", "is not the key of", "b.key"),
        (pair(&empty, &a.key), "[0].cert", "holds no certificate", "empty.pem"),
        (pair(&a.cert, &empty), "[0].key", "holds no private key", "empty.pem"),
        (pair(&a.cert, &a.cert), "[0].key", "holds no private key", "a.pem"),
        (pair(&dir.path().join("none"), &a.key), "[0].cert", "can't be read", "none"),
        (format!("{}, {}", a.toml(), pair(&b.cert, &dir.path().join("x"))), "[1].key", "can't be read", "/x"),
        (format!("{}, {}", a.toml(), a.toml()), "[1].cert", "stands before already", "a.pem"),
        (format!("{{ cert = '{}' }}", a.cert.display()), "[0].key", "is missing", ""),
        ("'a.pem'".to_owned(), "[0]", "takes a table", ""),
    ] {
        let file_of_settings = settings_file(&format!(
            "{POOL}[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{certificates}]"
        ));
        let output = run(["check", "--settings", file_of_settings.path().to_str().unwrap()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let line = said.lines().find(|line| line.contains(&format!("server.tls.certificates{key}: ")));
        assert!(
            line.is_some_and(|line| line.contains(what) && line.contains(file)),
            "{certificates}: {said}"
        );
    }
}

#[test]
fn who_begins_no_handshake_makes_room_for_others() {
    let (_dir, _site, signpost) =
        one_site("handshake_timeout = '1h'\n[server.limits]\nmax_connections = 10\nheader_timeout = '1h'");
    // Each accept loop may be one over the cap.
    let _silent: Vec<_> = (0..40).map(|_| Connection::to(signpost.tls.unwrap())).collect();
    assert_eq!(signpost.request("GET", "/", &[("Host", "site.test")]).status, 302);
    wait_until("some have made room", || {
        signpost.metric("signpost_limit_hits_total", &[("limit", "evicted")]) >= 1.0
    });
}

#[test]
fn clients_that_offer_http_1_0_alone_are_served_and_unknown_protocols_are_not() {
    let (_dir, site, signpost) = one_site("");
    for (offered, chosen) in [
        (&["http/1.0"][..], Some("http/1.0")),
        (&["http/1.0", "http/1.1"], Some("http/1.1")),
        (&["http/0.9", "http/1.0"], Some("http/1.0")),
        (&["http/1.0", "h2"], Some("h2")),
        (&["unknown", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let config = Arc::new(client(&[&site], offered));
        let mut connection = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
        assert_eq!(connection.stream().conn.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        if chosen != Some("h2") {
            connection.send(b"GET /x HTTP/1.0\r\nHost: site.test\r\n\r\n");
            assert_eq!(connection.read_answer().unwrap().status, 302, "{offered:?}");
        }
    }
    for offered in [&["http/0.9"][..], &["unknown"], &["h3", "spdy/1"]] {
        let config = Arc::new(client(&[&site], offered));
        let error = connect(signpost.tls.unwrap(), "site.test", &config).err().unwrap();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
}

#[test]
fn plain_http_on_a_tls_listener_gets_a_readable_400() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let body = "x".repeat(100_000);
    let requests = [
        ("GET", "GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n".to_owned()),
        ("HEAD", "HEAD /x HTTP/1.1\r\nHost: site.test\r\n\r\n".to_owned()),
        ("GET", "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned()),
        ("POST", format!("POST /x HTTP/1.1\r\nHost: site.test\r\nContent-Length: 100000\r\n\r\n{body}")),
        ("GET", "GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n".repeat(50)),
        ("GET", "GET /x HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n".to_owned()),
    ];
    for proxy in ["", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"] {
        let signpost = Signpost::with_settings(&format!(
            "{POOL}[server]\ntrusted_proxies = ['127.0.0.1']\n[server.tls]\n\
             listen = [{{ address = '127.0.0.1:0', proxy_protocol = {} }}]\ncertificates = [{}]\nhsts = '1d'",
            !proxy.is_empty(),
            site.toml()
        ));
        let address = signpost.tls.unwrap();
        let mut count = 0.0;
        for (method, request) in &requests {
            for split in [0, 1, 5, 17, request.len() - 1, request.len()] {
                let mut connection = Connection::to(address);
                connection.send(proxy.as_bytes());
                connection.send(&request.as_bytes()[..split]);
                connection.send(&request.as_bytes()[split..]);
                let answer = connection.read_answer_to(method).unwrap();
                assert_eq!(
                    (answer.status, answer.header("connection")),
                    (400, Some("close")),
                    "{request:.20}"
                );
                assert_eq!(answer.header("strict-transport-security"), None, "it is ignored without TLS");
                if *method != "HEAD" {
                    assert_eq!(
                        answer.text(),
                        "Plain HTTP was sent to an HTTPS port. Use https:// instead.\n"
                    );
                }
                assert_eq!(connection.rest().unwrap(), b"", "{request:.20} at {split}");
                let line = signpost.next_line();
                assert!(
                    line.contains(r#""rejection":"plain_http_on_tls""#) && !line.contains("aborted"),
                    "{line}"
                );
                count += 1.0;
            }
        }
        assert_eq!(
            signpost.metric("signpost_rejected_requests_total", &[("reason", "plain_http_on_tls")]),
            count
        );
        // What only begins with a letter has no end either.
        let mut endless = Connection::to(address);
        endless.send(proxy.as_bytes());
        endless.send(&[b'A'; 40_000]);
        assert_eq!(endless.read_answer().map(|answer| answer.status), Some(431));
        let results = ["ok", "failed", "timeout"].map(|result| handshakes(&signpost, result));
        assert_eq!(results, [0.0, 0.0, 0.0], "none of it was a handshake");
        assert_eq!(
            signpost.metric("signpost_limit_hits_total", &[("limit", "requests_per_connection")]),
            0.0
        );
    }
}
