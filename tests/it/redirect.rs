//! The redirect itself: status, `Location`, connection.

use crate::harness::Signpost;

const A: &str = "http://127.0.0.1:9001";

#[test]
fn get_and_head_are_found_and_the_rest_keep_their_method() {
    let signpost = Signpost::with_backends(&[A]);
    for (method, status) in [
        ("GET", 302),
        ("HEAD", 302),
        ("POST", 307),
        ("PUT", 307),
        ("PATCH", 307),
        ("DELETE", 307),
        ("PROPFIND", 307),
        ("QUERY", 307),
    ] {
        let answer = signpost.request(method, "/x?y=z", &[]);
        assert_eq!(answer.status, status, "{method}");
        assert_eq!(answer.location(), "http://127.0.0.1:9001/x?y=z", "{method}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method}");
        assert!(answer.body.is_empty());
        assert!(answer.header("date").is_some());
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[test]
fn a_pool_may_choose_its_statuses() {
    let signpost = Signpost::with_settings(
        "[pools.p]\nstatus = 307\nstatus_non_get = 303\nbackends = ['http://127.0.0.1:9001']",
    );
    assert_eq!(signpost.get("/").status, 307);
    assert_eq!(signpost.request("POST", "/", &[]).status, 303);
}

#[test]
fn the_location_is_the_base_and_the_target_byte_for_byte() {
    let signpost = Signpost::with_backends(&["http://127.0.0.1:9001/base/"]);
    for (target, kept) in [
        ("/", "/"),
        ("/?", "/?"),
        ("//evil.example/%2F", "//evil.example/%2F"),
        ("/%0d%0aSet-Cookie:x", "/%0d%0aSet-Cookie:x"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("/a;b=c,d&e='f'!*()", "/a;b=c,d&e='f'!*()"),
        ("/x?y=a/../../z&u=http://v", "/x?y=a/../../z&u=http://v"),
        ("/x?a#frag", "/x?a"),
        ("http://other.example/abs?q", "/abs?q"),
        ("http://other.example", "/"),
        ("http://other.example?q", "/?q"),
    ] {
        let answer = signpost.get(target);
        assert_eq!(answer.status, 302, "{target}");
        assert_eq!(answer.location(), format!("http://127.0.0.1:9001/base{kept}"), "{target}");
    }
}

#[test]
fn a_connection_serves_many_requests() {
    let signpost = Signpost::with_backends(&[A]);
    let mut connection = signpost.connect();
    for n in 0..50 {
        assert_eq!(connection.request("GET", &format!("/{n}"), &[]).location(), format!("{A}/{n}"));
    }
    assert_eq!(
        signpost.metric("signpost_connections_total", &[("listener", &signpost.traffic.to_string())]),
        1.0
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let signpost = Signpost::with_backends(&[A]);
    let mut connection = signpost.connect();
    let requests: String = (0..200).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    connection.send(requests.as_bytes());
    for n in 0..200 {
        assert_eq!(connection.read_answer().unwrap().location(), format!("{A}/{n}"));
    }
}

#[test]
fn a_client_that_is_done_sending_is_still_answered() {
    let signpost = Signpost::with_backends(&[A]);
    let mut connection = signpost.connect();
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.finish();
    assert_eq!(connection.read_answer().unwrap().status, 302);
    assert!(connection.closes());
}

#[test]
fn http_1_0_is_served_and_closed() {
    let signpost = Signpost::with_backends(&[A]);
    let mut connection = signpost.connect();
    connection.send(b"GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(connection.read_answer().unwrap().location(), format!("{A}/old"));
    assert!(connection.closes());
}

#[test]
fn the_answer_comes_before_the_body() {
    let signpost = Signpost::with_backends(&[A]);
    let mut connection = signpost.connect();
    connection.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n");
    let answer = connection.read_answer().unwrap();
    assert_eq!((answer.status, answer.location()), (307, "http://127.0.0.1:9001/up"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn a_client_that_sends_its_whole_body_first_reads_its_answer() {
    let signpost = Signpost::with_backends(&[A]);
    let body = vec![b'x'; 20_000_000];
    for _ in 0..5 {
        let mut connection = signpost.connect();
        connection.send(
            format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
        );
        connection.send(&body);
        assert_eq!(connection.read_answer().expect("an answer, not a reset").status, 307);
        connection.finish();
        assert!(connection.closes());
    }
}
