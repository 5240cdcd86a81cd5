//! Starting, leaving, and what exit codes say.

use std::net::TcpListener;

use crate::certificates::{Site, client, connect};
use crate::harness::{Connection, Signpost, command, run, stderr, wait_until};

const BACKEND: [&str; 2] = ["--backend", "http://127.0.0.1:9001"];

/// With connections that the kernel keeps while they are silent, and without.
fn deferring_or_not() -> [Signpost; 2] {
    ["0s", "1s"].map(|defer| {
        Signpost::with_settings(&format!(
            "[server]\ntcp_defer_accept = '{defer}'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']"
        ))
    })
}

#[test]
fn a_signal_ends_it_in_good_order() {
    for (mut signpost, signal) in deferring_or_not().into_iter().zip(["TERM", "INT"]) {
        let mut idle = signpost.connect();
        assert_eq!(idle.request("GET", "/", &[]).status, 302);
        let mut fresh = signpost.connect();
        signpost.signal(signal);
        assert!(signpost.wait().success(), "{signal}");
        assert!(idle.closes() && fresh.closes(), "with FIN, not with a reset");
        assert!(std::net::TcpStream::connect(signpost.traffic).is_err());
    }
}

#[test]
fn a_request_in_flight_is_answered_while_leaving() {
    for mut signpost in deferring_or_not() {
        let mut slow = signpost.connect();
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n");
        // Its head has come this far for certain once another request, sent later on each worker, is answered.
        for _ in 0..20 {
            signpost.get("/");
        }
        signpost.signal("TERM");
        wait_until("it accepts no more", || std::net::TcpStream::connect(signpost.traffic).is_err());
        slow.send(b"\r\n");
        let answer = slow.read_answer().expect("an answer while leaving");
        assert_eq!((answer.status, answer.header("connection")), (302, Some("close")));
        assert!(slow.closes());
        assert!(signpost.wait().success());
    }
}

#[test]
fn deferred_connections_are_served_while_draining() {
    // Far longer than a test waits: nothing but the end of deferring brings these connections in.
    let mut signpost = Signpost::with_settings(
        "[server]\ntcp_defer_accept = '60s'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    let mut asking: Vec<_> = (0..20).map(|_| signpost.connect()).collect();
    let mut silent = signpost.connect();
    signpost.signal("TERM");
    signpost.wait_for_log("\"signal\":\"SIGTERM\"");
    for connection in &mut asking {
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for mut connection in asking {
        assert_eq!(connection.read_answer().expect("an answer while draining").status, 302);
        assert!(connection.closes());
    }
    assert!(silent.closes(), "with FIN, not with a reset");
    assert!(signpost.wait().success());
}

#[test]
fn connections_are_limited_while_draining() {
    let mut signpost = Signpost::with_settings(
        "[server]\nworkers = 1\ntcp_defer_accept = '60s'\n[server.limits]\nmax_connections = 10\n\
         [pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    // As long as the kernel defers it, the listener stays open.
    let _deferred = signpost.connect();
    signpost.signal("TERM");
    signpost.wait_for_log("\"signal\":\"SIGTERM\"");
    let mut half: Vec<_> = (0..100).map(|_| signpost.connect()).collect();
    half.iter_mut().for_each(|connection| connection.send(b"GET / HTTP/1.1\r\n"));
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "connections")], 1.0);
    signpost.signal("KILL");
    signpost.wait();
}

