//! Everything a hostile client might send: each gets a clear answer that is counted, and nothing of it is echoed
//! but path and query in `Location`. Prints every answer: `tests/bad-input` shows them.

use crate::harness::{Answer, Signpost};

/// What must come back.
enum Expect {
    /// A redirect to the base and this.
    To(&'static str),
    /// This status.
    Status(u16),
    /// One of these: hyper and we both have a say.
    Either(u16, u16),
}
use Expect::{Either, Status, To};

const BASE: &str = "http://127.0.0.1:9001";

fn get(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: site.example\r\n\r\n"].concat()
}

fn with_headers(headers: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{headers}\r\n").into_bytes()
}

fn cases() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let site = "Host: site.example\r\n";
    let cookie = format!("{site}Cookie: a={}\r\n", "x".repeat(64 << 10));
    let many: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let hundred: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    vec![
        // Targets that try to change the host.
        ("//evil", get("//evil.example/%2e%2e"), To("//evil.example/%2e%2e")),
        ("///evil", get("///evil.example"), To("///evil.example")),
        ("/\\evil", get("/\\evil.example"), To("/\\evil.example")),
        ("\\evil", get("\\evil.example"), Status(400)),
        ("/%0d%0a", get("/%0d%0aSet-Cookie:x"), To("/%0d%0aSet-Cookie:x")),
        ("/%09/evil", get("/%09/evil.example"), To("/%09/evil.example")),
        ("/..;/", get("/..;/admin"), To("/..;/admin")),
        ("/../", get("/../admin"), To("/../admin")),
        ("@evil", get("@evil.example"), Status(400)),
        (".evil", get(".evil.example"), Status(400)),
        (":80@evil", get(":80@evil"), Status(400)),
        ("evil.example", get("evil.example"), Status(400)),
        ("evil.example:80", get("evil.example:80"), Status(400)),
        ("*", get("*"), Status(400)),
        ("ftp:", get("ftp://site.example/x"), Status(400)),
        ("javascript:", get("javascript:alert(1)"), Status(400)),
        ("empty target", get(""), Status(400)),
        ("?query", get("?x=1"), Status(400)),
        ("#fragment", get("/x#//evil"), To("/x")),
        // Absolute form.
        ("absolute, other host", get("http://evil.example/x?y"), To("/x?y")),
        ("absolute, userinfo", get("http://user:pass@site.example/"), Status(400)),
        ("absolute, no path", get("http://evil.example"), To("/")),
        ("absolute, query only", get("http://evil.example?x=1"), To("/?x=1")),
        ("absolute, bad port", get("http://evil.example:99999/"), Status(400)),
        ("absolute, no host", get("http:///x"), Status(400)),
        // Bytes that belong in no target.
        ("NUL", get(b"/a\0b"), Status(400)),
        ("tab", get(b"/a\tb"), Status(400)),
        ("DEL", get(b"/a\x7fb"), Status(400)),
        ("escape", get(b"/a\x1bb"), Status(400)),
        ("raw UTF-8", get("/é/嘊?ü"), To("/%C3%A9/%E5%98%8A?%C3%BC")),
        ("not UTF-8", get(b"/\xff\xfe"), Status(400)),
        ("bare CR", get(b"/a\rb"), Status(400)),
        // Size.
        ("9 KiB target", get(format!("/{}", "a".repeat(9 << 10))), Status(414)),
        ("100 KB target", get(format!("/{}", "a".repeat(100_000))), Either(414, 431)),
        ("430 KB header", with_headers(&format!("{site}X: {}\r\n", "y".repeat(430_000))), Status(431)),
        ("10 000 headers", with_headers(&format!("{site}{many}")), Status(431)),
        ("102 headers", with_headers(&format!("{site}{hundred}")), Status(431)),
        ("64 KB cookie", with_headers(&cookie), Status(431)),
        // Host.
        ("no Host", with_headers(""), Status(400)),
        ("two Hosts", with_headers("Host: a\r\nHost: b\r\n"), Status(400)),
        ("the same Host twice", with_headers("Host: a\r\nHost: a\r\n"), Status(400)),
        ("empty Host", with_headers("Host: \r\n"), Status(400)),
        ("Host a/evil", with_headers("Host: a/evil\r\n"), Status(400)),
        ("Host a b", with_headers("Host: a b\r\n"), Status(400)),
        ("Host [::1", with_headers("Host: [::1\r\n"), Status(400)),
        ("Host a:99999", with_headers("Host: a:99999\r\n"), Status(400)),
        ("Host u@h", with_headers("Host: u@h\r\n"), Status(400)),
        ("Host of high bytes", with_headers("Host: é\r\n"), Status(400)),
        // Methods.
        ("TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Status(405)),
        ("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".to_vec(), Status(405)),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Status(204)),
        ("method with bad bytes", b"GE T / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Status(400)),
        // Framing.
        (
            "Content-Length with Transfer-Encoding",
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX".to_vec(),
            To("/x"),
        ),
        ("two Content-Lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_vec(), Status(400)),
        ("Content-Length of 2^64 - 1", with_headers(&format!("{site}Content-Length: 18446744073709551615\r\n")), Status(400)),
        ("Content-Length of 2^64", with_headers(&format!("{site}Content-Length: 18446744073709551616\r\n")), Status(400)),
        ("Content-Length: +1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx".to_vec(), Status(400)),
        ("chunk of 2^64", b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec(), To("/x")),
        ("Expect: 100-continue", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".to_vec(), To("/x")),
        ("folded header", with_headers("Host: a\r\nX: a\r\n b\r\n"), Status(400)),
        ("header without colon", with_headers("Host: a\r\nX\r\n"), Status(400)),
        ("NUL in a header", with_headers("Host: a\r\nX: \0\r\n"), Status(400)),
        ("HTTP/3.7", b"GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_vec(), Status(400)),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), Status(400)),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Status(505)),
        // Pins.
        ("two bad pins", with_headers(&format!("{site}Cookie: signpost_default=a; signpost_default=b\r\n")), To("/")),
        ("a pin of 4 KB", with_headers(&format!("{site}Cookie: signpost_default={}\r\n", "A".repeat(4096))), To("/")),
    ]
}

#[test]
fn each_gets_a_clear_answer_and_is_counted() {
    let signpost = Signpost::start(&["--backend", BASE, "--pin"]);
    let mut by_status = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, bytes, expect) in cases() {
        let Some(answer) = signpost.raw(&bytes) else {
            wrong.push(format!("{name}: no answer"));
            continue;
        };
        println!("{name:40} {} {}", answer.status, answer.header("location").unwrap_or(answer.text().trim()));
        *by_status.entry(answer.status).or_insert(0.0) += 1.0;
        let right = match expect {
            To(target) => {
                matches!(answer.status, 302 | 307) && answer.location() == format!("{BASE}{target}")
            }
            Status(status) => answer.status == status,
            Either(one, other) => answer.status == one || answer.status == other,
        };
        if !right || !harmless(&answer) {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (status, count) in by_status {
        signpost.wait_for_metric("signpost_responses_total", &[("code", &status.to_string())], count);
    }
    let metrics = signpost.metrics();
    let sum = |name: &str| -> f64 {
        let of_name = |line: &&str| line.starts_with(&format!("{name}{{"));
        metrics.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let served: f64 = ["204", "302", "307"]
        .map(|code| crate::harness::series(&metrics, "signpost_responses_total", &[("code", code)]).unwrap())
        .iter()
        .sum();
    assert_eq!(
        sum("signpost_responses_total") - served,
        sum("signpost_rejected_requests_total"),
        "every rejection has its reason"
    );
    assert_eq!(signpost.get("/still/here").status, 302);
}

/// No header that the client chose, and `no-store` on every answer.
fn harmless(answer: &Answer) -> bool {
    const OURS: [&str; 8] = [
        "location",
        "cache-control",
        "set-cookie",
        "content-type",
        "content-length",
        "allow",
        "connection",
        "date",
    ];
    let known = answer.headers.iter().all(|(name, _)| OURS.contains(&name.as_str()));
    known && answer.header("cache-control") == Some("no-store")
}

#[test]
fn dot_segments_may_not_leave_a_base_path() {
    let signpost = Signpost::with_backends(&["http://127.0.0.1:9001/base"]);
    for target in
        ["/..", "/../admin", "/%2e%2e/admin", "/.%2E/admin", "/..\\admin", "/a/../../x", "/./%2E./x"]
    {
        let answer = signpost.raw(&get(target)).unwrap();
        println!("{target:20} {} {}", answer.status, answer.text().trim());
        assert_eq!(answer.status, 400, "{target}");
    }
    for target in ["/a/..", "/..;/x", "/..%2fadmin", "/%252e%252e/", "/x?../../.."] {
        assert_eq!(signpost.raw(&get(target)).unwrap().status, 302, "{target}");
    }
    assert_eq!(signpost.metric("signpost_rejected_requests_total", &[("reason", "path_escapes_base")]), 7.0);
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    let signpost = Signpost::with_backends(&[BASE]);
    let mut connection = signpost.connect();
    connection.send(b"GET / HTTP/1.1\r\n");
    for _ in 0..2_000 {
        connection.send(b"X: y\r\n");
    }
    connection.send(&[b'z'; 8192]);
    assert_eq!(connection.read_answer().map(|answer| answer.status), Some(431));
}

#[test]
fn a_refusal_is_counted_when_it_is_answered() {
    let signpost = Signpost::with_backends(&[BASE]);
    let mut connection = signpost.connect();
    connection.send(b"GE T\r\n\r\n");
    assert_eq!(connection.read_answer().map(|answer| answer.status), Some(400));
    // The client is still there, and so is its connection.
    signpost.wait_for_metric("signpost_rejected_requests_total", &[("reason", "malformed")], 1.0);
    assert_eq!(signpost.metric("signpost_connections", &[("listener", &signpost.traffic.to_string())]), 1.0);
}

#[test]
fn a_client_that_pipelines_and_never_reads_is_not_read_either() {
    let signpost = Signpost::with_settings(&format!(
        "[server.limits]\nmax_requests_per_connection = 0\n[pools.p]\nbackends = ['{BASE}']"
    ));
    let resident = || signpost.metric("process_resident_memory_bytes", &[]);
    let before = resident();
    let mut connection = signpost.connect();
    connection.set_write_timeout(std::time::Duration::from_millis(500));
    let requests = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    // At most 280 MB; the sockets' buffers take some of it, then nothing moves.
    let stalled = (0..10_000).any(|_| connection.try_send(&requests).is_err());
    assert!(stalled);
    assert!(resident() - before < 16e6, "{} bytes more", resident() - before);
}

#[test]
fn http_2_in_the_clear_is_rejected_however_its_preface_is_split() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // SETTINGS, as they follow it.
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let signpost = Signpost::with_backends(&[BASE]);
    // Enough for the first part to be read alone.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(3));
    let answered = |connection: &mut crate::harness::Connection, status| {
        let answer = connection.read_answer().unwrap();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert_eq!(connection.rest().unwrap(), b"");
    };
    for split in 0..=PREFACE.len() {
        // Behind a request too, which the fast path or hyper answers.
        for method in [None, Some(("GET", 302)), Some(("PUT", 307))] {
            let mut connection = signpost.connect();
            if let Some((method, status)) = method {
                assert_eq!(connection.request(method, "/", &[]).status, status);
            }
            connection.send(&PREFACE[..split]);
            pause();
            connection.send(&[&PREFACE[split..], SETTINGS].concat());
            answered(&mut connection, 505);
        }
    }
    let mut connection = signpost.connect();
    for byte in PREFACE {
        connection.send(&[*byte]);
        pause();
    }
    answered(&mut connection, 505);
    let rejected = 3.0 * (PREFACE.len() as f64 + 1.0) + 1.0;
    signpost.wait_for_metric("signpost_rejected_requests_total", &[("reason", "cleartext_http2")], rejected);

    // What only begins like it.
    for (split, text, status) in [
        (23, "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX\r\n\r\n", 400),
        (4, "PRI / HTTP/1.1\r\nHost: a\r\n\r\n", 307),
        (1, "POST / HTTP/1.1\r\nHost: a\r\n\r\n", 307),
    ] {
        let mut connection = signpost.connect();
        connection.send(&text.as_bytes()[..split]);
        pause();
        connection.send(&text.as_bytes()[split..]);
        assert_eq!(connection.read_answer().unwrap().status, status, "{text:?}");
    }
    // Behind a malformed request, what begins like it does not hide that.
    let mut connection = signpost.connect();
    connection.send(b"PUT http://a`b HTTP/1.1\r\nHost: a\r\n\r\nP");
    assert_eq!(connection.read_answer().unwrap().status, 400);
    // Half of it is a head that does not come.
    let mut connection = signpost.connect();
    connection.send(&PREFACE[..18]);
    connection.finish();
    assert!(connection.read_answer().is_none());
}

#[test]
fn a_content_length_beyond_64_bits_is_malformed_and_no_head_that_is_too_large() {
    let signpost = Signpost::with_backends(&[BASE]);
    let lengths = [
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "9999999999999999999999999999",
    ];
    let mut count = 0.0;
    for length in lengths {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nbody");
        for split in (0..request.len()).step_by(7) {
            let mut connection = signpost.connect();
            connection.send(&request.as_bytes()[..split]);
            connection.send(&request.as_bytes()[split..]);
            let answer = connection.read_answer().unwrap();
            assert_eq!((answer.status, answer.text()), (400, "This is not a valid HTTP request.\n".into()));
            assert_eq!(connection.rest().unwrap(), b"");
            count += 1.0;
        }
    }
    assert_eq!(signpost.metric("signpost_rejected_requests_total", &[("reason", "malformed")]), count);
    assert_eq!(signpost.metric("signpost_rejected_requests_total", &[("reason", "head_too_large")]), 0.0);
    // As long as can be, and a body that is not read.
    let longest = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551613\r\n\r\n";
    assert_eq!(signpost.raw(longest.as_bytes()).unwrap().status, 307);
}
