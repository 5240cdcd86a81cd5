//! `OPTIONS`, and the CORS fields of every response of a pool.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::backend::{Backend, Does};
use crate::browser::Browser;
use crate::certificates::Site;
use crate::harness::{Answer, Connection, Signpost, wait_until};
use crate::protocols::Protocol;

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
        origins = ["https://App.example", "http://localhost:3000", "https://*.wild.example"]
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

    // The settings' spelling of an origin is sent, and of one below a wildcard the request's.
    let answer = signpost.request("GET", "/", &with_origin("HTTPS://APP.example", &[]));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let answer = signpost.request("GET", "/", &with_origin("https://A.wild.example", &[]));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://A.wild.example"));

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

/// Pools with CORS on plain, TLS and redirect listeners; their client is the one that `X-Forwarded-For` names.
struct Entry {
    signpost: Signpost,
    site: Site,
    clients: AtomicU32,
    _up: Backend,
    _dir: tempfile::TempDir,
}

const ALLOWED: &str = "https://app.example";

impl Entry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::write(dir.path(), "site", &["site.example"]);
        let pool = |name: &str, prefix: &str, backend: &str, cors: &str| {
            format!(
                "[pools.{name}]\nhosts = ['site.example']\npath_prefix = '{prefix}'\npanic_threshold = 0\n\
                 backends = [{{ id = '{name}', url = '{backend}' }}]\nhealth = {{ interval = '50ms', fall = 1 }}\n{cors}\n"
            )
        };
        let named = format!("cors = {{ origins = ['{ALLOWED}'], credentials = true }}");
        let up = Backend::start(Does::Answer);
        let down = Backend::start(Does::Answer).kill();
        let signpost = Signpost::with_settings(&[
            "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.limits]\nrequests_per_second_per_client = 1\n\
             max_headers = 20\nmax_target_bytes = '100B'\n",
            &format!(
                "[server.tls]\nlisten = ['127.0.0.1:0']\nredirect_listen = ['127.0.0.1:0']\ncertificates = [{}]\n",
                site.toml()
            ),
            &pool("up", "/up", &format!("{}/base", up.url()), &named),
            &pool("down", "/down", &format!("http://{down}"), &named),
            &pool("any", "/any", &format!("http://{down}"), "cors = { origins = ['*'] }"),
            &pool("none", "/none", &format!("http://{down}"), ""),
        ].concat());
        for pool in ["down", "any", "none"] {
            signpost.wait_for_state(pool, "down");
        }
        signpost.wait_for_state("up", "up");
        Self { signpost, site, clients: AtomicU32::new(0), _up: up, _dir: dir }
    }

    /// A request of a client that sent none before, unless `headers` name one.
    fn ask(&self, protocol: Protocol, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let client_address = format!("2001:db8:{:x}::1", self.clients.fetch_add(1, Ordering::Relaxed));
        let mut headers = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "X-Forwarded-For") {
            headers.push(("X-Forwarded-For", &client_address));
        }
        protocol.ask(&self.signpost, &self.site, method, path, &headers)
    }

    fn redirect_listener(&self) -> SocketAddr {
        self.signpost.upgrade.unwrap()
    }
}

fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
}

/// Asserts the CORS fields of a response of a pool that allows [`ALLOWED`] alone.
fn assert_shared(answer: &Answer, status: u16, origin: Option<&str>, what: &str) {
    assert_eq!(answer.status, status, "{what}");
    let allowed = origin == Some(ALLOWED);
    let expected = |value| if allowed { Some(value) } else { None };
    assert_eq!(answer.header("access-control-allow-origin"), expected(ALLOWED), "{what}");
    assert_eq!(answer.header("access-control-allow-credentials"), expected("true"), "{what}");
    let waits = answer.header("retry-after").is_some();
    assert_eq!(waits, matches!(status, 429 | 503), "{what}");
    let exposed = expected("retry-after").filter(|_| waits);
    assert_eq!(answer.header("access-control-expose-headers"), exposed, "{what}");
    assert_eq!(values(answer, "vary"), ["origin"], "{what}");
}

#[test]
fn every_response_of_a_pool_has_its_cors_fields() {
    let site = Entry::start();
    let long = format!("/up/{}", "x".repeat(100));
    let many: Vec<_> = (0..20).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "y")).collect();
    let everywhere = &Protocol::ALL[..];
    for (method, path, more, status, protocols) in [
        ("GET", "/up/x", &[][..], 302, everywhere),
        ("HEAD", "/up/x", &[], 302, everywhere),
        ("PUT", "/up/x", &[], 307, everywhere),
        ("GET", "/up/%2e%2e/%2e%2e", &[], 400, everywhere),
        ("TRACE", "/up/x", &[], 405, everywhere),
        ("GET", &long, &[], 414, everywhere),
        ("HEAD", &long, &[], 414, everywhere),
        ("POST", &long, &[], 414, everywhere),
        // Over HTTP/1.1 hyper rejects it before it is a request.
        ("GET", "/up/x", &many, 431, &[Protocol::Http2]),
        ("GET", "/down/x", &[], 503, everywhere),
        ("HEAD", "/down/x", &[], 503, everywhere),
        ("PUT", "/down/x", &[], 503, everywhere),
        ("OPTIONS", "/down/x", &[], 204, everywhere),
    ] {
        for &protocol in protocols {
            for origin in [None, Some(ALLOWED), Some("https://other.example"), Some("null")] {
                let what = format!("{protocol:?} {method} {path} {origin:?}");
                let origin_field = origin.map(|origin| ("Origin", origin));
                let headers: Vec<_> = origin_field.into_iter().chain(more.iter().copied()).collect();
                assert_shared(&site.ask(protocol, method, path, &headers), status, origin, &what);
            }
        }
    }
}

