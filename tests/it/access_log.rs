//! One line per request on standard output.

use serde_json::Value;

use crate::harness::Signpost;

const BACKEND: &str = "[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }]\n";

#[test]
fn a_line_says_what_became_of_a_request() {
    let signpost = Signpost::with_settings(BACKEND);
    signpost.request("HEAD", "/x?y=\u{e9}", &[("Host", "www.example.com")]);
    let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
    for (field, value) in [
        ("method", "HEAD"),
        ("host", "www.example.com"),
        ("path", "/x?y=é"),
        ("pool", "p"),
        ("strategy", "round_robin"),
        ("backend", "a"),
        ("decision", "picked"),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(line["status"], 302);
    assert!(line["duration_us"].as_f64().unwrap() > 0.0);
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));

    signpost.request("TRACE", "/", &[]);
    let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
    assert_eq!((&line["status"], &line["rejection"]), (&405.into(), &"method_not_allowed".into()));

    // Not even hyper could read this one.
    signpost.raw(b"GE T\r\n\r\n");
    let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
    assert_eq!(
        (&line["status"], &line["rejection"], &line["path"]),
        (&400.into(), &"malformed".into(), &Value::Null)
    );
}

#[test]
fn it_can_be_for_people_or_off() {
    let signpost = Signpost::with_settings(&format!("{BACKEND}[log]\nformat = 'human'"));
    signpost.get("/x");
    let line = signpost.next_line();
    assert!(
        line.contains(
            "127.0.0.1 GET site.example/x 302 pool=p strategy=round_robin backend=a decision=picked"
        ),
        "{line}"
    );

    let mut signpost = Signpost::with_settings(&format!("{BACKEND}[log]\naccess = false"));
    assert_eq!(signpost.get("/x").status, 302);
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    assert!(signpost.all_lines().is_empty());
}

#[test]
fn lines_contain_the_headers_that_the_settings_name() {
    let log = "[log]\naccess_headers = ['User-Agent', 'accept-language']\n";
    let agent = ("User-Agent", "a \"b\"\t\u{e9}");
    let signpost = Signpost::with_settings(&format!("{log}{BACKEND}"));
    let next = || serde_json::from_str::<Value>(&signpost.next_line()).unwrap();
    let expected = serde_json::json!({ "user-agent": agent.1, "accept-language": null });
    for (method, more) in [("GET", ("X", "y")), ("POST", ("X", "y")), ("GET", ("Connection", "x"))] {
        signpost.request(method, "/", &[agent, more]);
        assert_eq!(next()["headers"], expected, "{method} {more:?}");
    }
    signpost.request("TRACE", "/", &[agent]);
    assert_eq!(next()["headers"], expected, "rejected");
    signpost.request(
        "GET",
        "/",
        &[("User-Agent", &"x".repeat(1000)), ("Accept-Language", "de"), ("Accept-Language", "en")],
    );
    assert_eq!(
        next()["headers"],
        serde_json::json!({ "user-agent": "x".repeat(256), "accept-language": "de, en" })
    );
    signpost.raw(b"GE T\r\n\r\n");
    assert_eq!(next()["headers"], serde_json::json!({ "user-agent": null, "accept-language": null }));

    let signpost = Signpost::with_settings(&format!("{log}format = 'human'\n{BACKEND}"));
    signpost.request("GET", "/", &[agent]);
    let line = signpost.next_line();
    assert!(line.contains(" decision=picked user-agent=\"a \\\"b\\\"\\té\" "), "{line}");
}

#[test]
fn it_can_be_sampled() {
    let mut signpost = Signpost::with_settings(&format!("{BACKEND}[log]\naccess_sample = 0.1"));
    let mut connection = signpost.connect();
    for _ in 0..2000 {
        connection.request("GET", "/", &[]);
    }
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    let lines = signpost.all_lines().len();
    // 200 expected; six standard deviations are 80.
    assert!((120..=280).contains(&lines), "{lines}");
}

#[test]
fn a_reader_that_stalls_costs_lines_and_not_requests() {
    // Standard output is a pipe that nobody reads.
    let mut command = crate::harness::command(["--backend", "http://127.0.0.1:9001"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("SIGNPOST__SERVER__LIMITS__MAX_REQUESTS_PER_CONNECTION", "0");
    let signpost = Signpost::start_unread(&mut command);
    let mut connection = signpost.connect();
    let dropped = |signpost: &Signpost| signpost.metric("signpost_log_lines_dropped_total", &[]);
    crate::harness::wait_until("lines are dropped", || {
        connection.send(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
        for _ in 0..100 {
            assert_eq!(connection.read_answer().unwrap().status, 302);
        }
        dropped(&signpost) > 0.0
    });
}

#[test]
fn lines_that_wait_take_bounded_memory() {
    let mut command = crate::harness::command(["--backend", "http://127.0.0.1:9001"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    for (limit, value) in
        [("MAX_REQUESTS_PER_CONNECTION", "0"), ("MAX_TARGET_BYTES", "60KiB"), ("MAX_HEADER_BYTES", "64KiB")]
    {
        command.env(format!("SIGNPOST__SERVER__LIMITS__{limit}"), value);
    }
    // Nobody reads standard output: 60 MB of lines would wait.
    let signpost = Signpost::start_unread(&mut command);
    let mut connection = signpost.connect();
    let path = format!("/{}", "x".repeat(60_000));
    for _ in 0..1000 {
        assert_eq!(connection.request("GET", &path, &[]).status, 302);
    }
    assert!(signpost.metric("signpost_log_lines_dropped_total", &[]) > 500.0);
    let resident = signpost.metric("process_resident_memory_bytes", &[]);
    assert!(resident < 64e6, "{resident} bytes");
}

#[test]
fn lines_are_json_whatever_the_client_sends() {
    let signpost = Signpost::with_settings(&format!("[log]\naccess_headers = ['user-agent']\n{BACKEND}"));
    let mut connection = signpost.connect();
    let agents: [(&[u8], &str); 6] = [
        (b"a \"quoted\" \\ back\\slash\\", "a \"quoted\" \\ back\\slash\\"),
        (b"a\ttab {\"x\":1}", "a\ttab {\"x\":1}"),
        ("\u{e9}\u{1f980}\u{2028}".as_bytes(), "\u{e9}\u{1f980}\u{2028}"),
        (b"not \xff UTF-8 \xe9", "not \u{fffd} UTF-8 \u{fffd}"),
        (b"\\u0022}, \\n", "\\u0022}, \\n"),
        (b"", ""),
    ];
    for path in ["/a\"b\\c?{x:[1]}\\", "/\u{e9}\u{1f980}?\u{2028}", "/%22%5c%00?&='", "/\\\\\\u0022\"\""] {
        for (agent, expected) in agents {
            // The first is answered without hyper.
            for method in ["GET", "POST"] {
                let head = format!("{method} {path} HTTP/1.1\r\nHost: site.example:80\r\nUser-Agent: ");
                connection.send(&[head.as_bytes(), agent, b"\r\n\r\n"].concat());
                let answer = connection.read_answer();
                assert!(answer.is_some_and(|answer| answer.status < 400), "{method} {path}");
                let text = signpost.next_line();
                let line: Value =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let logged = ["method", "host", "path"].map(|field| line[field].as_str().unwrap());
                assert_eq!(logged, [method, "site.example:80", path], "{text}");
                assert_eq!(line["headers"]["user-agent"], expected, "{text}");
                // Written anew it is the same but for the order of its fields: nothing is escaped without need.
                assert_eq!(line.to_string().len(), text.len(), "{text}");
            }
        }
    }
}
