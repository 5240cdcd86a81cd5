//! `OPTIONS`, and what browsers on other origins are told.

use crate::harness::Signpost;

const PREFLIGHT: [(&str, &str); 2] =
    [("Access-Control-Request-Method", "PUT"), ("Access-Control-Request-Headers", "x-y")];

fn with_origin<'a>(origin: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [("Origin", origin)].iter().chain(more).copied().collect()
}

#[test]
fn options_is_answered_here() {
    let signpost = Signpost::with_backends(&["http://127.0.0.1:9001"]);
    let answer = signpost.request("OPTIONS", "/x", &with_origin("https://app.example", &PREFLIGHT));
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("location"), None);
}

#[test]
fn allowed_origins_are_told_so() {
    let signpost = Signpost::with_settings(
        r#"
        [pools.p]
        backends = ["http://127.0.0.1:9001"]
        [pools.p.cors]
        origins = ["https://App.example", "http://localhost:3000"]
        methods = ["GET", "PUT"]
        headers = ["x-y"]
        credentials = true
        max_age = "5m"
        "#,
    );
    let answer = signpost.request("OPTIONS", "/", &with_origin("https://app.example", &PREFLIGHT));
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-y"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "300"),
        ("vary", "origin, access-control-request-method, access-control-request-headers"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }

    let answer = signpost.request("GET", "/", &with_origin("http://localhost:3000", &[]));
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(answer.header("vary"), Some("origin"));
    assert_eq!(answer.header("access-control-allow-methods"), None);

    for origin in ["https://evil.example", "null", "https://app.example.evil.example", "http://app.example"] {
        let answer = signpost.request("GET", "/", &with_origin(origin, &[]));
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
        assert_eq!(answer.header("vary"), Some("origin"));
        let answer = signpost.request("OPTIONS", "/", &with_origin(origin, &PREFLIGHT));
        assert_eq!(answer.header("access-control-allow-methods"), None, "{origin}");
    }
}

#[test]
fn any_origin_is_a_star() {
    let signpost = Signpost::with_settings(
        "[pools.p]\nbackends = ['http://127.0.0.1:9001']\ncors = { origins = ['*'] }",
    );
    let answer = signpost.request("GET", "/", &with_origin("https://any.example", &[]));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("vary"), None);
    let answer = signpost.request("OPTIONS", "/", &with_origin("https://any.example", &PREFLIGHT));
    assert_eq!(answer.header("access-control-allow-headers"), Some("*"));
}
