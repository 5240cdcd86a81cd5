//! Reloads that change listeners, workers and limits: `[server]` and `[admin]`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::harness::{Connection, OnDrop, Signpost, settings_file, wait_until};
use crate::support::backend::free_address;

fn settings(listen: &[SocketAddr], admin: SocketAddr, more: &str) -> String {
    let listen: Vec<_> = listen.iter().map(ToString::to_string).collect();
    format!(
        "[admin]\nlisten = '{admin}'\n[pools.p]\nbackends = [{{ id = 'a', url = 'http://127.0.0.1:9001' }}]\n\
         [pools.p.health]\nkind = 'none'\n[server]\nwatch_interval = '0s'\nlisten = {listen:?}\n{more}"
    )
}

fn start(path: &Path) -> Signpost {
    Signpost::start_command(&mut crate::harness::command(["--settings", path.to_str().unwrap()]))
}

/// Writes these settings and waits until they are in effect, or turned down.
fn reload(signpost: &Signpost, path: &Path, text: &str, result: &str) {
    let count = || signpost.metric("signpost_config_reloads_total", &[("result", result)]);
    let before = count();
    std::fs::write(path, text).unwrap();
    signpost.signal("HUP");
    wait_until(&format!("a reload is a {result}"), || count() > before);
}

fn status(address: SocketAddr, path: &str) -> u16 {
    Connection::to(address).request("GET", path, &[]).status
}

#[test]
fn listeners_come_and_go_and_no_visitor_is_lost() {
    let [first, second, admin] = [(); 3].map(|()| free_address());
    let file = settings_file(&settings(&[first], admin, ""));
    let signpost = start(file.path());
    assert!(TcpStream::connect(second).is_err());
    let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _done = OnDrop(|| done.store(true, Ordering::Relaxed));
        for _ in 0..3 {
            // A connection for each request: every one must be accepted by somebody.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(status(first, "/"), 302);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for workers in 1..=4 {
            let more = format!("workers = {workers}\n");
            reload(&signpost, file.path(), &settings(&[first, second], admin, &more), "success");
            assert_eq!((status(first, "/"), status(second, "/")), (302, 302));
            reload(&signpost, file.path(), &settings(&[first], admin, &more), "success");
            wait_until("the removed one is closed", || TcpStream::connect(second).is_err());
        }
    });
    let answered = f64::from(asked.load(Ordering::Relaxed)) + 8.0;
    assert_eq!(
        signpost.metric("signpost_redirects_total", &[("backend", "a"), ("decision", "picked")]),
        answered,
        "counts outlive who counted"
    );
    signpost.wait_for_metric("signpost_connections", &[("listener", &first.to_string())], 0.0);
    signpost.wait_for_log("listeners replaced");
}

#[test]
fn a_listener_that_cannot_be_had_changes_nothing() {
    let [first, admin] = [(); 2].map(|()| free_address());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = settings_file(&settings(&[first], admin, ""));
    let signpost = start(file.path());
    let wrong =
        settings(&[first, taken.local_addr().unwrap()], admin, "limits = { max_target_bytes = '64B' }\n");
    reload(&signpost, file.path(), &wrong, "error");
    assert_eq!(
        status(first, &format!("/{}", "x".repeat(100))),
        302,
        "the other change is not in effect either"
    );
    assert_eq!(signpost.metric("signpost_config_last_reload_successful", &[]), 0.0);
    signpost.wait_for_log("the address is in use");
    reload(&signpost, file.path(), &settings(&[first], admin, ""), "success");
    assert_eq!(signpost.metric("signpost_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn what_a_connection_may_cost_changes_while_serving() {
    let [first, admin] = [(); 2].map(|()| free_address());
    let file = settings_file(&settings(&[first], admin, ""));
    let signpost = start(file.path());
    let long = format!("/{}", "x".repeat(100));
    assert_eq!(status(first, &long), 302);
    let mut kept = Connection::to(first);
    assert_eq!(kept.request("GET", "/", &[]).status, 302);
    let strict = "limits = { max_target_bytes = '64B', header_timeout = '200ms' }\n";
    reload(&signpost, file.path(), &settings(&[first], admin, strict), "success");
    assert_eq!(status(first, &long), 414);
    assert!(Connection::to(first).closes(), "after the new header_timeout");
    assert!(kept.closes(), "who was idle is told to come again, in good order");
}

#[test]
fn the_operator_s_listener_moves_too() {
    let [first, admin, elsewhere] = [(); 3].map(|()| free_address());
    let file = settings_file(&settings(&[first], admin, ""));
    let signpost = start(file.path());
    let token = "an admin token of thirty-two bytes or so";
    let moved = settings(&[first], elsewhere, "").replace("[admin]", &format!("[admin]\ntoken = '{token}'"));
    std::fs::write(file.path(), moved).unwrap();
    let reload = |to: SocketAddr, headers: &[(&str, &str)]| {
        let host = to.to_string();
        let all: Vec<_> = headers.iter().copied().chain([("Host", &*host)]).collect();
        Connection::to(to).request("POST", "/api/v1/reload", &all).status
    };
    // The answer comes over the listener that is about to go.
    assert_eq!(reload(admin, &[]), 200);
    wait_until("the old one is closed", || TcpStream::connect(admin).is_err());
    assert_eq!(reload(elsewhere, &[]), 401, "the new token holds");
    assert_eq!(reload(elsewhere, &[("Authorization", &format!("Bearer {token}"))]), 200);
    assert_eq!(status(first, "/"), 302);
    drop(signpost);
}

#[test]
fn a_reload_that_fails_leaves_the_options_of_listeners_as_they_were() {
    let [first, admin] = [(); 2].map(|()| free_address());
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let file = settings_file(&settings(&[first], admin, "tcp_defer_accept = '0s'\n"));
    let mut signpost = start(file.path());
    reload(&signpost, file.path(), &settings(&[first, taken], admin, "tcp_defer_accept = '60s'\n"), "error");
    // Were they deferred now, they would be reset with the listener, which does not expect that.
    let silent: Vec<_> = (0..20).map(|_| Connection::to(first)).collect();
    signpost.signal("TERM");
    signpost.wait_for_log("\"signal\":\"SIGTERM\"");
    for mut connection in silent {
        assert!(connection.closes(), "with FIN, not with a reset");
    }
    assert!(signpost.wait().success());
}

#[test]
fn an_interrupt_reaches_workers_that_others_have_replaced() {
    let [first, admin] = [(); 2].map(|()| free_address());
    // Far longer than a test waits: nothing but the signal ends these connections.
    let long = "shutdown_grace = '1h'\nlimits = { header_timeout = '1h' }\n";
    let file = settings_file(&settings(&[first], admin, long));
    let mut signpost = start(file.path());
    let mut kept = Vec::new();
    for workers in 1..=2 {
        let mut half = Connection::to(first);
        half.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
        // Its bytes have come for certain once requests that were sent later, on each worker, are answered.
        (0..20).for_each(|_| assert_eq!(status(first, "/"), 302));
        kept.push(half);
        let more = format!("workers = {workers}\n{long}");
        reload(&signpost, file.path(), &settings(&[first], admin, &more), "success");
    }
    signpost.wait_for_metric("signpost_connections", &[("listener", &first.to_string())], 2.0);
    signpost.signal("INT");
    assert!(signpost.wait().success());
    assert!(!signpost.log().contains("shutdown_grace"));
}
