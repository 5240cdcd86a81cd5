//! How connections with HTTP/1 end: what the last response says, and that the client can read it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use crate::certificates::{Site, client, start};
use crate::harness::{Answer, Connection, Signpost, wait_until};

const POOL: &str = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";

/// An HTTP/1.0 request of a client that wants to keep its connection.
const OLD: &[u8] = b"GET /x HTTP/1.0\r\nHost: site.test\r\nConnection: keep-alive\r\n\r\n";

fn ask_old(connection: &mut Connection) -> Answer {
    connection.send(OLD);
    connection.read_answer().unwrap()
}

#[test]
fn the_last_response_to_http_1_0_says_close_alone() {
    let signpost =
        Signpost::with_settings(&format!("{POOL}[server.limits]\nmax_requests_per_connection = 3"));
    let mut connection = signpost.connect();
    for _ in 0..2 {
        let answer = ask_old(&mut connection);
        assert_eq!((answer.status, answer.header("connection")), (302, Some("keep-alive")));
    }
    assert_eq!(ask_old(&mut connection).header("connection"), Some("close"));
    assert_eq!(connection.rest().unwrap(), b"");

    // A body is not read, so that it can't be told from a next request.
    let mut connection = signpost.connect();
    connection.send(b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(connection.read_answer().unwrap().header("connection"), Some("close"));
    assert_eq!(connection.rest().unwrap(), b"");

    // By default a connection is not kept.
    let mut connection = signpost.connect();
    connection.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(connection.read_answer().unwrap().header("connection"), None);
    assert_eq!(connection.rest().unwrap(), b"");
}

#[test]
fn the_last_response_to_http_1_0_says_close_alone_while_draining_and_where_connections_are_many() {
    let mut signpost = Signpost::with_settings(&format!(
        "{POOL}[server.limits]\nmax_connections = 10\nmax_requests_per_connection = 0"
    ));
    let mut kept: Vec<_> = (0..7).map(|_| signpost.connect()).collect();
    for connection in &mut kept {
        assert_eq!(ask_old(connection).header("connection"), Some("keep-alive"));
    }
    assert_eq!(ask_old(&mut signpost.connect()).header("connection"), Some("close"));

    signpost.signal("TERM");
    // It drains from some time on.
    let mut connection = kept.pop().unwrap();
    wait_until("a response is the last", || {
        let answer = ask_old(&mut connection);
        let connection = answer.header("connection");
        assert!(matches!(connection, Some("keep-alive" | "close")), "{connection:?}");
        connection == Some("close")
    });
    assert_eq!(connection.rest().unwrap(), b"");
    assert!(signpost.wait().success());
}

#[test]
fn connect_is_rejected_and_what_follows_is_not_read_as_a_request() {
    let (_dir, site, signpost) = with_tls();
    let request = b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\nGET /tunnel HTTP/1.1\r\nHost: site.test\r\n\r\n";
    let check = |answer: Answer, rest: Vec<u8>| {
        assert_eq!((answer.status, answer.header("connection")), (405, Some("close")));
        assert_eq!(rest, b"");
    };
    let mut connection = signpost.connect();
    connection.send(request);
    check(connection.read_answer().unwrap(), connection.rest().unwrap());
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let mut connection = Connection::over(start(signpost.tls.unwrap(), "site.test", &config));
    connection.send(request);
    check(connection.read_answer().unwrap(), connection.rest().unwrap());
    // In HTTP/2 only the stream ends: `http2` has that.
    assert!((0..2).all(|_| signpost.next_line().contains("\"method\":\"CONNECT\"")));
    assert_eq!(signpost.get("/").status, 302);
    assert!(signpost.next_line().contains("\"path\":\"/\""), "the bytes for the tunnel are no request");
}

fn with_tls() -> (tempfile::TempDir, Site, Signpost) {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = Signpost::with_settings(&format!(
        "{POOL}[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]",
        site.toml()
    ));
    (dir, site, signpost)
}

/// Waits until there is something to read, and takes nothing.
fn wait_to_read(socket: &TcpStream) {
    assert!(socket.peek(&mut [0]).unwrap() > 0);
}

/// What a client sends that said `close` before, and how often: more than the first of it would be answered with a
/// reset if the socket were closed, and the next could not be sent.
const MORE: [u8; 1000] = [b'x'; 1000];
const OFTEN: usize = 20;

#[test]
fn a_client_that_says_close_and_sends_more_reads_its_response() {
    let (_dir, site, signpost) = with_tls();
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let heads = [
        // Answered at once if it comes whole.
        "GET /x HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n",
        // Answered by hyper.
        "POST /x HTTP/1.1\r\nHost: site.test\r\nConnection: x, close\r\n\r\n",
        "GET /x HTTP/1.0\r\nHost: site.test\r\n\r\n",
    ];
    for head in heads {
        for split in 0..head.len() {
            let (first, second) = head.as_bytes().split_at(split);
            let mut connection = signpost.connect();
            connection.send(first);
            connection.send(second);
            wait_to_read(connection.stream());
            for _ in 0..OFTEN {
                connection.try_send(&MORE).unwrap_or_else(|error| panic!("{head:?} at {split}: {error}"));
            }
            assert!(matches!(connection.read_answer().unwrap().status, 302 | 307));
            assert_eq!(connection.rest().unwrap(), b"", "{head:?} at {split}");
        }
        for split in [0, 1, head.len() / 2, head.len() - 1] {
            let (first, second) = head.as_bytes().split_at(split);
            let mut connection = Connection::over(start(signpost.tls.unwrap(), "site.test", &config));
            connection.send(first);
            connection.send(second);
            let answer = connection.read_answer().unwrap();
            assert!(matches!(answer.status, 302 | 307));
            for _ in 0..OFTEN {
                let stream = connection.stream();
                stream.write_all(&MORE).unwrap_or_else(|error| panic!("TLS, {head:?} at {split}: {error}"));
            }
            assert_eq!(connection.rest().unwrap(), b"", "TLS, {head:?} at {split}");
        }
    }
}

#[test]
fn a_client_that_closes_after_its_last_response_is_forgotten() {
    let signpost = Signpost::with_settings(&format!("{POOL}[server.limits]\nmax_connections_per_client = 1"));
    for _ in 0..50 {
        let answer = signpost.request("GET", "/", &[("Connection", "close")]);
        assert_eq!((answer.status, answer.header("connection")), (302, Some("close")));
    }
    signpost.wait_for_metric("signpost_connections", &[("listener", &signpost.traffic.to_string())], 0.0);
}
