//! Every request gets exactly one response, and access lines tell what was written.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::{ClientConfig, StreamOwned};
use serde_json::Value;

use crate::certificates::{Site, client, start};
use crate::harness::{Connection, Signpost, wait_until};

const POOL: &str = "[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }]\n";

/// What is sent of a body, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyComes {
    /// With the head.
    Complete,
    /// Behind the head, in a segment of its own.
    Late,
    /// Half of it with the head, and then no more.
    Partly,
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    /// The field that announces a body and the body, if there is one.
    body: Option<(&'static str, &'static str, BodyComes)>,
    /// A field that asks for another protocol, or nothing.
    upgrade: &'static str,
}

/// All of it: methods × bodies × upgrades.
fn cases() -> Vec<Case> {
    let framings = [
        ("Content-Length: 10\r\n", "0123456789"),
        ("Transfer-Encoding: chunked\r\n", "a\r\n0123456789\r\n0\r\n\r\n"),
    ];
    let comes = [BodyComes::Complete, BodyComes::Late, BodyComes::Partly, BodyComes::Never];
    let mut bodies = vec![None];
    bodies.extend(framings.iter().flat_map(|&(field, body)| comes.map(|comes| Some((field, body, comes)))));
    let upgrades = [
        "",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ];
    let mut cases = Vec::new();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
    {
        for &body in &bodies {
            cases.extend(upgrades.map(|upgrade| Case { method, body, upgrade }));
        }
    }
    cases
}

impl Case {
    /// Sends the request, reads the response, and makes sure that nothing but the end follows it.
    fn exchange<S: Read + Write>(
        &self,
        mut connection: Connection<S>,
        target: &str,
        finish: impl FnOnce(&mut Connection<S>),
    ) -> u16 {
        let Case { method, body, upgrade } = self;
        let target = if *method == "CONNECT" { "site.test:443" } else { target };
        let (field, body, comes) = body.unwrap_or(("", "", BodyComes::Complete));
        let head = format!("{method} {target} HTTP/1.1\r\nHost: site.test\r\n{upgrade}{field}\r\n");
        let with_head = match comes {
            BodyComes::Complete => body,
            BodyComes::Partly => &body[..body.len() / 2],
            BodyComes::Late | BodyComes::Never => "",
        };
        connection.send(format!("{head}{with_head}").as_bytes());
        if comes == BodyComes::Late {
            connection.send(body.as_bytes());
        }
        let answer = connection.read_answer_to(method).unwrap_or_else(|| panic!("no response: {self:?}"));
        finish(&mut connection);
        assert_eq!(connection.rest().unwrap(), b"", "more than a response: {self:?}");
        answer.status
    }
}

/// Somewhere that requests are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Plain,
    /// Behind a header of the PROXY protocol.
    Proxied,
    Tls,
    /// The listener that redirects to TLS.
    Upgrade,
    Admin,
}

/// Where one dispatcher listens.
struct Addresses {
    plain: SocketAddr,
    proxied: SocketAddr,
    tls: SocketAddr,
    upgrade: SocketAddr,
    admin: SocketAddr,
    config: Arc<ClientConfig>,
}

/// Starts a dispatcher that listens for all of [`To`].
fn start_all(workers: usize, tcp_defer_accept: &str) -> (Signpost, Addresses) {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = Signpost::with_listeners(&format!(
        "{POOL}[server]\nworkers = {workers}\ntcp_defer_accept = '{tcp_defer_accept}'\n\
         trusted_proxies = ['127.0.0.1']\n\
         listen = ['127.0.0.1:0', {{ address = '127.0.0.1:0', proxy_protocol = true }}]\n\
         [server.tls]\nlisten = ['127.0.0.1:0']\nredirect_listen = ['127.0.0.1:0']\ncertificates = [{}]\n",
        site.toml(),
    ));
    let log = signpost.log();
    let addresses = Addresses {
        plain: signpost.traffic,
        proxied: log
            .lines()
            .filter_map(|line| line.strip_prefix("listening on http://"))
            .nth(1)
            .unwrap()
            .parse()
            .unwrap(),
        tls: signpost.tls.unwrap(),
        upgrade: signpost.upgrade.unwrap(),
        admin: signpost.admin,
        config: Arc::new(client(&[&site], &["http/1.1"])),
    };
    (signpost, addresses)
}

