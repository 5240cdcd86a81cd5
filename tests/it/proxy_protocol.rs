//! The client's address and scheme that a trusted proxy sends by the PROXY protocol, ahead of the first request.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::haproxy::Haproxy;
use crate::harness::{Answer, Connection, Signpost, series, skipped, wait_until};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TRUSTED: &str = "trusted_proxies = ['127.0.0.0/24']";

/// A header of version 2; `family` is TCP over IPv4 (0x11), IPv6 (0x21), a Unix stream (0x31).
fn v2(version_command: u8, family: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2, &[version_command, family], &length, &body].concat()
}

const V4: &[u8] = &[192, 0, 2, 2, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
/// The value of a header that says: by TLS.
const BY_TLS: &[u8] = &[0x20, 0, 5, 1, 0, 0, 0, 0];

fn proxied(server: &str) -> Signpost {
    Signpost::with_listeners(&format!(
        "[server]\nlisten = [{{ address = '127.0.0.1:0', proxy_protocol = true }}]\n{server}\n[pools.p]\n\
         backends = ['http://127.0.0.1:9001']\npin = {{}}"
    ))
}

/// The client of the next access line, and whether the pin of its answer was `Secure`.
fn told(signpost: &Signpost, answer: Option<Answer>) -> (String, bool) {
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 302);
    let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
    (line["client"].as_str().unwrap().to_owned(), answer.header("set-cookie").unwrap().ends_with("; Secure"))
}

fn limited(signpost: &Signpost, limit: &str) -> f64 {
    signpost.metric("signpost_limit_hits_total", &[("limit", limit)])
}

#[test]
fn a_header_says_where_the_visitor_is_from() {
    let signpost = proxied(TRUSTED);
    let v6: &[u8] = &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let mapped: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 3];
    let rest: &[u8] = &[0; 20];
    for (header, client, by_tls) in [
        (V1.to_vec(), "192.0.2.1", false),
        (b"PROXY TCP6 2001:db8::5 ::1 1 443\r\n".to_vec(), "2001:db8::5", false),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", false),
        (v2(0x21, 0x11, &[V4]), "192.0.2.2", false),
        (v2(0x21, 0x11, &[V4, BY_TLS]), "192.0.2.2", true),
        (v2(0x21, 0x21, &[v6, rest]), "2001:db8::7", false),
        (v2(0x21, 0x21, &[mapped, rest, BY_TLS]), "192.0.2.3", true),
        (v2(0x21, 0x31, &[&[b'/'; 216], BY_TLS]), "127.0.0.1", true),
        (v2(0x20, 0x11, &[V4, BY_TLS]), "127.0.0.1", false),
        (v2(0x21, 0x11, &[V4, &[0xe0, 0x0f, 0x00], &[7; 0x0f00]]), "192.0.2.2", false),
    ] {
        let expected = (client.to_owned(), by_tls);
        // The first request in the header's own packet.
        let answer = signpost.raw(&[&header, REQUEST].concat());
        assert_eq!(told(&signpost, answer), expected);
        // Each byte in a packet of its own, but for the long ones.
        let mut connection = signpost.connect();
        if header.len() < 120 {
            [&header, REQUEST].concat().iter().for_each(|&byte| connection.send(&[byte]));
        } else {
            header.chunks(100).chain([REQUEST]).for_each(|chunk| connection.send(chunk));
        }
        let answer = connection.read_answer();
        assert_eq!(told(&signpost, answer), expected);
        // It holds for the whole connection.
        connection.send(REQUEST);
        let answer = connection.read_answer();
        assert_eq!(told(&signpost, answer), expected);
    }
    assert_eq!(
        (limited(&signpost, "proxy_protocol_error"), limited(&signpost, "untrusted_proxy")),
        (0.0, 0.0)
    );
}

#[test]
fn no_byte_behind_a_header_is_lost() {
    let signpost = proxied(TRUSTED);
    for header in [V1.to_vec(), v2(0x21, 0x11, &[V4]), b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, &[])] {
        let mut connection = signpost.connect();
        connection.send(&[&header, REQUEST, REQUEST, b"GET /third HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let answers: Vec<_> = (0..3).map(|_| connection.read_answer().unwrap()).collect();
        assert_eq!(answers[2].location(), "http://127.0.0.1:9001/third");
        // A second header is no request.
        connection.send(&header);
        assert_eq!(connection.read_answer().map(|answer| answer.status), Some(400));
    }
}

#[test]
fn a_header_is_believed_of_a_trusted_proxy_alone() {
    let signpost = proxied(TRUSTED);
    let mut stranger = Connection::from_to("127.0.1.1".parse().unwrap(), signpost.traffic);
    stranger.send(&[V1, REQUEST].concat());
    assert_eq!(stranger.read_answer(), None);
    // Without a word too.
    let mut stranger = Connection::from_to("127.0.1.1".parse().unwrap(), signpost.traffic);
    assert_eq!(stranger.read_answer(), None);
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "untrusted_proxy")], 2.0);
    assert_eq!(limited(&signpost, "proxy_protocol_error"), 0.0);
}