#[test]
fn an_interrupt_does_not_wait_for_incomplete_requests() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    // Far longer than a test waits: nothing but the signal ends these connections.
    let mut signpost = Signpost::with_listeners(&format!(
        "[server]\nlisten = ['127.0.0.1:0', {{ address = '127.0.0.2:0', proxy_protocol = true }}]\n\
         shutdown_grace = '1h'\ntrusted_proxies = ['127.0.0.0/8']\n[server.limits]\nheader_timeout = '1h'\n\
         idle_timeout = '1h'\n[server.tls]\nlisten = ['127.0.0.1:0']\nhandshake_timeout = '1h'\n\
         certificates = [{}]\n[pools.p]\nbackends = ['http://127.0.0.1:9001']",
        site.toml()
    ));
    let (plain, tls) = (signpost.traffic, signpost.tls.unwrap());
    let metrics = signpost.metrics();
    let start = metrics.find("listener=\"127.0.0.2:").unwrap() + "listener=\"".len();
    let proxied = metrics[start..].split('"').next().unwrap().parse().unwrap();
    let half = b"GET / HTTP/1.1\r\nHost: a\r\n";
    let incomplete = [
        (plain, &half[..]),
        (plain, b"GET / HT"),
        (plain, b"POST / HTTP/1.1\r\nHost: a\r\n"),
        (tls, b"\x16\x03\x01\x02\x00\x01"),
        (proxied, b"PROXY TCP4 10.0."),
        (proxied, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HT"),
    ];
    let mut incomplete: Vec<_> = incomplete
        .into_iter()
        .map(|(address, bytes)| {
            let mut connection = Connection::to(address);
            connection.send(bytes);
            connection
        })
        .collect();
    let mut second = signpost.connect();
    assert_eq!(second.request("GET", "/", &[]).status, 302);
    second.send(half);
    incomplete.push(second);
    let over_tls = |protocol, bytes: &[u8]| {
        let config = std::sync::Arc::new(client(&[&site], &[protocol]));
        let mut connection = connect(tls, "site.test", &config).unwrap();
        connection.send(bytes);
        connection
    };
    let _http1 = over_tls("http/1.1", half);
    // The preface, SETTINGS, and HEADERS without END_HEADERS.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82";
    let _http2 = over_tls("h2", preface);
    // These bytes have come for certain once requests that were sent later, on each worker, are answered.
    for _ in 0..20 {
        signpost.get("/");
    }
    signpost.signal("INT");
    assert!(signpost.wait().success());
    for mut connection in incomplete {
        assert!(connection.read_answer().is_none());
    }
    assert!(!signpost.log().contains("shutdown_grace"));
}