#[test]
fn a_rate_limited_client_reads_its_status() {
    let site = Entry::start();
    for protocol in Protocol::ALL {
        for origin in [None, Some(ALLOWED), Some("https://other.example")] {
            let origin_field = origin.map(|origin| ("Origin", origin));
            let headers: Vec<_> =
                origin_field.into_iter().chain([("X-Forwarded-For", "198.51.100.1")]).collect();
            let mut rejected = None;
            wait_until("the client is over its rate", || {
                let answer = site.ask(protocol, "GET", "/up/x", &headers);
                rejected = (answer.status == 429).then_some(answer);
                rejected.is_some()
            });
            assert_shared(&rejected.unwrap(), 429, origin, &format!("{protocol:?} {origin:?}"));
        }
        // The preflight of a request counts, but is answered: its script is to read the status of the request itself.
        let over = [("X-Forwarded-For", "198.51.100.2"), ("Origin", ALLOWED)];
        let preflight: Vec<_> = over.iter().chain(&PREFLIGHT).copied().collect();
        wait_until("the client is over its rate", || {
            let answer = site.ask(protocol, "OPTIONS", "/up/x", &preflight);
            assert_eq!(answer.status, 204);
            assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
            site.ask(protocol, "PUT", "/up/x", &over).status == 429
        });
    }
    // The pool is in the access line too.
    wait_until("a line has the pool of a rate-limited request", || {
        let line: serde_json::Value = serde_json::from_str(&site.signpost.next_line()).unwrap();
        line["rejection"] == "rate_limited" && line["pool"] == "up"
    });
}

#[test]
fn a_script_whose_target_is_too_long_reads_its_status() {
    let site = Entry::start();
    let long = format!("/up/{}", "x".repeat(100));
    for protocol in Protocol::ALL {
        let answer = site.ask(protocol, "OPTIONS", &long, &with_origin(ALLOWED, &PREFLIGHT));
        assert_eq!(answer.status, 204, "{protocol:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(ALLOWED), "{protocol:?}");
        assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"), "{protocol:?}");
        let answer = site.ask(protocol, "PUT", &long, &with_origin(ALLOWED, &[]));
        assert_shared(&answer, 414, Some(ALLOWED), &format!("{protocol:?}"));
        // No preflight.
        assert_eq!(
            site.ask(protocol, "OPTIONS", &long, &with_origin(ALLOWED, &[])).status,
            414,
            "{protocol:?}"
        );
    }
    let preflight = with_origin(ALLOWED, &PREFLIGHT);
    let answer = Connection::to(site.redirect_listener()).request("OPTIONS", &long, &preflight);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(ALLOWED)));
}

#[test]
fn responses_without_a_pool_have_no_cors_fields() {
    let site = Entry::start();
    for protocol in Protocol::ALL {
        for (path, status) in [("/elsewhere", 404), ("/none/x", 503)] {
            let answer = site.ask(protocol, "GET", path, &[("Origin", ALLOWED)]);
            assert_eq!(answer.status, status, "{protocol:?} {path}");
            let cors = |(name, _): &&(String, String)| name.starts_with("access-control") || name == "vary";
            assert_eq!(answer.headers.iter().find(cors), None, "{protocol:?} {path}");
        }
    }
    let answer = site.ask(Protocol::Http1, "GET", "/any/x", &[("Origin", "https://whoever.example")]);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after"));
    assert_eq!(answer.header("vary"), None);
}

#[test]
fn the_redirect_to_https_has_the_cors_fields_of_its_pool() {
    let site = Entry::start();
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        Connection::to(site.redirect_listener()).request(method, path, headers)
    };
    for (at, origin) in [None, Some(ALLOWED), Some("https://other.example")].into_iter().enumerate() {
        let client = format!("203.0.113.{at}");
        let mut headers = vec![("X-Forwarded-For", client.as_str())];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        assert_shared(&ask("GET", "/up/x", &headers), 308, origin, "GET");
    }
    let from_app = |client| [("X-Forwarded-For", client), ("Origin", ALLOWED)];
    let long = format!("/up/{}", "x".repeat(100));
    assert_shared(&ask("GET", &long, &from_app("203.0.113.10")), 414, Some(ALLOWED), "414");
    let other_path = ask("GET", "/elsewhere", &from_app("203.0.113.11"));
    assert_eq!((other_path.status, other_path.header("access-control-allow-origin")), (308, None));
    // A redirected preflight fails in every browser, so it is answered here.
    let preflight: Vec<_> = from_app("203.0.113.12").into_iter().chain(PREFLIGHT).collect();
    let answer = ask("OPTIONS", "/up/x", &preflight);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(ALLOWED)));
    assert_eq!(ask("OPTIONS", "/up/x", &from_app("203.0.113.13")).status, 308);
}

#[test]
fn a_script_reads_the_status_to_wait_for() {
    let Some(browser) = Browser::start() else { return };
    let page = Backend::start(Does::Answer);
    let down = Backend::start(Does::Answer).kill();
    let signpost = Signpost::with_settings(&format!(
        "[pools.p]\npanic_threshold = 0\nbackends = [{{ id = 'a', url = 'http://{down}' }}]\n\
         health = {{ fall = 1, interval = '50ms' }}\ncors = {{ origins = ['{}'] }}",
        page.url()
    ));
    signpost.wait_for_state("a", "down");
    browser.open(&page.url());
    let fetched = |method: &str| {
        browser.run(&format!(
            "return fetch('http://{}/x', {{ method: '{method}' }})
                .then(it => [it.status, it.headers.has('retry-after')], it => String(it))",
            signpost.traffic
        ))
    };
    assert_eq!(fetched("GET"), json!([503, true]));
    assert_eq!(fetched("PUT"), json!([503, true]), "with a preflight");
}