impl Addresses {
    fn send(&self, case: &Case, to: To) -> u16 {
        let plain = |address, target: &str| {
            case.exchange(Connection::to(address), target, |connection| connection.finish())
        };
        match to {
            To::Plain => plain(self.plain, "/x"),
            To::Upgrade => plain(self.upgrade, "/x"),
            To::Admin => plain(self.admin, "/metrics"),
            To::Proxied => {
                let mut connection = Connection::to(self.proxied);
                connection.send(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n");
                case.exchange(connection, "/x", |connection| connection.finish())
            }
            To::Tls => {
                let stream = start(self.tls, "site.test", &self.config);
                case.exchange(Connection::over(stream), "/x", finish_tls)
            }
        }
    }
}

fn finish_tls(connection: &mut Connection<StreamOwned<rustls::ClientConnection, TcpStream>>) {
    let stream = connection.stream();
    stream.conn.send_close_notify();
    // The server may have closed by now.
    let _ = stream.flush();
}

fn expected(to: To, method: &str) -> u16 {
    match (to, method) {
        (To::Admin, "GET" | "HEAD") => 200,
        (To::Admin, "CONNECT") => 404,
        (To::Admin, _) | (_, "TRACE" | "CONNECT") => 405,
        (To::Upgrade, _) => 308,
        (_, "OPTIONS") => 204,
        (_, "GET" | "HEAD") => 302,
        _ => 307,
    }
}

#[test]
fn every_request_gets_one_response_whatever_it_announces() {
    let cases = cases();
    for (workers, tcp_defer_accept) in [(1, "0s"), (3, "1s")] {
        let (signpost, addresses) = start_all(workers, tcp_defer_accept);
        let destinations = [To::Plain, To::Proxied, To::Tls, To::Upgrade, To::Admin];
        let all: Vec<_> =
            destinations.iter().flat_map(|&to| cases.iter().map(move |case| (to, case))).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some((to, case)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let status = addresses.send(case, *to);
                        assert_eq!(status, expected(*to, case.method), "{to:?} {case:?}");
                    }
                });
            }
        });
        let logged = cases.len() * (destinations.len() - 1);
        for _ in 0..logged {
            let line = signpost.next_line();
            assert!(!line.contains("aborted"), "{line}");
        }
        assert_eq!(signpost.metric("signpost_responses_aborted_total", &[]), 0.0);
    }
}

/// How a client that does not read sends its requests.
const UNREAD: [(&str, &str); 2] = [
    ("answered at once", "GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n"),
    ("answered by hyper", "POST /x HTTP/1.1\r\nHost: site.test\r\n\r\n"),
];

fn responses(signpost: &Signpost) -> usize {
    let metrics = signpost.metrics();
    let of_name = |line: &&str| line.starts_with("signpost_responses_total{");
    let counts = metrics.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap());
    counts.map(|count| count.parse::<f64>().unwrap() as usize).sum()
}

/// The lines of all responses so far: how many were sent, and how many aborted.
fn lines(signpost: &Signpost) -> (usize, usize) {
    let responses = responses(signpost);
    let aborted = (0..responses).filter(|_| {
        let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
        line.get("aborted") == Some(&Value::Bool(true))
    });
    let aborted = aborted.count();
    (responses - aborted, aborted)
}

/// Sends requests without reading until nothing more goes out.
fn stall<S: Read + Write>(connection: &mut Connection<S>, request: &str) {
    let requests = request.repeat(1000);
    assert!((0..10_000).any(|_| connection.try_send(requests.as_bytes()).is_err()), "nothing stalled");
}