#[test]
fn who_waits_while_it_starts_is_answered_though_it_is_told_to_leave() {
    let silent = crate::backend::Backend::start(crate::backend::Does::Hang);
    let (listen, admin) = ("127.0.0.1:0", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let traffic = TcpListener::bind(listen).unwrap().local_addr().unwrap();
    let file = crate::harness::settings_file(&format!(
        "[server]\nlisten = ['{traffic}']\n[admin]\nlisten = '{admin}'\n[pools.p]\nbackends = ['{}']\n\
         [pools.p.health]\nkind = 'http'\ntimeout = '1h'\nstartup_timeout = '1h'",
        silent.url()
    ));
    let mut command = command(["--settings", file.path().to_str().unwrap()]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("it listens", || std::net::TcpStream::connect(traffic).is_ok());
    let mut waiting = Connection::to(traffic);
    waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let kill = format!("kill -TERM {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(waiting.read_answer().unwrap().status, 302);
    assert!(child.wait().unwrap().success());
}

#[test]
fn who_sends_more_than_the_last_request_reads_its_answer() {
    let signpost = Signpost::with_settings(
        "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n[server.limits]\nmax_connections = 1",
    );
    // At the cap each answer is the last of its connection, and what was sent behind is discarded, not reset.
    for _ in 0..20 {
        let mut eager = signpost.connect();
        eager.send(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200));
        assert_eq!(eager.read_answer().unwrap().header("connection"), Some("close"));
        assert!(eager.closes(), "with FIN");
    }
}

#[test]
fn who_says_that_it_is_the_last_and_sends_more_reads_its_answer() {
    let signpost = Signpost::with_settings("[pools.p]\nbackends = ['http://127.0.0.1:9001']");
    // As much as is read at first, in two ways of reading, and as much as a head may have at the most.
    for length in [2 << 10, 8 << 10, 16 << 10] {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx: ";
        let filling = "x".repeat(length - start.len() - 4);
        let mut eager = signpost.connect();
        eager.send(format!("{start}{filling}\r\n\r\nand more").as_bytes());
        assert_eq!(eager.read_answer().expect("an answer").status, 302, "{length}");
        assert!(eager.closes(), "with FIN: {length}");
    }
}

#[test]
fn shutdown_grace_bounds_the_wait() {
    let mut signpost = Signpost::with_settings(
        "[server]\nshutdown_grace = '100ms'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']\n[server.limits]\nheader_timeout = '1h'",
    );
    let mut stuck = signpost.connect();
    stuck.send(b"GET / HT");
    for _ in 0..20 {
        signpost.get("/");
    }
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    assert!(signpost.log().contains("shutdown_grace is over"));
}

#[test]
fn shutdown_delay_tells_balancers_first_and_serves_meanwhile() {
    let mut signpost = Signpost::with_settings(
        "[server]\nshutdown_delay = '1h'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    signpost.signal("TERM");
    wait_until("it is not ready", || signpost.admin_get("/readyz").status == 503);
    assert_eq!(signpost.get("/").status, 302);
    let admin = signpost.admin.to_string();
    let check = run(["healthcheck", "--admin", &admin]);
    assert_eq!(check.status.code(), Some(1));
    assert!(stderr(&check).contains("503"), "{}", stderr(&check));
    // A second signal ends it at once.
    signpost.signal("TERM");
    assert_eq!(signpost.wait().code(), Some(1));
}

#[test]
fn an_interrupt_skips_shutdown_delay() {
    let mut signpost = Signpost::with_settings(
        "[server]\nshutdown_delay = '1h'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    signpost.signal("INT");
    assert!(signpost.wait().success());
}

#[test]
fn a_taken_address_is_said_and_exits_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run([&BACKEND[..], &["--listen", &address, "--admin", "127.0.0.1:0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("can't listen on {address}: the address is in use")), "{said}");

    // SO_REUSEPORT or not: a second instance does not share the first one's visitors.
    let first = Signpost::start(&BACKEND);
    let output =
        run([&BACKEND[..], &["--listen", &first.traffic.to_string(), "--admin", "127.0.0.1:0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let output =
        run([&BACKEND[..], &["--listen", "127.0.0.1:0", "--admin", &first.admin.to_string()]].concat());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn healthcheck_says_whether_it_is_ready() {
    let signpost = Signpost::start(&BACKEND);
    let ready = run(["healthcheck", "--admin", &signpost.admin.to_string()]);
    assert_eq!(ready.status.code(), Some(0), "{}", stderr(&ready));
    // As a container sets it: a wildcard in the environment, asked on loopback.
    let wildcard = format!("0.0.0.0:{}", signpost.admin.port());
    let ready = command(["healthcheck"]).env("SIGNPOST__ADMIN__LISTEN", wildcard).output().unwrap();
    assert_eq!(ready.status.code(), Some(0), "{}", stderr(&ready));

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let not = run(["healthcheck", "--admin", &nobody]);
    assert_eq!(not.status.code(), Some(1));
    assert!(stderr(&not).contains("refused"), "{}", stderr(&not));
}

#[test]
fn wrong_usage_exits_2() {
    for args in
        [&["--no-such-flag"][..], &["demo", "--backends", "0"], &["serve", "--listen"], &["--strategy", "x"]]
    {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(run(["--version"]).status.code(), Some(0));
}

#[test]
fn both_families_are_served_on_a_dual_stack_address() {
    let mut command = command([&BACKEND[..], &["--listen", "[::]:0", "--admin", "127.0.0.1:0"]].concat());
    let signpost = Signpost::start_command(&mut command);
    let port = signpost.traffic.port();
    let mut v4 = Connection::to(([127, 0, 0, 1], port).into());
    assert_eq!(v4.request("GET", "/", &[]).status, 302);
    let line = signpost.next_line();
    assert!(line.contains("\"client\":\"127.0.0.1\""), "{line}");
}
