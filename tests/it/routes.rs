//! Which pool a request comes to.

use crate::harness::Signpost;

#[test]
fn hosts_and_prefixes_lead_to_pools() {
    let signpost = Signpost::with_settings(
        r#"
        [pools.www]
        hosts = ["www.example.com"]
        backends = ["http://127.0.0.1:9001"]
        [pools.video]
        hosts = ["www.example.com"]
        path_prefix = "/video/"
        backends = ["http://127.0.0.1:9002"]
        [pools.wild]
        hosts = ["*.example.com"]
        backends = ["http://127.0.0.1:9003"]
        [pools.narrow]
        hosts = ["narrow.test"]
        path_prefix = "/only"
        backends = ["http://127.0.0.1:9004"]
        "#,
    );
    for (host, path, port) in [
        ("www.example.com", "/", 9001),
        ("WWW.Example.COM.:8080", "/x", 9001),
        ("www.example.com", "/video", 9002),
        ("www.example.com", "/video/1", 9002),
        ("www.example.com", "/videos", 9001),
        ("www.example.com", "/video?x", 9002),
        ("a.b.example.com", "/video", 9003),
        ("narrow.test", "/only/x", 9004),
        ("ignored.test", "http://www.example.com/video", 9002),
    ] {
        let answer = signpost.request("GET", path, &[("Host", host)]);
        assert!(
            answer.location().starts_with(&format!("http://127.0.0.1:{port}/")),
            "{host} {path}: {answer:?}"
        );
    }
    for (host, path, status) in [
        ("example.com", "/", 421),
        ("other.test", "/", 421),
        ("www.example.com.evil.test", "/", 421),
        ("narrow.test", "/", 404),
        ("narrow.test", "/onlyx", 404),
    ] {
        let answer = signpost.request("GET", path, &[("Host", host)]);
        assert_eq!(answer.status, status, "{host} {path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(signpost.raw(b"GET / HTTP/1.0\r\n\r\n").unwrap().status, 421);
    assert_eq!(signpost.request("OPTIONS", "*", &[("Host", "www.example.com")]).status, 204);
    assert_eq!(signpost.request("OPTIONS", "*", &[("Host", "other.test")]).status, 421);
}

#[test]
fn a_pool_without_hosts_takes_every_host() {
    let signpost = Signpost::with_backends(&["http://127.0.0.1:9001"]);
    for host in ["a", "[::1]:80", "127.0.0.1", "x.y.z"] {
        assert_eq!(signpost.request("GET", "/", &[("Host", host)]).status, 302, "{host}");
    }
    assert_eq!(signpost.raw(b"GET / HTTP/1.0\r\n\r\n").unwrap().status, 302);
}