#[test]
fn a_response_that_cannot_be_written_is_logged_and_counted_as_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    for (name, request) in UNREAD {
        for over_tls in [false, true] {
            let signpost = Signpost::with_settings(&format!(
                "{POOL}[server.limits]\nmax_requests_per_connection = 0\n[server.tls]\nlisten = ['127.0.0.1:0']\n\
                 certificates = [{}]",
                site.toml()
            ));
            let timeout = Some(std::time::Duration::from_millis(300));
            if over_tls {
                let mut connection = Connection::over(start(signpost.tls.unwrap(), "site.test", &config));
                connection.stream().sock.set_write_timeout(timeout).unwrap();
                stall(&mut connection, request);
            } else {
                let mut connection = signpost.connect();
                connection.stream().set_write_timeout(timeout).unwrap();
                stall(&mut connection, request);
            }
            // Closed with unread responses, which is a reset.
            signpost.wait_for_metric("signpost_responses_aborted_total", &[], 1.0);
            let (sent, aborted) = lines(&signpost);
            assert!(sent > 100 && aborted == 1, "{name}, TLS {over_tls}: {sent} sent, {aborted} aborted");
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off_after_idle_timeout_and_its_response_aborted() {
    let signpost = Signpost::with_settings(&format!(
        "{POOL}[server.limits]\nidle_timeout = '1s'\nmax_requests_per_connection = 0"
    ));
    for (count, (name, request)) in (1..).zip(UNREAD) {
        let mut connection = signpost.connect();
        connection.stream().set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        stall(&mut connection, request);
        signpost.wait_for_metric("signpost_responses_aborted_total", &[], f64::from(count));
        signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "idle_timeout")], f64::from(count));
        println!("{name}: cut off");
    }
}

#[test]
fn leaving_ends_the_lines_of_responses_that_were_not_written() {
    let mut signpost = Signpost::with_settings(&format!(
        "{POOL}[server]\nshutdown_grace = '100ms'\n[server.limits]\nmax_requests_per_connection = 0"
    ));
    let mut connections: Vec<_> = UNREAD.iter().map(|_| signpost.connect()).collect();
    for (connection, (_, request)) in connections.iter_mut().zip(UNREAD) {
        connection.stream().set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        stall(connection, request);
    }
    wait_until("no response is written any more", || {
        let before = responses(&signpost);
        std::thread::sleep(std::time::Duration::from_millis(200));
        before == responses(&signpost)
    });
    let made = responses(&signpost);
    signpost.signal("TERM");
    signpost.wait();
    let lines = signpost.all_lines();
    let aborted = lines.iter().filter(|line| line.ends_with(",\"aborted\":true}")).count();
    // A socket takes a little more than it has reported: when draining begins, one response more may fit, and be the last.
    let written_since = lines.len().checked_sub(made).expect("a line for each response");
    assert!(aborted >= 1 && aborted + written_since >= 2, "{aborted} aborted, {written_since} written since");
}

#[test]
fn no_pipelined_request_is_lost_where_connections_rest_soon() {
    let signpost = Signpost::with_settings(
        "[server]\nworkers = 1\n[pools.p]\nbackends = ['http://127.0.0.1:1']\nhealth.kind = 'none'\n",
    );
    // More than a worker lets wait with hyper's buffers, so that a connection gives them back after each request.
    let mut half: Vec<_> = (0..300).map(|_| signpost.connect()).collect();
    half.iter_mut().for_each(|connection| connection.send(b"GET / HT"));
    let listener = signpost.traffic.to_string();
    signpost.wait_for_metric("signpost_connections", &[("listener", &listener)], 300.0);
    for padding in [450, 580, 640, 720] {
        let mut client = signpost.connect();
        assert_eq!(client.request("GET", "/", &[]).status, 302);
        let mut requests = String::new();
        for number in 0..715 {
            let pad = if number < 15 { format!("X-P: {}\r\n", "a".repeat(padding)) } else { String::new() };
            requests += &format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{pad}\r\n");
        }
        client.send(requests.as_bytes());
        for number in 0..715 {
            let answer = client.read_answer().unwrap_or_else(|| panic!("no response to request {number}"));
            assert_eq!(
                answer.location(),
                format!("http://127.0.0.1:1/{number}"),
                "with {padding} bytes more"
            );
        }
    }
}