#[test]
fn a_connection_without_a_header_is_closed() {
    let signpost = proxied(&format!("{TRUSTED}\nlimits = {{ header_timeout = '300ms' }}"));
    let wrong = [
        REQUEST.to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        [b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n", REQUEST].concat(),
        [&[b'P'; 1][..], REQUEST].concat(),
        [b"PROXY ", &[b'x'; 200][..]].concat(),
        [&v2(0x21, 0x12, &[V4]), REQUEST].concat(),
        [V2, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ];
    for bytes in &wrong {
        assert_eq!(signpost.raw(bytes), None, "{bytes:?}");
    }
    // What breaks off, what is late, and silence.
    let mut half = signpost.connect();
    half.send(&V1[..20]);
    half.finish();
    assert!(half.closes());
    let (mut late, mut silent) = (signpost.connect(), signpost.connect());
    late.send(&V1[..20]);
    assert!(late.closes() && silent.closes());
    let count = (wrong.len() + 3) as f64;
    signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", "proxy_protocol_error")], count);

    // Who only looks whether the port is open is no mistake.
    signpost.connect().finish();
    assert_eq!(told(&signpost, signpost.raw(&[V1, REQUEST].concat())).0, "192.0.2.1");
    signpost.wait_for_metric("signpost_connections", &[("listener", &signpost.traffic.to_string())], 0.0);
    assert_eq!(
        (limited(&signpost, "proxy_protocol_error"), limited(&signpost, "header_timeout")),
        (count, 0.0)
    );
}

#[test]
fn fields_of_the_request_are_read_where_the_header_names_another_proxy() {
    let signpost = proxied(TRUSTED);
    let request =
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\r\n";
    let line = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n").into_bytes();
    let told = |client| told(&signpost, signpost.raw(&[&line(client), &request[..]].concat()));
    assert_eq!(told("192.0.2.1"), ("192.0.2.1".to_owned(), false));
    assert_eq!(told("127.0.0.77"), ("192.0.2.9".to_owned(), true));
}

#[test]
fn other_listeners_speak_http_alone() {
    let signpost = Signpost::with_listeners(&format!(
        "[server]\nlisten = [{{ address = '127.0.0.1:0', proxy_protocol = true }}, '127.0.0.2:0']\n{TRUSTED}\n\
         [pools.p]\nbackends = ['http://127.0.0.1:9001']"
    ));
    let metrics = signpost.metrics();
    let start = metrics.find("listener=\"127.0.0.2:").unwrap() + "listener=\"".len();
    let plain = metrics[start..].split('"').next().unwrap();
    assert_eq!(series(&metrics, "signpost_connections_total", &[("listener", plain)]), Some(0.0));
    let ask = |header: &[u8]| {
        let mut connection = Connection::to(plain.parse().unwrap());
        connection.send(&[header, REQUEST].concat());
        connection.read_answer().map(|answer| answer.status)
    };
    assert_eq!((ask(b""), ask(V1)), (Some(302), Some(400)));
    assert_eq!(signpost.raw(REQUEST), None);
}

#[test]
fn who_sends_no_header_does_not_keep_it_from_leaving() {
    let limits = "limits = { header_timeout = '1h' }\nshutdown_grace = '1h'";
    let mut signpost = proxied(&format!("{limits}\n{TRUSTED}"));
    let silent = signpost.connect();
    let mut under_way = signpost.connect();
    under_way.send(V1);
    wait_until("both are accepted", || {
        signpost.metric("signpost_connections", &[("listener", &signpost.traffic.to_string())]) == 2.0
    });
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    drop(silent);
}

/// Trusts the address that HAProxy connects from, and nobody who visits it.
/// With one worker: the lines of several may change places.
fn behind_haproxy() -> Signpost {
    proxied("trusted_proxies = ['127.0.0.1']\nworkers = 1")
}

#[test]
fn haproxy_is_understood() {
    for sends in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"]
    {
        let signpost = behind_haproxy();
        let config = |_| {
            let to = signpost.traffic;
            format!("listen l\n bind fd@0\n server s {to} source 127.0.0.1 check inter 50 {sends}")
        };
        let Some(haproxy) = Haproxy::start(config) else { return };
        assert_eq!(told(&signpost, Some(haproxy.visit("127.0.0.5"))).0, "127.0.0.1", "of the start");
        assert_eq!(told(&signpost, Some(haproxy.visit("127.0.0.5"))), ("127.0.0.5".to_owned(), false));
        // Its health checks are none of it either.
        let labels = [("listener", &*signpost.traffic.to_string())];
        wait_until("it was checked", || signpost.metric("signpost_connections_total", &labels) > 8.0);
        assert_eq!(
            (limited(&signpost, "proxy_protocol_error"), limited(&signpost, "untrusted_proxy")),
            (0.0, 0.0)
        );
    }
}

#[test]
fn haproxy_says_who_came_by_tls() {
    let directory = tempfile::tempdir().unwrap();
    let [key, certificate] = ["pem.key", "pem"].map(|name| directory.path().join(name));
    let openssl = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=test",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !openssl.is_ok_and(|output| output.status.success()) {
        return skipped("openssl is missing; `apt-get install openssl` has it");
    }
    let signpost = behind_haproxy();
    // The outer one turns a visitor's HTTP into TLS to the inner one, which tells us of it.
    let config = |inner: SocketAddr| {
        format!(
            "listen outer\n bind fd@0\n server s {inner} ssl verify none source 127.0.0.6\n\
             listen inner\n bind fd@1 ssl crt {}\n server s {} source 127.0.0.1 send-proxy-v2-ssl \
             proxy-v2-options crc32c,cert-cn,ssl-cipher",
            certificate.display(),
            signpost.traffic
        )
    };
    let Some(haproxy) = Haproxy::start(config) else { return };
    for _ in 0..2 {
        assert_eq!(told(&signpost, Some(haproxy.visit("127.0.0.5"))), ("127.0.0.6".to_owned(), true));
    }
    assert_eq!(
        (limited(&signpost, "proxy_protocol_error"), limited(&signpost, "untrusted_proxy")),
        (0.0, 0.0)
    );
}
